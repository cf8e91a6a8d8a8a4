# SPDX-License-Identifier: Apache-2.0
"""Clients of the HTTP port that are slow, many, huge or malformed: the daemon and its other callers go on."""

import subprocess
import time
from collections.abc import Callable

import pytest
from lab import HELLO, Deployed, Lab, wait_for
from punctual import punctual, took

Deploy = Callable[..., Deployed]
SEND = """
import socket, sys
s = socket.create_connection(("127.0.0.1", 8080), 15)
s.sendall(eval(sys.argv[1]))
out = b""
try:
    while part := s.recv(65536):
        out += part
except OSError as error:
    out += repr(error).encode()
sys.stdout.write(out.decode("latin-1"))
"""


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (r"b'GARBAGE\r\n\r\n'", "400"),
        (r"b'\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03'", "400"),
        (r"b'POST /invoke/x HTTP/1.1\r\nX: ' + b'y' * 100000 + b'\r\n\r\n'", "431"),
        (r"b'POST /invoke/x HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'", "400"),
        (r"b'POST /invoke/x HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n'", "400"),
        (r"b'POST /invoke/x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab'", "400"),
    ],
)  # fmt: skip
def test_a_malformed_request_is_refused_and_the_connection_closed(lab: Lab, request_bytes: str, status: str) -> None:
    out = lab.python(SEND, request_bytes)
    assert out.split(" ")[1] == status, out
    assert '{"message"' in out


@pytest.mark.parametrize("head", ["GET /x HTTP/1.1", "CONNECT x:1 HTTP/1.1"])
def test_a_request_to_upgrade_the_connection_gets_one_answer(lab: Lab, head: str) -> None:
    lines = f"{head}\\r\\nHost: a\\r\\nConnection: upgrade\\r\\nUpgrade: websocket\\r\\n\\r\\n"
    out = lab.python(SEND, f"b'{lines}'")
    assert out.count("HTTP/1.1 ") == 1, out


def test_a_client_that_offers_http_2_is_answered_in_http_1(deploy: Deploy) -> None:
    """As Java's HttpClient and curl --http2 do with every plain request."""
    function = deploy(HELLO)
    offer = (
        "-H",
        "Connection: Upgrade, HTTP2-Settings",
        "-H",
        "Upgrade: h2c",
        "-H",
        "HTTP2-Settings: AAMAAABkAAQAoAAA",
    )
    answer = function.call(b"x", *offer)
    assert (answer.status, answer.text) == (200, "hello")


@punctual
def test_a_slow_head_is_408_after_ten_seconds_and_others_are_served_meanwhile(lab: Lab, deploy: Deploy) -> None:
    function = deploy(HELLO)
    begun = time.monotonic()
    slow = subprocess.Popen(
        lab.machine.enter("python3", "-c", SEND, "b'POST /invoke/x HTTP/1.1\\r\\n'"), stdout=subprocess.PIPE
    )
    assert function.call(b"x").text == "hello"
    out = slow.communicate()[0].decode()
    assert " 408 " in out
    took(time.monotonic() - begun, 14, at_least=9)


@punctual
def test_a_head_of_one_byte_at_a_time_is_cut_off_too(lab: Lab) -> None:
    script = (
        "import socket, time\ns = socket.create_connection(('127.0.0.1', 8080), 30)\nbegun = time.monotonic()\n"
        "s.sendall(b'POST /invoke/x HTTP/1.1\\r\\n')\n"
        "try:\n    while time.monotonic() - begun < 20:\n        s.sendall(b'X')\n        time.sleep(0.2)\n"
        "except OSError:\n    pass\n"
        "print(time.monotonic() - begun)\n"
    )
    took(float(lab.python(script, timeout=40)), 13, at_least=9)


@punctual
def test_slow_bodies_do_not_hold_up_other_callers(lab: Lab, deploy: Deploy) -> None:
    slow, quick = deploy(HELLO, timeout=3), deploy(HELLO)
    calls = [
        lab.machine.enter(
            "sh", "-c", f"(printf x; sleep 20) | curl -s -o /dev/null -w '%{{http_code}}' -T - -X POST {slow.url}"
        )
        for _ in range(8)
    ]
    running = [subprocess.Popen(call, stdout=subprocess.PIPE) for call in calls]
    time.sleep(0.5)
    answers = [quick.call(b"x") for _ in range(5)]
    assert {answer.text for answer in answers} == {"hello"}
    took(max(answer.seconds for answer in answers[1:]), 1)
    for process in running:
        process.kill()


def test_a_slow_body_meets_the_deadline(lab: Lab, deploy: Deploy) -> None:
    function = deploy(HELLO, timeout=1)
    out = lab.python(
        SEND.replace("while part := s.recv(65536):", "for part in [s.recv(65536)]:"),
        f"b'POST /invoke/{function.id} HTTP/1.1\\r\\nHost: a\\r\\nContent-Length: 1000\\r\\n\\r\\nonly this'",
    )
    assert " 504 " in out.splitlines()[0]
    assert "Timed out" in out


def test_a_slow_reader_does_not_fill_the_daemon_s_memory(lab: Lab, deploy: Deploy) -> None:
    code = "def handler(ctx, data):\n    return 'x' * (40 << 20)\n"
    function = deploy(code, memory=512, timeout=4)
    script = (
        "import socket, sys, time\ns = socket.socket()\ns.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)\n"
        "s.connect(('127.0.0.1', 8080))\n"
        "s.sendall(f'POST /invoke/{sys.argv[1]} HTTP/1.1\\r\\nHost: a\\r\\nContent-Length: 0\\r\\n\\r\\n'.encode())\n"
        "time.sleep(2)\n"
        "print(next(l for l in open(f'/proc/{sys.argv[2]}/status') if l.startswith('VmRSS')).split()[1])\n"
    )
    before = int(lab.machine.shell(f"grep VmRSS /proc/{lab.daemon_pid()}/status").split()[1])
    after = int(lab.python(script, function.id, str(lab.daemon_pid())))
    assert after - before < 20_000  # KiB


def test_a_thousand_idle_connections_do_not_disturb_a_call(lab: Lab, deploy: Deploy) -> None:
    function = deploy(HELLO)
    function.call(b"x")
    script = (
        "import socket, sys, urllib.request\n"
        "idle = [socket.create_connection(('127.0.0.1', 8080)) for _ in range(1000)]\n"
        "print(urllib.request.urlopen(urllib.request.Request(sys.argv[1], data=b'x'), timeout=5).read().decode())\n"
    )
    assert lab.python(script, function.url).strip() == "hello"
    assert function.call(b"x").text == "hello"


def test_pipelined_requests_are_not_mixed_up(lab: Lab, deploy: Deploy) -> None:
    function = deploy("def handler(ctx, data):\n    return data.read().decode()\n")
    one = f"POST /invoke/{function.id} HTTP/1.1\\r\\nHost: a\\r\\nContent-Length: 3\\r\\n\\r\\n"
    out = lab.python(SEND, f"b'{one}one{one}two'")
    assert out.index("one") > 0
    assert out.count("HTTP/1.1 200") in (1, 2)
    assert out.count("two") <= 1


def test_a_body_after_which_more_bytes_come_does_not_reach_the_function(lab: Lab, deploy: Deploy) -> None:
    function = deploy("def handler(ctx, data):\n    return str(len(data.read()))\n")
    out = lab.python(
        SEND,
        f"b'POST /invoke/{function.id} HTTP/1.1\\r\\nConnection: close\\r\\nContent-Length: 3\\r\\n\\r\\nabcdefgh'",
    )
    assert out.splitlines()[-1] == "3"


def test_a_caller_that_only_closes_its_sending_side_of_the_socket_gets_its_answer(lab: Lab, deploy: Deploy) -> None:
    function = deploy(HELLO)
    script = (
        "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n"
        "s.sendall(f'POST /call HTTP/1.1\\r\\nHost: a\\r\\nContent-Length: 1\\r\\n\\r\\nx'.encode())\n"
        "s.shutdown(socket.SHUT_WR)\nout = b''\nwhile part := s.recv(4096):\n    out += part\n"
        "    if b'hello' in out:\n        break\nprint(out.decode())\n"
    )
    assert "hello" in lab.python(script, function.socket)


def test_many_clients_that_hang_up_at_once_leave_no_call_behind(lab: Lab, deploy: Deploy) -> None:
    function = deploy("import time\ndef handler(ctx, data):\n    time.sleep(5)\n")
    script = (
        "import socket, sys, time\nall = []\nfor _ in range(50):\n"
        "    s = socket.create_connection(('127.0.0.1', 8080))\n"
        "    s.sendall(f'POST /invoke/{sys.argv[1]} HTTP/1.1\\r\\nContent-Length: 0\\r\\n\\r\\n'.encode())\n"
        "    all.append(s)\n"
        "time.sleep(0.5)\n"
    )
    lab.python(script, function.id)
    wait_for(lambda: (function.get("NRunning"), function.get("NQueued")) == (0, 0))
    wait_for(lambda: function.instances() == [])
