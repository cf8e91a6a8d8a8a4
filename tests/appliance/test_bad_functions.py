# SPDX-License-Identifier: Apache-2.0
"""Functions that are broken, hostile or unlucky: each ends in a clear error, and the next call is answered."""

from collections.abc import Callable

import pytest
from lab import HELLO, PROBE, Deployed, Lab, wait_for
from punctual import punctual, took

Deploy = Callable[..., Deployed]
INIT_FAILED = "Container failed to initialize, please ensure you are using the latest fdk and check the logs"
INIT_TIMED_OUT = "Container initialization timed out, please ensure you are using the latest fdk and check the logs"
OWN = "schema_version: 20180708\nruntime: python\nentrypoint: /function/main\n"


def own(script: str) -> dict[str, str | bytes]:
    """A function whose entrypoint is SCRIPT, in Python."""
    return {"main": f"#!/usr/bin/python3\nimport os, sys, time\n{script}", "func.yaml": OWN}


def mends(function: Deployed) -> None:
    """After it was deployed anew it is well: nothing of its past is in the way."""
    function.replace({"func.py": HELLO})
    assert function.call(b"x").text == "hello"


# --- that do not start


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("def handler(ctx, data:\n", "was never closed"),
        ("def other(ctx, data):\n    pass\n", "handler"),
        ("import nothing_like_it\n", "nothing_like_it"),
    ],
    ids=["syntax error", "no handler", "missing import"],
)
def test_code_that_cannot_be_loaded_is_502_and_the_journal_says_why(deploy: Deploy, code: str, told: str) -> None:
    function = deploy(code)
    answer = function.call()
    assert answer.status == 502
    assert function.await_line(told)
    assert function.call().status == 502
    mends(function)


def test_a_source_without_func_py_is_refused_by_path(lab: Lab, app: str) -> None:
    with pytest.raises(AssertionError, match=r"func\.py"):
        lab.deploy(app, {"other.py": HELLO})


def test_a_program_that_exits_at_once_is_502_and_named(deploy: Deploy) -> None:
    function = deploy(own("sys.exit(7)\n"))
    for answer in (function.call(), function.direct()):
        assert (answer.status, answer.message, answer.error) == (502, INIT_FAILED, "InitFailed")
        assert "exited with status 7" in answer.json["detail"]
    mends(function)


def test_a_program_that_is_not_there_is_502_and_named(deploy: Deploy) -> None:
    function = deploy({"func.yaml": OWN.replace("main", "missing"), "func.py": ""})
    answer = function.call()
    assert (answer.status, answer.error) == (502, "InitFailed")
    assert "/function/missing" in answer.json["detail"]
    assert "No such file" in answer.json["detail"]
    mends(function)


def test_a_program_without_execute_bit_is_502_and_named(deploy: Deploy) -> None:
    function = deploy({"func.yaml": OWN, "main": "x = 1\n"})
    answer = function.call()
    assert (answer.status, answer.error) == (502, "InitFailed")
    assert "Permission denied" in answer.json["detail"]
    mends(function)


@punctual
def test_a_function_that_never_listens_is_504_after_init_timeout_and_the_next_call_is_answered(deploy: Deploy) -> None:
    function = deploy(own("time.sleep(100)\n"))
    answer = function.call()
    assert (answer.status, answer.message, answer.error) == (504, INIT_TIMED_OUT, "InitTimeout")
    took(answer.seconds, 6.5, at_least=4.5)
    mends(function)


def test_many_callers_of_a_function_that_cannot_start_are_all_answered(deploy: Deploy) -> None:
    function = deploy(own("sys.exit(1)\n"))
    calls = [function.begin(b"x") for _ in range(20)]
    assert {function.lab.end(call).status for call in calls} == {502}
    mends(function)


def test_hundreds_of_failed_starts_do_not_wedge_the_socket(deploy: Deploy) -> None:
    """More in ten seconds than TriggerLimitBurst= has."""
    function = deploy({"main": "#!/bin/sh\nexit 1\n", "func.yaml": OWN})
    script = (
        "import socket, sys\n"
        "for _ in range(400):\n"
        "    s = socket.socket(socket.AF_UNIX)\n"
        "    s.connect(sys.argv[1])\n"
        "    s.sendall(b'POST /call HTTP/1.1\\r\\nContent-Length: 0\\r\\n\\r\\n')\n"
        "    print(s.recv(4096).split()[1].decode())\n"
    )
    assert function.lab.python(script, function.socket).split() == ["502"] * 400
    mends(function)


# --- that crash


def test_a_crash_in_the_middle_of_a_call_is_502_and_says_what_happened(deploy: Deploy) -> None:
    function = deploy(PROBE)
    answer = function.call("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert (answer.status, answer.message) == (502, "error receiving function response")
    assert "SIGSEGV" in answer.json["detail"]
    assert function.await_line("SIGSEGV")
    assert function.probe("result = 1") == 1


def test_an_exit_in_the_middle_of_a_call_is_502(deploy: Deploy) -> None:
    function = deploy(PROBE)
    answer = function.call("import os; os._exit(9)")
    assert answer.status == 502
    assert "exited with status 9" in answer.json["detail"]
    assert function.probe("result = 1") == 1


def test_a_crash_between_calls_is_noticed_and_the_next_call_is_answered(deploy: Deploy) -> None:
    function = deploy(PROBE)
    code = "import os, threading; threading.Timer(0.2, lambda: os._exit(4)).start(); result = 1"
    assert function.probe(code) == 1
    assert function.await_line("ended between calls")
    assert function.probe("result = 2") == 2


def test_killing_the_agent_from_outside_is_502_and_the_next_call_is_answered(lab: Lab, deploy: Deploy) -> None:
    function = deploy("import time\ndef handler(ctx, data):\n    time.sleep(float(data.read()))\n    return 'slept'\n")
    call = function.begin(b"20")
    function.running_call()
    lab.machine.run("kill", "-9", str(function.pid()))
    answer = lab.end(call)
    assert (answer.status, answer.message) == (502, "error receiving function response")
    assert function.call(b"0").text == "slept"


# --- that take too much


def test_a_fork_bomb_is_bounded_by_tasks_and_the_neighbours_go_on(deploy: Deploy, probe: Deployed) -> None:
    function = deploy(PROBE, tasks=20, timeout=3)
    bomb = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass\n"
    call = function.begin(bomb)
    wait_for(lambda: function.state() == "active")
    most = 0
    while call.poll() is None:
        now = function.lab.show(function.unit(), "TasksCurrent")["TasksCurrent"]
        most = max(most, int(now) if now.isdigit() else 0)
        assert probe.probe("result = 1") == 1
    assert function.lab.end(call).status in (502, 504)
    assert most <= 22
    assert function.probe("result = 1") == 1


def test_children_that_daemonise_end_with_the_instance(deploy: Deploy) -> None:
    function = deploy(PROBE, idle_timeout=1)
    code = (
        "import os, subprocess\n"
        "subprocess.Popen(['setsid', 'sh', '-c', 'sleep 12345 & disown; exit'], stdout=subprocess.DEVNULL)\n"
        "if not os.fork():\n    os.setsid()\n    if os.fork():\n        os._exit(0)\n"
        "    os.execv('/usr/bin/sleep', ['sleep', '12346'])\n"
        "result = 1\n"
    )
    assert function.probe(code) == 1
    wait_for(lambda: "sleep 12346" in function.lab.machine.shell("ps ax -o args"))
    wait_for(lambda: function.instances() == [], 4)
    assert "sleep 1234" not in function.lab.machine.shell("ps ax -o args")


def test_zombies_are_reaped(deploy: Deploy) -> None:
    function = deploy(PROBE)
    code = (
        "import os\nfor _ in range(20):\n    if not os.fork():\n        if not os.fork():\n            os._exit(0)\n"
        "        os._exit(0)\n    os.wait()\nresult = 1\n"
    )
    assert function.probe(code) == 1
    states = "import glob; result = [open(p).read().split()[2] for p in glob.glob('/proc/[0-9]*/stat')]"
    wait_for(lambda: "Z" not in function.probe(states))


def test_a_hundred_megabytes_of_log_are_bounded_and_what_is_dropped_is_counted(deploy: Deploy, probe: Deployed) -> None:
    function = deploy(PROBE, memory=256, timeout=60)
    call = function.begin("for _ in range(100):\n    print(('x' * 99 + '\\n') * 10486, flush=True)\nresult = 1\n")
    while call.poll() is None:
        assert probe.probe("result = 1") == 1
    answer = function.lab.end(call)
    assert answer.status == 200
    assert function.await_line("lines of output dropped")
    lines = [entry["MESSAGE"] for entry in function.journal()]
    reports = [line for line in lines if "lines of output dropped" in line]
    printed = sum(line == "x" * 99 for line in lines)
    assert 1_048_600 <= printed + sum(int(line.split()[0]) for line in reports) <= 1_048_800
    assert printed <= 1000 * (10 + answer.seconds + 1)  # log_rate, and its burst of ten seconds
    assert len(reports) < 100
    assert function.probe("result = 2") == 2


def test_a_line_without_end_and_bytes_that_are_no_text_reach_the_journal(deploy: Deploy) -> None:
    function = deploy(PROBE)
    function.probe("import os; os.write(1, b'odd \\x00\\xff\\x1b[31m bytes\\n' + b'y' * 300000); result = 1")
    assert function.await_line("odd ")
    assert function.await_line("yyyyy")
    assert function.probe("result = 1") == 1


def test_a_function_that_closes_its_output_goes_on(deploy: Deploy) -> None:
    function = deploy(PROBE)
    assert function.probe("import os; os.close(1); os.close(2); result = 1") == 1
    assert function.probe("result = 2") == 2


# --- that answer badly


@pytest.mark.parametrize(
    "reply",
    [
        "c.sendall(b'garbage without any sense\\r\\n\\r\\n')",
        "c.sendall(b'\\x00' * 70000)",
        "c.sendall(b'HTTP/1.1 200 OK\\r\\n' + b'X: ' + b'y' * 70000 + b'\\r\\n\\r\\n')",
        "c.sendall(answer('teapot', '418 I am a teapot'))",
        "c.sendall(answer('', '500 Oops'))",
        "c.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: many\\r\\n\\r\\n')",
        "c.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\nContent-Length: 6\\r\\n\\r\\nhello')",
    ],
    ids=["garbage", "zeros", "huge head", "418", "500", "bad length", "two lengths"],
)
def test_an_answer_against_the_contract_is_502_invalid_function_response(raw: Deploy, reply: str) -> None:
    function = raw(f"def reply(c, head):\n    {reply}\n")
    for answer in (function.call(), function.direct()):
        assert (answer.status, answer.message, answer.error) == (502, "invalid function response", "InvalidResponse")
    wait_for(lambda: function.instances() == [], 2)
    mends(function)


@pytest.mark.parametrize(
    "reply",
    [
        "return",
        "c.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Le')",
        "c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'\\1\\0\\0\\0\\0\\0\\0\\0')",
    ],
    ids=["nothing", "half a head", "reset"],
)
def test_a_connection_closed_without_an_answer_is_502(raw: Deploy, reply: str) -> None:
    function = raw(f"def reply(c, head):\n    {reply}\n")
    answer = function.call()
    assert (answer.status, answer.message) == (502, "error receiving function response")
    mends(function)


def test_a_chunked_answer_that_breaks_off_is_not_passed_off_as_whole(raw: Deploy) -> None:
    function = raw(
        "def reply(c, head):\n"
        "    c.sendall(b'HTTP/1.1 200 OK\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n5\\r\\nhello\\r\\n')\n"
    )
    assert function.call().exit in (18, 56)
    assert function.direct().exit in (18, 56)
    mends(function)


def test_a_function_that_removes_its_socket_is_answered_for_and_starts_again(raw: Deploy) -> None:
    function = raw(
        "def reply(c, head):\n    os.unlink(PATH)\n    os.unlink(PATH + '.own')\n    c.sendall(answer('gone'))\n"
    )
    assert function.call().text == "gone"
    assert function.call().status in (200, 502)
    mends(function)


def test_a_function_that_answers_before_the_whole_request_came_is_passed_on(raw: Deploy, mebibyte: bytes) -> None:
    function = raw("def reply(c, head):\n    c.sendall(answer('early', extra='Connection: close\\r\\n'))\n")
    answer = function.call(mebibyte * 4, "-H", "Expect:")
    assert answer.text == "early" or answer.exit in (55, 56)
    mends(function)


@punctual
def test_a_function_without_reading_the_body_meets_its_deadline(raw: Deploy, mebibyte: bytes) -> None:
    function = raw("def reply(c, head):\n    time.sleep(100)\n", timeout=1)
    answer = function.call(mebibyte * 8, "-H", "Expect:")
    assert answer.status == 504 or answer.exit in (55, 56)
    took(answer.seconds, 3)
    mends(function)


def test_an_agent_that_cannot_be_executed_does_not_wedge_the_socket_for_ever(lab: Lab, deploy: Deploy) -> None:
    """A drop-in of the admin that breaks the unit: callers are told 503 or 504, and after the repair it answers."""
    function = deploy(HELLO, timeout=1)
    directory = f"/run/systemd/system/{function.unit()}.d"
    broken = "[Service]\\nExecStart=\\nExecStart=/nonexistent\\n"
    lab.machine.shell(f"printf '{broken}' > {directory}/99-broken.conf; systemctl daemon-reload")
    answer = function.call(b"x")
    assert answer.status in (502, 503, 504)
    lab.machine.shell(f"rm {directory}/99-broken.conf; systemctl daemon-reload")
    wait_for(lambda: function.call(b"x").status == 200, 10)
