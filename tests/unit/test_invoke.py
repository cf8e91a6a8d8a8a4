# SPDX-License-Identifier: Apache-2.0
"""Calls: slots, queues, deadlines, cancellation, and what a failing instance becomes at its caller."""

import asyncio
import dataclasses
import json
import re
import socket
import time

import pytest
from agents import Exchange, Run, World, echo, until
from punctual import punctual, took

from boesfsd import invoke, units, wire
from boesfsd.errors import BoesError
from boesfsd.invoke import error_body, rfc3339

RESET = (ConnectionError, asyncio.IncompleteReadError)


async def wait(exchange: Exchange) -> None:
    """An instance that never answers."""
    await exchange.gone()


# --- the contract


def test_a_call_has_an_id_and_a_deadline_at_both_ends(run: Run) -> None:
    async def scene() -> None:
        async with World(echo, timeout=30) as world:
            answer = await world.call(b"x", b"Fn-Call-Id: forged", b"Fn-Deadline: 2000-01-01T00:00:00Z")
            seen = world.instances.seen[0].head.headers
            assert re.fullmatch(r"[0-9A-Z]{26}", seen["fn-call-id"])
            assert answer.headers["fn-call-id"] == seen["fn-call-id"]
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", seen["fn-deadline"])
            left = time.mktime(time.strptime(seen["fn-deadline"][:19], "%Y-%m-%dT%H:%M:%S")) - time.mktime(
                time.gmtime()
            )
            assert 28 <= left <= 31

    run(scene)


def test_each_call_has_an_id_of_its_own(run: Run) -> None:
    async def scene() -> None:
        async with World(echo) as world:
            ids = {(await world.call()).headers["fn-call-id"] for _ in range(20)}
            assert len(ids) == 20

    run(scene)


def test_detached_calls_are_refused(run: Run) -> None:
    async def scene() -> None:
        async with World(echo) as world:
            answer = await world.call(b"", b"Fn-Invoke-Type: detached")
            assert (answer.status, answer.headers["boesfs-error"]) == (501, "Unsupported")
            assert answer.json["message"] == "Detach call functions are not supported on this server"
            assert world.instances.seen == []

    run(scene)


def test_a_stopped_function_is_not_called(run: Run) -> None:
    async def scene() -> None:
        async with World(echo) as world:
            world.route.stopped = True
            answer = await world.call()
            assert (answer.status, answer.headers["boesfs-error"]) == (503, "Stopped")
            assert answer.json["detail"] == "start it with its Start method"
            assert world.instances.seen == []

    run(scene)


@pytest.mark.parametrize(
    ("status", "ours", "code", "message"),
    [
        (502, "", "FunctionFailed", "function failed"),
        (504, "", "Timeout", "Timed out"),
        (502, "InitFailed", "InitFailed", None),
        (504, "Timeout", "Timeout", None),
        (503, "Busy", "Busy", None),
        (400, "InvalidArgs", "InvalidArgs", None),
    ],
)
def test_a_failure_is_told_in_fns_words_or_as_the_agent_put_it(
    run: Run, status: int, ours: str, code: str, message: str | None
) -> None:
    async def fail(exchange: Exchange) -> None:
        mark = f"Boesfs-Error: {ours}\r\n" if ours else ""
        await exchange.answer(error_body("as the agent says", "why"), f"HTTP/1.1 {status} X\r\n{mark}".encode())

    async def scene() -> None:
        async with World(fail) as world:
            client = await world.client()
            await client.send(world.request())
            answer = await client.answer()
            assert (answer.status, answer.headers["boesfs-error"]) == (status, code)
            assert answer.headers.get("retry-after") == ("15" if status == 503 else None)
            assert answer.json["message"] == (message or "as the agent says")
            assert world.failures == [(code, world.route.last_error)]
            assert world.route.counters.errors == 1
            assert await client.is_open()

    run(scene)


@pytest.mark.parametrize("known", ["", "Denied read /x: rule"])
def test_of_an_instance_that_its_policy_ended_it_is_told_why(run: Run, known: str) -> None:
    async def fail(exchange: Exchange) -> None:
        body = error_body("error receiving function response", "killed by policy: the last of /x")
        await exchange.answer(body, b"HTTP/1.1 502 X\r\nBoesfs-Error: FunctionFailed\r\n")

    async def scene() -> None:
        async with World(fail) as world:
            asked = []

            async def why(route: invoke.Route, slot: int, since: int) -> str:
                asked.append((route, slot))
                assert 0 < since < invoke.boot_time()
                await asyncio.sleep(0.01)
                return known

            world.router.why_killed = why
            answer = await world.call()
            wanted = f"killed by policy: {known or 'the last of /x'}"
            assert (answer.status, answer.json["detail"]) == (502, wanted)
            assert world.route.last_error == f"error receiving function response: {wanted}"
            assert asked == [(world.route, 0)]

    run(scene)


def test_what_the_fdk_says_of_a_failure_is_kept_up_to_4_kib(run: Run) -> None:
    async def fail(exchange: Exchange) -> None:
        await exchange.answer(b"x" * 100_000, b"HTTP/1.1 502 Bad Gateway\r\n")

    async def scene() -> None:
        async with World(fail) as world:
            assert (await world.call()).json["detail"] == "x" * 4096

    run(scene)


def test_a_failure_that_is_no_text_is_told_all_the_same(run: Run) -> None:
    async def fail(exchange: Exchange) -> None:
        await exchange.answer(b"\xff\0", b"HTTP/1.1 502 Bad Gateway\r\n")

    async def scene() -> None:
        async with World(fail) as world:
            answer = await world.call()
            assert (answer.status, answer.json["message"]) == (502, "function failed")

    run(scene)


def test_a_small_request_reaches_the_instance_in_one_piece(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []

    class Counted(socket.socket):
        def send(self, data: bytes, flags: int = 0) -> int:
            sent.append(bytes(data))
            return super().send(data, flags)

    async def scene() -> None:
        async with World(echo) as world:
            with monkeypatch.context() as patch:
                patch.setattr(wire.socket, "socket", Counted)
                assert (await world.call(b"small")).body == b"small"
            (piece,) = [data for data in sent if data.startswith(b"POST /call ")]
            assert piece.endswith(b"\r\n\r\nsmall")

    run(scene)


# --- instances that do not answer


def test_an_instance_that_ends_before_its_answer_is_502(run: Run) -> None:
    async def die(exchange: Exchange) -> None:
        await exchange.body()

    async def scene() -> None:
        async with World(die) as world:
            answer = await world.call(b"x")
            assert (answer.status, answer.headers["boesfs-error"]) == (502, "FunctionFailed")
            assert answer.json["message"] == "error receiving function response"
            assert world.route.counters.errors == 1

    run(scene)


def test_an_instance_that_ends_in_its_head_is_502(run: Run) -> None:
    async def die(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.send(b"HTTP/1.1 200 OK\r\nConte")

    async def scene() -> None:
        async with World(die) as world:
            assert (await world.call(b"x")).status == 502

    run(scene)


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 100\r\n\r\nhalf", b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"]
)
def test_an_answer_that_breaks_off_is_not_whole_at_the_caller(run: Run, framing: bytes) -> None:
    async def die(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.send(b"HTTP/1.1 200 OK\r\n" + framing)

    async def scene() -> None:
        async with World(die) as world:
            client = await world.client()
            await client.send(world.request(b"x"))
            with pytest.raises(RESET):
                await client.answer()
            assert [code for code, _ in world.failures] == ["FunctionFailed"]

    run(scene)


@pytest.mark.parametrize(
    "garbage",
    [b"hello\r\n\r\n", b"HTTP/1.1 banana\r\n\r\n", b"\0" * 100, b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"],
)
def test_garbage_for_an_answer_is_502_at_once(run: Run, garbage: bytes) -> None:
    async def babble(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.send(garbage)
        await exchange.gone()

    async def scene() -> None:
        async with World(babble) as world:
            client = await world.client()
            await client.send(world.request(b"x"))
            async with asyncio.timeout(1.0):
                assert (await client.answer()).status == 502

    run(scene)


def test_garbage_in_a_chunked_answer_breaks_it_off_at_once(run: Run) -> None:
    async def babble(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\nxyz\r\n")
        await exchange.gone()

    async def scene() -> None:
        async with World(babble) as world:
            client = await world.client()
            await client.send(world.request(b"x"))
            with pytest.raises(RESET):
                async with asyncio.timeout(1.0):
                    await client.answer()

    run(scene)


def test_an_answer_before_the_body_was_sent_reaches_the_caller(run: Run) -> None:
    async def hasty(exchange: Exchange) -> None:
        await exchange.answer(b"enough")
        await exchange.gone()

    async def scene() -> None:
        async with World(hasty) as world:
            client = await world.client()
            await client.send(world.head(b"Content-Length: 1000000"), b"x" * 1000)
            assert (await client.answer()).body == b"enough"

    run(scene)


@pytest.mark.parametrize("interim", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"])
def test_interim_answers_are_not_the_answer(run: Run, interim: bytes) -> None:
    async def answer(exchange: Exchange) -> None:
        body = await exchange.body()
        await exchange.send(interim)
        await exchange.answer(body)

    async def scene() -> None:
        async with World(answer) as world:
            got = await world.call(b"x")
            assert (got.status, got.body) == (200, b"x")
            assert "link" not in got.headers

    run(scene)


def test_a_socket_that_is_gone_is_opened_again(run: Run) -> None:
    async def scene() -> None:
        async with World(echo) as world:
            world.instances.servers.pop(0).close()
            units.socket_path(world.function.id, 0).unlink(missing_ok=True)
            assert (await world.call(b"x")).body == b"x"
            assert world.instances.opened == [0, 0]

    run(scene)


def test_a_socket_that_cannot_be_opened_is_503(run: Run) -> None:
    async def scene() -> None:
        async with World(echo) as world:
            world.instances.servers.pop(0).close()
            units.socket_path(world.function.id, 0).unlink(missing_ok=True)
            world.instances.refuse = BoesError("Failed", "systemd says no")
            answer = await world.call(b"x")
            assert (answer.status, answer.headers["retry-after"]) == (503, "15")
            assert "systemd says no" in world.route.last_error or "socket" in world.route.last_error

    run(scene)


# --- deadlines


def test_an_instance_past_the_deadline_and_its_agents_patience_is_killed(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invoke, "BACKSTOP", 0.05)

    async def scene() -> None:
        async with World(wait, timeout=0.1) as world:
            answer = await world.call()
            assert (answer.status, answer.headers["boesfs-error"], answer.json["message"]) == (
                504,
                "Timeout",
                "Timed out",
            )
            assert world.instances.ended == [0]

    run(scene)


def test_who_waits_past_the_deadline_is_answered_503_with_retry_after(run: Run) -> None:
    async def scene() -> None:
        async with World(wait, timeout=0.1, concurrency=1) as world:
            first = await world.start()
            answer = await world.call()
            assert (answer.status, answer.headers["retry-after"]) == (503, "15")
            assert answer.json["message"] == "Timed out - server too busy"
            assert answer.headers["fn-call-id"]
            assert len(world.instances.seen) == 1
            first.writer.close()
            await until(lambda: not world.route.calls)

    run(scene)


def test_a_slot_that_cannot_be_opened_leaves_the_others(run: Run) -> None:
    proceed = asyncio.Event()

    async def step(exchange: Exchange) -> None:
        await proceed.wait()
        await exchange.answer(b"done")

    async def scene() -> None:
        async with World(step, concurrency=2) as world:
            first = await world.start()
            world.instances.refuse = BoesError("Failed", "no more")
            second = await world.client()
            await second.send(world.request())
            await until(lambda: world.instances.opened == [0, 1])
            proceed.set()
            assert [(await client.answer()).body for client in (first, second)] == [b"done", b"done"]

    run(scene)


def test_when_no_slot_can_be_opened_at_all_the_reason_is_told(run: Run) -> None:
    async def scene() -> None:
        async with World(echo) as world:
            world.route.open.clear()
            world.route.free.clear()
            world.instances.refuse = BoesError("Failed", "systemd says no")
            answer = await world.call()
            assert (answer.status, answer.json["detail"]) == (503, "systemd says no")

    run(scene)


# --- concurrency


@pytest.mark.parametrize(("concurrency", "calls"), [(1, 20), (4, 200)])
def test_parallel_calls_are_all_answered_by_no_more_instances_than_allowed(
    run: Run, concurrency: int, calls: int
) -> None:
    async def busy(exchange: Exchange) -> None:
        body = await exchange.body()
        await asyncio.sleep(0.001)
        await exchange.answer(body)

    async def scene() -> None:
        async with World(busy, concurrency=concurrency) as world:
            answers = await asyncio.gather(*(world.call(b"%d" % number) for number in range(calls)))
            assert [answer.body for answer in answers] == [b"%d" % number for number in range(calls)]
            assert world.instances.most == concurrency  # no more, and not one after the other
            assert sorted(world.instances.opened) == list(range(concurrency))
            assert world.route.counters.calls == calls

    run(scene)


def test_single_calls_stay_on_the_first_slot(run: Run) -> None:
    async def scene() -> None:
        async with World(echo, concurrency=4) as world:
            for _ in range(10):
                await world.call()
            assert {exchange.slot for exchange in world.instances.seen} == {0}
            assert world.instances.opened == [0]

    run(scene)


def test_who_waits_longest_is_served_first(run: Run) -> None:
    order = []
    proceed = asyncio.Event()

    async def step(exchange: Exchange) -> None:
        order.append(await exchange.body())
        await proceed.wait()
        await exchange.answer()

    async def scene() -> None:
        async with World(step, concurrency=1) as world:
            clients = [await world.start(b"0")]
            for number in range(1, 5):
                client = await world.client()
                await client.send(world.request(b"%d" % number))
                await until(lambda: world.route.counters.queued == number)  # noqa: B023 (awaited here)
                clients.append(client)
            proceed.set()
            for client in clients:
                await client.answer()
            assert order == [b"0", b"1", b"2", b"3", b"4"]

    run(scene)


def test_a_slot_lost_to_a_lower_concurrency_comes_back_with_a_higher_one(run: Run) -> None:
    proceed = asyncio.Event()

    async def step(exchange: Exchange) -> None:
        await proceed.wait()
        await exchange.answer(b"done")

    async def scene() -> None:
        async with World(step, concurrency=2) as world:
            both = [await world.start(), await world.start()]
            proceed.set()
            for client in both:
                await client.answer()
            proceed.clear()
            plenty = world.function
            settings = dataclasses.replace(plenty.settings, concurrency=1)
            world.router.put(dataclasses.replace(plenty, settings=settings), set())
            both = [await world.start()]
            waiting = await world.client()
            await waiting.send(world.request())
            await until(lambda: world.route.counters.queued == 1)
            world.router.put(plenty, set())
            third = await world.client()
            await third.send(world.request())
            await until(lambda: sum(world.instances.running.values()) == 2, seconds=1.0)
            proceed.set()
            for client in (*both, waiting, third):
                assert (await client.answer()).body == b"done"

    run(scene)


def test_an_extra_slot_above_a_lower_concurrency_is_closed_in_the_end(run: Run) -> None:
    async def busy(exchange: Exchange) -> None:
        await asyncio.sleep(0.01)
        await exchange.answer()

    async def scene() -> None:
        async with World(busy, concurrency=2) as world:
            await asyncio.gather(world.call(), world.call())
            settings = dataclasses.replace(world.function.settings, concurrency=1)
            world.router.put(dataclasses.replace(world.function, settings=settings), set())
            await asyncio.gather(world.call(), world.call())  # the second looks for a free slot and finds slot 1
            assert [slot.number for _, slot in world.router.idle_slots()] == [1]
            assert sorted(world.route.open) == [0]

    run(scene)


def test_idle_extra_slots_are_taken_out_of_service_but_never_the_first(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(exchange: Exchange) -> None:
        await asyncio.sleep(0.01)
        await exchange.answer()

    async def scene() -> None:
        async with World(busy, concurrency=3, idle_timeout=30) as world:
            await asyncio.gather(*(world.call() for _ in range(3)))
            assert world.router.idle_slots() == []
            for slot in world.route.free:
                slot.used -= 36
            assert sorted(slot.number for _, slot in world.router.idle_slots()) == [1, 2]
            assert (await world.call()).status == 200
            assert sorted(world.route.open) == [0]

    run(scene)


# --- callers that go away


def test_a_caller_that_goes_away_ends_the_call_at_its_instance(run: Run) -> None:
    async def scene() -> None:
        async with World(wait) as world:
            client = await world.start()
            client.writer.close()
            await until(lambda: not world.instances.running[0])
            assert world.failures == []

    run(scene)


def test_a_caller_that_goes_away_in_the_middle_of_the_answer_ends_it(run: Run) -> None:
    async def endless(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await exchange.send(b"5\r\nhello\r\n")
            await asyncio.sleep(0)

    async def scene() -> None:
        async with World(endless) as world:
            client = await world.start()
            await client.head()
            client.writer.transport.abort()
            await until(lambda: not world.instances.running[0])

    run(scene)


def test_a_caller_that_goes_away_leaves_the_queue(run: Run) -> None:
    async def scene() -> None:
        async with World(wait, concurrency=1) as world:
            first = await world.start()
            waiting = await world.client()
            await waiting.send(world.request())
            await until(lambda: world.route.counters.queued == 1)
            waiting.writer.close()
            await until(lambda: world.route.counters.queued == 0)
            first.writer.close()
            await until(lambda: not world.route.calls)
            assert len(world.instances.seen) == 1

    run(scene)


# --- cancel and remove


@punctual
def test_a_cancelled_call_ends_within_100_ms_at_both_ends(run: Run) -> None:
    async def scene() -> None:
        async with World(wait) as world:
            client = await world.start()
            call = world.router.find_call(world.instances.seen[0].head.headers["fn-call-id"])
            assert call
            began = time.monotonic()
            call.fail(BoesError("Cancelled", "The call was cancelled"))
            answer = await client.answer()
            await until(lambda: not world.instances.running[0])
            took(time.monotonic() - began, 0.1)
            assert (answer.status, answer.headers["boesfs-error"]) == (503, "Cancelled")
            assert answer.json["message"] == "The call was cancelled"
            assert world.router.find_call(call.id) is None
            assert await client.is_open()

    run(scene)


def test_a_call_cancelled_in_its_answer_is_not_whole_at_the_caller(run: Run) -> None:
    async def half(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
        await exchange.gone()

    async def scene() -> None:
        async with World(half) as world:
            client = await world.start()
            await client.head()
            (call,) = world.route.calls.values()
            call.fail(BoesError("Cancelled", "The call was cancelled"))
            with pytest.raises(RESET):
                await client.reader.readuntil(b"0\r\n\r\n")
            assert [code for code, _ in world.failures] == ["Cancelled"]

    run(scene)


def test_a_queued_call_can_be_cancelled(run: Run) -> None:
    async def scene() -> None:
        async with World(wait, concurrency=1) as world:
            first = await world.start()
            waiting = await world.client()
            await waiting.send(world.request())
            await until(lambda: world.route.counters.queued == 1)
            (call,) = [
                call
                for call in world.route.calls.values()
                if call.id != world.instances.seen[0].head.headers["fn-call-id"]
            ]
            call.fail(BoesError("Cancelled", "The call was cancelled"))
            assert (await waiting.answer()).headers["boesfs-error"] == "Cancelled"
            assert len(world.instances.seen) == 1
            first.writer.close()
            await until(lambda: not world.route.calls)

    run(scene)


def test_cancelling_twice_is_cancelling_once(run: Run) -> None:
    async def scene() -> None:
        async with World(wait) as world:
            client = await world.start()
            (call,) = world.route.calls.values()
            for _ in range(2):
                call.fail(BoesError("Cancelled", "The call was cancelled"))
            await client.answer()
            assert world.route.counters.errors == 1

    run(scene)


def test_the_slot_of_a_cancelled_call_serves_the_next(run: Run) -> None:
    async def once(exchange: Exchange) -> None:
        if await exchange.body() == b"wait":
            await exchange.gone()
        else:
            await exchange.answer(b"served")

    async def scene() -> None:
        async with World(once, concurrency=1) as world:
            first = await world.start(b"wait")
            second = await world.client()
            await second.send(world.request(b"next"))
            await until(lambda: world.route.counters.queued == 1)
            next(iter(world.route.calls.values())).fail(BoesError("Cancelled", "The call was cancelled"))
            assert (await second.answer()).body == b"served"
            assert (await first.answer()).status == 503

    run(scene)


def test_removing_a_function_ends_running_and_waiting_calls_by_name(run: Run) -> None:
    async def scene() -> None:
        async with World(wait, concurrency=1) as world:
            running, waiting = await world.start(), await world.client()
            await waiting.send(world.request())
            await until(lambda: world.route.counters.queued == 1)
            world.router.remove(world.function.id)
            for client in (running, waiting):
                answer = await client.answer()
                assert (answer.status, answer.headers["boesfs-error"]) == (503, "Stopped")
            assert (await world.call()).status == 404
            await until(lambda: not world.instances.running[0])

    run(scene)


def test_a_slot_that_opens_after_its_function_is_gone_is_closed(run: Run) -> None:
    async def scene() -> None:
        async with World(wait, concurrency=2) as world:
            first = await world.start()
            second = await world.client()
            proceed = asyncio.Event()
            opening = world.instances.open_slot

            async def slowly(*args: object) -> None:
                await proceed.wait()
                await opening(*args)  # type: ignore[arg-type]

            world.instances.open_slot = slowly  # type: ignore[method-assign,assignment]
            await second.send(world.request())
            await until(lambda: world.route.opening == {1})
            world.router.remove(world.function.id)
            proceed.set()
            await first.answer()
            await second.answer()
            await until(lambda: world.instances.closed == [1])

    run(scene)


def test_a_new_version_takes_over_for_the_next_call(run: Run) -> None:
    async def scene() -> None:
        async with World(echo) as world:
            newer = dataclasses.replace(world.function, digest="e" * 64)
            route = world.route
            assert world.router.put(newer, set()) is route
            assert route.function is newer
            assert (await world.call(b"x")).body == b"x"

    run(scene)


# --- small parts


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, b"1970-01-01T00:00:00.000Z"),
        (1.5, b"1970-01-01T00:00:01.500Z"),
        (1_790_000_000.0, b"2026-09-21T14:13:20.000Z"),
    ],
)
def test_a_deadline_is_rfc_3339_with_milliseconds(seconds: float, text: bytes) -> None:
    assert rfc3339(seconds) == text


def test_an_error_body_is_one_json_line() -> None:
    assert json.loads(error_body("a", "b\n")) == {"message": "a", "detail": "b\n"}
    assert error_body("a") == b'{"message": "a"}\n'
