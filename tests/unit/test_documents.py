# SPDX-License-Identifier: Apache-2.0
"""YAML with places, read with libyaml and without: alike, but for the time that it takes."""

import random
from pathlib import Path

import pytest
import yaml
from samples import ROOT

from boesfsd import documents
from boesfsd.documents import Document
from boesfsd.errors import BoesError

WORDS = ("on", "a", "é", "\U0001f600", "'q r'", '"\\u00e9 x"', "1", "0o17", "true", "no", "~", "x y")
TEXTS = [
    *(file.read_text() for file in sorted((ROOT / "examples").rglob("*.yaml"))),
    (ROOT / "etc/policy.yaml").read_text(),
    "é: [ü, {ö: a\n    b}]\nx: |\n    two\n    lines\ny: 1\n",
    "a:\n- b: c\n-  - d\n   - 'e'\n# end\n",
    "a: &name {b: 1}\n",
]


def seen(text: str) -> tuple[dict[str, object], list[tuple[int, int, str]]]:
    """The data, and where all of it stands."""
    document = Document(text, "f", "InvalidPolicy")
    return document.data, [document.place(keys) for keys in document._marks]


def random_text(source: random.Random, depth: int = 0) -> str:
    """A value in one line."""
    kind = source.random()
    if depth == 3 or kind < 0.4:
        return source.choice(WORDS)
    parts = [random_text(source, depth + 1) for _ in range(source.randrange(3))]
    if kind < 0.7:
        return f"[{', '.join(parts)}]"
    return f"{{{', '.join(f'k{number}: {part}' for number, part in enumerate(parts))}}}"


@pytest.mark.skipif(not yaml.__with_libyaml__, reason="this PyYAML has no libyaml: there is one way only")
@pytest.mark.parametrize("number", range(len(TEXTS) + 100))
def test_both_ways_give_the_same_data_at_the_same_places(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    source = random.Random(number)
    text = TEXTS[number] if number < len(TEXTS) else f"é x:  {random_text(source)}\non: {random_text(source)}\n"
    fast = seen(text)
    monkeypatch.setattr(documents, "_FastLoader", documents._Loader)
    assert seen(text) == fast


def test_it_is_libyaml_that_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the test before compares nothing."""
    monkeypatch.setattr(documents, "_Loader", None)
    assert Document("a: 1", "f", "InvalidPolicy").data == {"a": 1}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &x 1\nb: *x\n", "f, line 2, column 4: aliases are not allowed"),
        ("a: &x {b: *x}\n", "f, line 1, column 11: aliases are not allowed"),
        ("a: &x [1]\n<<: *x\n", "f, line 2, column 5: aliases are not allowed"),
        ("a: [", "f, line 1, column 5: "),
        ("a: 1\na: 2\n", "f, line 2, column 1: the key a stands twice"),
        ("[" * 100_000, "f"),
        ("a: " + "{b: " * 20_000, "f"),
        ("", "f: must be a map of keys, is empty"),
        ("a: \0", "f: unacceptable character"),
        ("a: !!python/name:os.system x", "f, line 1, column 4: could not determine a constructor"),
    ],
)
def test_what_is_wrong_is_told_alike(text: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BoesError) as fast:
        Document(text, "f", "InvalidPolicy")
    monkeypatch.setattr(documents, "_FastLoader", documents._Loader)
    with pytest.raises(BoesError) as slow:
        Document(text, "f", "InvalidPolicy")
    assert str(fast.value).startswith(said)
    assert str(fast.value) == str(slow.value)


def test_a_bomb_of_aliases_is_refused_at_once() -> None:
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    with pytest.raises(BoesError, match="aliases are not allowed"):
        Document("\n".join(lines), str(Path("f")), "InvalidPolicy")
