# SPDX-License-Identifier: Apache-2.0
"""What a policy means, written from the specification and slow: the judge of the compiled tables, in tests and in
`policy test`. It knows nothing of states; it looks at each rule, each time."""

from collections.abc import Sequence

from boesfsd.policy import operations
from boesfsd.policy.casbin import ACTIONS, LEFT_OPEN, Casbin, Row
from boesfsd.policy.places import DEPTH, Component, Glob, Place
from boesfsd.policy.rules import Number, Other, Policy, Program, Rule, Text, Uid
from boesfsd.policy.table import Request

# --- the common form


def matches(place: Place, path: Sequence[bytes]) -> bool:
    """Whether a path is at a place."""
    reached = {0}  # how many components of the path the place's components so far can be
    for component in place.components:
        if component is DEPTH:
            reached = set(range(min(reached), len(path) + 1)) if reached else reached
        else:
            reached = {at + 1 for at in reached if at < len(path) and _alike(component, path[at])}
    return len(path) in reached


def _alike(component: Component, name: bytes) -> bool:
    return _glob(component.parts, name) if isinstance(component, Glob) else name == component


def _glob(parts: tuple[bytes, ...], text: bytes) -> bool:
    """Whether TEXT is PARTS with anything between them."""
    first, *others = parts
    if not text.startswith(first):
        return False
    reached = {len(first)}  # how many bytes of the text the parts so far can be
    for part in others:
        begin = min(reached, default=len(text) + 1)
        reached = {at + len(part) for at in range(begin, len(text) + 1) if text[at : at + len(part)] == part}
    return len(text) in reached


def decide(policy: Policy, request: Request) -> tuple[bool, Rule | None]:
    """Whether it is allowed, and which rule says so; None is the default or a way that is open."""
    bit = operations.BIT[request.operation]
    here = [rule for rule in policy.rules if matches(rule.place, request.path)]
    ranked = sorted(here, key=lambda rule: (rule.place.rank, rule.verdict.rank), reverse=True)
    ways = [] if request.operation != "lookup" else [place for place in _ways(policy) if matches(place, request.path)]
    way = max((place.rank for place in ways), default=None)
    for position, rule in enumerate(ranked):
        rank = rule.place.rank
        if way and rank < way:
            return True, None
        if rule.verdict.operations & bit and all(holds(test, request) for test in rule.verdict.tests):
            return rule.verdict.allow, rule
        last = all(other.place.rank != rank for other in ranked[position + 1 :])
        if last and any(other.verdict.closes for other in here if other.place.rank == rank):
            return way == rank or bool(policy.default & bit), None
    return bool(way) or bool(policy.default & bit), None


def _ways(policy: Policy) -> list[Place]:
    """The places one walks over to those where something is allowed."""
    found = []
    for verdict, place, _ in policy.rules:
        if verdict.opens:
            names = place.components[: len(place.components) - place.covers]
            found += [Place(names[:depth]) for depth in range(len(names))]
    return found


def holds(test: object, request: Request) -> bool:
    """Whether a rule's test holds."""
    match test:
        case Number(argument, low, high, mask):
            value = request.arguments.get(argument, 0) % (1 << 64) & mask
            return argument in request.arguments and low <= (value if value < 1 << 63 else value - (1 << 64)) <= high
        case Text(argument, glob):
            return _glob(glob.parts, request.texts.get(argument, b""))
        case Other(place):
            return matches(place, request.other)
        case Program(path):
            return path in request.programs
        case Uid(low, high):
            return low <= request.uid <= high
    raise TypeError(test)


# --- the original, by the procedure of its specification


def decide_casbin(casbin: Casbin, subjects: frozenset[str], request: Request) -> bool:
    """Whether it is allowed, straight from the rows."""
    model = casbin.model
    roles = {role for program, role in casbin.roles if program in subjects}
    rows = [row for row in casbin.rows if not row.subject or row.subject in (roles if model.roles else subjects)]
    bit = operations.BIT[request.operation]
    miss = not model.whitelist or bool(LEFT_OPEN & bit)
    path = b"/" + b"/".join(request.path)
    governing = _governing(rows, path)
    if not governing:
        return miss
    named = [asked for row in governing for asked in _asked(row, casbin)]
    strict = [
        (action, arguments)
        for action, arguments in named
        if ACTIONS[action] & bit and any(value != "*" for value in arguments)
    ]
    if strict and not _equal(*strict[-1], request):
        return miss
    return model.whitelist if any(ACTIONS[action] & bit for action, _ in named) else miss


def _governing(rows: list[Row], path: bytes) -> list[Row]:
    """The rows of the file itself, else those of the deepest directory above it that has some."""
    if rows and not rows[0].path:
        return rows
    spelled = [(row, row.path.encode("utf-8", "surrogateescape").rstrip(b"/")) for row in rows]
    own = [row for row, written in spelled if not row.directory and written == path.rstrip(b"/")]
    if own:
        return own
    above = [
        (row, written) for row, written in spelled if row.directory and path.startswith(written + b"/") and path != b"/"
    ]
    deepest = max((len(written) for _, written in above), default=-1)
    return [row for row, written in above if len(written) == deepest]


def _asked(row: Row, casbin: Casbin) -> list[tuple[str, tuple[str, ...]]]:
    if casbin.model.action_roles:
        return [(action, arguments) for role, action, arguments in casbin.action_roles if role == row.action]
    if "act" not in casbin.model.columns:
        return [(operation, ()) for operation in operations.TABLE]
    return [(row.action, row.arguments)]


POSITIONS = {
    "read": ("length", "offset"),
    "write": ("length", "offset"),
    "open": ("flags",),
    "mkdir": ("mode",),
    "create": ("mode",),
    "mknod": ("mode", "device"),
    "link": ("other",),
    "link-to": ("other",),
    "rename": ("other", "flags"),
    "rename-to": ("other", "flags"),
    "symlink": ("target",),
    "chmod": ("mode",),
    "chown": ("uid", "gid"),
    "truncate": ("size",),
    "llseek": ("offset", "whence"),
    "mmap": ("start", "end"),
    "fsync": ("datasync",),
    "getxattr": ("attribute",),
    "setxattr": ("attribute", "size", "flags"),
    "removexattr": ("attribute",),
    "ioctl": ("command",),
    "fallocate": ("mode", "offset", "length"),
    "tmpfile": ("mode",),
    "lock": ("type", "start", "end"),
}
SETATTR = {"chmod": ("mode", "", ""), "chown": ("", "uid", "gid")}  # of (mode, uid, gid), what it changes


def _equal(action: str, arguments: tuple[str, ...], request: Request) -> bool:
    order = POSITIONS.get(request.operation, ())
    if action == "setattr":
        order = SETATTR.get(request.operation, ("", "", ""))
    for name, wanted in zip(order, arguments, strict=False):
        if wanted != "*" and not _is(name, wanted, request):
            return False
    return True


def _is(name: str, wanted: str, request: Request) -> bool:
    if name == "other":
        return wanted.encode("utf-8", "surrogateescape").rstrip(b"/") == (b"/" + b"/".join(request.other)).rstrip(b"/")
    if name in request.texts:
        return request.texts[name] == wanted.encode("utf-8", "surrogateescape")
    return name in request.arguments and (request.arguments[name] - int(wanted)) % (1 << 64) == 0
