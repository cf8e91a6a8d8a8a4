# SPDX-License-Identifier: Apache-2.0
"""POST /invoke/<function id>: statuses, headers and messages of Fn's contract, streams, deadlines, concurrency."""

import hashlib
import re
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from lab import ECHO, HELLO, HTTP, Bus, Deployed, Lab, wait_for
from punctual import punctual, took

Deploy = Callable[..., Deployed]
CALL_ID = "[0-9A-HJKMNP-TV-Z]{26}"
SLEEP = "import time\ndef handler(ctx, data):\n    time.sleep(float(data.read() or b'20'))\n    return 'slept'\n"
SHORT = "import time\ndef handler(ctx, data):\n    time.sleep(0.2)\n    return 'done'\n"


# --- the contract


def test_a_cold_and_a_warm_call_are_answered_by_the_same_instance(deploy: Deploy) -> None:
    function = deploy(HELLO)
    cold, pid = function.call(b"x"), function.pid()
    warm = function.call(b"x")
    assert (cold.status, cold.text, warm.status, warm.text) == (200, "hello", 200, "hello")
    assert function.pid() == pid
    assert warm.seconds < cold.seconds


def test_every_answer_has_a_call_id_of_its_own_that_the_function_sees(deploy: Deploy) -> None:
    function = deploy("def handler(ctx, data):\n    return ctx.CallID()\n")
    first, second = function.call(), function.call()
    assert re.fullmatch(CALL_ID, first.headers["fn-call-id"])
    assert first.text == first.headers["fn-call-id"] != second.headers["fn-call-id"]


def test_a_caller_cannot_choose_call_id_or_deadline_through_boesfsd(deploy: Deploy) -> None:
    function = deploy("def handler(ctx, data):\n    return ctx.CallID() + ' ' + ctx.Deadline()\n")
    answer = function.call(b"", "-H", "Fn-Call-Id: mine", "-H", "Fn-Deadline: 2040-01-01T00:00:00Z")
    assert "mine" not in answer.text
    assert "2040" not in answer.text


def test_the_deadline_is_the_timeout_from_now_in_rfc_3339(deploy: Deploy) -> None:
    function = deploy("def handler(ctx, data):\n    return ctx.Deadline()\n", timeout=20)
    deadline = function.call().text
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", deadline)
    left = (datetime.fromisoformat(deadline.replace("Z", "+00:00")) - datetime.now(UTC)).total_seconds()
    assert 17 < left <= 20


def test_the_function_s_headers_are_passed_on(deploy: Deploy) -> None:
    function = deploy(
        "from fdk import response\ndef handler(ctx, data):\n"
        "    return response.Response(ctx, response_data='x', headers={'Content-Type': 'text/x-own', 'X-Own': 'yes'})\n"
    )
    answer = function.call()
    assert (answer.headers["content-type"], answer.headers["x-own"]) == ("text/x-own", "yes")
    assert answer.headers["fn-fdk-version"] == "fdk-python/0.1.128"


def test_the_caller_s_headers_reach_the_function_without_those_of_the_connection(deploy: Deploy) -> None:
    function = deploy("import json\ndef handler(ctx, data):\n    return json.dumps(dict(ctx.Headers()))\n")
    headers = function.call(b"x", "-H", "X-Own: yes", "-H", "TE: trailers", "-H", "Keep-Alive: 5").json
    headers = {name.lower(): value for name, value in headers.items()}
    assert headers["x-own"] == "yes"
    assert not {"te", "keep-alive", "boesfs-error"} & headers.keys()


def test_the_function_cannot_set_our_headers(raw: Deploy) -> None:
    function = raw(
        "def reply(c, head):\n"
        "    c.sendall(answer('x', extra='Boesfs-Error: Stopped\\r\\nFn-Call-Id: forged\\r\\nKeep-Alive: 1\\r\\n'))\n"
    )
    answer = function.call()
    assert (answer.status, answer.error) == (200, "")
    assert re.fullmatch(CALL_ID, answer.headers["fn-call-id"])
    assert "keep-alive" not in answer.headers


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("POST", "/invoke/01ARZ3NDEKTSV4RRFFQ69G5FAV", 404, "Fn not found"),
        ("POST", "/invoke/", 404, "Fn not found"),
        ("POST", "/invoke/%C3%A9", 404, "Fn not found"),
        ("POST", "/invoke/" + "x" * 5000, 404, "Fn not found"),
        ("GET", "/nope", 404, "Path not found: GET /nope"),
        ("POST", "/", 404, "Path not found: POST /"),
    ],
)
def test_what_is_not_there_is_404_with_fn_s_message(
    lab: Lab, method: str, path: str, status: int, message: str
) -> None:
    answer = lab.curl(HTTP + path, "-X", method)
    assert (answer.status, answer.message) == (status, message)
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_another_method_is_405(deploy: Deploy, method: str) -> None:
    function = deploy(HELLO)
    answer = function.lab.curl(function.url, "-X", method)
    assert (answer.status, answer.message) == (405, f"Method not allowed: {method} /invoke/{function.id}")
    assert answer.headers["allow"] == "POST"


def test_a_function_that_was_removed_is_404(deploy: Deploy) -> None:
    function = deploy(HELLO)
    function.call(b"x")
    function.remove()
    assert function.call(b"x").status == 404


def test_an_exception_is_502_function_failed_with_the_error(deploy: Deploy) -> None:
    function = deploy("def handler(ctx, data):\n    raise ValueError('its own words')\n")
    answer = function.call()
    assert (answer.status, answer.message, answer.error) == (502, "function failed", "FunctionFailed")
    assert "its own words" in answer.json["detail"]
    assert answer.headers["content-type"] == "application/json"


def test_a_timeout_that_the_fdk_reports_is_504(deploy: Deploy) -> None:
    function = deploy("def handler(ctx, data):\n    raise TimeoutError('too slow')\n")
    answer = function.call()
    assert (answer.status, answer.message) == (504, "Timed out")


def test_detached_calls_are_refused_501(deploy: Deploy) -> None:
    answer = deploy(HELLO).call(b"", "-H", "Fn-Invoke-Type: detached")
    assert (answer.status, answer.message) == (501, "Detach call functions are not supported on this server")


def test_a_request_over_the_limit_is_413_before_the_function_starts(deploy: Deploy) -> None:
    function = deploy(HELLO)
    function.lab.machine.shell("truncate -s 1G /srv/gigabyte")
    answer = function.lab.curl(function.url, "-X", "POST", "-T", "/srv/gigabyte", "-H", "Expect:")
    assert (answer.status, answer.message) == (413, "Request content too large")
    assert function.state() == "inactive"


def test_a_chunked_request_over_the_limit_is_413(deploy: Deploy) -> None:
    function = deploy(HELLO, memory=512)
    function.lab.machine.shell("truncate -s 1G /srv/gigabyte")
    options = ("-X", "POST", "-T", "/srv/gigabyte", "-H", "Transfer-Encoding: chunked", "-H", "Expect:")
    answer = function.lab.curl(function.url, *options)
    assert (answer.status, answer.message) == (413, "Request content too large")
    assert function.call(b"x").text == "hello"


# --- streams


def test_twenty_megabytes_come_back_as_they_were(deploy: Deploy, mebibyte: bytes) -> None:
    function = deploy(ECHO, memory=512)
    answer = function.call(mebibyte * 20)
    assert answer.status == 200
    assert hashlib.sha256(answer.body).digest() == hashlib.sha256(mebibyte * 20).digest()


def test_a_chunked_request_comes_back_as_it_was(deploy: Deploy, mebibyte: bytes) -> None:
    function = deploy(ECHO, memory=256)
    answer = function.call(mebibyte * 3, "-H", "Transfer-Encoding: chunked")
    assert answer.body == mebibyte * 3


@punctual
def test_the_answer_is_streamed_while_the_function_makes_it(raw: Deploy) -> None:
    function = raw(
        "def reply(c, head):\n"
        "    c.sendall(b'HTTP/1.1 200 OK\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n5\\r\\nfirst\\r\\n')\n"
        "    time.sleep(1)\n"
        "    c.sendall(b'6\\r\\nsecond\\r\\n0\\r\\n\\r\\n')\n"
    )
    function.call()
    process = function.begin(b"", "-N")
    assert process.stdout
    seen = b""
    begun = time.monotonic()
    while b"first" not in seen:
        seen += process.stdout.read1(65536)  # type: ignore[attr-defined]
    took(time.monotonic() - begun, 0.8)
    assert b"second" not in seen
    assert process.stdout.read().endswith(b"second")
    process.wait()


def test_the_request_is_streamed_to_the_function_while_the_caller_sends_it(raw: Deploy) -> None:
    function = raw(
        "def reply(c, head):\n"
        "    body = head.partition(b'\\r\\n\\r\\n')[2]\n"
        "    while b'first' not in body:\n        body += c.recv(4096)\n"
        "    print('has the first part', flush=True)\n"
        "    while b'0\\r\\n\\r\\n' not in body:\n        body += c.recv(4096)\n"
        "    c.sendall(answer('whole'))\n"
    )
    process = function.lab.machine.run(
        "sh",
        "-c",
        f"(printf first; sleep 1; printf second) | curl -sS -N -T - -X POST -H Expect: {function.url}",
    )
    assert process.stdout == "whole"
    first = int(function.await_line("has the first part")["__MONOTONIC_TIMESTAMP"])
    end = function.lab.machine.run("cat", "/proc/uptime").stdout.split()[0]
    assert first / 1e6 < float(end) - 0.5


def test_an_answer_that_is_cut_short_is_not_passed_off_as_whole(raw: Deploy) -> None:
    function = raw(
        "def reply(c, head):\n"
        "    c.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 100000\\r\\n\\r\\n' + b'x' * 50000)\n"
    )
    answer = function.call()
    assert answer.exit in (18, 56)


def test_a_client_that_waits_for_continue_gets_it(deploy: Deploy, mebibyte: bytes) -> None:
    function = deploy(ECHO, memory=256)
    answer = function.call(mebibyte, "-H", "Expect: 100-continue", "--expect100-timeout", "20")
    assert answer.body == mebibyte
    assert answer.seconds < 10


def test_a_connection_serves_one_request_after_another(deploy: Deploy) -> None:
    function = deploy(HELLO)
    out = function.lab.machine.run(
        *("curl", "-sSv", "-d", "x", function.url, "--next", "-sS", "-d", "x", function.url),
    )
    assert out.stdout == "hellohello"
    assert "Re-using existing" in out.stderr


def test_an_http_1_0_client_is_answered_and_the_connection_closed(deploy: Deploy) -> None:
    function = deploy(HELLO)
    answer = function.call(b"x", "--http1.0")
    assert answer.text == "hello"
    assert answer.headers["connection"] == "close"
    assert "transfer-encoding" not in answer.headers


# --- deadlines


@punctual
def test_a_call_past_its_timeout_is_504_and_its_instance_is_gone(deploy: Deploy) -> None:
    function = deploy(SLEEP, timeout=1)
    assert function.call(b"0").text == "slept"
    pid = function.pid()
    answer = function.call(b"20")
    assert (answer.status, answer.message, answer.error) == (504, "Timed out", "Timeout")
    took(answer.seconds, 1.3, at_least=0.9)
    wait_for(lambda: function.pid() != pid, 1)
    assert function.call(b"0").text == "slept"


@punctual
def test_a_cold_call_past_its_timeout_is_504_too(deploy: Deploy) -> None:
    function = deploy(SLEEP, timeout=1)
    answer = function.call(b"20")
    assert answer.status == 504
    took(answer.seconds, 1.4)


@punctual
def test_the_deadline_holds_for_a_function_that_ignores_signals(deploy: Deploy) -> None:
    function = deploy(
        "import signal, time\ndef handler(ctx, data):\n    for n in range(1, 32):\n        try:\n"
        "            signal.signal(n, signal.SIG_IGN)\n        except OSError:\n            pass\n    time.sleep(20)\n",
        timeout=1,
    )
    assert function.call().status == 504
    wait_for(lambda: function.instances() == [], 2)


@punctual
def test_a_direct_call_has_the_same_deadline(deploy: Deploy) -> None:
    function = deploy(SLEEP, timeout=1)
    answer = function.direct(b"20")
    assert (answer.status, answer.message, answer.error) == (504, "Timed out", "Timeout")
    took(answer.seconds, 1.5)


@punctual
def test_the_deadline_holds_while_the_answer_is_being_sent(raw: Deploy) -> None:
    function = raw(
        "def reply(c, head):\n"
        "    c.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 100\\r\\n\\r\\nbegun')\n    time.sleep(20)\n",
        timeout=1,
    )
    answer = function.call()
    assert answer.exit != 0
    took(answer.seconds, 2)
    wait_for(lambda: function.instances() == [])


@punctual
def test_a_client_that_goes_away_ends_the_instance(deploy: Deploy) -> None:
    function = deploy(SLEEP)
    call = function.begin(b"20", "--max-time", "1")
    function.running_call()
    function.lab.end(call)
    wait_for(lambda: function.instances() == [], 2)
    assert function.get("NRunning") == 0
    assert function.call(b"0").text == "slept"


# --- concurrency


def count_instances(function: Deployed, calls: "list[object]") -> int:
    """The most instances seen until all CALLS have ended."""
    most = 0
    while any(call.poll() is None for call in calls):  # type: ignore[attr-defined]
        most = max(most, len(function.instances()))
    return most


def test_concurrency_2_never_has_more_than_two_instances(deploy: Deploy) -> None:
    function = deploy(SHORT, concurrency=2)
    calls = [function.begin() for _ in range(10)]
    assert count_instances(function, [*calls]) == 2
    assert [function.lab.end(call).status for call in calls] == [200] * 10


def test_concurrency_1_serves_one_call_after_another(deploy: Deploy) -> None:
    function = deploy(SHORT, concurrency=1)
    calls = [function.begin() for _ in range(5)]
    assert count_instances(function, [*calls]) == 1
    assert [function.lab.end(call).status for call in calls] == [200] * 5


def test_thirty_calls_at_once_are_all_answered(deploy: Deploy) -> None:
    function = deploy(HELLO)
    calls = [function.begin(b"x") for _ in range(30)]
    assert [function.lab.end(call).text for call in calls] == ["hello"] * 30
    assert len(function.instances()) <= 4


def test_who_finds_no_free_instance_before_the_deadline_is_told_503_and_when_to_come_again(deploy: Deploy) -> None:
    function = deploy(SLEEP, concurrency=1, timeout=1)
    answers = [function.lab.end(call) for call in [function.begin(b"20") for _ in range(8)]]
    assert {answer.status for answer in answers} == {503, 504}
    for answer in answers:
        if answer.status == 503:
            assert (answer.message, answer.error) == ("Timed out - server too busy", "Busy")
            assert answer.headers["retry-after"] == "15"


def test_a_smaller_concurrency_takes_effect_without_a_failed_call(bus: Bus, deploy: Deploy) -> None:
    function = deploy(SHORT, concurrency=3)
    calls = [function.begin() for _ in range(9)]
    wait_for(lambda: len(function.instances()) == 3)
    function.replace(concurrency=1)
    assert [function.lab.end(call).status for call in calls] == [200] * 9
    calls = [function.begin() for _ in range(4)]
    assert [function.lab.end(call).status for call in calls] == [200] * 4


# --- idle


def test_an_idle_instance_ends_and_the_next_call_starts_another(deploy: Deploy) -> None:
    function = deploy(HELLO, idle_timeout=1)
    function.call(b"x")
    pid = function.pid()
    wait_for(lambda: function.instances() == [], 3)
    assert function.call(b"x").text == "hello"
    assert function.pid() != pid


def test_the_idle_time_counts_from_the_last_use(deploy: Deploy) -> None:
    function = deploy(HELLO, idle_timeout=1)
    function.call(b"x")
    pid = function.pid()
    for _ in range(3):
        time.sleep(0.6)
        assert function.call(b"x").text == "hello"
    assert function.pid() == pid


def test_calls_around_the_idle_timeout_are_all_answered(deploy: Deploy) -> None:
    function = deploy(HELLO, idle_timeout=1, concurrency=1)
    for number in range(4):
        assert function.call(b"x").text == "hello"
        time.sleep(0.975 + number / 100)
        assert function.direct(b"x").text == "hello"
        time.sleep(0.975 + number / 100)


def test_a_call_that_comes_when_the_instance_has_decided_to_end_is_answered_by_the_next(deploy: Deploy) -> None:
    # every poll() of the agent ends half a second after it has found what it returns: the last one found nothing
    function = deploy(HELLO, idle_timeout=1, concurrency=1)
    function.direct(b"x")
    pid = function.pid()
    log = f"/tmp/{function.id}.strace"
    trace = f"exec strace -qq -p {pid} -e trace=poll -e inject=poll:delay_exit=500000 -o {log}"
    tracer = subprocess.Popen(function.lab.machine.enter("sh", "-c", trace))

    def decided() -> bool:
        lines = function.lab.machine.shell(f"cat {log}", check=False).splitlines()
        return bool(lines) and "= 0 (Timeout)" in lines[-1]

    wait_for(lambda: "TracerPid:\t0" not in function.lab.machine.shell(f"cat /proc/{pid}/status"))
    assert function.direct(b"x").text == "hello"
    assert function.pid() == pid
    wait_for(decided, 10)
    assert function.state() == "active"
    assert function.direct(b"x").text == "hello"
    assert function.pid() != pid
    tracer.wait(10)


def test_a_new_version_answers_while_a_running_call_ends_on_the_old_one(deploy: Deploy) -> None:
    function = deploy("import time\ndef handler(ctx, data):\n    time.sleep(float(data.read()))\n    return 'old'\n")
    old = function.begin(b"1")
    function.running_call()
    function.replace({"func.py": "def handler(ctx, data):\n    return 'new'\n"})
    assert function.call(b"0").text == "new"
    assert function.lab.end(old).text == "old"
    assert function.call(b"0").text == "new"
