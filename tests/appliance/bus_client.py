# SPDX-License-Identifier: Apache-2.0
"""Runs inside the appliance, where dbus-next is: makes the D-Bus calls that it reads from standard input, one JSON
object a line, and writes replies and the signals of org.boesfs.Faas1 to standard output."""

import asyncio
import json
import os
import sys
from typing import Any

from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import BusType, MessageFlag, MessageType
from dbus_next.message import Message
from dbus_next.signature import Variant

NAME = "org.boesfs.Faas1"


def decode(value: Any) -> Any:
    """JSON to D-Bus: {"$": [signature, value]} is a variant."""
    if isinstance(value, dict):
        if "$" in value:
            return Variant(value["$"][0], decode(value["$"][1]))
        return {key: decode(item) for key, item in value.items()}
    return [decode(item) for item in value] if isinstance(value, list) else value


def encode(value: Any) -> Any:
    """D-Bus to JSON: variants are their values."""
    if isinstance(value, Variant):
        return encode(value.value)
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    return [encode(item) for item in value] if isinstance(value, list) else value


def say(**what: Any) -> None:
    """One line to whoever asked."""
    sys.stdout.write(json.dumps(what, default=repr) + "\n")
    sys.stdout.flush()


def heard(message: Message) -> None:
    """Report a signal of the daemon's objects."""
    if message.message_type is MessageType.SIGNAL and message.path.startswith("/org/boesfs"):
        say(signal=[message.path, f"{message.interface}.{message.member}", encode(message.body)])


async def serve(bus: MessageBus, asked: dict[str, Any]) -> None:
    """One request: a call, or a signal straight to the daemon."""
    files = [os.open(path, os.O_RDONLY) for path in asked.get("files", [])]
    message = Message(
        message_type=MessageType.SIGNAL if asked.get("signal") else MessageType.METHOD_CALL,
        destination=asked.get("destination", NAME),
        path=asked["path"],
        interface=asked["interface"],
        member=asked["member"],
        signature=asked.get("signature", ""),
        body=decode(asked.get("body", [])),
        unix_fds=files,
        flags=MessageFlag(asked.get("flags", 0)),
    )
    try:
        if asked.get("signal") or message.flags & MessageFlag.NO_REPLY_EXPECTED:
            await bus.send(message)
            say(id=asked["id"], body=[])
            return
        reply = await bus.call(message)
        assert reply is not None
        if reply.message_type is MessageType.ERROR:
            say(id=asked["id"], error=reply.error_name, text=str(reply.body[0]) if reply.body else "")
        else:
            say(id=asked["id"], body=encode(reply.body))
    finally:
        for file in files:
            os.close(file)


async def main() -> None:
    """Until standard input ends."""
    bus = await MessageBus(bus_type=BusType.SYSTEM, negotiate_unix_fd=True).connect()
    bus.add_message_handler(heard)
    rule = f"type='signal',sender='{NAME}'"
    await bus.call(
        Message(
            destination="org.freedesktop.DBus",
            path="/org/freedesktop/DBus",
            interface="org.freedesktop.DBus",
            member="AddMatch",
            signature="s",
            body=[rule],
        )
    )
    say(ready=True)
    reader = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    running = set()
    while line := await reader.readline():
        task = asyncio.ensure_future(serve(bus, json.loads(line)))
        running.add(task)
        task.add_done_callback(running.discard)


asyncio.run(main())
