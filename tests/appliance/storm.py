# SPDX-License-Identifier: Apache-2.0
"""Runs inside an appliance: deploys, replaces, calls and removes functions while boesfsd is killed at random moments,
and checks after each kill that what was acknowledged is there, and at the end that nothing else is. Prints JSON.

    storm.py ROUNDS SOURCE
"""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

from dbus_next import BusType, Message, Variant
from dbus_next.aio.message_bus import MessageBus
from load import call

NAME, ROOT = "org.boesfs.Faas1", "/org/boesfs/Faas1"
APP = "storm"
READY_TIMEOUT = 20.0


class Storm:
    """What has been acknowledged, and what may be either way because its answer was lost."""

    def __init__(self, bus: MessageBus, source: str) -> None:
        self.bus = bus
        self.source = source
        self.present: dict[str, int] = {}  # and the memory that its last acknowledged deployment gave it
        self.unsure: set[str] = set()
        self.replaced = 0
        self.faults: list[str] = []
        self.answers = 0
        self.count = 0
        self.killed = False

    async def ask(self, member: str, signature: str, body: list[object]) -> Message:
        message = Message(
            destination=NAME, path=ROOT, interface=f"{NAME}.Manager", member=member, signature=signature, body=body
        )
        return await asyncio.wait_for(self.bus.call(message), 30)

    async def work(self) -> None:
        """One change after another until the kill; one whose answer is lost may or may not have happened."""
        self.killed = False
        while not self.killed:
            if self.present and random.random() < 0.6:
                name = random.choice(sorted(self.present))
                member = random.choice(["Remove", "Remove", "Deploy", "Deploy"])
            else:
                self.count += 1
                name, member = f"f{self.count}", "Deploy"
            self.unsure.add(name)
            before = self.present.pop(name, 0)
            memory = random.choice([megabytes for megabytes in (64, 80, 96) if megabytes != before])
            body: list[object] = [APP, name]
            if member == "Deploy":
                body += [self.source, {"replace": Variant("b", True), "memory": Variant("i", memory)}]
            reply = await self.ask(member, "sssa{sv}" if member == "Deploy" else "ss", body)
            if reply.error_name:
                if "Disconnected" in reply.error_name or "NoReply" in reply.error_name:
                    return
                self.faults.append(f"{member} {name}: {reply.error_name} {reply.body}")
                return
            self.unsure.discard(name)
            if member == "Deploy":
                self.present[name] = memory
                self.replaced += before > 0

    async def calls(self) -> None:
        """Calls straight onto the sockets of acknowledged functions: the daemon's death is not their business."""
        while True:
            names = sorted(self.present)
            if not names:
                await asyncio.sleep(0.01)
                continue
            name = random.choice(names)
            result = await call(f"/run/boesfs/by-name/{APP}/{name}")
            await asyncio.sleep(0.02)
            self.answers += result == "200"
            if result != "200" and name in self.present:
                self.faults.append(f"call of {name}: {result}")

    async def listed(self) -> dict[str, int]:
        """Functions that boesfsd knows, once it is back, and their memory."""
        end = asyncio.get_running_loop().time() + READY_TIMEOUT
        while asyncio.get_running_loop().time() < end:
            try:
                reply = await self.ask("ListFunctions", "s", [APP])
            except TimeoutError:
                continue
            if not reply.error_name:
                return {row[1]: await self.memory(row[4]) for row in reply.body[0]}
            await asyncio.sleep(0.05)
        raise SystemExit("storm: boesfsd did not come back")

    async def memory(self, path: str) -> int:
        """What the function at PATH is limited to, in megabytes."""
        message = Message(
            destination=NAME, path=path, interface="org.freedesktop.DBus.Properties", member="Get", signature="ss",
            body=[f"{NAME}.Function", "Limits"],
        )  # fmt: skip
        reply = await asyncio.wait_for(self.bus.call(message), 30)
        return int(reply.body[0].value["memory"].value)

    async def round(self) -> None:
        """Work, kill, wait, compare."""
        # asked for before the work begins: to ask in its midst would let it end first
        pid = int(subprocess.check_output(["systemctl", "show", "-P", "MainPID", "boesfsd"]))  # noqa: ASYNC221
        worker = asyncio.ensure_future(self.work())
        await asyncio.sleep(random.uniform(0, 0.25))
        if pid:
            os.kill(pid, signal.SIGKILL)
        self.killed = True
        await worker
        listed = await self.listed()
        missing, extra = self.present.keys() - listed, listed.keys() - self.present.keys() - self.unsure
        self.faults += [f"acknowledged {name} is lost" for name in missing]
        self.faults += [
            f"{name} was given {memory} MB and has {listed[name]}"
            for name, memory in self.present.items()
            if listed.get(name, memory) != memory
        ]
        self.faults += [f"{name} is there but was removed, or never asked for" for name in extra]
        self.present, self.unsure = listed, set()


def orphans(present: dict[str, int]) -> list[str]:
    """Anything of functions that boesfsd does not know."""
    rows = json.loads(
        subprocess.check_output(
            ["busctl", "--json=short", "call", NAME, ROOT, f"{NAME}.Manager", "ListFunctions", "s", APP]
        )
    )["data"][0]
    ids = {row[2] for row in rows}
    found = []
    units = subprocess.check_output(
        ["systemctl", "list-units", "--all", "--plain", "--no-legend", "boesfs-fn@*"], text=True
    )
    for line in units.splitlines():
        if line.split()[0].split("@")[1].split(":")[0] not in ids:
            found.append(f"unit {line}")
    places = [*Path("/run/boesfs/plan").iterdir(), *Path("/run/boesfs/fn").iterdir()]
    places += [p for d in ("system", "system.control") for p in Path("/run/systemd", d).glob("boesfs-fn@*")]
    for place in places:
        function_id = place.name.split("@")[-1].split(":")[0].removesuffix(".plan")
        if function_id not in ids:
            found.append(str(place))
    found += [str(p) for p in Path(f"/run/boesfs/by-name/{APP}").iterdir() if p.name not in present]
    found += [str(p) for p in Path("/var/lib/boesfsd/stage").iterdir()]
    found += [str(p) for p in Path("/var/lib/boesfsd/code").iterdir()][1:] if present else []
    return found


async def main() -> None:
    """All rounds, then the accounts."""
    rounds, source = int(sys.argv[1]), sys.argv[2]
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    storm = Storm(bus, source)
    await storm.ask("CreateApp", "sa{sv}", [APP, {}])
    caller = asyncio.ensure_future(storm.calls())
    for _ in range(rounds):
        await storm.round()
    caller.cancel()
    subprocess.check_call(["systemctl", "restart", "boesfsd"])  # noqa: ASYNC221
    left = orphans(await storm.listed())
    unanswered = [name for name in storm.present if await call(f"/run/boesfs/by-name/{APP}/{name}") != "200"]
    report = {
        "rounds": rounds,
        "asked": storm.count,
        "present": len(storm.present),
        "replaced": storm.replaced,
        "answers": storm.answers,
        "faults": storm.faults[:50],
        "orphans": left,
        "unanswered": unanswered,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    asyncio.run(main())
