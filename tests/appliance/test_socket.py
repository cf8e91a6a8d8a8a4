# SPDX-License-Identifier: Apache-2.0
"""The socket is the contract: a function answers on it without boesfsd's help."""

from collections.abc import Callable

from lab import HELLO, Deployed, as_user

Deploy = Callable[..., Deployed]


def test_curl_straight_onto_the_socket_starts_and_calls_the_function(deploy: Deploy) -> None:
    function = deploy(HELLO)
    assert function.state() == "inactive"
    answer = function.direct(b"x")
    assert (answer.status, answer.text) == (200, "hello")
    assert function.state() == "active"


def test_a_direct_call_gets_a_call_id_of_its_own(deploy: Deploy) -> None:
    function = deploy("def handler(ctx, data):\n    return ctx.CallID()\n")
    first, second = function.direct(), function.direct()
    assert len(first.headers["fn-call-id"]) == 26
    assert first.text == first.headers["fn-call-id"] != second.headers["fn-call-id"]


def test_output_is_in_the_journal_under_the_unit_with_app_function_and_call_id(deploy: Deploy) -> None:
    function = deploy("def handler(ctx, data):\n    print('a line of output')\n    return ''\n")
    call_id = function.direct().headers["fn-call-id"]
    entry = function.await_line("a line of output", f"_SYSTEMD_UNIT={function.unit()}")
    assert entry["BOESFS_APP"] == function.app
    assert entry["BOESFS_FUNCTION"] == function.name
    assert entry["BOESFS_CALL_ID"] == call_id
    assert entry["SYSLOG_IDENTIFIER"] == f"{function.app}/{function.name}"


def test_the_traceback_of_an_exception_is_in_the_journal_under_the_unit(deploy: Deploy) -> None:
    function = deploy("def handler(ctx, data):\n    raise ValueError('broken on purpose')\n")
    answer = function.direct()
    assert answer.status == 502
    entry = function.await_line("broken on purpose", f"_SYSTEMD_UNIT={function.unit()}")
    assert "/function/func.py" in entry["MESSAGE"]


def test_a_caller_s_own_call_id_is_kept(deploy: Deploy) -> None:
    function = deploy("def handler(ctx, data):\n    return ctx.CallID()\n")
    answer = function.direct(b"", "-H", "Fn-Call-Id: 01ARZ3NDEKTSV4RRFFQ69G5FAV")
    assert answer.text == answer.headers["fn-call-id"] == "01ARZ3NDEKTSV4RRFFQ69G5FAV"


def test_two_requests_at_once_on_one_socket_are_both_answered(deploy: Deploy) -> None:
    function = deploy("import time\ndef handler(ctx, data):\n    time.sleep(0.3)\n    return 'slept'\n")
    calls = [
        function.lab.begin_curl("http://function/call", "--unix-socket", function.socket, body="x") for _ in range(2)
    ]
    assert [function.lab.end(call).text for call in calls] == ["slept", "slept"]


def test_many_direct_calls_at_once_wait_in_the_backlog_and_are_all_answered(deploy: Deploy) -> None:
    function = deploy(HELLO)
    calls = [
        function.lab.begin_curl("http://function/call", "--unix-socket", function.socket, body="x") for _ in range(40)
    ]
    assert [function.lab.end(call).status for call in calls] == [200] * 40


def test_the_socket_has_a_name_by_app_and_function(deploy: Deploy) -> None:
    function = deploy(HELLO)
    path = f"/run/boesfs/by-name/{function.app}/{function.name}"
    assert function.lab.curl("http://function/call", "--unix-socket", path, body="x").text == "hello"


def test_a_user_outside_the_group_may_not_call_the_socket(deploy: Deploy) -> None:
    function = deploy(HELLO)
    refused = function.lab.machine.run(
        *(*as_user("nobody"), "curl", "-sS", "--unix-socket", function.socket, "http://function/call"),
        check=False,
    )
    assert refused.returncode == 7
    assert function.state() == "inactive"


def test_a_member_of_the_group_boesfs_may_call_the_socket_and_an_ordinary_user_becomes_one(deploy: Deploy) -> None:
    function = deploy(HELLO)
    run, user = function.lab.machine.run, function.lab.unique("caller")
    call = (*as_user(user), "curl", "-sS", "--unix-socket", function.socket, "-X", "POST", "http://function/call")
    run("useradd", user)
    assert run(*call, check=False).returncode == 7
    run("usermod", "--append", "--groups=boesfs", user)
    assert run(*call).stdout == "hello"
    assert (
        run(*as_user(user), "touch", "/run/boesfs/fn/own.sock", check=False).returncode == 1
    )  # nor put one of theirs there
    run("userdel", user)


def test_a_malformed_request_is_answered_400_and_the_next_one_is_served(deploy: Deploy) -> None:
    function = deploy(HELLO)
    answer = function.lab.python(
        "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n"
        "s.sendall(b'\\x16\\x03\\x01 not http\\r\\n\\r\\n')\nprint(s.recv(4096).decode())",
        function.socket,
    )
    assert " 400 " in answer.splitlines()[0]
    assert function.direct().text == "hello"
