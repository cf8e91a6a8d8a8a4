# SPDX-License-Identifier: Apache-2.0
"""Runtimes and their files."""

from pathlib import Path

import pytest
from samples import ROOT, python_runtime

from boesfsd import runtimes
from boesfsd.errors import BoesError

GOOD = 'entry = "f"\ncommand = ["/bin/f"]\n[binds]\n"/usr" = "/usr"\n'


def test_the_installed_runtimes_can_be_read() -> None:
    assert "python" in runtimes.load(ROOT / "etc/runtimes")


@pytest.mark.parametrize("name", ["python", "python3", "python3.12", "python3.9"])
def test_a_runtime_is_found_by_name_and_alias(name: str) -> None:
    assert runtimes.find({"python": python_runtime()}, name).name == "python"


@pytest.mark.parametrize("name", ["java", "python2", "Python", "", "*", "python\n"])
def test_a_runtime_that_is_not_installed_is_refused_with_those_that_are(name: str) -> None:
    with pytest.raises(BoesError) as refused:
        runtimes.find({"python": python_runtime()}, name)
    assert refused.value.code == "InvalidManifest"
    assert repr(name) in refused.value.message
    assert "python" in refused.value.hint


def test_a_minimal_file_is_enough(tmp_path: Path) -> None:
    (tmp_path / "mini.toml").write_text(GOOD)
    runtime = runtimes.load(tmp_path)["mini"]
    assert (runtime.entry, runtime.command, runtime.binds) == ("f", ("/bin/f",), {"/usr": "/usr"})
    assert (runtime.aliases, runtime.hide, runtime.links, runtime.environment) == ((), (), {}, {})


@pytest.mark.parametrize(
    "text",
    [
        "entry = ",
        "",
        GOOD.replace("entry", "entrance"),
        GOOD.replace('["/bin/f"]', "7"),
        GOOD.replace('["/bin/f"]', '"/bin/f"'),  # a string is no list of words, though it has a length
        'hide = "/usr/local"\n' + GOOD,
        'binds = "x"\n' + GOOD.split("[binds]", maxsplit=1)[0],
        "\0",
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "broken.toml").write_text(text)
    with pytest.raises(BoesError, match=r"broken\.toml") as refused:
        runtimes.load(tmp_path)
    assert refused.value.code == "InvalidConfiguration"
