# SPDX-License-Identifier: Apache-2.0
"""Runs inside an appliance: many calls at chosen moments, over HTTP or straight onto sockets. Prints JSON.

    load.py parallel HTTP-OR-SOCKET-URL COUNT [SECONDS]
    load.py around IDLE-SECONDS JITTER-MS CALLS URL...
    load.py steady SECONDS URL...

A URL is an id (POST /invoke/ID on 127.0.0.1:8080) or the path of a function's socket.
"""

import asyncio
import json
import random
import sys
import time
from collections import Counter

TIMEOUT = 40.0


async def call(target: str, body: str = "{}") -> str:
    """One call on a connection of its own: the status, or what went wrong."""
    try:
        async with asyncio.timeout(TIMEOUT):
            return await _call(target, body)
    except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
        return f"{type(error).__name__} {error}"


async def _call(target: str, body: str) -> str:
    if target.startswith("/"):
        reader, writer = await asyncio.open_unix_connection(target)
        path = "/call"
    else:
        reader, writer = await asyncio.open_connection("127.0.0.1", 8080)
        path = f"/invoke/{target}"
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    writer.write(head.encode())
    try:
        answer = await reader.read()
    finally:
        writer.close()
    if not answer:
        return "empty answer"
    head_text, _, rest = answer.decode(errors="replace").partition("\r\n\r\n")
    status = head_text.split(" ", 2)[1]
    return status if status == "200" else f"{status} {rest[:200]}"


async def parallel(target: str, count: int, seconds: float) -> Counter[str]:
    """COUNT calls at the same moment, each of which sleeps SECONDS in the function."""
    body = json.dumps({"sleep": seconds})
    return Counter(await asyncio.gather(*(call(target, body) for _ in range(count))))


async def around(idle: float, jitter: float, calls: int, targets: list[str]) -> Counter[str]:
    """CALLS calls of each target, each placed within JITTER seconds of the moment at which its instance goes idle."""

    async def one(target: str) -> Counter[str]:
        results: Counter[str] = Counter()
        for _ in range(calls):
            results[await call(target)] += 1
            await asyncio.sleep(max(0.0, idle + random.uniform(-jitter, jitter)))
        return results

    return sum(await asyncio.gather(*map(one, targets)), Counter())


async def steady(seconds: float, targets: list[str]) -> Counter[str]:
    """Call all targets in turn, for SECONDS."""
    results: Counter[str] = Counter()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for target in targets:
            results[await call(target)] += 1
    return results


async def main() -> None:
    """Run what the arguments say."""
    verb, *rest = sys.argv[1:]
    if verb == "parallel":
        results = await parallel(rest[0], int(rest[1]), float(rest[2]) if len(rest) > 2 else 0.0)
    elif verb == "around":
        results = await around(float(rest[0]), float(rest[1]) / 1000, int(rest[2]), rest[3:])
    else:
        results = await steady(float(rest[0]), rest[1:])
    print(json.dumps(results))


if __name__ == "__main__":
    asyncio.run(main())
