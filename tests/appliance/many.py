# SPDX-License-Identifier: Apache-2.0
"""Runs inside an appliance: deploys COUNT functions from SOURCE into app `many` and prints their ids as JSON.

many.py COUNT SOURCE
"""

import asyncio
import json
import sys

from dbus_next import BusType, Message
from dbus_next.aio.message_bus import MessageBus

NAME, ROOT = "org.boesfs.Faas1", "/org/boesfs/Faas1"


async def main() -> None:
    """Deploy all, one after another."""
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()

    async def ask(member: str, signature: str, *body: object) -> list[list[list[str]]]:
        reply = await bus.call(
            Message(
                destination=NAME,
                path=ROOT,
                interface=f"{NAME}.Manager",
                member=member,
                signature=signature,
                body=list(body),
            )
        )
        if reply.error_name:
            raise SystemExit(f"many: {member}: {reply.error_name} {reply.body}")
        result: list[list[list[str]]] = reply.body
        return result

    await ask("CreateApp", "sa{sv}", "many", {})
    for number in range(int(sys.argv[1])):
        await ask("Deploy", "sssa{sv}", "many", f"f{number:05}", sys.argv[2], {})
    print(json.dumps([row[2] for row in (await ask("ListFunctions", "s", "many"))[0]]))


if __name__ == "__main__":
    asyncio.run(main())
