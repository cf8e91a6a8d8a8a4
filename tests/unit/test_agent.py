# SPDX-License-Identifier: Apache-2.0
"""The agent's pure parts, under the address and undefined behaviour sanitizers: HTTP heads and bodies, times, plans."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from samples import ROOT, bare_host, full_function, full_host, function, python_runtime, rendered

from boesfsd import plan
from boesfsd.wire import chunk

CC = shutil.which("gcc")
pytestmark = pytest.mark.skipif(not CC, reason="no gcc here")
HEAD_MAX = 64 << 10
FLAGS = [
    "-std=gnu11",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-O1",
    "-g",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
]
ENVIRONMENT = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=1"}
REQUEST = b"POST /call HTTP/1.1\r\n"
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("agent") / "driver"
    sources = [
        Path(__file__).with_name("agent_driver.c"),
        *(ROOT / f"agent/{name}.c" for name in ("http", "plan", "calls")),
    ]
    subprocess.run([str(CC), *FLAGS, f"-I{ROOT}/agent", f"-I{ROOT}/build", *sources, "-o", place], check=True)
    return place


def ask(driver: Path, *arguments: str | Path, data: bytes = b"") -> str:
    """The driver's answer; a sanitizer's report, or an assertion of the driver, is a failure."""
    process = subprocess.run([driver, *arguments], input=data, capture_output=True, check=False, env=ENVIRONMENT)
    assert process.returncode == 0, process.stderr.decode(errors="replace")
    return process.stdout.decode("latin-1")


def head(driver: Path, kind: str, data: bytes) -> list[str]:
    return ask(driver, "head", kind, data=data).splitlines()


# --- heads


def test_a_request_head_is_understood(driver: Path) -> None:
    data = REQUEST + b"Host: x\r\nContent-Length:5\r\nX-Empty:\r\nX-Space: \t a b \t\r\nExpect: 100-Continue\r\n\r\n"
    assert head(driver, "request", data + b"hello") == [
        str(len(data)),
        "POST /call 0 5 continue",
        "Host=x",
        "Content-Length=5",
        "X-Empty=",
        "X-Space=a b",
        "Expect=100-Continue",
    ]


def test_a_response_head_is_understood(driver: Path) -> None:
    data = b"HTTP/1.1 504 Gateway Timeout\r\nTransfer-Encoding: Chunked\r\nConnection: Close\r\n\r\n"
    assert head(driver, "response", data)[:2] == [str(len(data)), "  504 -1 chunked close"]


@pytest.mark.parametrize(
    "line", [b"HTTP/1.1 200\r\n", b"HTTP/1.1 200 \r\n", b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n"]
)
def test_a_status_line_needs_no_reason(driver: Path, line: bytes) -> None:
    assert head(driver, "response", line + b"\r\n")[0] == str(len(line) + 2)


def test_http_1_0_closes(driver: Path) -> None:
    assert head(driver, "request", b"POST / HTTP/1.0\r\n\r\n")[1] == "POST / 0 -1 close"
    assert head(driver, "response", b"HTTP/1.0 200 OK\r\n\r\n")[1] == "  200 -1 close"


@pytest.mark.parametrize("value", [b"close", b"Close", b"keep-alive, close", b"close, te"])
def test_close_is_found_among_the_connection_options(driver: Path, value: bytes) -> None:
    """RFC 9112, 9.6: it is a list."""
    assert head(driver, "response", OK + b"Connection: " + value + b"\r\n\r\n")[1].endswith(" close")


def test_every_prefix_of_a_good_head_needs_more(driver: Path) -> None:
    data = REQUEST + b"Host: x\r\nA: b\r\n\r\n"
    for end in range(len(data)):
        assert head(driver, "request", data[:end]) == ["0"], end


BAD_REQUESTS = [
    b"\r\n\r\n", b"POST\r\n\r\n", b"POST / HTTP/2.0\r\n\r\n", b"POST / HTTP/1.2\r\n\r\n",
    b"POST / http/1.1\r\n\r\n", b"POST  HTTP/1.1\r\n\r\n", b" / HTTP/1.1\r\n\r\n", b"POST / / HTTP/1.1\r\n\r\n",
    b"PO ST / HTTP/1.1\r\n\r\n", b"P\x00ST / HTTP/1.1\r\n\r\n", b"POST /\x7f HTTP/1.1\r\n\r\n",
    b"POST /\n HTTP/1.1\r\n\r\n", b"POST /HTTP/1.1\r\n\r\n", b"HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n",
    b"(POST) / HTTP/1.1\r\n\r\n",
]  # fmt: skip
BAD_RESPONSES = [
    b"\r\n\r\n", b"HTTP/1.1\r\n\r\n", b"HTTP/1.1 20\r\n\r\n", b"HTTP/1.1 2000 OK\r\n\r\n",
    b"HTTP/1.1 099 No\r\n\r\n", b"HTTP/2 200 OK\r\n\r\n", b"HTTP/1.1  200\r\n\r\n", b"HTTP/1.1-200 OK\r\n\r\n",
    b"HTTP/1.1 20x OK\r\n\r\n", b"HTTP/1.x 200 OK\r\n\r\n", b"hello\r\n\r\n",
]  # fmt: skip
BAD_FIELDS = [
    b"A\r\n", b": x\r\n", b"A : x\r\n", b" A: x\r\n", b"A: x\r\n folded\r\n", b"A: \x00\r\n", b"A: \x01\r\n",
    b"A: \x7f\r\n", b"A: x\ny\r\n", b"A: x\ry\r\n", b"A\x00: x\r\n", b"\xc3\xa9: x\r\n", b"A(: x\r\n",
    b"A: x\n\r\n", b"Content-Length: x\r\n", b"Content-Length: \r\n", b"Content-Length: -1\r\n",
    b"Content-Length: +1\r\n", b"Content-Length: 1 1\r\n", b"Content-Length: 1,1\r\n",
    b"Content-Length: 0x10\r\n", b"Content-Length: 1\r\nContent-Length: 2\r\n",
    b"Content-Length: 9999999999999999999\r\n", b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n", b"Transfer-Encoding: gzip\r\n",
    b"Transfer-Encoding: chunked, chunked\r\n", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n", b"Transfer-Encoding: xchunked\r\n", b"Transfer-Encoding: \r\n",
]  # fmt: skip


@pytest.mark.parametrize("data", BAD_REQUESTS)
def test_a_malformed_request_line_is_refused(driver: Path, data: bytes) -> None:
    assert head(driver, "request", data) == ["-1"]


@pytest.mark.parametrize("data", BAD_RESPONSES)
def test_a_malformed_status_line_is_refused(driver: Path, data: bytes) -> None:
    assert head(driver, "response", data) == ["-1"]


@pytest.mark.parametrize("byte", [b"\n", b"\r", b"\0", b"\x7f"])
def test_a_reason_phrase_cannot_hold_a_header_of_its_own(driver: Path, byte: bytes) -> None:
    """The relay copies the status line as it is; httptools takes a bare LF for the end of a line, so a function could
    answer in the agent's name: `HTTP/1.1 200 OK<LF>Boesfs-Error: Cancelled`."""
    assert head(driver, "response", b"HTTP/1.1 200 OK" + byte + b"Boesfs-Error: Cancelled\r\n\r\n") == ["-1"]


@pytest.mark.parametrize("fields", BAD_FIELDS)
@pytest.mark.parametrize(("kind", "line"), [("request", REQUEST), ("response", OK)])
def test_malformed_fields_are_refused(driver: Path, kind: str, line: bytes, fields: bytes) -> None:
    assert head(driver, kind, line + fields + b"\r\n") == ["-1"]


def test_the_same_length_twice_is_one_length(driver: Path) -> None:
    assert head(driver, "request", REQUEST + b"Content-Length: 5\r\ncontent-length: 5\r\n\r\n")[1] == "POST /call 0 5"


@pytest.mark.parametrize("tail", [b"", b"\r\n\r\n"])
def test_a_head_over_64_kib_is_refused_whether_it_ends_or_not(driver: Path, tail: bytes) -> None:
    assert head(driver, "request", REQUEST + b"A: " + b"x" * HEAD_MAX + tail) == ["-1"]


def test_a_head_of_almost_64_kib_is_fine(driver: Path) -> None:
    data = REQUEST + b"A: " + b"x" * (HEAD_MAX - len(REQUEST) - 10) + b"\r\n\r\n"
    assert head(driver, "request", data)[0] == str(len(data))


# --- bodies

CHUNKS = chunk(b"hello") + chunk(b"x" * 26) + b"0\r\n\r\n"
BODIES = [
    ("request", REQUEST + b"\r\n", b"", "done"),
    ("request", REQUEST + b"Content-Length: 0\r\n\r\n", b"", "done"),
    ("request", REQUEST + b"Content-Length: 5\r\n\r\n", b"hello", "done"),
    ("request", REQUEST + b"Transfer-Encoding: chunked\r\n\r\n", CHUNKS, "done"),
    ("response", OK + b"Content-Length: 5\r\n\r\n", b"hello", "done"),
    ("response", OK + b"Transfer-Encoding: chunked\r\n\r\n", CHUNKS, "done"),
    ("response", OK + b"Transfer-Encoding: chunked\r\n\r\n", b"5;a=b;c=\"d\"\r\nhello\r\n000\r\n\r\n", "done"),
    ("response", OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0\r\nA: b\r\nC: d\r\n\r\n", "done"),
    ("response", OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0aF\r\n" + b"x" * 0xAF + b"\r\n0\r\n\r\n", "done"),
    ("response", b"HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n", b"", "done"),
    ("response", b"HTTP/1.1 304 No\r\nTransfer-Encoding: chunked\r\n\r\n", b"", "done"),
    ("response", b"HTTP/1.1 100 Continue\r\n\r\n", b"", "done"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "start", "body", "state"), BODIES)
def test_a_body_ends_where_it_ends_however_it_is_split(
    driver: Path, kind: str, start: bytes, body: bytes, state: str
) -> None:
    assert ask(driver, "body", kind, data=start + body) == f"{len(body)} {state}\n"


@pytest.mark.parametrize(("kind", "start", "body", "state"), BODIES)
def test_what_follows_a_body_is_not_of_it(driver: Path, kind: str, start: bytes, body: bytes, state: str) -> None:
    assert ask(driver, "body", kind, data=start + body + REQUEST) == f"{len(body)} {state}\n"


@pytest.mark.parametrize(
    "body", [CHUNKS[:cut] for cut in range(len(CHUNKS))] + [b"5", b"5\r", b"0\r\n", b"0\r\nA: b", b"0\r\n\r"]
)
def test_a_chunked_body_that_is_cut_off_needs_more(driver: Path, body: bytes) -> None:
    assert (
        ask(driver, "body", "response", data=OK + b"Transfer-Encoding: chunked\r\n\r\n" + body) == f"{len(body)} more\n"
    )


MALFORMED = [
    b"x", b"\r\n", b"-1\r\n", b"5\nhello\r\n", b"5\rhello", b"5\r\nhelloX", b"5\r\nhello\rX", b"5\r\nhello\n",
    b"g\r\n", b"5;\n", b"0\r\n\rX", b" 5\r\nhello\r\n", b"+5\r\nhello\r\n", b"0x5\r\n", b"1" * 17 + b"\r\n",
    b"f" * 100 + b"\r\n",
]  # fmt: skip


@pytest.mark.parametrize("body", MALFORMED)
def test_malformed_chunks_are_refused(driver: Path, body: bytes) -> None:
    answer = ask(driver, "body", "response", data=OK + b"Transfer-Encoding: chunked\r\n\r\n" + body)
    assert answer == "-1 malformed\n"


def test_a_body_without_length_lasts_until_the_end(driver: Path) -> None:
    assert ask(driver, "body", "response", data=OK + b"\r\nhello") == "5 more\n"


def test_the_largest_length_does_not_overflow(driver: Path) -> None:
    assert ask(driver, "body", "request", data=REQUEST + b"Content-Length: 999999999999999999\r\n\r\nx") == "1 more\n"
    data = OK + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\nx"
    assert ask(driver, "body", "response", data=data) == "18 more\n"


# --- times


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-11-21T21:14:58.123Z", 1795295698123),
        ("2026-11-21T21:14:58Z", 1795295698000),
        ("2026-11-21T21:14:58.1Z", 1795295698100),
        ("2026-11-21T21:14:58.123999999Z", 1795295698123),
        ("2026-11-21T21:14:58.123+00:00", 1795295698123),
        ("2028-02-29T00:00:00Z", 1835395200000),
        ("9999-12-31T23:59:59.999Z", 253402300799999),
        ("", -1),
        ("Z", -1),
        ("now", -1),
        ("2026-11-21", -1),
        ("2026-11-21T21:14:58", -1),
        ("2026-11-21T21:14:58.123", -1),
        ("2026-11-21T21:14:58.123ZZ", -1),
        ("2026-11-21T21:14:58.123 Z", -1),
        ("2026-11-21T21:14:58+02:00", -1),
        ("2026-13-21T21:14:58Z", -1),
        ("2026-11-21T25:14:58Z", -1),
        ("2026-11-21 21:14:58Z", -1),
        ("2026-11-21T21:14:58." + "9" * 30 + "Z", 1795295698999),
        ("2026-11-21T21:14:58." + "9" * 100 + "Z", -1),
    ],
)
def test_a_deadline_is_milliseconds_since_1970(driver: Path, text: str, milliseconds: int) -> None:
    assert ask(driver, "time", text) == f"{milliseconds}\n"


# --- plans


def read_plan(driver: Path, tmp_path: Path, text: str | bytes) -> str:
    place = tmp_path / "plan"
    place.write_bytes(text if isinstance(text, bytes) else text.encode())
    return ask(driver, "plan", place).replace(str(place), "FILE")


@pytest.mark.parametrize("full", [False, True])
def test_the_agent_reads_what_the_daemon_renders(driver: Path, tmp_path: Path, *, full: bool) -> None:
    """Field by field: what plan.py escapes, plan.c brings back."""
    deployed, host = (full_function(), full_host()) if full else (function(), bare_host())
    text = rendered(deployed, host)
    count, _, rest = ask_plan(driver, tmp_path, text).partition("\n")
    steps = [step.split("|") for step in rest.split("\0")[:-1]]
    assert int(count) == len(steps) == len(text.splitlines()) - 1
    seen = dict(step[1].split("=", 1) for step in steps if step[0] == "env")
    assert seen == plan.environment(deployed, python_runtime())
    assert steps[-1] == ["exec", *(deployed.command or python_runtime().command)]


def ask_plan(driver: Path, tmp_path: Path, text: str) -> str:
    return read_plan(driver, tmp_path, text).encode("latin-1").decode()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "FILE, line 1: not a plan of this version"),
        ("boesfs-plan\t9\nexec\tx\n", "FILE, line 1: not a plan of this version"),
        ("boesfs-plan 2\nexec\tx\n", "FILE, line 1: not a plan of this version"),
        ("boesfs-plan\t6\n", "FILE, line 2: a plan must end with exec"),
        ("boesfs-plan\t6\nexec\tx\npivot\n", "FILE, line 4: a plan must end with exec"),
        ("boesfs-plan\t6\npivot\nbanana\nexec\tx\n", "FILE, line 3: unknown operation or wrong fields"),
        ("boesfs-plan\t6\npivot\t\nexec\tx\n", "FILE, line 2: unknown"),
        ("boesfs-plan\t6\nuser\nexec\tx\n", "FILE, line 2: unknown"),
        ("boesfs-plan\t6\nreaper\t1\nexec\tx\n", "FILE, line 2: unknown"),
        ("boesfs-plan\t6\nexec\n", "FILE, line 2: unknown"),
        ("boesfs-plan\t6\n\tpivot\nexec\tx\n", "FILE, line 2: unknown"),
        ("boesfs-plan\t6\nenv\tA=\\x\nexec\tx\n", "FILE, line 2: unknown"),
        ("boesfs-plan\t6\nenv\tA=\\\nexec\tx\n", "FILE, line 2: unknown"),
        ("boesfs-plan\t6\ntree\tx\t/x\nexec\tx\n", "FILE, line 2: unknown"),
        ("boesfs-plan\t6\nexec" + "\tx" * ((1 << 21) + 1) + "\n", "FILE, line 2: unknown"),
    ],
    ids=range(15),
)
def test_a_plan_that_is_wrong_is_refused_with_its_line(driver: Path, tmp_path: Path, text: str, says: str) -> None:
    assert read_plan(driver, tmp_path, text).startswith(f"-1 {says}")


def test_a_plan_without_a_last_newline_is_a_plan(driver: Path, tmp_path: Path) -> None:
    assert read_plan(driver, tmp_path, "boesfs-plan\t6\nexec\tx") == "1\nexec|x\0"


def test_a_plan_that_is_missing_or_too_large_is_refused(driver: Path, tmp_path: Path) -> None:
    missing = ask(driver, "plan", tmp_path / "nowhere")
    assert missing.startswith("-1 cannot read plan ")
    assert "No such file or directory; why boesfsd did not write it is in its journal" in missing
    assert read_plan(driver, tmp_path, "boesfs-plan\t6\n" + "#" * (32 << 20)).startswith(
        "-1 cannot read plan FILE: File too large"
    )


def test_empty_fields_are_fields(driver: Path, tmp_path: Path) -> None:
    assert read_plan(driver, tmp_path, "boesfs-plan\t6\nexec\t\t\n") == "1\nexec||\0"


# --- anything at all


@pytest.mark.parametrize("seed", [1, 2])
def test_damaged_input_is_refused_or_read_but_never_out_of_bounds(driver: Path, tmp_path: Path, seed: int) -> None:
    """And however a damaged body is split, the same bytes are taken of it."""
    inputs = [start + body for _, start, body, _ in BODIES] + [
        REQUEST
        + b"Host: x\r\nFn-Deadline: 2026-11-21T21:14:58.123Z\r\nConnection: close\r\nExpect: 100-continue\r\n\r\n",
        b"2026-11-21T21:14:58.123Z",
        rendered(function(), bare_host()).encode(),
        rendered(full_function(), full_host()).encode(),
    ]
    files = []
    for number, data in enumerate(inputs):
        files.append(tmp_path / f"{number}")
        files[-1].write_bytes(data)
    assert ask(driver, "mutate", str(seed), "60000", *files) == "60000\n"


# --- system calls

ALLOW, ERRNO, NOTIFY, KILL = 0x7FFF0000, 0x00050000, 0x7FC00000, 0
FILTER = ROOT / "build/function.bpf"
ALWAYS = {"exit", "exit_group", "rt_sigreturn", "restart_syscall", "clock_gettime", "gettimeofday", "time", "getcpu"}
ALWAYS |= {"sendmsg", "rt_sigtimedwait", "wait4", "kill", "write", "writev"}


def known_calls() -> dict[str, int]:
    lines = (line.split() for line in (ROOT / "build/system-calls").read_text().splitlines())
    return {name: int(number) for name, number in lines}


def verdicts(driver: Path, *names: str) -> dict[int, tuple[int, int, int]]:
    """Of the filter, of the narrow one, and of that for another architecture's call, by number."""
    lines = (line.split() for line in ask(driver, "calls", FILTER, *names).splitlines())
    return {int(number): (int(base, 16), int(narrow, 16), int(foreign, 16)) for number, base, narrow, foreign in lines}


def test_the_filter_allows_what_system_calls_has(driver: Path) -> None:
    known, found = known_calls(), verdicts(driver, "read")
    allowed = {number for number, (base, _, _) in found.items() if base == ALLOW}
    by_arguments = {known["socket"], known["clone3"]}  # of address family 0; clone3 is as if not there
    assert allowed == set(known.values()) - by_arguments
    assert found[known["clone3"]][0] == ERRNO | 38


@pytest.mark.parametrize("names", [["read"], ["openat", "mmap", "clone", "clone3"], []])
def test_a_narrow_filter_allows_the_names_and_what_everybody_needs(driver: Path, names: list[str]) -> None:
    known = known_calls()
    names = names or list(known)
    kept = {known[name] for name in {*names, *ALWAYS}}
    for number, (base, narrow, foreign) in verdicts(driver, *names).items():
        assert narrow == (base if number in kept else NOTIFY), number
        assert foreign == (KILL if number in kept else NOTIFY), number  # whoever answers that asks the filter


def test_a_name_that_is_none_is_told(driver: Path) -> None:
    assert ask(driver, "calls", FILTER, "read", "raed") == "unknown raed\n"
