# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 on asyncio transports, with httptools: the server's side of a connection and the client's side of one
call to an instance. Bodies stream in both directions; a full buffer on one side pauses reading on the other."""

import asyncio
import math
import re
import socket
from collections.abc import Iterable
from typing import Protocol, cast

import httptools

HEAD_MAX = 64 << 10
HEAD_TIMEOUT = 10.0
KEEP_ALIVE = 75.0
LINGER = 1.0
LAST_CHANCE = 0.5
TOO_LONG = b"request head over 64 KiB"
SMALL_BODY = 64 << 10
SEND_BUFFER = 64 << 10
RECEIVE = 256 << 10
REASONS = {
    200: b"OK", 202: b"Accepted", 400: b"Bad Request", 403: b"Forbidden", 404: b"Not Found",
    405: b"Method Not Allowed", 408: b"Request Timeout", 409: b"Conflict",
    413: b"Content Too Large", 431: b"Request Header Fields Too Large", 500: b"Internal Server Error",
    501: b"Not Implemented", 502: b"Bad Gateway", 503: b"Service Unavailable", 504: b"Gateway Timeout",
    507: b"Insufficient Storage",
}  # fmt: skip
HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization", b"te",
     b"trailer", b"transfer-encoding", b"upgrade", b"expect", b"content-length")
)  # fmt: skip

UPGRADE = frozenset((b"upgrade", b"connection", b"http2-settings"))

NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")

Header = tuple[bytes, bytes]


def chunk(data: bytes) -> bytes:
    """DATA as one chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Request:
    """A request whose head is complete. `length` is -1 for a chunked body; names of headers are lower case."""

    __slots__ = ("expects_continue", "headers", "length", "method", "target")

    def __init__(self, method: bytes, target: bytes, headers: list[Header]) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.length = 0
        self.expects_continue = False
        for name, value in headers:
            if name == b"content-length":
                self.length = int(value)
            elif name == b"transfer-encoding":
                self.length = -1
            elif name == b"expect":
                self.expects_continue = value.lower() == b"100-continue"


class Handler(Protocol):
    """What serves one request; made by the server's factory, told of body, end and disconnect."""

    def body(self, data: bytes) -> None:
        """A piece of the request's body."""

    def end(self) -> None:
        """The request is complete."""

    def flush(self) -> None:
        """All that has arrived so far has been told: what is to be sent on can go in one piece."""

    def gone(self) -> None:
        """The client has gone; nothing can be sent any more."""

    def resume(self) -> None:
        """The client takes data again after Connection.writable was false."""


class Factory(Protocol):
    """Starts serving a request."""

    def __call__(self, connection: "Connection", request: Request) -> Handler:
        """A handler, which answers now or later through CONNECTION."""


class Connection(asyncio.Protocol):
    """One client connection of the server: requests one after another, each with a handler."""

    def __init__(self, factory: Factory, connections: "set[Connection]") -> None:
        self._factory = factory
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._handler: Handler | None = None
        self._head_fed = self._head_size = self._fed = 0
        self._in_head = True
        self._bodiless = False
        self._url = b""
        self._headers: list[Header] = []
        self._request_done = self._answer_done = self._keep_alive = self._closing = self._discarding = False
        self._chunked = self._http10 = self._small = self._served = False
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = self._due = math.inf
        self.writable = True

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._connections.add(self)
        self._set_timer(HEAD_TIMEOUT)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        if self._timer:
            self._timer.cancel()
        self._transport = None
        self._drop_handler()

    def eof_received(self) -> bool:
        return False

    def data_received(self, data: bytes) -> None:
        if self._discarding:
            return
        if self._in_head:
            if self._head_fed > HEAD_MAX:
                self._refuse(431, TOO_LONG)
                return
            self._head_fed += len(data)
        self._fed = len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            if self._in_head and self._head_fed > HEAD_MAX:
                self._refuse(431, TOO_LONG)
            else:
                self._refuse(400, b"malformed HTTP request")
        if self._handler:
            self._handler.flush()

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        if self._handler:
            self._handler.resume()

    # --- httptools callbacks

    def on_message_begin(self) -> None:
        if self._handler:  # the next request before this one's answer: we take one at a time
            self._discarding = True
            self._keep_alive = False
            return
        self._url = b""
        self._headers = []
        self._request_done = self._answer_done = False
        self._in_head = True
        self._head_fed = self._fed
        self._head_size = 0
        self._small = self._bodiless = False
        self._set_timer(HEAD_TIMEOUT)

    def on_url(self, url: bytes) -> None:
        if not self._discarding:
            self._url += url
            self._head_size += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head and not self._discarding:  # not trailers, not those of a request that is not served
            self._headers.append((name.lower(), value))
            self._head_size += len(name) + len(value) + 4

    def on_headers_complete(self) -> None:
        if self._discarding:
            return
        self._in_head = False
        self._due = math.inf
        self._keep_alive = self._parser.should_keep_alive() and not self._closing
        self._http10 = self._parser.get_http_version() == "1.0"
        if self._parser.should_upgrade():  # the parser would not read a body
            return
        if self._head_size > HEAD_MAX:
            self._refuse(431, TOO_LONG)
            return
        if any(name == b"transfer-encoding" and value.lower() != b"chunked" for name, value in self._headers):
            self._refuse(400, b"unknown transfer coding")
            return
        if any(not NAME.fullmatch(name) or CONTROL.search(value) for name, value in self._headers):
            self._refuse(400, b"malformed HTTP request")  # httptools 0.1 lets these pass
            return
        request = Request(self._parser.get_method(), self._url, self._headers)
        self._bodiless = request.method == b"HEAD"
        self._small = 0 <= request.length <= SMALL_BODY
        self._handler = self._factory(self, request)
        if self._answer_done:
            self._finish()

    def on_body(self, body: bytes) -> None:
        if self._handler and not self._discarding:
            self._handler.body(body)

    def on_message_complete(self) -> None:
        if self._discarding:
            return
        self._request_done = True
        self._in_head = False
        if self._handler:
            self._handler.end()
        if self._answer_done:
            self._finish()

    # --- for handlers

    def pause(self) -> None:
        """Stop reading the request's body."""
        if self._transport:
            self._transport.pause_reading()

    def unpause(self) -> None:
        """Read on."""
        if self._transport and not self._transport.is_closing():
            self._transport.resume_reading()

    def send_continue(self) -> None:
        """Tell a client that waits for it to send the body."""
        if self._transport:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def start_answer(self, status: int, headers: Iterable[Header], length: int) -> None:
        """Begin the answer; LENGTH -1 for a body of unknown length."""
        lines = [b"HTTP/1.1 %d %b\r\n" % (status, REASONS.get(status, b"Status"))]
        lines += [b"%b: %b\r\n" % header for header in headers]
        self._chunked = length < 0 and not self._http10
        self._keep_alive = self._keep_alive and (self._request_done or self._small)
        if length >= 0:
            lines.append(b"Content-Length: %d\r\n" % length)
        elif self._chunked:
            lines.append(b"Transfer-Encoding: chunked\r\n")
        else:
            self._keep_alive = False
        lines.append(b"\r\n" if self._keep_alive and not self._http10 else b"Connection: close\r\n\r\n")
        if self._http10:
            self._keep_alive = False
        if self._transport:
            self._transport.write(b"".join(lines))

    def send_body(self, data: bytes) -> None:
        """A piece of the answer's body."""
        if self._transport and not self._bodiless:
            self._transport.write(chunk(data) if self._chunked else data)

    def end_answer(self) -> None:
        """The answer is complete."""
        if self._transport and self._chunked and not self._bodiless:
            self._transport.write(b"0\r\n\r\n")
        self._answer_done = self._served = True
        if self._handler:
            self._finish()

    def abort(self) -> None:
        """Break off an answer that cannot be completed, so that the client sees it is not whole."""
        if self._transport:
            self._transport.abort()

    def answer(self, status: int, headers: Iterable[Header], body: bytes) -> None:
        """A whole answer."""
        self.start_answer(status, headers, len(body))
        self.send_body(body)
        self.end_answer()

    def shut_down(self) -> None:
        """Close after the answer that is being sent, or now; a connection that has had none yet may have a request on
        its way, which is still answered."""
        self._closing = True
        self._keep_alive = False
        if self._served and not self._handler and self._transport:
            self._transport.close()
        elif not self._handler:
            self._set_timer(LAST_CHANCE)

    # --- inside

    def _finish(self) -> None:
        """The answer is out: wait for the next request, or close."""
        transport = self._transport
        if transport and self._small and not self._request_done and not self._discarding:
            transport.resume_reading()  # the rest of a small body is not worth a new connection
            self._set_timer(LINGER)
            return
        self._drop_handler(answered=True)
        if not transport:
            return
        if self._keep_alive and self._request_done:
            transport.resume_reading()
            self._set_timer(KEEP_ALIVE)
            return
        if self._request_done:
            transport.close()
            return
        # the client is still sending: closing now could reset the connection before it has read the answer
        self._discarding = True
        if transport.can_write_eof():
            transport.write_eof()
        transport.resume_reading()
        self._set_timer(LINGER)

    def _drop_handler(self, *, answered: bool = False) -> None:
        handler, self._handler = self._handler, None
        if handler and not answered:
            handler.gone()

    def _refuse(self, status: int, message: bytes) -> None:
        if self._discarding:
            return
        if self._handler and self._request_done:  # what follows the request does not harm its answer
            self._discarding = True
            self._keep_alive = False
            return
        if self._handler or not self._transport:
            self.abort()
            return
        self._keep_alive = self._request_done = self._small = self._in_head = False
        self._chunked = False
        self.start_answer(status, [(b"Content-Type", b"application/json")], len(message) + 14)
        self.send_body(b'{"message":"%b"}' % message)
        self._finish()

    def _decline_upgrade(self, rest: bytes) -> None:
        """An offer of HTTP/2 (curl --http2, Java's client) may be ignored (RFC 9110, 7.8), but the parser stops at it:
        another one is given the same head without the offer, and then the body."""
        method = self._parser.get_method()
        if method == b"CONNECT":
            self._refuse(501, b"CONNECT is not supported")
            return
        headers = [header for header in self._headers if header[0] not in UPGRADE]
        lines = [b"%b %b HTTP/1.1\r\n" % (method, self._url), *(b"%b: %b\r\n" % header for header in headers), b"\r\n"]
        self._parser = httptools.HttpRequestParser(self)
        self.data_received(b"".join(lines) + rest)

    def _set_timer(self, seconds: float) -> None:
        """Time out in SECONDS from now. A timer is set once in a while, not thrice per request: it looks at _due, and
        goes off early enough for the usual next one, which is that of a head."""
        now = self._loop.time()
        self._due = now + seconds
        if self._due < self._timer_at:
            if self._timer:
                self._timer.cancel()
            self._timer_at = min(self._due, now + HEAD_TIMEOUT)
            self._timer = self._loop.call_at(self._timer_at, self._look_at_due)

    def _look_at_due(self) -> None:
        self._timer = None
        self._timer_at = math.inf
        left = self._due - self._loop.time()
        if left <= 0:
            self._timed_out()
        elif left < math.inf:
            self._set_timer(left)

    def _timed_out(self) -> None:
        if self._in_head and self._head_fed and not self._discarding:
            self._refuse(408, b"no whole request head within 10 s")
        elif self._transport:
            self._transport.close()


class Caller(Protocol):
    """Who made a call to an instance and is told of its answer."""

    def answer_begins(self, status: int, headers: list[Header], length: int) -> None:
        """The head of the answer; LENGTH -1 when unknown."""

    def answer_body(self, data: bytes) -> None:
        """A piece of the answer's body."""

    def answer_ends(self) -> None:
        """The answer is complete."""

    def instance_lost(self) -> None:
        """The connection ended before the answer was complete."""

    def instance_writable(self) -> None:
        """The instance takes data again after Call.writable was false."""


class Call:
    """One POST /call on a connection of its own to an instance's socket. A Unix socket connects and takes a small
    request at once, so there is no transport: the socket is used as it is, and the loop only tells when it is
    readable, or writable again."""

    def __init__(self, caller: Caller, headers: Iterable[Header], length: int) -> None:
        self._caller: Caller | None = caller
        self._chunked = length < 0
        framing = b"Transfer-Encoding: chunked\r\n" if self._chunked else b"Content-Length: %d\r\n" % length
        lines = [b"POST /call HTTP/1.1\r\nHost: function\r\n", framing, *(b"%b: %b\r\n" % h for h in headers), b"\r\n"]
        self._unsent = bytearray(b"".join(lines))
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._headers: list[Header] = []
        self._length = -1
        self._until_close = self._blocked = self._listening = False
        self.writable = True

    def connect(self, path: str) -> None:
        """Connect to the socket at PATH; flush() sends, and has to follow. OSError."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            connection.connect(path)
        except OSError:
            connection.close()
            raise
        self._socket = connection

    def send_body(self, data: bytes) -> None:
        """A piece of the request's body; flush() sends it."""
        self._unsent += chunk(data) if self._chunked else data

    def end(self) -> None:
        """The request is complete; flush() sends the last of it."""
        if self._chunked:
            self._unsent += b"0\r\n\r\n"

    def flush(self) -> None:
        """Send what there is; the rest when the instance takes more. Only then is the answer waited for: the instance
        is at work meanwhile."""
        if self._socket and self._unsent and not self._blocked:
            self._write()
        if self._socket and not self._listening:
            self._listening = True
            self._loop.add_reader(self._socket.fileno(), self._read)
        self.writable = len(self._unsent) < SEND_BUFFER

    def pause(self) -> None:
        """Stop reading the answer."""
        if self._socket and self._listening:
            self._loop.remove_reader(self._socket.fileno())

    def unpause(self) -> None:
        """Read on."""
        if self._socket and self._listening:
            self._loop.add_reader(self._socket.fileno(), self._read)

    def close(self) -> None:
        """End the connection; to the agent, before its answer is complete, that cancels the call."""
        self._caller = None
        connection, self._socket = self._socket, None
        if connection:
            self._forget(connection)

    def _forget(self, connection: socket.socket) -> None:
        if self._listening:
            self._loop.remove_reader(connection.fileno())
        if self._blocked:
            self._loop.remove_writer(connection.fileno())
        connection.close()

    # --- sending

    def _write(self) -> None:
        if not self._socket:
            return  # it was answered before it was complete
        try:
            del self._unsent[: self._socket.send(self._unsent)]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:  # the agent is gone: reading tells, after what it still said
            self._unsent.clear()
        if self._blocked != bool(self._unsent):
            self._blocked = not self._blocked
            if self._blocked:
                self._loop.add_writer(self._socket.fileno(), self._write)
            else:
                self._loop.remove_writer(self._socket.fileno())
        full, self.writable = not self.writable, len(self._unsent) < SEND_BUFFER
        if full and self.writable and self._caller:
            self._caller.instance_writable()

    # --- receiving

    def _read(self) -> None:
        if not self._socket:
            return  # its answer is complete
        try:
            data = self._socket.recv(RECEIVE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
            self._until_close = False
        whole = self._until_close and not data
        try:
            if data:
                self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            data = b""
        if not data:
            caller = self._caller
            self.close()
            if caller and whole:
                caller.answer_ends()
            elif caller:
                caller.instance_lost()

    def on_message_begin(self) -> None:
        self._headers = []
        self._length = -1

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"content-length":
            self._length = int(value)
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        framed = self._length >= 0 or any(name == b"transfer-encoding" for name, _ in self._headers)
        self._until_close = status >= 200 and not framed
        if self._caller and status >= 200:
            self._caller.answer_begins(status, self._headers, self._length)

    def on_body(self, body: bytes) -> None:
        if self._caller:
            self._caller.answer_body(body)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() < 200:
            return
        caller, connection = self._caller, self._socket
        self._caller = self._socket = None
        if connection:
            self._loop.call_soon(self._forget, connection)  # after the answer has gone out
        if caller:
            caller.answer_ends()
