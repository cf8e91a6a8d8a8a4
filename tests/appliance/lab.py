# SPDX-License-Identifier: Apache-2.0
"""What the appliance's tests say in one line: deploy a function, call it, ask D-Bus, systemd and the journal."""

import contextlib
import itertools
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from machine import Machine
from punctual import LateError

NAME = "org.boesfs.Faas1"
ROOT = "/org/boesfs/Faas1"
MANAGER = f"{NAME}.Manager"
APP = f"{NAME}.App"
FUNCTION = f"{NAME}.Function"
PROPERTIES = "org.freedesktop.DBus.Properties"
ERROR = f"{NAME}.Error."
HTTP = "http://127.0.0.1:8080"
CLIENT = Path(__file__).with_name("bus_client.py")
MANIFEST = "schema_version: 20180708\nname: tested\nruntime: python\n"
HELLO = "def handler(ctx, data):\n    return 'hello'\n"
ECHO = (
    "from fdk import response\ndef handler(ctx, data):\n    return response.Response(ctx, response_data=data.read())\n"
)
# evaluates what it is sent: the tests ask questions from inside the sandbox
PROBE = """\
import json, traceback
def handler(ctx, data):
    names = {"ctx": ctx}
    exec(compile(data.read().decode(), "probe", "exec"), names)
    return json.dumps(names["result"])
"""
# a function of its own making that speaks on FN_LISTENER; reply(connection, head) is given by the test
RAW = """\
#!/usr/bin/python3
import os, socket, sys, time
PATH = os.environ["FN_LISTENER"].removeprefix("unix:")
def answer(body, status="200 OK", extra=""):
    return ("HTTP/1.1 %s\\r\\n%sContent-Length: %d\\r\\n\\r\\n%s" % (status, extra, len(body), body)).encode()
{reply}
listener = socket.socket(socket.AF_UNIX)
listener.bind(PATH + ".own")
os.chmod(PATH + ".own", 0o666)
listener.listen(16)
os.symlink(os.path.basename(PATH) + ".own", PATH)
while True:
    connection, _ = listener.accept()
    head = b""
    while b"\\r\\n\\r\\n" not in head:
        part = connection.recv(65536)
        if not part:
            break
        head += part
    if head:
        reply(connection, head)
    connection.close()
"""

Value = TypeVar("Value")
Changes = list[list[str]]


def wait_for(what: Callable[[], Value], timeout: float = 5.0, *, until: Callable[[Value], object] = bool) -> Value:
    """Ask WHAT until the answer is as wanted, and return it; LateError when it does not come to that."""
    end = time.monotonic() + timeout
    while True:
        value = what()
        if until(value):
            return value
        if time.monotonic() > end:
            raise LateError(f"still {value!r} after {timeout} s")
        time.sleep(0.02)


class BusError(Exception):
    """An error reply: its D-Bus name, and its text."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name
        self.text = text


Signal = tuple[str, str, list[Any]]
"""Path, interface.member, arguments."""


class Bus:
    """A D-Bus connection inside the appliance, of root or of USER. It collects the signals of boesfsd."""

    def __init__(self, machine: Machine, user: str = "") -> None:
        (machine.root / "srv").mkdir(exist_ok=True)
        part = machine.root / f"srv/bus_client.{os.getpid()}.{id(self)}"
        part.write_bytes(CLIENT.read_bytes())
        part.rename(machine.root / "srv/bus_client.py")  # at once: another worker may be starting it just now
        runner = as_user(user) if user else []
        self._process = subprocess.Popen(
            machine.enter(*runner, "python3", "-I", "/srv/bus_client.py"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._ids = itertools.count()
        self._replies: dict[int, dict[str, Any]] = {}
        self._changed = threading.Condition()
        self._ready = False
        self.signals: list[Signal] = []
        threading.Thread(target=self._read, daemon=True).start()
        with self._changed:
            assert self._changed.wait_for(lambda: self._ready, 40), "no connection to the system bus"

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            said = json.loads(line)
            with self._changed:
                if "signal" in said:
                    path, member, body = said["signal"]
                    self.signals.append((path, member, body))
                elif "ready" in said:
                    self._ready = True
                else:
                    self._replies[said["id"]] = said
                self._changed.notify_all()

    def close(self) -> None:
        """Leave the bus."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(10)

    def send(self, path: str, interface: str, member: str, signature: str = "", *body: Any, **more: Any) -> int:
        """Send a call without waiting; the number is for `reply`."""
        number = next(self._ids)
        asked = {"id": number, "path": path, "interface": interface or None, "member": member, **more}
        assert self._process.stdin
        self._process.stdin.write(json.dumps({**asked, "signature": signature, "body": list(body)}) + "\n")
        self._process.stdin.flush()
        return number

    def reply(self, number: int, timeout: float = 30) -> list[Any]:
        """The answer to a call that was sent; BusError."""
        with self._changed:
            assert self._changed.wait_for(lambda: number in self._replies, timeout), "D-Bus call without an answer"
            said = self._replies.pop(number)
        if "error" in said:
            raise BusError(said["error"], said["text"])
        return list(said["body"])

    def call(self, path: str, interface: str, member: str, signature: str = "", *body: Any, **more: Any) -> list[Any]:
        """Call and wait; BusError. `files` are paths inside to send descriptors of."""
        return self.reply(self.send(path, interface, member, signature, *body, **more))

    def manager(self, member: str, signature: str = "", *body: Any, **more: Any) -> Any:
        """Call the Manager; a single result as such."""
        result = self.call(ROOT, MANAGER, member, signature, *body, **more)
        return result[0] if len(result) == 1 else result

    def get(self, path: str, interface: str, name: str) -> Any:
        """One property."""
        return self.call(path, PROPERTIES, "Get", "ss", interface, name)[0]

    def get_all(self, path: str, interface: str) -> dict[str, Any]:
        """All properties of an interface."""
        values: dict[str, Any] = self.call(path, PROPERTIES, "GetAll", "s", interface)[0]
        return values

    def await_signal(self, member: str, matches: Callable[[Signal], bool], timeout: float = 5) -> Signal:
        """The first signal MEMBER for which MATCHES holds, among those that came and those that will."""

        def found() -> Signal | None:
            return next((s for s in self.signals if s[1] == member and matches(s)), None)

        with self._changed:
            assert self._changed.wait_for(lambda: found() is not None, timeout), f"no signal {member}"
        signal = found()
        assert signal
        return signal


@dataclass
class Answer:
    """What curl got. `exit` is curl's; status 0 means no answer; names of headers are lower case."""

    exit: int
    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode(errors="replace")

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def message(self) -> str:
        """Of an error answer."""
        return str(self.json["message"])

    @property
    def error(self) -> str:
        """The error's name, from its header."""
        return self.headers.get("boesfs-error", "")


@dataclass
class Deployed:
    """A function that a test has deployed."""

    lab: "Lab"
    app: str
    name: str
    source: str
    path: str
    changes: Changes
    id: str = field(init=False)

    def __post_init__(self) -> None:
        self.id = str(self.get("Id"))

    def get(self, name: str) -> Any:
        """A property of its D-Bus object."""
        return self.lab.bus.get(self.path, FUNCTION, name)

    @property
    def url(self) -> str:
        """Where boesfsd serves it."""
        return f"{HTTP}/invoke/{self.id}"

    @property
    def socket(self) -> str:
        """Path of its first socket."""
        return f"/run/boesfs/fn/{self.id}:0.sock"

    def unit(self, kind: str = "service", slot: int = 0) -> str:
        """Name of one of its units."""
        return f"boesfs-fn@{self.id}:{slot}.{kind}"

    def call(self, body: str | bytes = b"", *options: str, timeout: float = 40) -> Answer:
        """Through boesfsd."""
        return self.lab.curl(self.url, *options, body=body, timeout=timeout)

    def direct(self, body: str | bytes = b"", *options: str, timeout: float = 40) -> Answer:
        """Straight onto its socket."""
        return self.lab.curl("http://function/call", "--unix-socket", self.socket, *options, body=body, timeout=timeout)

    def begin(self, body: str | bytes = b"", *options: str) -> "subprocess.Popen[bytes]":
        """Through boesfsd, without waiting; `Lab.end` has the answer."""
        return self.lab.begin_curl(self.url, *options, body=body)

    def probe(self, code: str) -> Any:
        """Run CODE inside, when it is the probe function, and return what it put into `result`."""
        answer = self.call(code)
        assert answer.status == 200, answer.text
        return answer.json

    def running_call(self, timeout: float = 5) -> None:
        """Wait until it serves a call."""
        wait_for(lambda: self.get("NRunning") and self.state() == "active", timeout)

    def state(self) -> str:
        """systemd's ActiveState of its first instance."""
        return self.lab.show(self.unit(), "ActiveState")["ActiveState"]

    def pid(self, slot: int = 0) -> int:
        """The agent's process."""
        return int(self.lab.show(self.unit(slot=slot), "MainPID")["MainPID"])

    def instances(self) -> list[str]:
        """Its services that systemd has, in whatever state but inactive."""
        listing = self.lab.machine.run(
            *("systemctl", "list-units", "--plain", "--no-legend", "--state=active,activating,deactivating"),
            f"boesfs-fn@{self.id}:*.service",
        ).stdout
        return [line.split()[0] for line in listing.splitlines()]

    def journal(self, *matches: str) -> list[dict[str, str]]:
        """The entries of all its instances."""
        return self.lab.journal(f"BOESFS_FUNCTION_ID={self.id}", *matches)

    def await_line(self, part: str, *matches: str, timeout: float = 5) -> dict[str, str]:
        """The first journal entry whose message has PART."""

        def found() -> dict[str, str] | None:
            return next((entry for entry in self.journal(*matches) if part in entry.get("MESSAGE", "")), None)

        entry = wait_for(found, timeout)
        assert entry
        return entry

    def replace(self, files: dict[str, str | bytes] | None = None, /, **options: Any) -> Changes:
        """Deploy over it; the changes."""
        source = self.lab.source(files) if files else self.source
        path, changes = self.lab.busctl_deploy(self.app, self.name, source, {"replace": True, **options})
        assert path == self.path
        return changes

    def remove(self) -> Changes:
        """Remove it; the changes."""
        changes: Changes = self.lab.bus.manager("Remove", "ss", self.app, self.name)
        return changes


class Lab:
    """An appliance with boesfsd, and the ways to ask it."""

    def __init__(self, machine: Machine, tag: str = "") -> None:
        self.machine = machine
        self._tag = tag or worker_tag()
        self._numbers = itertools.count(1)
        self._bus: Bus | None = None

    @property
    def bus(self) -> Bus:
        """Root's D-Bus connection."""
        if self._bus is None:
            self._bus = Bus(self.machine)
        return self._bus

    def start(self) -> None:
        """Start boesfsd, as a person would."""
        self.machine.run("systemctl", "start", "boesfsd")

    def close(self) -> None:
        """Leave the bus."""
        if self._bus:
            self._bus.close()
            self._bus = None

    def unique(self, what: str) -> str:
        """A name that no other test has."""
        return f"{what}-{self._tag}-{next(self._numbers)}"

    # --- deploying

    def source(self, files: dict[str, str | bytes]) -> str:
        """A directory inside with FILES; those that begin with #! are executable. A func.yaml is added if missing."""
        path = f"/srv/{self.unique('source')}"
        place = self.machine.root / path.lstrip("/")
        for name, content in {"func.yaml": MANIFEST, **files}.items():
            file = place / name
            file.parent.mkdir(parents=True, exist_ok=True)
            data = content.encode() if isinstance(content, str) else content
            file.write_bytes(data)
            file.chmod(0o755 if data.startswith(b"#!") else 0o644)
        return path

    def app(self, config: dict[str, str] | None = None) -> str:
        """A new app."""
        name = self.unique("app")
        options = {"config": {"$": ["a{ss}", config]}} if config else {}
        self.bus.manager("CreateApp", "sa{sv}", name, options)
        return name

    def deploy(self, app: str, files: dict[str, str | bytes] | str, /, *, name: str = "", **options: Any) -> Deployed:
        """Deploy FILES (a string is func.py) as a function of APP."""
        source = self.source({"func.py": files} if isinstance(files, str) else files)
        name = name or self.unique("fn")
        path, changes = self.busctl_deploy(app, name, source, options)
        return Deployed(self, app, name, source, path, changes)

    def deploy_path(self, app: str, name: str, path: str, options: dict[str, Any]) -> str:
        """Deploy the directory PATH inside as APP/NAME, and make the app when there is none; the function's id."""
        with contextlib.suppress(BusError):
            self.bus.manager("CreateApp", "sa{sv}", app, {})
        object_path, changes = self.busctl_deploy(app, name, path, options)
        return Deployed(self, app, name, path, object_path, changes).id

    def raw(self, app: str, reply: str, /, **options: Any) -> Deployed:
        """Deploy a function that answers on its socket by itself: REPLY defines reply(connection, head)."""
        files: dict[str, str | bytes] = {
            "raw": RAW.replace("{reply}", reply),
            "func.yaml": MANIFEST + "entrypoint: /function/raw\n",
        }
        return self.deploy(app, files, **options)

    def busctl_deploy(self, app: str, name: str, source: str, options: dict[str, Any]) -> tuple[str, Changes]:
        """As an admin would."""
        words = busctl_dict({key.replace("dry_run", "dry-run"): value for key, value in options.items()})
        path, changes = self.busctl("Deploy", "sssa{sv}", app, name, source, *words)
        return path, changes

    def busctl(self, member: str, signature: str = "", *words: str) -> list[Any]:
        """A Manager's member through busctl; AssertionError when it fails."""
        command = ["busctl", "--json=short", "call", NAME, ROOT, MANAGER, member, *([signature] if signature else [])]
        answer = self.machine.run(*command, *words).stdout
        return list(json.loads(answer)["data"]) if answer.strip() else []

    # --- calling

    def begin_curl(self, url: str, *options: str, body: str | bytes | None = None) -> "subprocess.Popen[bytes]":
        """Start curl inside; BODY makes it a POST."""
        command = ["curl", "-sS", "-i", "-w", "%{stderr}\n%{time_total}", "--max-time", "40", *options]
        if body is not None:
            command += ["-X", "POST", "--data-binary", "@-"]
        process = subprocess.Popen(
            self.machine.enter(*command, url), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._feed(process, body.encode() if isinstance(body, str) else body or b"")
        return process

    @staticmethod
    def _feed(process: "subprocess.Popen[bytes]", data: bytes) -> None:
        assert process.stdin

        def feed() -> None:
            assert process.stdin
            try:
                process.stdin.write(data)
                process.stdin.close()
            except OSError:
                pass

        if len(data) < 4096:
            feed()
        else:
            threading.Thread(target=feed, daemon=True).start()
        process.stdin_fed = True  # type: ignore[attr-defined]

    def end(self, process: "subprocess.Popen[bytes]", timeout: float = 40) -> Answer:
        """The answer that a curl got; LateError: it got none in time."""
        assert process.stdout
        assert process.stderr
        reader = process.stderr
        complaint: list[bytes] = []
        thread = threading.Thread(target=lambda: complaint.append(reader.read()), daemon=True)
        thread.start()
        late = threading.Event()
        timer = threading.Timer(timeout, lambda: (late.set(), process.kill()))
        timer.start()
        out = process.stdout.read()
        process.wait()
        timer.cancel()
        thread.join()
        if late.is_set():
            raise LateError(f"no answer after {timeout} s")
        status, headers = 0, {}
        while out.startswith(b"HTTP/"):
            head, _, out = out.partition(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            status = int(lines[0].split()[1])
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
            if status >= 200:
                break
        last = complaint[0].decode(errors="replace").split()[-1:] or ["0"]
        seconds = float(last[0]) if last[0].replace(".", "").isdigit() else 0.0
        return Answer(process.returncode, status, headers, out, seconds)

    def curl(self, url: str, *options: str, body: str | bytes | None = None, timeout: float = 40) -> Answer:
        """Run curl inside and wait for it."""
        return self.end(self.begin_curl(url, *options, body=body), timeout)

    # --- asking the host

    def show(self, unit: str, *names: str) -> dict[str, str]:
        """Properties of a unit."""
        text = self.machine.run("systemctl", "show", unit, "-p", ",".join(names)).stdout
        return dict(line.split("=", 1) for line in text.splitlines())

    def journal(self, *matches: str) -> list[dict[str, str]]:
        """Entries of the journal, oldest first."""
        out = self.machine.run("journalctl", "-a", "-o", "json", "--no-pager", "-q", *matches).stdout
        entries = []
        for line in out.splitlines():
            entry = json.loads(line)
            entries.append({key: _text(value) for key, value in entry.items()})
        return entries

    def daemon_pid(self) -> int:
        """boesfsd's process, by the appliance's numbers."""
        return int(self.show("boesfsd.service", "MainPID")["MainPID"])

    def python(self, script: str, *arguments: str, user: str = "", timeout: float = 60) -> str:
        """Run SCRIPT with python3 inside; what it printed."""
        runner = as_user(user) if user else []
        return self.machine.run(*runner, "python3", "-c", script, *arguments, timeout=timeout).stdout


def _text(value: Any) -> str:
    if isinstance(value, list):
        return bytes(item for item in value if isinstance(item, int)).decode(errors="replace")
    return str(value)


def busctl_dict(options: dict[str, Any]) -> list[str]:
    """OPTIONS as the words that busctl takes for a{sv}."""
    words = [str(len(options))]
    for key, value in options.items():
        words += [key, *_busctl_value(value)]
    return words


def _busctl_value(value: Any) -> list[str]:
    if isinstance(value, bool):
        return ["b", str(value).lower()]
    if isinstance(value, int):
        return ["i", str(value)]
    if isinstance(value, float):
        return ["d", str(value)]
    if isinstance(value, str | list):
        return ["s", value] if isinstance(value, str) else ["as", str(len(value)), *value]
    assert isinstance(value, dict)
    if all(isinstance(item, str) for item in value.values()):
        return ["a{ss}", str(len(value)), *(word for pair in value.items() for word in pair)]
    pairs = [[key, str(len(numbers)), *map(str, numbers)] for key, numbers in value.items()]
    return ["a{sai}", str(len(value)), *(word for pair in pairs for word in pair)]


def as_user(name: str) -> list[str]:
    """Words before a command that it is run by, with the groups of a login. Not runuser: PAM writes to the journal,
    which may be busy."""
    return ["setpriv", f"--reuid={name}", f"--regid={'nogroup' if name == 'nobody' else name}", "--init-groups", "--"]


def machine_name(what: str) -> str:
    """The name of a machine that this process boots."""
    return f"{what}-{os.getpid()}"


def worker_tag() -> str:
    """What tells this process's names from those of its neighbours."""
    return f"{os.environ.get('PYTEST_XDIST_WORKER', 'gw')}-{os.getpid()}"
