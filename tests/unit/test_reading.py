# SPDX-License-Identifier: Apache-2.0
"""What fuzzing begins with is read as the oracle reads it; and that the fuzzer would find it if it were not."""

from collections import Counter

import pytest
import reading
from policies import model

from boesfsd.model import PolicyFiles
from boesfsd.policy import casbin, oracle, sources
from boesfsd.policy.places import split
from boesfsd.policy.table import Request, Table


def test_what_fuzzing_begins_with_is_read_as_the_oracle_reads_it() -> None:
    told = Counter((chr(text[0]), reading.try_text(text)) for text in reading.seeds())
    assert told["c", "asked"] > 70
    assert told["b", "asked"] > 10
    assert told["y", "asked"] > 8


def test_a_table_that_says_something_else_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Table.decide
    monkeypatch.setattr(Table, "decide", lambda self, asked: (not right(self, asked)[0], None))
    with pytest.raises(reading.DisagreementError):
        reading.try_text(b"brules: [{allow: read, on: /a}]")


@pytest.mark.parametrize(
    "text", [b"", b"?", b"b", b"c", b"y", b"b\xff", b"b[", b"c\f", b"yname: x", b"b" + b"[" * 5000]
)
def test_a_text_that_is_none_is_refused(text: bytes) -> None:
    assert reading.try_text(text) == "refused"


@pytest.mark.parametrize("other", ["/b", "/b/", "/"])
def test_a_second_path_may_end_in_a_slash_as_the_first_may(other: str) -> None:
    """Found by fuzzing: the rows' own judge thought otherwise."""
    written, row = model("obj, act, args", white=True), f"p, /a/, rename, ({other}), file, allow"
    table = sources.compile_sources(None, PolicyFiles("m", written, "p", row), sources.Sandbox({})).table
    rows = casbin.parse_policy(row, "p", casbin.parse_model(written, "m"))[0]
    for target, allowed in (("/b", other != "/"), ("/", other == "/"), ("/b/c", False)):
        asked = Request("rename", split(b"/a"), other=split(target.encode()), arguments={"flags": 0})
        assert table.decide(asked)[0] == oracle.decide_casbin(rows, frozenset(), asked) == allowed, target
