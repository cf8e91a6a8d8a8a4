# SPDX-License-Identifier: Apache-2.0
"""The values that everything else is about: apps, functions, their settings; ids and names."""

import re
import secrets
import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from boesfsd.errors import BoesError

CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
PAIRS = tuple(first + second for first in CROCKFORD for second in CROCKFORD)
ID_LENGTH = 26
NAME_MAX = 255
PROGRAM_NAME = re.compile(r"[A-Za-z0-9_-]{1,31}")
LONGEST_LEARNING = 3600  # seconds
STANDARD = ("stdin", "stdout", "stderr")
"""What the descriptors of a command's input and output are called."""
MOST_DIRECTORIES = 11
"""Of a command: D-Bus carries 16 descriptors with a message, and five may be others."""
APP_NAME = re.compile(r"[A-Za-z0-9_-]+")
FUNCTION_NAME = re.compile(r"[A-Za-z0-9_.~:@-]+")


def new_id() -> str:
    """26 characters of Crockford's base32: 48 bits of milliseconds, then chance; ids sort by age."""
    number = time.time_ns() // 1_000_000 << 80 | secrets.randbits(80)
    return "".join([PAIRS[number >> shift & 1023] for shift in range(120, -1, -10)])


def check_app_name(name: str) -> str:
    """NAME, or InvalidArgs that says what is wrong with it."""
    return _check_name("app", name, APP_NAME, "letters, digits, _ and -")


def check_function_name(name: str) -> str:
    """NAME, or InvalidArgs that says what is wrong with it."""
    return _check_name("function", name, FUNCTION_NAME, "letters, digits and _ . ~ : @ -")


def _check_name(what: str, name: str, pattern: re.Pattern[str], allowed: str) -> str:
    if not name:
        raise BoesError("InvalidArgs", f"The {what} name is empty", hint=f"use {allowed}")
    if len(name) > NAME_MAX:
        raise BoesError("InvalidArgs", f"The {what} name has {len(name)} characters; {NAME_MAX} are allowed")
    if not pattern.fullmatch(name) or name in (".", ".."):
        raise BoesError("InvalidArgs", f"{name!r} is no name for this ({what})", hint=f"use {allowed}")
    return name


@dataclass(frozen=True, slots=True)
class Ports:
    """TCP ports; None leaves that direction open, an empty tuple closes it."""

    connect: tuple[int, ...] | None = None
    bind: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """What may be set for a function; each field is one row of options.TABLE, which has units and meaning."""

    runtime: str = ""
    memory: int = 128
    cpu: float | None = None
    cpuset: str = ""
    tasks: int = 128
    files: int = 1024
    tmp_size: int = 64
    log_rate: int = 1000
    timeout: int = 30
    idle_timeout: int = 30
    concurrency: int = 4
    network: str = "none"
    ports: Ports = field(default_factory=Ports)
    system_calls: tuple[str, ...] = ()
    config: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)


class PolicyBlock(NamedTuple):
    """A policy in YAML: the value behind KEYS, or all of TEXT. FILE is what the user calls it, for messages."""

    file: str
    text: str
    keys: tuple[str, ...] = ()


class PolicyFiles(NamedTuple):
    """A policy in the original's two files, by the names the user gives them; KILL as in boesfs-policy(5)."""

    model_file: str
    model: str
    policy_file: str
    policy: str
    kill: int | None = None


class PolicyProgram(NamedTuple):
    """A program of the administrator's own decides; FILE is where that is said, PROGRAM its name."""

    file: str
    program: str


PolicySource = PolicyBlock | PolicyFiles | PolicyProgram


@dataclass(frozen=True, slots=True)
class App:
    """A group of functions with a common configuration, a slice of their own, and rules that hold for them all."""

    id: str
    name: str
    config: dict[str, str]
    created_at: int
    updated_at: int
    policy: PolicySource | None = None

    @property
    def slice(self) -> str:
        """The systemd slice of all its instances."""
        return f"boesfs-{self.id}.slice"


@dataclass(frozen=True, slots=True)
class Function:
    """A deployed function. uid is its own; digest names its code; times are milliseconds since 1970."""

    id: str
    app: App
    name: str
    uid: int
    digest: str
    command: tuple[str, ...]
    settings: Settings
    created_at: int
    updated_at: int
    policy: PolicySource | None = None

    @property
    def program(self) -> str:
        """The administrator's program that decides about its files; "": there is a policy of rules."""
        policy = self.policy or self.app.policy
        return policy.program if isinstance(policy, PolicyProgram) else ""

    @property
    def label(self) -> str:
        """How people and journal identifiers name it."""
        return f"{self.app.name}/{self.name}"


class Owner(NamedTuple):
    """Whose rights a program has: numbers and name as the host knows them; GROUPS are those besides GID."""

    uid: int
    gid: int
    name: str
    groups: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Command:
    """A program that is somebody's, once, in a sandbox as functions have it. JUDGED is what policies know of it;
    DIRECTORIES of the host are there to be written; TIME in seconds, 0 for ever; KILL, if it is not None, comes before
    what its policy says of that; UMASK as umask(2); ROWS and COLUMNS are of its terminal; what is text may stand for
    any bytes (surrogateescape)."""

    judged: Function
    owner: Owner
    directories: tuple[str, ...]
    environment: dict[str, str]
    cwd: str
    terminal: bool = False
    reaper: bool = False
    time: int = 0
    kill: int | None = None
    umask: int = 0o022
    rows: int = 0
    columns: int = 0


Change = tuple[str, str, str]
"""One line of a change list: what was done (create, update, delete, start, stop), to what kind of thing, which."""

DENIAL = "b2f6f3d0c9a84f0f9d0f5c1e7a3b6d42"
"""MESSAGE_ID of what a policy denied, in the journal and its catalog."""
Json = dict[str, Any]


class Learn(NamedTuple):
    """What a table that denies nothing is given: a number that it tells things once for, and, in seconds since boot,
    until when."""

    number: int
    until: int
