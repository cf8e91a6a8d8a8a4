# SPDX-License-Identifier: Apache-2.0
"""D-Bus, through dbus-next: one connection that serves what the XML describes, and one that asks for it. Calls are
checked against it, then authorised, then run; every expected failure becomes a named error, every fault one fixed
sentence. Descriptors that come with a message are closed when it has been dealt with, whatever it was."""

import asyncio
import contextlib
import logging
import os
import re
import xml.etree.ElementTree as ET
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import BusType, MessageFlag, MessageType, NameFlag, RequestNameReply
from dbus_next.errors import AuthError, DBusError, InvalidAddressError
from dbus_next.message import Message
from dbus_next.signature import Variant

from boesfsd.errors import TABLE, BoesError

log = logging.getLogger(__name__)

__all__ = ["NAME", "ROOT", "Client", "Exported", "Service", "Variant"]

NAME, ROOT = "org.boesfs.Faas1", "/org/boesfs/Faas1"
"""Ours on the bus, and the path of the Manager."""
XML = Path(__file__).with_name("org.boesfs.Faas1.xml")
ACTION, CALLER = "org.boesfs.Faas1.Action", "org.boesfs.Faas1.Caller"
INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"
PROPERTIES = "org.freedesktop.DBus.Properties"
OBJECT_MANAGER = "org.freedesktop.DBus.ObjectManager"
PEER = "org.freedesktop.DBus.Peer"
DBUS = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
POLKIT = (
    "org.freedesktop.PolicyKit1",
    "/org/freedesktop/PolicyKit1/Authority",
    "org.freedesktop.PolicyKit1.Authority",
)
ALLOW_INTERACTION = 1
DESCRIPTORS = "a{sh}"
LONGEST, LONGEST_ERROR = 24 << 20, 1 << 16
"""Bytes of a body (a system bus ends the connection of who sends 32 MiB), and of an error's text."""
STANDARD_INTERFACES = f"""
<interface name="{PEER}"><method name="Ping"/>
<method name="GetMachineId"><arg type="s" direction="out"/></method></interface>
<interface name="{INTROSPECTABLE}"><method name="Introspect"><arg type="s" direction="out"/></method></interface>
<interface name="{PROPERTIES}">
<method name="Get"><arg type="s" direction="in"/><arg type="s" direction="in"/><arg type="v" direction="out"/></method>
<method name="GetAll"><arg type="s" direction="in"/><arg type="a{{sv}}" direction="out"/></method>
<method name="Set"><arg type="s" direction="in"/><arg type="s" direction="in"/><arg type="v" direction="in"/></method>
<signal name="PropertiesChanged"><arg type="s"/><arg type="a{{sv}}"/><arg type="as"/></signal></interface>
"""
OBJECT_MANAGER_XML = f"""
<interface name="{OBJECT_MANAGER}">
<method name="GetManagedObjects"><arg type="a{{oa{{sa{{sv}}}}}}" direction="out"/></method>
<signal name="InterfacesAdded"><arg type="o"/><arg type="a{{sa{{sv}}}}"/></signal>
<signal name="InterfacesRemoved"><arg type="o"/><arg type="as"/></signal></interface>
"""


@dataclass(frozen=True, slots=True)
class Method:
    """A method as the XML has it. `action` is the polkit action, "" for what anybody may do; `caller`: who calls
    matters, and is told by uid and groups before the arguments."""

    name: str
    takes: str
    gives: str
    action: str
    caller: bool

    @property
    def attribute(self) -> str:
        """The Python method that implements it."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", self.name).lower()


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface as the XML has it: methods, signatures of properties and of signals, and its XML text."""

    name: str
    methods: dict[str, Method]
    properties: dict[str, str]
    signals: dict[str, str]
    xml: str


def read_xml(file: Path = XML) -> dict[str, Interface]:
    """The interfaces in FILE by name."""
    root = ET.parse(file).getroot()  # noqa: S314 (our own file)
    return {element.get("name", ""): _interface(element) for element in root.iter("interface")}


def _interface(element: ET.Element) -> Interface:
    methods = {}
    for item in element.iter("method"):
        signature = {
            way: "".join(arg.get("type", "") for arg in item.iter("arg") if arg.get("direction") == way)
            for way in ("in", "out")
        }
        notes = {note.get("name"): note.get("value", "") for note in item.iter("annotation")}
        name = item.get("name", "")
        methods[name] = Method(name, signature["in"], signature["out"], notes.get(ACTION, ""), CALLER in notes)
    return Interface(
        name=element.get("name", ""),
        methods=methods,
        properties={item.get("name", ""): item.get("type", "") for item in element.iter("property")},
        signals={
            item.get("name", ""): "".join(arg.get("type", "") for arg in item.iter("arg"))
            for item in element.iter("signal")
        },
        xml=ET.tostring(element, encoding="unicode"),
    )


class Exported(Protocol):
    """An object on the bus: the interface it has and the values of all its properties."""

    interface: str

    def properties(self) -> dict[str, Any]:
        """Plain values, by name; the XML has their types."""


class Tree(Protocol):
    """Finds objects by path."""

    def find(self, path: str) -> Exported | None:
        """The object at PATH."""

    def children(self, path: str) -> list[str]:
        """Names of the nodes right below PATH."""

    def objects(self) -> Mapping[str, Exported]:
        """All objects below the root, for the ObjectManager."""


class Sender(MessageBus):
    """A connection that hands on one message after the other. dbus-next's writer goes on with the next one at once, and
    takes a socket that is full for the end of the connection."""

    def __init__(self) -> None:
        super().__init__(bus_type=BusType.SYSTEM, negotiate_unix_fd=True)
        self._outbox: deque[tuple[Message, asyncio.Future[None]]] = deque()
        self._last: asyncio.Future[None] | None = None

    def send(self, msg: Message) -> "asyncio.Future[None]":  # type: ignore[override]
        """Send MSG after those that wait; the future is done when it has gone, or the connection has."""
        self._last = asyncio.get_running_loop().create_future()
        self._outbox.append((msg, self._last))
        if len(self._outbox) == 1:
            self._send_first()
        return self._last

    async def drain(self) -> None:
        """Wait until all that was sent has gone."""
        if self._last:
            await self._last

    def _send_first(self) -> None:
        while self._outbox:
            message, done = self._outbox[0]
            try:
                going: asyncio.Future[None] = super().send(message)
            except Exception:  # one message that cannot be written is not all of them
                log.exception("%s.%s cannot be sent", message.interface, message.member)
                self._outbox.popleft()
                done.set_result(None)
                continue
            going.add_done_callback(self._gone)
            return

    def _gone(self, going: "asyncio.Future[None]") -> None:
        lost = going.cancelled() or going.exception()  # the handler of the lost connection tells
        while self._outbox:
            done = self._outbox.popleft()[1]
            if not done.done():
                done.set_result(None)
            if not lost:
                break
        if self._outbox:
            self._send_first()


class Service:
    """The daemon's connection to the system bus."""

    def __init__(self, root: str, tree: Tree) -> None:
        self.interfaces = read_xml()
        self._root = root
        self._tree = tree
        self._bus: Sender | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def connect(self, name: str, on_lost: Callable[[], None]) -> None:
        """Connect and take the name; ON_LOST is called when the bus goes away."""
        bus = await _connected()
        bus.add_message_handler(self._receive)
        self._bus = bus
        reply = await bus.request_name(name, NameFlag.DO_NOT_QUEUE)
        if reply not in (RequestNameReply.PRIMARY_OWNER, RequestNameReply.ALREADY_OWNER):
            raise BoesError("Failed", f"{name} is owned by somebody else", hint="is another boesfsd running?")
        watcher = asyncio.ensure_future(bus.wait_for_disconnect())  # type: ignore[no-untyped-call]
        watcher.add_done_callback(lambda _: on_lost() if self._bus else None)
        self._watcher = watcher

    async def disconnect(self, name: str, patience: float) -> None:
        """Give the name back, so that new calls wait for the next daemon; finish those that run; leave."""
        if not self._bus:
            return
        with contextlib.suppress(TimeoutError):  # a bus that is gone does not answer
            await asyncio.wait_for(self._bus.release_name(name), patience)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=patience)
        bus, self._bus = self._bus, None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(bus.drain(), patience)
        self._watcher.cancel()
        bus.disconnect()  # type: ignore[no-untyped-call]

    # --- signals

    def emit(self, interface: str, signal: str, *values: Any, path: str = "") -> None:
        """Send a signal of the XML."""
        signature = self.interfaces[interface].signals[signal]
        self._send_signal(path or self._root, interface, signal, signature, list(values))

    def changed(self, path: str, exported: Exported, names: list[str]) -> None:
        """PropertiesChanged with the new values of NAMES."""
        values = self._wrapped(exported, names)
        self._send_signal(path, PROPERTIES, "PropertiesChanged", "sa{sv}as", [exported.interface, values, []])

    def invalidated(self, path: str, interface: str, names: list[str]) -> None:
        """PropertiesChanged without values, for those that are long: who cares asks."""
        self._send_signal(path, PROPERTIES, "PropertiesChanged", "sa{sv}as", [interface, {}, names])

    def added(self, path: str, exported: Exported) -> None:
        """InterfacesAdded, from the object manager."""
        body = [path, {exported.interface: self._wrapped(exported)}]
        self._send_signal(self._root, OBJECT_MANAGER, "InterfacesAdded", "oa{sa{sv}}", body)

    def removed(self, path: str, interface: str) -> None:
        """InterfacesRemoved."""
        self._send_signal(self._root, OBJECT_MANAGER, "InterfacesRemoved", "oas", [path, [interface]])

    def _send_signal(self, path: str, interface: str, member: str, signature: str, body: list[Any]) -> None:
        if self._bus:  # what happens before we are on the bus is nobody's news
            self._bus.send(Message.new_signal(path, interface, member, signature, _sendable(body)))

    def _wrapped(self, exported: Exported, names: list[str] | None = None) -> dict[str, Variant]:
        types = self.interfaces[exported.interface].properties
        values = exported.properties()
        return {name: Variant(types[name], values[name]) for name in (names or types)}

    # --- calls

    def _receive(self, message: Message) -> bool | None:
        if message.message_type is not MessageType.METHOD_CALL or message.interface == PEER:
            _close_descriptors(message)  # anyone may send us a signal, or a ping, with descriptors
            return None
        task = asyncio.ensure_future(self._serve(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def _serve(self, message: Message) -> None:
        try:
            signature, body = await self._answer(message)
            reply = Message.new_method_return(message, signature, _sendable(body))
        except BoesError as error:
            reply = Message.new_error(message, error.kind.name, _sendable([str(error)[:LONGEST_ERROR]])[0])
        except Exception:
            log.exception("%s.%s failed", message.interface, message.member)
            reply = Message.new_error(message, TABLE["Failed"].name, "Internal error; see journalctl -u boesfsd")
        finally:
            _close_descriptors(message)
        if self._bus and not message.flags & MessageFlag.NO_REPLY_EXPECTED:
            self._bus.send(reply)

    async def _answer(self, message: Message) -> tuple[str, list[Any]]:
        if message.interface == INTROSPECTABLE and message.member == "Introspect":
            return "s", [self._introspect(message.path)]
        exported = self._tree.find(message.path)
        if exported is None:
            raise BoesError("UnknownObject", f"There is no object {message.path}")
        if message.interface == PROPERTIES:
            return self._answer_property(message, exported)
        if message.interface == OBJECT_MANAGER and message.path == self._root and message.member == "GetManagedObjects":
            objects = self._tree.objects()
            return "a{oa{sa{sv}}}", [{path: {o.interface: self._wrapped(o)} for path, o in objects.items()}]
        return await self._run(message, exported)

    async def _run(self, message: Message, exported: Exported) -> tuple[str, list[Any]]:
        method = self.interfaces[exported.interface].methods.get(message.member)
        if method is None or message.interface not in (None, exported.interface):
            raise BoesError("UnknownMethod", f"{message.path} has no method {message.interface or ''}.{message.member}")
        if message.signature != method.takes:
            raise BoesError("InvalidArgs", f"{method.name} takes ({method.takes}), not ({message.signature})")
        if method.action:
            await self._authorise(message, method.action)
        args = [await self._caller(message)] if method.caller else []
        args += [
            _with_descriptors(kind, value, message.unix_fds)
            for kind, value in zip(split_signature(method.takes), message.body, strict=True)
        ]
        result = await getattr(exported, method.attribute)(*args)
        outputs = len(split_signature(method.gives))
        body = [] if outputs == 0 else [result] if outputs == 1 else list(result)
        return method.gives, body

    def _answer_property(self, message: Message, exported: Exported) -> tuple[str, list[Any]]:
        takes = {"Get": "ss", "GetAll": "s", "Set": "ssv"}.get(message.member)
        if takes is None:
            raise BoesError("UnknownMethod", f"{PROPERTIES} has no method {message.member}")
        if message.signature != takes:
            raise BoesError("InvalidArgs", f"{message.member} takes ({takes}), not ({message.signature})")
        if message.body[0] not in ("", exported.interface):
            raise BoesError("UnknownProperty", f"{message.path} has no interface {message.body[0]}")
        if message.member == "GetAll":
            return "a{sv}", [self._wrapped(exported)]
        name = message.body[1]
        if name not in self.interfaces[exported.interface].properties:
            raise BoesError("UnknownProperty", f"{exported.interface} has no property {name}")
        if message.member == "Set":
            raise BoesError("PropertyReadOnly", f"{name} cannot be set", hint="Deploy with replace changes a function")
        return "v", [self._wrapped(exported, [name])[name]]

    def _introspect(self, path: str) -> str:
        exported, children = self._tree.find(path), self._tree.children(path)
        if exported is None and not children:
            raise BoesError("UnknownObject", f"There is no object {path}")
        parts = [STANDARD_INTERFACES]
        if path == self._root:
            parts.append(OBJECT_MANAGER_XML)
        if exported:
            parts.append(self.interfaces[exported.interface].xml)
        parts += [f'<node name="{child}"/>' for child in children]
        return f"<node>{''.join(parts)}</node>"

    # --- authorisation

    async def _caller(self, message: Message) -> tuple[int, tuple[int, ...]]:
        found = plain((await self._ask(DBUS, "GetConnectionCredentials", "s", [message.sender]))[0])
        return found["UnixUserID"], tuple(found.get("UnixGroupIDs", ()))

    async def _authorise(self, message: Message, action: str) -> None:
        """Root may; anybody else needs polkit's word, and without polkit may not."""
        uid = (await self._ask(DBUS, "GetConnectionUnixUser", "s", [message.sender]))[0]
        if uid == 0:
            return
        interactive = bool(message.flags & MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION)
        subject = ["system-bus-name", {"name": Variant("s", message.sender)}]
        flags = ALLOW_INTERACTION if interactive else 0
        try:
            allowed, challenge, _ = (
                await self._ask(POLKIT, "CheckAuthorization", "(sa{sv})sa{ss}us", [subject, action, {}, flags, ""])
            )[0]
        except DBusError as error:
            raise BoesError(
                "AccessDenied",
                f"Only root may do this: polkit does not answer ({error.text})",
                hint=f"polkit has {action}",
            ) from error
        if allowed:
            return
        if challenge and not interactive:
            raise BoesError("InteractiveAuthorizationRequired", f"polkit would have to ask for {action}")
        raise BoesError("AccessDenied", f"polkit does not allow {action} to uid {uid}")

    async def _ask(self, whom: tuple[str, str, str], member: str, signature: str, body: list[Any]) -> list[Any]:
        destination, path, interface = whom
        assert self._bus
        reply = await self._bus.call(
            Message(
                destination=destination, path=path, interface=interface, member=member, signature=signature, body=body
            )
        )
        assert reply is not None
        if reply.message_type is MessageType.ERROR:
            text = str(reply.body[0]) if reply.body else reply.error_name
            raise DBusError(reply.error_name, text)  # type: ignore[no-untyped-call]
        return list(reply.body)


async def _connected() -> Sender:
    bus = Sender()
    await bus.connect()
    return bus


class Client:
    """A connection that asks a Service; who calls waits. It may be asked by polkit who one is."""

    def __init__(self, name: str) -> None:
        """NAME is the service's. Failed: there is no bus."""
        self._name = name
        self._interfaces = read_xml()
        self._runner = asyncio.Runner()
        try:
            self._bus, self._lost = self._runner.run(self._connect())
        except (OSError, EOFError, DBusError, InvalidAddressError, AuthError) as error:
            self._runner.close()
            raise BoesError("Failed", f"The system bus cannot be reached: {error}", hint="is dbus running?") from error

    @staticmethod
    async def _connect() -> "tuple[Sender, asyncio.Future[None]]":
        bus = await _connected()
        return bus, asyncio.ensure_future(bus.wait_for_disconnect())  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Leave the bus."""
        self._bus.disconnect()  # type: ignore[no-untyped-call]
        self._runner.close()

    def call(self, path: str, interface: str, member: str, *arguments: Any) -> Any:
        """What a method gives, plain: nothing, one value, or a list of several. Options (a{sv}) are booleans, numbers
        and strings; in a{sh} are descriptors. BoesError is what the service says, or why it says nothing."""
        method = self._interfaces[interface].methods[member]
        body, descriptors = list[Any](), list[int]()
        for kind, value in zip(split_signature(method.takes), arguments, strict=True):
            if kind == DESCRIPTORS:
                _check_text(member, list(value))
                descriptors = list(value.values())
                body.append({name: position for position, name in enumerate(value)})
            elif kind == "a{sv}":
                _check_text(member, list(value.values()))
                body.append(_options(value))
            else:
                _check_text(member, value)
                body.append(value)
        told = self._ask(path, interface, member, method.takes, body, descriptors)
        return told[0] if len(told) == 1 else told or None

    def get(self, path: str, interface: str, name: str) -> Any:
        """A property, plain. BoesError as call."""
        return self._ask(path, PROPERTIES, "Get", "ss", [interface, name])[0]

    def _ask(
        self, path: str, interface: str, member: str, signature: str, body: list[Any], descriptors: Sequence[int] = ()
    ) -> list[Any]:
        message = Message(
            destination=self._name,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=body,
            unix_fds=list(descriptors),
            flags=MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION,
        )
        reply = self._runner.run(self._reply(message))
        if reply.message_type is MessageType.ERROR:
            raise _told(reply.error_name, str(reply.body[0]) if reply.body else "")
        found: list[Any] = plain(reply.body)
        return found

    async def _reply(self, message: Message) -> Message:
        asked = asyncio.ensure_future(self._bus.call(message))
        await asyncio.wait((asked, self._lost), return_when=asyncio.FIRST_COMPLETED)
        if not asked.done():
            asked.cancel()
            raise BoesError("Failed", "The system bus has ended the connection")
        reply = asked.result()
        assert reply is not None
        return reply


def _check_text(member: str, value: Any) -> None:
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str) and not (text.isascii() and "\0" not in text):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise BoesError("InvalidArgs", f"{member}: {text!r} is not UTF-8, which D-Bus wants") from error
            if "\0" in text:
                raise BoesError("InvalidArgs", f"{member}: there is a NUL in {text[:40]!r}")


def _options(values: Mapping[str, Any]) -> dict[str, Variant]:
    kinds = {bool: "b", int: "u", str: "s", float: "d"}
    for key, value in values.items():
        if type(value) not in kinds or (isinstance(value, int) and not 0 <= value < 1 << 32):
            raise BoesError("InvalidArgs", f"{key}: {value!r} cannot be meant", hint="numbers are from 0 to 4294967295")
    return {key: Variant(kinds[type(value)], value) for key, value in values.items()}


def _told(name: str, text: str) -> BoesError:
    """An error's reply as the error that it was."""
    code = next((code for code, kind in TABLE.items() if kind.name == name), "")
    if code:
        return BoesError(code, text)
    if name in (f"{DBUS[0]}.Error.ServiceUnknown", f"{DBUS[0]}.Error.NameHasNoOwner"):
        return BoesError("Failed", "boesfsd does not run", hint="systemctl start boesfsd")
    return BoesError("Failed", f"{name}: {text}")


def _with_descriptors(kind: str, value: Any, descriptors: list[int]) -> Any:
    """VALUE with descriptors in the place of their positions. InvalidArgs: it has one that did not come."""
    try:
        if kind == "h":
            return descriptors[value]
        return (
            {name: descriptors[position] for name, position in value.items()} if kind == DESCRIPTORS else plain(value)
        )
    except IndexError as error:
        raise BoesError("InvalidArgs", "A descriptor did not come with the message") from error


def _close_descriptors(message: Message) -> None:
    while message.unix_fds:
        os.close(message.unix_fds.pop())


def _sendable(body: list[Any]) -> list[Any]:
    """BODY as D-Bus can have it. Unsupported: it is longer than the bus would take from anybody who stays on it."""
    size = 0

    def cleaned(value: Any) -> Any:
        nonlocal size
        size += 8
        if isinstance(value, str):
            data = value.encode("utf-8", "backslashreplace")
            size += len(data)
            return data.replace(b"\0", b"\\x00").decode()
        if isinstance(value, Variant):
            return Variant(value.signature, cleaned(value.value))
        if isinstance(value, dict):
            return {cleaned(key): cleaned(item) for key, item in value.items()}
        return [cleaned(item) for item in value] if isinstance(value, list | tuple) else value

    found = [cleaned(value) for value in body]
    if size > LONGEST:
        raise BoesError("Unsupported", f"The answer is over {LONGEST >> 20} MiB, which D-Bus does not carry")
    return found


def plain(value: Any) -> Any:
    """VALUE without D-Bus variants."""
    if isinstance(value, Variant):
        return plain(value.value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def split_signature(signature: str) -> list[str]:
    """The complete types of a signature: "sa{sv}h" has three."""
    types, start, depth = [], 0, 0
    for index, c in enumerate(signature):
        depth += (c in "({") - (c in ")}")
        if c != "a" and depth == 0:
            types.append(signature[start : index + 1])
            start = index + 1
    return types
