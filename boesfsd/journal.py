# SPDX-License-Identifier: Apache-2.0
"""journald's own socket: entries with fields (systemd.io, JOURNAL_NATIVE_PROTOCOL)."""

import logging
import socket
import struct
from collections.abc import Mapping

log = logging.getLogger(__name__)

SOCKET = "/run/systemd/journal/socket"


def encode(fields: Mapping[str, object]) -> bytes:
    """An entry; values are text, which may have newlines, numbers or bytes."""
    parts = []
    for name, value in fields.items():
        data = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
        if b"\n" in data:
            parts.append(b"%b\n%b%b\n" % (name.encode(), struct.pack("<Q", len(data)), data))
        else:
            parts.append(b"%b=%b\n" % (name.encode(), data))
    return b"".join(parts)


class Journal:
    """Writes entries, and waits for nobody: what journald does not take at once is counted, and that is said. Without
    journald the message alone goes to our own log."""

    def __init__(self, path: str = SOCKET) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._lost = 0

    def write(self, fields: Mapping[str, object]) -> None:
        """One entry."""
        try:
            self._socket.sendto(encode(fields), self._path)
        except BlockingIOError:
            self._lost += 1
            return
        except OSError as error:
            log.warning("%s (journald: %s)", fields.get("MESSAGE", ""), error)
        if self._lost:
            lost, self._lost = self._lost, 0
            log.warning("%d entries are not in the journal: journald took them too slowly", lost)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
