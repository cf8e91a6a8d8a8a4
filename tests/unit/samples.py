# SPDX-License-Identifier: Apache-2.0
"""Values that several tests start from."""

import dataclasses
from pathlib import Path
from typing import Any

from boesfsd import plan, runtimes
from boesfsd.layout import CERTIFICATES, LOADER_CACHE, Host, Layout, layout
from boesfsd.model import App, Command, Function, Owner, Ports, Settings

ROOT = Path(__file__).parents[2]
APP_ID = "01KAPP0000000000000000APP1"
FUNCTION_ID = "01KFN00000000000000000FUN1"


def app(**changes: Any) -> App:
    return App(**{"id": APP_ID, "name": "shop", "config": {}, "created_at": 1, "updated_at": 1} | changes)


def function(**changes: Any) -> Function:
    """A function with everything at its default; keys of Settings go there."""
    fields = set(Settings.__dataclass_fields__)
    settings = Settings(**{"runtime": "python"} | {key: value for key, value in changes.items() if key in fields})
    values: dict[str, Any] = {
        "id": FUNCTION_ID,
        "app": app(),
        "name": "hello",
        "uid": 1879048192,
        "digest": "d" * 64,
        "command": (),
        "settings": settings,
        "created_at": 1,
        "updated_at": 1,
    }
    return Function(**values | {key: value for key, value in changes.items() if key not in fields})


def full_function() -> Function:
    """A function with nothing at its default."""
    return function(
        app=app(config={"COLOUR": "blue", "LEVEL": "app"}),
        name="a:b@c.d~e",
        command=("/python/bin/fdk", "/function/func.py", "handler", "tab\there"),
        runtime="python3.12",
        memory=256,
        cpu=0.5,
        cpuset="0-1,3",
        tasks=10,
        files=64,
        tmp_size=8,
        log_rate=7,
        timeout=5,
        idle_timeout=6,
        concurrency=2,
        network="private",
        ports=Ports(connect=(80, 443), bind=()),
        system_calls=("openat", "read"),
        config={"LEVEL": "function", "TEXT": "two\nlines\\"},
        environment={"LEVEL": "bundle", "ONLY": "bundle"},
    )


def python_runtime() -> runtimes.Runtime:
    return runtimes.load(ROOT / "etc/runtimes")["python"]


def bare_host(**changes: Any) -> Host:
    """A machine that has none of the optional files."""
    return Host(**{"init_timeout": 5, "landlock": "required", "resolver": "", "files": frozenset()} | changes)


def full_host() -> Host:
    """A machine that has them all."""
    files = frozenset((LOADER_CACHE, *CERTIFICATES, *python_runtime().hide))
    return bare_host(resolver="/run/systemd/resolve/resolv.conf", files=files, landlock="optional", init_timeout=9)


CODE = Path("/var/lib/boesfsd/code/DIGEST")


def made(deployed: Function, host: Host) -> Layout:
    """Its sandbox."""
    return layout(deployed, python_runtime(), CODE, host)


def rendered(deployed: Function, host: Host) -> str:
    """Its plan."""
    return plan.render(deployed, python_runtime(), made(deployed, host), host)


def command(*words: str, **changes: Any) -> Command:
    """What `boesfsctl run` starts; keys of Settings and `policy` go to what is judged."""
    judged = {key: changes.pop(key) for key in list(changes) if key in (*Settings.__dataclass_fields__, "policy")}
    settings = {"runtime": "", "memory": 0, "tasks": 0, "files": 0, "tmp_size": 1024, "timeout": 0, **judged}
    of = function(app=app(id="", name="@run"), id="boesfs-run-7.service", name="7", uid=7, digest="", **settings)
    values: dict[str, Any] = {
        "judged": dataclasses.replace(of, command=words or ("/bin/sh",)),
        "owner": Owner(1000, 100, "ann", (20, 30)),
        "directories": (),
        "environment": {"PATH": "/usr/bin", "HOME": "/tmp"},
        "cwd": "/tmp",
    }
    return Command(**values | changes)


def commands_runtime() -> runtimes.Runtime:
    return runtimes.of_commands(ROOT / "etc/run.toml")
