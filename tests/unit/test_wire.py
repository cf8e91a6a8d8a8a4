# SPDX-License-Identifier: Apache-2.0
"""HTTP as clients speak it: framing, limits, time-outs, and clients that do not behave."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from agents import BIG, Client, Exchange, Run, World, echo, until

from boesfsd import wire
from boesfsd.wire import HEAD_MAX, HOP_BY_HOP, Request

NOWHERE = b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"


# --- paths and methods


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        (b"GET / ", 404, "Path not found: GET /"),
        (b"POST /v2/nope?x=1 ", 404, "Path not found: POST /v2/nope"),
        (b"POST /invoke ", 404, "Path not found: POST /invoke"),
        (b"POST /invoke/ ", 404, "Fn not found"),
        (b"POST /invoke/01NOSUCHFUNCTION ", 404, "Fn not found"),
        (b"POST /invoke/..%2f ", 404, "Fn not found"),
        (b"GET /invoke/x ", 405, "Method not allowed: GET /invoke/x"),
        (b"DELETE /invoke/x ", 405, "Method not allowed: DELETE /invoke/x"),
    ],
)
def test_a_path_or_method_that_is_not_served_is_refused_in_json(
    run: Run, line: bytes, status: int, message: str
) -> None:
    async def scene() -> None:
        async with World(echo) as world:
            client = await world.client()
            await client.send(line + b"HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = await client.answer()
            assert (answer.status, answer.json["message"]) == (status, message)
            assert answer.headers["content-type"] == "application/json"
            assert answer.headers.get("allow") == ("POST" if status == 405 else None)
            assert await client.is_open()

    run(scene)


def test_a_query_does_not_matter(run: Run) -> None:
    async def scene() -> None:
        async with World(echo) as world:
            client = await world.client()
            await client.send(world.request(b"x").replace(world.path, world.path + b"?a=b"))
            assert (await client.answer()).status == 200

    run(scene)


def test_an_answer_to_head_has_no_body(run: Run) -> None:
    """RFC 9110, 9.3.2: its bytes would be taken for the head of the next answer."""

    async def scene() -> None:
        async with World(echo) as world:
            client = await world.client()
            await client.send(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await client.head()).first == "HTTP/1.1 404 Not Found"
            await client.send(NOWHERE)
            assert (await client.head()).first == "HTTP/1.1 404 Not Found"

    run(scene)


# --- bodies


def test_calls_follow_one_another_on_one_connection(run: Run) -> None:
    async def scene() -> None:
        async with World(echo) as world:
            client = await world.client()
            for body in (b"one", b"", b"three"):
                await client.send(world.request(body))
                assert (await client.answer()).body == body
            assert len(world.instances.seen) == 3
            assert world.instances.opened == [0]

    run(scene)


def test_a_request_may_come_byte_by_byte(run: Run) -> None:
    async def scene() -> None:
        async with World(echo) as world:
            client = await world.client()
            client.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in world.request(b"hello"):
                await client.send(bytes([byte]))
                await asyncio.sleep(0)
            assert (await client.answer()).body == b"hello"

    run(scene)


def test_a_chunked_request_arrives_whole(run: Run) -> None:
    async def scene() -> None:
        async with World(echo) as world:
            client = await world.client()
            await client.send(world.head(b"Transfer-Encoding: chunked"))
            for data in (b"a" * 10, b"b" * 100_000, b"c"):
                await client.send(wire.chunk(data))
            await client.send(b"0\r\n\r\n")
            assert (await client.answer()).body == b"a" * 10 + b"b" * 100_000 + b"c"
            assert world.instances.seen[0].head.headers["transfer-encoding"] == "chunked"
            assert await client.is_open()

    run(scene)


def test_a_chunked_answer_arrives_whole(run: Run) -> None:
    async def chunks(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for data in (b"a" * 10, b"b" * 100_000, b"c"):
            await exchange.send(wire.chunk(data))
        await exchange.send(b"0\r\n\r\n")

    async def scene() -> None:
        async with World(chunks) as world:
            client = await world.client()
            await client.send(world.request())
            answer = await client.answer()
            assert answer.headers["transfer-encoding"] == "chunked"
            assert answer.body == b"a" * 10 + b"b" * 100_000 + b"c"
            assert await client.is_open()

    run(scene)


def test_pieces_of_an_answer_are_passed_on_as_they_come(run: Run) -> None:
    proceed = asyncio.Event()

    async def slowly(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\none")
        await proceed.wait()
        await exchange.send(b"two")

    async def scene() -> None:
        async with World(slowly) as world:
            client = await world.start()
            await client.head()
            assert await client.reader.readexactly(3) == b"one"
            proceed.set()
            assert await client.reader.readexactly(3) == b"two"

    run(scene)


def test_a_body_that_ends_with_the_instances_connection_is_whole(run: Run) -> None:
    """An FDK may answer `Connection: close` without a length (RFC 9112, 6.3); the agent passes that on unchanged."""

    async def old_fashioned(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b"hello", b" world")

    async def scene() -> None:
        async with World(old_fashioned) as world:
            assert (await world.call()).body == b"hello world"
            assert world.failures == []

    run(scene)


def test_an_http_1_0_client_gets_an_answer_that_it_understands(run: Run) -> None:
    async def chunks(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")

    async def scene() -> None:
        async with World(chunks) as world:
            client = await world.client()
            await client.send(world.head(b"Content-Length: 0", version=b"1.0"))
            raw = await client.closed()
            head, _, body = raw.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"chunked" not in head.lower()
            assert body == b"hi"

    run(scene)


def test_100_continue_is_said_when_an_instance_was_found(run: Run) -> None:
    async def scene() -> None:
        async with World(echo) as world:
            client = await world.client()
            await client.send(world.head(b"Content-Length: 5", b"Expect: 100-continue"))
            assert (await client.head()).first == "HTTP/1.1 100 Continue"
            assert len(world.instances.seen) <= 1
            await client.send(b"hello")
            assert (await client.answer()).body == b"hello"
            assert "expect" not in world.instances.seen[0].head.headers

    run(scene)


def test_100_continue_is_not_said_to_who_is_refused(run: Run) -> None:
    async def scene() -> None:
        async with World(echo) as world:
            world.router.max_request_size = 10
            client = await world.client()
            await client.send(world.head(b"Content-Length: 11", b"Expect: 100-continue"))
            assert (await client.head()).first == "HTTP/1.1 413 Content Too Large"

    run(scene)


# --- headers


def test_headers_of_one_connection_stay_on_it(run: Run) -> None:
    given = [
        b"%b: %b" % (name, b"trailers" if name == b"te" else b"x")
        for name in HOP_BY_HOP - {b"connection", b"transfer-encoding", b"upgrade", b"expect", b"content-length"}
    ]

    async def scene() -> None:
        async with World(echo) as world:
            await world.call(b"x", b"Connection: keep-alive", b"Expect: nothing", *given)
            seen = world.instances.seen[0].head.headers.keys()
            assert seen.isdisjoint({name.decode() for name in HOP_BY_HOP} - {"content-length"})

    run(scene)


def test_other_headers_are_passed_on_both_ways(run: Run) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.answer(
            b"", b"HTTP/1.1 200 OK\r\nX-Many: 1\r\nX-Many: 2\r\nConnection: close\r\nKeep-Alive: 75\r\n"
        )

    async def scene() -> None:
        async with World(answer) as world:
            got = await world.call(b"", b"X-A: \xc3\xa9 ", b"Fn-Intent: httprequest", b"X-A: 2")
            seen = world.instances.seen[0].head
            assert seen.first == "POST /call HTTP/1.1"
            assert seen.headers["x-a"].encode("latin-1") == b"\xc3\xa9, 2"
            assert seen.headers["fn-intent"] == "httprequest"
            assert seen.headers["host"] == "function"
            assert got.headers["x-many"] == "1, 2"
            assert "keep-alive" not in got.headers

    run(scene)


def test_a_header_of_60_kib_is_passed_on(run: Run) -> None:
    async def scene() -> None:
        async with World(echo) as world:
            assert (await world.call(b"", b"X-Long: " + b"x" * 60_000)).status == 200
            assert len(world.instances.seen[0].head.headers["x-long"]) == 60_000

    run(scene)


@pytest.mark.parametrize("size", [HEAD_MAX + 1, 100_000])
@pytest.mark.parametrize("piece", [1000, 1 << 20])
@pytest.mark.parametrize("before", [0, 1])
def test_a_head_over_64_kib_is_refused(run: Run, size: int, piece: int, before: int) -> None:
    async def scene() -> None:
        async with World(echo) as world:
            client = await world.client()
            for _ in range(before):
                assert await client.is_open()
            data = world.head(b"X-Long: " + b"x" * size)
            with suppress(ConnectionError):
                await client.send(*(data[at : at + piece] for at in range(0, len(data), piece)))
            async with asyncio.timeout(2.0):
                assert (await client.closed()).startswith(b"HTTP/1.1 431 ")
            assert world.instances.seen == []

    run(scene)


def test_a_header_without_end_is_refused_too(run: Run) -> None:
    async def scene() -> None:
        async with World(echo) as world:
            client = await world.client()
            await client.send(b"POST / HTTP/1.1\r\n")
            with suppress(ConnectionError):
                for _ in range(100):
                    await client.send(b"x" * 1000)
                    await asyncio.sleep(0)
            assert (await client.closed()).startswith(b"HTTP/1.1 431 ")

    run(scene)


def test_an_upgrade_that_is_offered_is_ignored_or_refused_in_json(run: Run) -> None:
    """`curl --http2 -d x URL` offers h2c; RFC 9110, 7.8: a server may ignore it. A reset tells nobody anything."""

    async def scene() -> None:
        async with World(echo) as world:
            answer = await world.call(
                b"x", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMA"
            )
            if answer.status != 501:
                assert (answer.status, answer.body) == (200, b"x")

    run(scene)


def test_trailers_are_no_headers(run: Run) -> None:
    """RFC 9110, 6.5.1: merged into the head, which is still there while the call is queued, they would bypass whoever
    looked at it before."""
    proceed = asyncio.Event()

    async def step(exchange: Exchange) -> None:
        await proceed.wait()
        await exchange.answer(await exchange.body())

    async def scene() -> None:
        async with World(step, concurrency=1) as world:
            first, client = await world.start(), await world.client()
            await client.send(world.head(b"Transfer-Encoding: chunked") + b"1\r\nx\r\n0\r\nX-Late: evil\r\n\r\n")
            await until(lambda: world.route.counters.queued)
            proceed.set()
            assert [(await c.answer()).status for c in (first, client)] == [200, 200]
            assert "x-late" not in world.instances.seen[1].head.headers

    run(scene)


# --- malformed requests


BROKEN = {
    "no HTTP": b"hello\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "space in a name": b"POST / HTTP/1.1\r\nHost : x\r\n\r\n",
    "NUL in a value": b"POST / HTTP/1.1\r\nA: \0\r\n\r\n",
    "length and chunked": b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "a negative length": b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    "a length with a sign": b"POST / HTTP/1.1\r\nContent-Length: +5\r\n\r\nhello",
    "an endless length": b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    "an unknown coding": b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
    "no chunk size": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
}


@pytest.mark.parametrize("before", [0, 1], ids=["first", "second"])
@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_request_is_answered_400_once_and_the_connection_closed(run: Run, what: str, before: int) -> None:
    async def scene() -> None:
        async with World(echo) as world:
            client = await world.client()
            for _ in range(before):
                assert await client.is_open()
            await client.send(BROKEN[what].replace(b" / ", b" " + world.path + b" "))
            async with asyncio.timeout(2.0):  # less than HEAD_TIMEOUT, more than LINGER
                raw = await client.closed()
            if what == "no chunk size":  # its head was fine: the call may have begun
                assert raw.count(b"HTTP/1.1 ") <= 1
            else:
                assert raw.startswith(b"HTTP/1.1 400 Bad Request\r\n")
                assert raw.count(b"HTTP/1.1 ") == 1
                assert world.instances.seen == []

    run(scene)


def test_a_request_that_breaks_in_its_body_ends_the_call(run: Run) -> None:
    async def wait(exchange: Exchange) -> None:
        await exchange.gone()

    async def scene() -> None:
        async with World(wait) as world:
            client = await world.client()
            await client.send(world.head(b"Transfer-Encoding: chunked") + wire.chunk(b"good"))
            await until(lambda: world.instances.seen)
            await client.send(b"xyz\r\n")
            await client.closed()
            await until(lambda: not world.route.calls)

    run(scene)


# --- too large, too slow


def test_a_body_over_the_limit_is_refused_before_it_is_sent(run: Run) -> None:
    async def scene() -> None:
        async with World(echo) as world:
            world.router.max_request_size = 100_000
            client = await world.client()
            await client.send(world.head(b"Content-Length: 100001"))
            answer = await client.answer()
            assert (answer.status, answer.json["message"]) == (413, "Request content too large")
            assert world.instances.seen == []

    run(scene)


def test_a_client_that_goes_on_sending_can_still_read_its_413(run: Run) -> None:
    async def scene() -> None:
        async with World(echo) as world:
            world.router.max_request_size = 1 << 20
            client = await world.client()
            await client.send(world.head(b"Content-Length: %d" % (8 << 20)))
            try:
                await client.send(*[bytes(1 << 20)] * 8)
            except ConnectionError:
                pytest.fail("the connection was reset")
            assert (await client.answer()).status == 413
            assert await client.closed() == b""

    run(scene)


def test_a_chunked_body_is_refused_where_it_passes_the_limit(run: Run) -> None:
    async def read(exchange: Exchange) -> None:
        await exchange.gone()

    async def scene() -> None:
        async with World(read) as world:
            world.router.max_request_size = 100_000
            client = await world.client()
            await client.send(world.head(b"Transfer-Encoding: chunked"), wire.chunk(bytes(100_000)))
            await until(lambda: world.instances.seen)
            await client.send(wire.chunk(b"x"))
            assert (await client.answer()).status == 413
            await until(lambda: not world.instances.running[0])

    run(scene)


def test_the_exact_limit_is_allowed(run: Run) -> None:
    async def scene() -> None:
        async with World(echo) as world:
            world.router.max_request_size = 100
            assert (await world.call(bytes(100))).status == 200

    run(scene)


@pytest.mark.parametrize("before", [0, 1], ids=["first", "second"])
@pytest.mark.parametrize("pieces", [[b"POST / HT"], [b"POST", b" / HTTP/1.1\r\n", b"Host: "]], ids=["one", "three"])
def test_a_slow_head_is_answered_408(
    run: Run, monkeypatch: pytest.MonkeyPatch, pieces: list[bytes], before: int
) -> None:
    monkeypatch.setattr(wire, "HEAD_TIMEOUT", 0.1)

    async def scene() -> None:
        async with World(echo) as world:
            client = await world.client()
            for _ in range(before):
                assert await client.is_open()
            for piece in pieces:
                await client.send(piece)
                await asyncio.sleep(0.01)
            async with asyncio.timeout(2.0):
                raw = await client.closed()
            assert raw.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
            assert raw.count(b"HTTP/1.1 ") == 1

    run(scene)


def test_a_silent_connection_is_closed_without_a_word(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "HEAD_TIMEOUT", 0.05)

    async def scene() -> None:
        async with World(echo) as world:
            assert await (await world.client()).closed() == b""

    run(scene)


def test_an_idle_connection_is_closed_after_a_while(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "KEEP_ALIVE", 1.0)

    async def scene() -> None:
        async with World(echo) as world:
            client = await world.client()
            for _ in range(3):
                assert await client.is_open()
                await asyncio.sleep(0.02)
            assert await client.closed() == b""

    run(scene)


def test_a_slow_call_is_not_a_slow_head(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "HEAD_TIMEOUT", 0.05)
    monkeypatch.setattr(wire, "KEEP_ALIVE", 0.05)

    async def slow(exchange: Exchange) -> None:
        await asyncio.sleep(0.2)
        await exchange.answer(b"done")

    async def scene() -> None:
        async with World(slow) as world:
            assert (await world.call()).body == b"done"

    run(scene)


# --- one request at a time


def test_a_pipelined_request_is_not_served_and_the_connection_closed_cleanly(run: Run) -> None:
    proceed = asyncio.Event()

    async def wait(exchange: Exchange) -> None:
        body = await exchange.body()
        await proceed.wait()
        await exchange.answer(body)

    async def scene() -> None:
        async with World(wait) as world:
            client = await world.client()
            await client.send(world.request(b"one") + world.request(b"two") + world.request(b"three"))
            await until(lambda: world.instances.seen)
            proceed.set()
            assert (await client.answer()).body == b"one"
            assert await client.closed() == b""
            assert len(world.instances.seen) == 1

    run(scene)


def test_a_pipelined_request_does_not_change_the_one_before_it(run: Run) -> None:
    """Whose head is still there while it is queued."""
    proceed = asyncio.Event()

    async def step(exchange: Exchange) -> None:
        await proceed.wait()
        await exchange.answer(await exchange.body())

    async def scene() -> None:
        async with World(step, concurrency=1) as world:
            first, client = await world.start(), await world.client()
            await client.send(world.request(b"one", b"X-A: 1") + world.request(b"twotwo", b"X-B: 2", b"X-A: 3"))
            await until(lambda: world.route.counters.queued)
            proceed.set()
            assert [(await c.answer()).body for c in (first, client)] == [b"", b"one"]
            seen = world.instances.seen[1].head.headers
            assert seen["x-a"] == "1"
            assert "x-b" not in seen

    run(scene)


def test_pipelined_refusals_are_all_answered_or_the_connection_closed(run: Run) -> None:
    async def scene() -> None:
        async with World(echo) as world:
            client = await world.client()
            await client.send(NOWHERE * 3)
            assert (await client.answer()).status == 404

    run(scene)


def test_a_refused_requests_body_is_not_the_next_request(run: Run) -> None:
    async def scene() -> None:
        async with World(echo) as world:
            client = await world.client()
            body = NOWHERE
            await client.send(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body))
            assert (await client.answer()).status == 404
            await client.send(body + world.request(b"next"))
            assert (await client.answer()).body == b"next"

    run(scene)


# --- backpressure


def written(world: World) -> int:
    """Bytes that boesfsd holds for its clients."""
    return sum(c._transport.get_write_buffer_size() for c in world.server._connections if c._transport)


async def stalls(progress: list[int]) -> int:
    """Wait until PROGRESS[0] grows no more."""
    seen = -1
    while seen != progress[0]:
        seen = progress[0]
        await asyncio.sleep(0.05)
    return seen


def test_a_slow_reader_slows_the_instance_down(run: Run) -> None:
    sent = [0]
    piece = bytes(64 << 10)

    async def flood(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BIG)
        while sent[0] < BIG:
            await exchange.send(piece)
            sent[0] += len(piece)

    async def scene() -> None:
        async with World(flood) as world:
            client = await world.client(limit=1 << 16)
            await client.send(world.request())
            await client.head()
            stalled = await stalls(sent)
            assert stalled < 20 << 20  # the kernel's buffers, not ours
            assert written(world) < 1 << 20
            got = 0
            while got < BIG:
                got += len(await client.reader.read(1 << 20))
            assert got == BIG

    run(scene)


def test_a_slow_instance_slows_the_client_down(run: Run) -> None:
    proceed = asyncio.Event()

    async def lazy(exchange: Exchange) -> None:
        await proceed.wait()
        await exchange.answer(b"%d" % len(await exchange.body()))

    async def scene() -> None:
        async with World(lazy) as world:
            await _upload(world, proceed)

    run(scene)


def test_a_body_waits_at_the_client_while_the_call_is_queued(run: Run) -> None:
    proceed = asyncio.Event()

    async def lazy(exchange: Exchange) -> None:
        await proceed.wait()
        await exchange.answer(b"%d" % len(await exchange.body()))

    async def scene() -> None:
        async with World(lazy, concurrency=1) as world:
            first = await world.start()
            await _upload(world, proceed)
            assert (await first.answer()).body == b"0"

    run(scene)


async def _upload(world: World, proceed: asyncio.Event) -> None:
    sent = [0]
    client: Client = await world.client()

    async def upload() -> None:
        await client.send(world.head(b"Content-Length: %d" % BIG))
        while sent[0] < BIG:
            await client.send(bytes(64 << 10))
            sent[0] += 64 << 10

    task = asyncio.create_task(upload())
    await until(lambda: sent[0])
    assert await stalls(sent) < 20 << 20
    held = sum(
        sum(map(len, call._early)) + (len(call._call._unsent) if call._call else 0)
        for call in world.route.calls.values()
    )
    assert held < 2 << 20
    proceed.set()
    await task
    assert (await client.answer()).body == b"%d" % BIG


# --- closing


def test_closing_the_server_ends_idle_connections_and_lets_calls_finish(run: Run) -> None:
    proceed = asyncio.Event()

    async def wait(exchange: Exchange) -> None:
        await proceed.wait()
        await exchange.answer(b"done")

    async def scene() -> None:
        async with World(wait) as world:
            idle, busy = await world.client(), await world.start()
            assert await idle.is_open()
            closing = asyncio.create_task(world.server.close(2.0))
            assert await idle.closed() == b""
            proceed.set()
            answer = await busy.answer()
            assert (answer.body, answer.headers["connection"]) == (b"done", "close")
            await closing
            with pytest.raises(ConnectionError):
                await world.client()

    run(scene)


def test_closing_the_server_does_not_wait_for_ever(run: Run) -> None:
    async def wait(exchange: Exchange) -> None:
        await exchange.gone()

    async def scene() -> None:
        async with World(wait) as world:
            client = await world.start()
            async with asyncio.timeout(1.0):
                await world.server.close(0.1)
            client.writer.close()
            await until(lambda: not world.route.calls)

    run(scene)


# --- the connection to an instance


class Told:
    """A caller that counts what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: self.said.append(name)


def test_an_answer_and_room_for_the_rest_of_the_request_may_come_at_once(run: Run, tmp_path: Path) -> None:
    """The loop has both events in one round: the second finds the call over."""

    async def scene() -> None:
        faults: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "s"))
            listener.listen()
            told = Told()
            call = wire.Call(told, [], BIG)
            call.connect(str(tmp_path / "s"))
            call.send_body(b"x" * BIG)
            call.flush()
            assert not call.writable
            connection, _ = listener.accept()
            with connection:
                connection.setblocking(False)
                with suppress(BlockingIOError):
                    while True:
                        connection.recv(1 << 20)
                connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                await until(lambda: "answer_ends" in told.said)
        assert told.said == ["answer_begins", "answer_body", "answer_ends"]
        assert not faults

    run(scene)


# --- small parts


def test_a_chunk_says_its_size_in_hexadecimal() -> None:
    assert wire.chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"


@pytest.mark.parametrize(
    ("headers", "length"),
    [([], 0), ([(b"content-length", b"7")], 7), ([(b"transfer-encoding", b"chunked")], -1)],
)
def test_a_request_knows_its_length(headers: list[tuple[bytes, bytes]], length: int) -> None:
    assert Request(b"POST", b"/", headers).length == length
