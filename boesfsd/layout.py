# SPDX-License-Identifier: Apache-2.0
"""What a function's sandbox is made of, piece by piece, and what its policy has to know of that."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from boesfsd.errors import BoesError
from boesfsd.model import Command, Function, Owner, PolicyFiles
from boesfsd.policy import casbin, operations, places
from boesfsd.policy.landlock import Confined, Look, Tree
from boesfsd.policy.rules import PLATFORM, Origin, Part, Rule, Verdict
from boesfsd.policy.sources import Sandbox, called
from boesfsd.runtimes import Runtime

CODE = "/function"
LISTENER = "/run/fn"
PROC = "/proc"
TMP = "/tmp"  # noqa: S108 (a path inside the sandbox, as the next)
SHM = "/dev/shm"  # noqa: S108
DEVICES = ("null", "zero", "full", "random", "urandom")
DEVICE_LINKS = {
    "/dev/fd": "/proc/self/fd",
    "/dev/stdin": "/proc/self/fd/0",
    "/dev/stdout": "/proc/self/fd/1",
    "/dev/stderr": "/proc/self/fd/2",
}
PTS = "/dev/pts"
TERMINAL_LINKS = {"/dev/ptmx": "pts/ptmx"}
OURS = (PROC, "/dev", "/sys", "/run")
"""Where no directory of a command can be."""
LOADER_CACHE = "/etc/ld.so.cache"
OF_COMMANDS = (
    *("/etc/localtime", "/etc/os-release", "/etc/services", "/etc/protocols", "/etc/mime.types"),
    "/etc/ssl/openssl.cnf",
)
HOSTS = "/etc/hosts"
VARIABLES = {"CODE": CODE, "TMP": TMP, "HOME": TMP}
"""What ${NAME} stands for in policies, as long as a function does not say otherwise."""
CERTIFICATES = ("/etc/ssl/certs",)
OPTIONAL = (LOADER_CACHE, *OF_COMMANDS, HOSTS, *CERTIFICATES)
ORIGIN = Origin("what every sandbox has", 0, 0, "")


@dataclass(frozen=True, slots=True)
class Host:
    """What a sandbox depends on besides the function: settings of boesfsd.conf and facts of this machine."""

    init_timeout: int
    landlock: str
    resolver: str
    """Path of a resolv.conf that is usable from inside, "" without one."""
    files: frozenset[str]
    """Which of the optional sources (ld.so.cache, certificates …) exist here."""
    enforcement: str = "landlock"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where it has what. TREES and COPIES: directories and files of the host, by their place inside; LINKS: their
    targets; TEXTS: files of its own; HIDDEN: directories of the host that are empty inside.

    Where a policy is kept without BoesFS (confined): FILES of the host, directories that are MADE, places of ours that
    are CLOSED, empty and read-only, and Landlock's RIGHTS by path; None: those of all sandboxes.

    Of a command: those of TREES that were HANDED over, to be written, with their descriptors' names, but UNWRITTEN ones
    that a policy kept without BoesFS has nobody write; it has TERMINALS of its own instead of an FDK's socket."""

    trees: dict[str, str]
    copies: dict[str, str]
    links: dict[str, str]
    texts: dict[str, str]
    hidden: tuple[str, ...]
    files: dict[str, str] = field(default_factory=dict)
    made: tuple[str, ...] = ()
    closed: tuple[str, ...] = ()
    rights: dict[str, str] | None = None
    handed: dict[str, str] = field(default_factory=dict)
    unwritten: tuple[str, ...] = ()
    terminals: bool = False

    @property
    def mounts(self) -> list[str]:
        """Where something is mounted."""
        devices = (f"/dev/{name}" for name in self.devices)
        return [*self.trees, *self.hidden, *devices, SHM, TMP, PROC, PTS if self.terminals else LISTENER]

    @property
    def devices(self) -> tuple[str, ...]:
        """Names in /dev."""
        return (*DEVICES, "tty") if self.terminals else DEVICES

    @property
    def directories(self) -> list[str]:
        """What has to be there for all this, each with its parents before it. What a tree has is not among them."""
        files = (str(PurePosixPath(path).parent) for path in (*self.files, *self.links))
        own = (PTS,) if self.terminals else (LISTENER, CODE)
        return _with_parents([*self.trees, *self.made, *files, "/etc", TMP, PROC, SHM, *own])


def layout(function: Function, runtime: Runtime, code: Path, host: Host) -> Layout:
    """The sandbox of FUNCTION, whose code is at CODE."""
    trees = {**runtime.binds, CODE: str(code)}
    copies = {LOADER_CACHE: LOADER_CACHE} if LOADER_CACHE in host.files else {}
    if function.settings.network != "none":
        trees.update({path: path for path in CERTIFICATES if path in host.files})
        if host.resolver:
            copies["/etc/resolv.conf"] = host.resolver
    hidden = tuple(path for path in runtime.hide if path in host.files)
    owner = Owner(function.uid, function.uid, "function")
    return Layout(trees, copies, {**runtime.links, **DEVICE_LINKS}, _etc(owner, TMP), hidden)


def of_command(command: Command, runtime: Runtime, host: Host) -> Layout:
    """The sandbox of COMMAND. RUNTIME says what is in it besides its directories, which come before all else."""
    directories = sorted(command.directories, key=lambda path: (path.count("/"), path))

    def apart(path: str) -> bool:
        return not tree_at(directories, path)

    trees = {path: source for path, source in runtime.binds.items() if apart(path)}
    copies = {path: path for path in (LOADER_CACHE, *OF_COMMANDS) if path in host.files and apart(path)}
    texts = _etc(command.owner, command.environment.get("HOME", TMP))
    if command.judged.settings.network != "none":
        if host.resolver and apart("/etc/resolv.conf"):
            copies["/etc/resolv.conf"] = host.resolver
        if HOSTS in host.files and apart(HOSTS):
            copies[HOSTS] = HOSTS
            del texts[HOSTS]
    links = {**runtime.links, **DEVICE_LINKS, **TERMINAL_LINKS}
    return Layout(
        trees=trees | {path: path for path in directories},
        copies=copies,
        links={path: target for path, target in links.items() if apart(path)},
        texts={path: text for path, text in texts.items() if apart(path)},
        hidden=(),
        handed={path: f"directory{index}" for index, path in enumerate(directories)},
        terminals=True,
    )


def confined(made: Layout, kept: Confined) -> Layout:
    """What of MADE is there for a policy that is kept without BoesFS. InvalidPolicy: a name cannot be told to the
    agent."""

    def source(path: str) -> str:
        target = tree_at(made.trees, path)
        return made.trees[target] + path.removeprefix(target)

    pieces = {_path(path): whole for path, whole in kept.pieces.items()}
    seen = {_path(path) for path in kept.files}
    return Layout(
        trees={path: source(path) for path, whole in pieces.items() if whole},
        copies={path: text for path, text in made.copies.items() if path in seen},
        links={_path(path): _text(target) for path, target in kept.links.items()},
        texts={path: text for path, text in made.texts.items() if path in seen},
        hidden=tuple(
            path for path in made.hidden if any(f"{path}/".startswith(f"{piece}/") for piece in pieces if pieces[piece])
        ),
        files={path: source(path) for path, whole in pieces.items() if not whole},
        made=tuple(map(_path, kept.made)),
        closed=tuple(path for path in (SHM, TMP) if places.split(path.encode()) not in kept.free),
        rights={_path(path): rights for path, rights in kept.rights.items()},
        handed={path: name for path, name in made.handed.items() if pieces.get(path)},
        unwritten=tuple(path for path in made.handed if places.split(path.encode()) not in kept.written),
        terminals=made.terminals,
    )


def tree_at(trees: Iterable[str], path: str) -> str:
    """Of the places of TREES that which PATH is at or below; "": none."""
    return max((tree for tree in trees if f"{path}/".startswith(f"{tree}/")), key=len, default="")


def distinct(made: Layout) -> Layout:
    """MADE with each directory of the host in one place: Landlock's rights are a directory's, wherever it is seen."""
    twice = {
        outer + inside[len(around) :]
        for outer, around in made.trees.items()
        for inner, inside in made.trees.items()
        if inner != outer
        and f"{inside}/".startswith(f"{around}/")
        and inner != outer + inside[len(around) :]  # else it is there again, and over it
    }
    more = sorted(path for path in twice if not tree_at(made.hidden, path))
    return dataclasses.replace(made, hidden=(*made.hidden, *more))


def tree(made: Layout, look: Look) -> Tree:
    """What a policy chooses from."""
    trees, free, files, written = (
        tuple(places.split(path.encode()) for path in paths)
        for paths in (
            [path for path in made.trees if path not in made.handed],
            [path for path in (SHM, TMP) if path not in made.handed],
            (*made.texts, *made.copies),
            made.handed,
        )
    )
    links = {places.split(path.encode()): target.encode() for path, target in made.links.items()}
    return Tree(look, trees, free, files, links, (places.split(CODE.encode()),), written)


def _path(path: tuple[bytes, ...]) -> str:
    return _text(b"/" + b"/".join(path))


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError as error:
        problem = f"{name.decode(errors='backslashreplace')}: this name is not UTF-8"
        raise BoesError("InvalidPolicy", problem, hint="rename it, or do not tell it apart from others") from error


FILES = ("/etc/passwd", "/etc/group", "/etc/hosts", "/etc/nsswitch.conf")


def _etc(owner: Owner, home: str) -> dict[str, str]:
    user = f"{owner.name}:x:{owner.uid}:{owner.gid}::{home}:/bin/sh\n"
    group = f"{owner.name}:x:{owner.gid}:\n"
    texts = (
        user if not owner.uid else f"root:x:0:0::/:/bin/false\n{user}",
        group if not owner.gid else f"root:x:0:\n{group}",
        "127.0.0.1 localhost\n::1 localhost\n",
        "passwd: files\ngroup: files\nhosts: files dns\n",
    )
    return dict(zip(FILES, texts, strict=True))


def _with_parents(paths: list[str]) -> list[str]:
    made: dict[str, None] = {}
    for path in map(PurePosixPath, paths):
        made.update(dict.fromkeys(str(part) for part in [*reversed(path.parents), path] if str(part) != "/"))
    return list(made)


def sandbox(function: Function, runtime: Runtime, made: Layout) -> Sandbox:
    """What the function's policy is read for. To where something is mounted, and over its links, everybody may walk:
    else the sandbox could not be made. The loader's cache is for each program that is started; and what is missing in
    /etc, which is the sandbox's own, is no secret: all runtimes look for files there that may be missing."""
    settings = function.settings
    variables = {**runtime.environment, **settings.environment, **function.app.config, **settings.config}
    program = (function.command or runtime.command)[0]
    return _read_for(made, {**VARIABLES, "HOME": variables.get("HOME", TMP)}, program)


def sandbox_of_command(command: Command, made: Layout) -> Sandbox:
    """As sandbox. Policies in the original's files say what may be done in its directories alone, as they always did;
    of all else they need not say that it can be read, nor that there is a /tmp."""
    code = command.directories[0] if command.directories else TMP
    variables = {"CODE": code, "TMP": TMP, "HOME": command.environment.get("HOME", TMP)}
    policy = command.judged.policy
    rules = _elsewhere(made, policy) if isinstance(policy, PolicyFiles) else []
    return _read_for(made, variables, command.judged.command[0], rules)._replace(kill=command.kill)


def _elsewhere(made: Layout, policy: PolicyFiles) -> list[Rule]:
    seen = 0
    for name in ("read", "list", "exec"):
        seen |= operations.GROUPS[name].does | operations.GROUPS[name].needs
    read, free, closed = (
        Verdict(allow=allow, operations=mask, layer=PLATFORM)
        for allow, mask in ((True, seen), (True, operations.ALL), (False, operations.ALL))
    )
    paths = ("/", *made.directories, *made.texts, *made.copies)
    rules = [Rule(read, places.literal(path), ORIGIN) for path in paths if not tree_at(made.handed, path)]
    rules += [Rule(read, _whole(path), ORIGIN) for path in made.trees if path not in made.handed]
    rules += [Rule(free, _whole(path), ORIGIN) for path in (SHM, TMP) if path not in made.handed]
    if casbin.parse_model(policy.model, policy.model_file).whitelist:
        rules += [Rule(closed, _whole(path), ORIGIN) for path in made.handed]
    return rules


def _whole(path: str) -> places.Place:
    return places.Place((*places.literal(path).components, places.DEPTH))


def _read_for(made: Layout, variables: dict[str, str], program: str, more: Iterable[Rule] = ()) -> Sandbox:
    ways = _with_parents([*made.mounts, "/etc"])
    walk = Verdict(allow=True, operations=operations.mask(("lookup",)), layer=PLATFORM)
    follow = walk._replace(operations=operations.mask(("lookup", "readlink", "getattr")))
    use = walk._replace(operations=operations.GROUPS["read"].does | operations.GROUPS["read"].needs)
    probe = walk._replace(operations=operations.mask(("probe",)))
    paths = [*((walk, way) for way in ways), *((follow, link) for link in made.links), (use, LOADER_CACHE)]
    rules = [Rule(verdict, places.literal(path), ORIGIN) for verdict, path in paths]
    rules.append(Rule(probe, places.parse("/etc/*"), ORIGIN))
    return Sandbox(
        variables,
        called(program),
        (*made.mounts, *made.copies, *made.texts, *made.links),
        Part(rules=(*rules, *more)),
        tuple(ways),
    )
