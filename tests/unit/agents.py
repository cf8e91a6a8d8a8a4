# SPDX-License-Identifier: Apache-2.0
"""A router with its web server on a real TCP port, and instances that only look like agents: unix sockets on which a
test decides what is answered. Everything runs in one event loop, asyncio's or uvloop's."""

import asyncio
import dataclasses
import json
import shutil
import socket
import tempfile
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from samples import function

from boesfsd import units
from boesfsd.errors import BoesError
from boesfsd.invoke import Route, Router, Slots
from boesfsd.model import Function
from boesfsd.web import Server

BIG = 50 << 20


@dataclasses.dataclass
class Head:
    """First line, headers with lower-case names; what came twice is joined by a comma."""

    first: str
    headers: dict[str, str]


def parse_head(data: bytes) -> Head:
    first, *lines = data.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = ", ".join([*filter(None, [headers.get(name.lower())]), value.strip()])
    return Head(first, headers)


async def read_body(reader: asyncio.StreamReader, head: Head, *, until_close: bool) -> bytes:
    """By length, in chunks or until the end; IncompleteReadError when it is cut off."""
    if "chunked" in head.headers.get("transfer-encoding", ""):
        body = b""
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            body += await reader.readexactly(size)
            assert await reader.readexactly(2) == b"\r\n"
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass
        return body
    if "content-length" in head.headers:
        return await reader.readexactly(int(head.headers["content-length"]))
    return await reader.read() if until_close else b""


@dataclasses.dataclass
class Exchange:
    """One connection to an instance."""

    slot: int
    head: Head
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def body(self) -> bytes:
        return await read_body(self.reader, self.head, until_close=False)

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def answer(self, body: bytes = b"", head: bytes = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n") -> None:
        await self.send(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    async def gone(self) -> bool:
        """Wait until boesfsd closes the connection."""
        try:
            while await self.reader.read(1 << 20):
                pass
        except ConnectionError:
            pass
        return True


Behaviour = Callable[[Exchange], Awaitable[None]]
Scene = Callable[[], Coroutine[Any, Any, None]]
Run = Callable[[Scene], None]


async def echo(exchange: Exchange) -> None:
    await exchange.answer(await exchange.body())


class Instances(Slots):
    """What functions.py does over systemd: slots are unix servers."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.servers: dict[int, asyncio.Server] = {}
        self.seen: list[Exchange] = []
        self.running: dict[int, int] = {}
        self.most = 0
        self.ended: list[int] = []
        self.closed: list[int] = []
        self.opened: list[int] = []
        self.refuse: BoesError | None = None

    async def open_slot(self, function: Function, number: int) -> None:
        self.opened.append(number)
        if self.refuse:
            raise self.refuse
        path = units.socket_path(function.id, number)
        path.unlink(missing_ok=True)
        self.servers[number] = await asyncio.start_unix_server(
            lambda reader, writer: self._serve(number, reader, writer), path
        )

    async def close_slot(self, function: Function, number: int) -> None:
        self.closed.append(number)
        self.servers.pop(number).close()

    async def end_instance(self, function: Function, number: int) -> None:
        self.ended.append(number)

    async def _serve(self, slot: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = parse_head(await reader.readuntil(b"\r\n\r\n"))
            exchange = Exchange(slot, head, reader, writer)
            self.seen.append(exchange)
            self.running[slot] = self.running.get(slot, 0) + 1
            assert self.running[slot] == 1, "two calls at one instance"
            self.most = max(self.most, sum(self.running.values()))
            try:
                await self.behaviour(exchange)
            finally:
                self.running[slot] -= 1
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@dataclasses.dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """An HTTP client that sends just the bytes it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def head(self) -> Head:
        return parse_head(await self.reader.readuntil(b"\r\n\r\n"))

    async def answer(self) -> Answer:
        head = await self.head()
        body = await read_body(self.reader, head, until_close=True)
        return Answer(int(head.first.split()[1]), head.headers, body)

    async def closed(self) -> bytes:
        """What comes until boesfsd closes the connection."""
        try:
            return await self.reader.read()
        except ConnectionError:
            return b""

    async def is_open(self) -> bool:
        """One more request is served."""
        await self.send(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
        return (await self.answer()).status == 404


class World:
    """One deployed function, its instances, and a server."""

    def __init__(self, behaviour: Behaviour, **settings: Any) -> None:
        self.function = function(**settings)
        self.instances = Instances(behaviour)
        self.router = Router(self.instances)
        self.router.max_request_size = 1 << 30
        self.failures: list[tuple[str, str]] = []
        self.router.on_failure = lambda route, call_id, reason, message: self.failures.append((reason, message))
        self.server = Server(self.router)
        self._clients: list[Client] = []

    async def __aenter__(self) -> "World":
        self._directory = tempfile.mkdtemp(prefix="boesfs")
        self._sockets, units.SOCKETS = units.SOCKETS, Path(self._directory)
        await self.instances.open_slot(self.function, 0)
        self.router.put(self.function, {0})
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        await self.server.listen([listener])
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        """At the end nobody runs, nobody waits, nothing is lost."""
        for client in self._clients:
            client.writer.close()
        await self.server.close(2.0)
        for server in self.instances.servers.values():
            server.close()
        units.SOCKETS = self._sockets
        shutil.rmtree(self._directory)
        for route in [] if kind else self.router.routes.values():
            assert (route.counters.running, route.counters.queued, route.calls) == (0, 0, {})
            assert sorted(slot.number for slot in route.free) == sorted(route.open)
            assert not route.opening

    @property
    def route(self) -> Route:
        return self.router.routes[self.function.id]

    @property
    def path(self) -> bytes:
        return b"/invoke/" + self.function.id.encode()

    def head(self, *headers: bytes, version: bytes = b"1.1") -> bytes:
        """Of a call to the function."""
        lines = [b"POST %b HTTP/%b" % (self.path, version), b"Host: localhost", *headers]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def request(self, body: bytes = b"", *headers: bytes) -> bytes:
        return self.head(b"Content-Length: %d" % len(body), *headers) + body

    async def client(self, **options: Any) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port, **options))
        self._clients.append(client)
        return client

    async def call(self, body: bytes = b"", *headers: bytes) -> Answer:
        client = await self.client()
        await client.send(self.request(body, *headers))
        return await client.answer()

    async def start(self, body: bytes = b"", *headers: bytes) -> Client:
        """A call that has reached its instance."""
        before = len(self.instances.seen)
        client = await self.client()
        await client.send(self.request(body, *headers))
        await until(lambda: len(self.instances.seen) > before)
        return client


async def until(true: Callable[[], object], seconds: float = 2.0) -> None:
    """Wait for something that happens in the same loop."""
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 (what is waited for is no event)
            await asyncio.sleep(0.001)
