# SPDX-License-Identifier: Apache-2.0
"""Entries as journald reads them."""

import contextlib
import logging
import socket
import struct
from pathlib import Path

import pytest

from boesfsd.journal import Journal, encode


def parse(data: bytes) -> dict[str, bytes]:
    """As systemd's JOURNAL_NATIVE_PROTOCOL tells."""
    found = {}
    while data:
        line, _, rest = data.partition(b"\n")
        if b"=" in line:
            name, _, value = line.partition(b"=")
        else:
            name, (size,) = line, struct.unpack("<Q", rest[:8])
            value, rest = rest[8 : 8 + size], rest[8 + size + 1 :]
        found[name.decode()] = value
        data = rest
    return found


def test_any_value_is_one_field() -> None:
    values = {"MESSAGE": "two\nlines", "N": 5, "PATH": b"/\xff\n=x", "EMPTY": "", "FAKE": "a\nPRIORITY=0"}
    wanted = {name: value if isinstance(value, bytes) else str(value).encode() for name, value in values.items()}
    assert parse(encode(values)) == wanted


def test_an_entry_reaches_the_socket(tmp_path: Path) -> None:
    place = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(str(place))
        journal = Journal(str(place))
        journal.write({"MESSAGE": "x" * 10_000})
        journal.close()
        assert parse(journald.recv(1 << 16)) == {"MESSAGE": b"x" * 10_000}


def test_without_journald_the_message_is_in_our_own_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal(str(tmp_path / "nobody"))
    with caplog.at_level(logging.WARNING):
        journal.write({"MESSAGE": "denied", "OTHER": "y"})
    assert caplog.messages[0].startswith("denied (journald: ")


def test_a_journald_that_is_too_slow_is_not_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(str(place))
        journal = Journal(str(place))
        for _ in range(5000):
            journal.write({"MESSAGE": "x" * 1000})
        journald.setblocking(False)
        taken = 0
        with contextlib.suppress(BlockingIOError):
            while journald.recv(1 << 16):
                taken += 1
        assert 0 < taken < 5000
        journal.write({"MESSAGE": "y"})
        assert caplog.messages == [f"{5000 - taken} entries are not in the journal: journald took them too slowly"]
