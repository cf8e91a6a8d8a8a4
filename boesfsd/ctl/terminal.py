# SPDX-License-Identifier: Apache-2.0
"""Between a command in a sandbox and whoever runs it by hand: bytes both ways, signals, the size of the window."""

import contextlib
import fcntl
import os
import selectors
import signal
import socket
import sys
import termios
import time
import tty
from collections.abc import Iterator
from types import FrameType

from boesfsd.sandbox import Ended, Running

PIECE = 65536
END_OF_FILE = b"\x04"  # as it is typed
LEAVE, TIMES = 0x1D, 3  # ^], as systemd-run(1) has it
PASSED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Pump:
    """Moves bytes from one descriptor to another. ENDS: what comes after the last of them is LAST, and the end of the
    other."""

    def __init__(self, source: int, target: int, *, ends: bool, last: bytes = b"") -> None:
        self.source, self.target, self.ends, self.last = source, target, ends, last
        self.held = self.last_piece = b""
        self.done = self.lost = False
        os.set_blocking(target, not ends)  # who reads slowly there must not keep us from what it says

    def move(self) -> None:
        """Take a piece, or get rid of one."""
        self.last_piece = b""
        if not self.held:
            try:
                self.held = self.last_piece = os.read(self.source, PIECE)
            except BlockingIOError:
                return
            except OSError:  # a terminal of which nobody has the other side
                self.held = b""
            if not self.held:
                self.held, self.last = self.last, b""
            if not self.held:
                self.finish()
                return
        try:
            self.held = self.held[os.write(self.target, self.held) :]
        except BlockingIOError:
            return
        except OSError:  # nobody reads there: whoever writes here is to know
            self.lost = not self.ends
            if self.lost:
                os.close(self.source)
            self.finish()

    def finish(self) -> None:
        """Nothing more is to be moved."""
        self.done = True
        if self.ends:
            os.close(self.target)


class Relay:
    """Stands between a Running command and us until it has ended."""

    def __init__(self, running: Running, *, interactive: bool) -> None:
        self._running = running
        self._interactive = interactive
        self._selector = selectors.PollSelector()
        self._pumps: list[Pump] = []
        self._at_terminal = False
        self._left: list[float] = []

    def pump(self, source: int, target: int, *, ends: bool) -> None:
        """Move bytes from SOURCE to TARGET; ENDS as Pump has it."""
        self._pumps.append(Pump(source, target, ends=ends))

    def run(self) -> Ended:
        """To its end, with signals passed on."""
        with self._signals() as wake:
            self._selector.register(self._running.interrupt, selectors.EVENT_READ)
            self._selector.register(wake, selectors.EVENT_READ)
            while self._running.ended is None:
                self._turn(wake)
            while any(not pump.done and not pump.ends for pump in self._pumps):
                self._turn(wake)  # what it has still said
        return self._running.ended

    def _turn(self, wake: socket.socket) -> None:
        waiting = {}
        for pump in self._pumps:
            if not pump.done:
                waiting[pump.target if pump.held else pump.source] = pump
        for descriptor, pump in waiting.items():
            self._selector.register(descriptor, selectors.EVENT_WRITE if pump.held else selectors.EVENT_READ)
        found = [key.fileobj for key, _ in self._selector.select()]
        for descriptor in waiting:
            self._selector.unregister(descriptor)
        with contextlib.suppress(BlockingIOError):
            self._signalled(wake.recv(PIECE))  # the first, found or not: what was typed comes after a resize
        for fileobj in found:
            if fileobj in waiting:
                self._move(waiting[fileobj])  # type: ignore[index]
            elif fileobj is wake:
                continue
            elif self._running.hear() is not None:
                self._selector.unregister(self._running.interrupt)
            elif self._running.terminal is not None and not self._at_terminal:
                self._begin_terminal(self._running.terminal)

    def _move(self, pump: Pump) -> None:
        pump.move()
        if self._at_terminal and pump.ends and self._leaves(pump.last_piece):
            self._running.end()
        if pump.lost and self._at_terminal:
            self._running.signal(signal.SIGHUP)  # as when a terminal is closed

    def _leaves(self, typed: bytes) -> bool:
        """Whether somebody wants to leave, whatever runs: LEAVE three times within a second."""
        now = time.monotonic()
        for byte in typed:
            self._left = [*(when for when in self._left if now - when < 1), now] if byte == LEAVE else []
        return len(self._left) >= TIMES

    def _begin_terminal(self, terminal: int) -> None:
        self._at_terminal = True
        self._resize(terminal)
        self.pump(os.dup(terminal), sys.stdout.fileno(), ends=False)
        if self._interactive:
            self._pumps.append(Pump(sys.stdin.fileno(), os.dup(terminal), ends=True, last=END_OF_FILE))

    def _signalled(self, numbers: bytes) -> None:
        for number in numbers:
            if number == signal.SIGWINCH:
                if self._running.terminal is not None:
                    self._resize(self._running.terminal)
            else:
                self._running.signal(number)

    @staticmethod
    def _resize(terminal: int) -> None:
        with contextlib.suppress(OSError):  # ours is none
            size = fcntl.ioctl(sys.stdout.fileno(), termios.TIOCGWINSZ, bytes(8))
            fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[socket.socket]:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.settimeout(0)
            theirs.settimeout(0)
            wanted = [number for number in (*PASSED, signal.SIGWINCH) if signal.getsignal(number) != signal.SIG_IGN]
            wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)  # first: none is heard by nobody
            before = {number: signal.signal(number, _nothing) for number in wanted}
            try:
                yield ours
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)
                signal.set_wakeup_fd(wakeup)


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """The descriptor tells."""


@contextlib.contextmanager
def raw(descriptor: int) -> Iterator[None]:
    """A terminal that hands on what is typed, until it is over; nothing for what is none."""
    if not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
