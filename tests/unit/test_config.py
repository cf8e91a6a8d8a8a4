# SPDX-License-Identifier: Apache-2.0
"""boesfsd.conf and conf.d."""

import re
from pathlib import Path

import pytest
from samples import ROOT

from boesfsd import config
from boesfsd.config import Config
from boesfsd.errors import BoesError


def write(directory: Path, **files: str) -> Path:
    (directory / "conf.d").mkdir(exist_ok=True)
    for name, text in files.items():
        place = directory / "boesfsd.conf" if name == "main" else directory / "conf.d" / f"{name}.conf"
        place.write_text(text)
    return directory


def refusal(directory: Path) -> str:
    with pytest.raises(BoesError) as refused:
        config.load(directory)
    assert refused.value.code == "InvalidConfiguration"
    return str(refused.value)


def test_no_file_means_the_defaults(tmp_path: Path) -> None:
    assert config.load(tmp_path) == Config()


def test_all_keys_are_read(tmp_path: Path) -> None:
    text = """
        # a comment
        ; another
        [boesfsd]
        log-level = debug
        landlock=optional
        enforcement = landlock
        uid-range = 200000-300000
        init-timeout = 7
        max-request-size = 64K
        max-code-size = 2G
        max-code-files = 10
        eager-sockets = 0
    """
    assert config.load(write(tmp_path, main=text)) == Config(
        log_level="debug",
        landlock="optional",
        uid_range=(200000, 300000),
        init_timeout=7,
        max_request_size=64 << 10,
        max_code_size=2 << 30,
        max_code_files=10,
        eager_sockets=0,
    )


def test_conf_d_wins_over_boesfsd_conf_and_later_names_over_earlier(tmp_path: Path) -> None:
    write(tmp_path, main="init-timeout = 1\nlog-level = error", a="init-timeout = 2", b="init-timeout = 3")
    loaded = config.load(tmp_path)
    assert (loaded.init_timeout, loaded.log_level) == (3, "error")


def test_only_conf_files_of_conf_d_are_read(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "conf.d/editor.conf~").write_text("nonsense")
    assert config.load(tmp_path) == Config()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("colour = red", "unknown key colour"),
        ("log_level = info", "unknown key log_level"),
        ("init-timeout", "'init-timeout' is not KEY = VALUE"),
        ("[other]", "'[other]' is not KEY = VALUE"),
        ("init-timeout = 0", "init-timeout = 0: must be a number from 1 to 300"),
        ("init-timeout = five", "init-timeout = five: must be a number"),
        ("init-timeout = ²", "must be a number"),
        ("init-timeout = 5 # comment", "must be a number"),
        ("init-timeout =", "must be a number"),
        ("log-level = loud", "log-level = loud: must be one of error, warning, info, debug"),
        ("landlock = off", "must be one of required, optional"),
        ("enforcement = casbin", "must be one of boesfs, landlock"),
        ("max-request-size = 1T", "must be a size"),
        ("max-request-size = -1", "must be a size"),
        ("uid-range = 0-65535", "must be FIRST-LAST"),
        ("uid-range = 300000-200000", "must be FIRST-LAST"),
        ("uid-range = 100000", "must be FIRST-LAST"),
        ("uid-range = 100000-4294967295", "must be FIRST-LAST"),
    ],
)
def test_what_is_wrong_is_told_with_file_line_and_key(tmp_path: Path, line: str, says: str) -> None:
    write(tmp_path, x=f"# first\n\n{line}\n")
    message = refusal(tmp_path)
    assert message.startswith(f"{tmp_path}/conf.d/x.conf, line 3: ")
    assert says in message


def test_an_unknown_key_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    assert "Hint: known are log-level, " in refusal(write(tmp_path, main="colour = red"))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "conf.d/x.conf").mkdir(parents=True)
    assert f"Cannot read {tmp_path}/conf.d/x.conf" in refusal(tmp_path)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "boesfsd.conf").write_bytes(b"log-level = \xff")
    assert f"Cannot read {tmp_path}/boesfsd.conf" in refusal(tmp_path)


def test_the_installed_file_shows_every_key_with_its_default(tmp_path: Path) -> None:
    text = (ROOT / "etc/boesfsd.conf").read_text()
    assert re.findall(r"^#([a-z-]+) = ", text, re.MULTILINE) == list(config.KEYS)
    assert config.load(write(tmp_path, main=re.sub(r"^#([a-z-]+ = )", r"\1", text, flags=re.MULTILINE))) == Config()
