# SPDX-License-Identifier: Apache-2.0
"""What fuzzing begins with is read as the oracle reads it; and that the fuzzer would find it if it were not."""

from collections import Counter

import pytest
import reading

from boesfsd.policy.table import Table


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
