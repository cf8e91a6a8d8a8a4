# SPDX-License-Identifier: Apache-2.0
"""For other programs: a command in a sandbox of its own, through boesfsd (docs/run.md).

from boesfsd import sandbox
ended = sandbox.run(["/usr/bin/python3", "job.py"], directories=["/srv/job"], policy=sandbox.block("job.yaml"))
print(ended.status, ended.why)
"""

import contextlib
import fcntl
import os
import selectors
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from boesfsd.bus.connection import NAME, ROOT, Client
from boesfsd.errors import BoesError
from boesfsd.model import MOST_DIRECTORIES, STANDARD

WORDS = 4096  # bytes of what is said at a time
LOST = 125
OWN = ("dev", "proc", "run", "sys", "tmp", "lost+found")
"""Of the root, what a sandbox has of its own, or nobody wants."""
Argument = str | bytes | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: its STATUS as a shell has it (128 and more: by that signal; 125: there was no sandbox; 124:
    its time was over), and WHY, if the command itself is not the reason."""

    status: int
    why: str


@dataclass(frozen=True, slots=True)
class Policy:
    """What a command may do with files: the options of org.boesfs.Faas1.Manager.Run."""

    options: Mapping[str, Any]


def block(file: Path | str) -> Policy:
    """The policy block in FILE (boesfs-policy(5))."""
    return Policy({"policy": Path(file).read_text(encoding="utf-8"), "file": str(file)})


def casbin(model: Path | str, policy: Path | str) -> Policy:
    """The original's two files."""
    texts = {"model": Path(model).read_text(encoding="utf-8"), "policy": Path(policy).read_text(encoding="utf-8")}
    return Policy({**texts, "model-file": str(model), "file": str(policy)})


class Running:
    """A command that runs. When it is closed, or whoever has it ends, the sandbox ends too."""

    def __init__(self, unit: str, warnings: list[str], interrupt: socket.socket) -> None:
        self.unit = unit
        self.warnings = warnings
        self.interrupt = interrupt
        """Is readable when there is something to hear()."""
        self.terminal: int | None = None
        """The other side of its terminal, once that has been heard."""
        self.ended: Ended | None = None

    def hear(self) -> Ended | None:
        """Take what is said; how it ended, when that is said."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self.interrupt, WORDS, 1, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            data, descriptors = b"", []
        word, _, rest = data.decode(errors="replace").partition(" ")
        if word == "terminal" and descriptors:
            (self.terminal,) = descriptors
        elif word == "ended":
            status, _, why = rest.partition(" ")
            self.ended = Ended(int(status), why)
        elif not data:
            self.ended = Ended(LOST, "whoever supervised it is gone; see journalctl -u " + self.unit)
        return self.ended

    def wait(self) -> Ended:
        """Until it has ended."""
        while self.ended is None:
            self.hear()
        return self.ended

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._say(f"signal {number}")

    def end(self) -> None:
        """End it at once; wait() tells when."""
        self._say("end")

    def _say(self, word: str) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has ended
            self.interrupt.send(word.encode())

    def close(self) -> None:
        """Let go of it."""
        self.interrupt.close()
        if self.terminal is not None:
            os.close(self.terminal)
            self.terminal = None

    def __enter__(self) -> "Running":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def start(
    command: Sequence[Argument],
    *,
    directories: Sequence[Path | str] = (),
    policy: Policy | None = None,
    environment: Mapping[str, str] | None = None,
    standard: Sequence[int] = (0, 1, 2),
    log: Path | str | None = None,
    **options: Any,
) -> Running:
    """Begin COMMAND, as whoever calls. DIRECTORIES are there to be written, at their own paths; STANDARD are the
    descriptors of its input, output and error, not needed with terminal=True; LOG gets denials in the original's
    format; OPTIONS are those of org.boesfs.Faas1.Manager.Run. BoesError: what boesfsd says, or a file cannot be had."""
    if isinstance(command, str | bytes) or isinstance(directories, str | bytes):
        raise BoesError("InvalidArgs", "A command, and directories, are lists", hint='write ["/bin/ls"], and ["/srv"]')
    given = {"umask": _umask(), **(policy.options if policy else {}), **options}
    given = {name: value for name, value in given.items() if value is not None}
    words = [os.fsencode(word) for word in command]
    variables = [os.fsencode(f"{name}={value}") for name, value in (environment or {}).items()]
    ours, theirs = map(_above_standard, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    with contextlib.ExitStack() as opened, contextlib.ExitStack() as failed, theirs:
        failed.callback(ours.close)
        descriptors = {"interrupt": theirs.fileno()}
        if not given.get("terminal"):
            descriptors |= {name: _usable(found, opened) for name, found in zip(STANDARD, standard, strict=False)}
        for directory in directories:
            for path, descriptor in _open(directory, opened):
                descriptors[path] = descriptor
        if len(list(filter(os.path.isabs, descriptors))) > MOST_DIRECTORIES:
            raise BoesError("InvalidArgs", "There are too many directories", hint=f"{MOST_DIRECTORIES} can be there")
        if log is not None:
            descriptors["log"] = _open_log(log, opened)
        with contextlib.closing(Client(NAME)) as client:
            unit, warnings = client.call(ROOT, f"{NAME}.Manager", "Run", words, variables, descriptors, given)
        failed.pop_all()
    return Running(unit, warnings, ours)


def run(command: Sequence[Argument], *, interrupt: int | None = None, **options: Any) -> Ended:
    """Run COMMAND to its end; OPTIONS as start has them. When something can be read from INTERRUPT, a descriptor, or
    its other side is closed, the command is ended."""
    with start(command, **options) as running, selectors.DefaultSelector() as selector:
        selector.register(running.interrupt, selectors.EVENT_READ)
        if interrupt is not None:
            selector.register(interrupt, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj == interrupt:
                    selector.unregister(interrupt)
                    running.end()
                elif ended := running.hear():
                    return ended


def _open(directory: Path | str, opened: contextlib.ExitStack) -> Iterator[tuple[str, int]]:
    """The directory as it is handed over; of the root, all in it that is no one's special place."""
    try:
        path = os.path.realpath(directory or "nowhere/", strict=True)
        names = [path] if path != "/" else sorted(entry.path for entry in os.scandir("/") if _is_usual(entry))
        for name in names:
            descriptor = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.callback(os.close, descriptor)
            yield name, descriptor
    except OSError as error:
        hint = "name a directory that is there"
        raise BoesError("InvalidArgs", f"{directory} cannot be opened: {error.strerror}", hint=hint) from error


def _above_standard(one: socket.socket) -> socket.socket:
    """ONE, not where a command would take it for its input or output."""
    if one.fileno() >= len(STANDARD):
        return one
    with one:
        return socket.socket(fileno=fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, len(STANDARD)))


def _usable(descriptor: int, opened: contextlib.ExitStack) -> int:
    """DESCRIPTOR, or /dev/null if nothing is open there."""
    try:
        os.fstat(descriptor)
    except OSError:
        descriptor = fcntl.fcntl(null := os.open(os.devnull, os.O_RDWR), fcntl.F_DUPFD_CLOEXEC, len(STANDARD))
        os.close(null)
        opened.callback(os.close, descriptor)
    return descriptor


def _umask() -> int:
    text = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("Umask:")), 8)


def _is_usual(entry: "os.DirEntry[str]") -> bool:
    return entry.is_dir(follow_symlinks=False) and entry.name not in OWN


def _open_log(file: Path | str, opened: contextlib.ExitStack) -> int:
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise BoesError("InvalidArgs", f"{file} cannot be written: {error.strerror}") from error
    opened.callback(os.close, descriptor)
    return descriptor
