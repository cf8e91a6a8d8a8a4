# SPDX-License-Identifier: Apache-2.0
"""The product's own policy program in the guest: compiled policies, and real operations that the oracle judges too."""

import contextlib
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from scene import Scene, T, opened

sys.path.insert(0, str(T / "boesfsd.zip"))
import policies

from boesfsd import config, kernel
from boesfsd.model import Learn
from boesfsd.policy import compiler, image, operations, oracle
from boesfsd.policy.places import parse
from boesfsd.policy.rules import Origin, Policy, Rule, Verdict
from boesfsd.policy.table import Request

OBJECT = T / "boesfs_policy.bpf.o"
NAME, POLICY, INSTANCE = "boesfsd", 7, 99
DIRECTORIES, NAMES = policies.NAMES[:3], policies.NAMES
MISSING = b"c"
OPERATIONS_OF_A_POLICY = 60
EVERYTHING = Policy(operations.ALL, ())
Path_ = tuple[bytes, ...]
Asked = tuple[list[Request], Callable[[], object]]


def rule(effect: str, where: str, *names: str, **verdict: object) -> Rule:
    """A rule on a place."""
    mask = operations.mask(names) if names else operations.ALL
    return Rule(Verdict(effect == "allow", mask, **verdict), parse(where), Origin("test", 1, 1, ""))  # type: ignore[arg-type]


@contextlib.contextmanager
def loaded() -> Iterator["Tables"]:
    """The program, pinned meanwhile."""
    kernel.set_up(OBJECT)
    tables = Tables()
    try:
        yield tables
    finally:
        tables.close()


class Tables:
    """Two tables in turn, under one policy."""

    def __init__(self) -> None:
        self.kernel = kernel.Policies()
        self.used = 0

    def load(self, policy: Policy, number: int, *, kill: int = 0, learn: Learn | None = None) -> None:
        """Fill table NUMBER."""
        packed = image.pack(compiler.compile_policy(policy), kernel.NUMBERS)
        programs = [kernel.executable(Path(program)) for program in packed.programs]
        self.kernel.put(number, packed, policy=POLICY, kill=kill, learn=learn, programs=programs)

    def enforce(self, policy: Policy, **options: object) -> None:
        """From now on POLICY judges."""
        number = 2 if self.used == 1 else 1
        self.load(policy, number, **options)  # type: ignore[arg-type]
        self.kernel.replace(POLICY, number)
        if self.used:
            self.kernel.take_away(self.used)
        self.used = number

    def read(self) -> None:
        """All that the kernel has told."""
        while self.kernel.read():
            pass

    def close(self) -> None:
        """Let go of everything; there is no mount any longer."""
        with contextlib.suppress(Exception):
            self.kernel.forget(POLICY)
        for number in (1, 2):
            self.kernel.take_away(number)
        self.kernel.close()
        for pin in config.PINS.iterdir():
            pin.unlink()


def mount(s: Scene) -> Path:
    """Under the policy."""
    return s.mount(policy=NAME, policy_id=POLICY, instance=INSTANCE)


class Work:
    """Random operations on a small tree: what the kernel asks for each, and the operation itself."""

    def __init__(self, s: Scene, up: Path) -> None:
        self.lower, self.up = str(s.lower), str(up)
        self.files: list[Path_] = [(d, n) for d in DIRECTORIES for n in NAMES] + [(n,) for n in NAMES[3:]]
        os.umask(0)
        for directory in DIRECTORIES:
            os.mkdir(self.below((directory,)))
        for path in self.files:
            make(self.below(path))

    def below(self, path: Path_) -> str:
        """Where PATH is on the lower filesystem."""
        return "/".join((self.lower, *map(os.fsdecode, path)))

    def at(self, path: Path_) -> str:
        """Where PATH is on the mount."""
        return "/".join((self.up, *map(os.fsdecode, path)))

    def draw(self, source: policies.Random) -> tuple[str, list[Request], Callable[[], object], Callable[[], None]]:
        """An operation: its name, what is asked, the call, and what makes the tree as it was if it was made."""
        rng = source.rng
        path, new = rng.choice(self.files), (rng.choice(DIRECTORIES), MISSING)
        name = rng.choice(
            ("stat", "read", "write", "llseek", "fallocate", "chmod", "chown", "truncate", "setxattr", "mkdir",
             "symlink", "rename", "link", "unlink", "symlinked")
        )  # fmt: skip
        asked, call = getattr(self, f"_{name}")(rng, path, new)

        def mend() -> None:
            made = self.below(new)
            if os.path.isdir(made) and not os.path.islink(made):
                os.rmdir(made)
            elif os.path.lexists(made):
                os.unlink(made)
            if not os.path.exists(self.below(path)):
                make(self.below(path))

        return name, asked, call, mend

    @staticmethod
    def _walk(path: Path_) -> list[Request]:
        return [Request("lookup", path[:depth]) for depth in range(1, len(path) + 1)]

    def _with_open(self, path: Path_, flags: int, asked: Request, use: Callable[[int], object]) -> Asked:
        def call() -> None:
            with opened(self.at(path), flags) as fd:
                use(fd)

        return [*self._walk(path), Request("open", path, arguments={"flags": flags}), asked], call

    def _stat(self, _rng: random.Random, path: Path_, _new: Path_) -> Asked:
        return [*self._walk(path), Request("getattr", path)], lambda: os.stat(self.at(path))

    def _read(self, rng: random.Random, path: Path_, _new: Path_) -> Asked:
        length = rng.randrange(1, 5)
        asked = Request("read", path, arguments={"length": length, "offset": 0})
        return self._with_open(path, os.O_RDONLY, asked, lambda fd: os.read(fd, length))

    def _write(self, rng: random.Random, path: Path_, _new: Path_) -> Asked:
        length, offset = rng.randrange(1, 5), rng.randrange(3)
        asked = Request("write", path, arguments={"length": length, "offset": offset})
        return self._with_open(path, os.O_WRONLY, asked, lambda fd: os.pwrite(fd, b"x" * length, offset))

    def _llseek(self, rng: random.Random, path: Path_, _new: Path_) -> Asked:
        offset = rng.randrange(5)
        asked = Request("llseek", path, arguments={"offset": offset, "whence": 0})
        return self._with_open(path, os.O_RDONLY, asked, lambda fd: os.lseek(fd, offset, 0))

    def _fallocate(self, rng: random.Random, path: Path_, _new: Path_) -> Asked:
        length = rng.randrange(1, 5)
        asked = Request("fallocate", path, arguments={"mode": 0, "offset": 0, "length": length})
        return self._with_open(path, os.O_WRONLY, asked, lambda fd: os.posix_fallocate(fd, 0, length))

    def _chmod(self, rng: random.Random, path: Path_, _new: Path_) -> Asked:
        mode = rng.randrange(5)
        asked = [*self._walk(path), Request("chmod", path, arguments={"mode": mode})]
        return asked, lambda: os.chmod(self.at(path), mode)

    def _chown(self, rng: random.Random, path: Path_, _new: Path_) -> Asked:
        uid, gid = rng.choice(((rng.randrange(5), -1), (-1, rng.randrange(5)), (rng.randrange(5), rng.randrange(5))))
        arguments = {name: number for name, number in (("uid", uid), ("gid", gid)) if number >= 0}
        asked = [*self._walk(path), Request("chown", path, arguments=arguments)]
        return asked, lambda: os.chown(self.at(path), uid, gid)

    def _truncate(self, rng: random.Random, path: Path_, _new: Path_) -> Asked:
        size = rng.randrange(5)
        asked = [*self._walk(path), Request("truncate", path, arguments={"size": size})]
        return asked, lambda: os.truncate(self.at(path), size)

    def _setxattr(self, rng: random.Random, path: Path_, _new: Path_) -> Asked:
        name, size = f"user.{rng.choice(('a', 'b', 'ab', 'c'))}", rng.randrange(5)
        asked = Request("setxattr", path, (), {"size": size, "flags": 0}, {"attribute": name.encode()})
        return [*self._walk(path), asked], lambda: os.setxattr(self.at(path), name, b"x" * size)

    def _mkdir(self, rng: random.Random, _path: Path_, new: Path_) -> Asked:
        mode = rng.randrange(5)
        asked = [*self._walk(new[:-1]), Request("mkdir", new, arguments={"mode": mode})]
        return asked, lambda: os.mkdir(self.at(new), mode)

    def _symlink(self, rng: random.Random, _path: Path_, new: Path_) -> Asked:
        target = rng.choice(("a", "b", "ab", "zz"))
        asked = [*self._walk(new[:-1]), Request("symlink", new, texts={"target": target.encode()})]
        return asked, lambda: os.symlink(target, self.at(new))

    def _rename(self, _rng: random.Random, path: Path_, new: Path_) -> Asked:
        flags = {"flags": 0}
        asked = [Request("rename", path, new, flags), Request("rename-to", new, path, flags)]
        return [*self._walk(path), *self._walk(new[:-1]), *asked], lambda: os.rename(self.at(path), self.at(new))

    def _link(self, _rng: random.Random, path: Path_, new: Path_) -> Asked:
        asked = [Request("link", path, new), Request("link-to", new, path)]
        return [*self._walk(path), *self._walk(new[:-1]), *asked], lambda: os.link(self.at(path), self.at(new))

    def _unlink(self, _rng: random.Random, path: Path_, _new: Path_) -> Asked:
        return [*self._walk(path), Request("unlink", path)], lambda: os.unlink(self.at(path))

    def _symlinked(self, _rng: random.Random, path: Path_, new: Path_) -> Asked:
        """stat(2) by a symbolic link that is there already."""
        os.symlink(os.path.join("..", *map(os.fsdecode, path)), self.below(new))
        asked = [*self._walk(new), Request("readlink", new), *self._walk(path), Request("getattr", path)]
        return asked, lambda: os.stat(self.at(new))


def make(path: str) -> None:
    """An empty file."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))


def outcome(call: Callable[[], object]) -> bool | str:
    """Whether it was allowed; another error as text."""
    try:
        call()
    except PermissionError:
        return False
    except OSError as error:
        return str(error)
    return True


class Judge:
    """The oracle. It is slow: what is asked again and again (a name without arguments) it answers once."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.known: dict[tuple[str, Path_], bool] = {}

    def allows(self, request: Request) -> bool:
        """Its verdict."""
        if request.other or request.arguments or request.texts:
            return oracle.decide(self.policy, request)[0]
        key = request.operation, request.path
        if key not in self.known:
            self.known[key] = oracle.decide(self.policy, request)[0]
        return self.known[key]

    def allows_all(self, asked: Sequence[Request]) -> bool:
        """Of all that is asked."""
        return all(map(self.allows, asked))


def plain(policy: Policy) -> Policy:
    """Without thresholds: the test would end itself."""
    return replace(policy, rules=tuple(r._replace(verdict=r.verdict._replace(kill=0)) for r in policy.rules))


def told(policy: Policy, asked: Sequence[Request]) -> str:
    """A disagreement, for people."""
    verdicts = "\n".join(f"  {oracle.decide(policy, request)[0]} {request}" for request in asked)
    rules = "\n".join(f"  {rule.place} {rule.verdict}" for rule in policy.rules)
    return f"\ndefault {policy.default:#x}\n{rules}\nasked\n{verdicts}"


def agree(s: Scene, count: int, *, seed: int = 0, each: int = OPERATIONS_OF_A_POLICY) -> None:
    """COUNT operations, EACH under a random policy: the kernel allows what the oracle allows."""
    with loaded() as tables:
        tables.enforce(EVERYTHING)
        work = Work(s, mount(s))
        first, done, denied = seed, 0, 0
        while done < count:
            seed += 1
            source = policies.Random(seed)
            policy = plain(source.policy())
            judge = Judge(policy)
            tables.enforce(policy)
            for _ in range(each):
                name, asked, call, mend = work.draw(source)
                wanted, found = judge.allows_all(asked), outcome(call)
                if found != wanted:
                    smallest = shrunk(tables, policy, asked, call, mend)
                    raise AssertionError(f"seed {seed}, {name}: {found}, wanted {wanted}{told(smallest, asked)}")
                mend()
                done += 1
                denied += not wanted
        assert count // 20 < denied < count, denied
        s.values.update(operations=done, denied=denied, policies=seed - first)
        s.umount()


def shrunk(
    tables: Tables, policy: Policy, asked: Sequence[Request], call: Callable[[], object], mend: Callable[[], None]
) -> Policy:
    """POLICY without the rules that it takes not for kernel and oracle to disagree."""
    for one in policy.rules:
        fewer = replace(policy, rules=tuple(rule for rule in policy.rules if rule is not one))
        mend()
        tables.enforce(fewer)
        if outcome(call) != Judge(fewer).allows_all(asked):
            policy = fewer
    return policy


def agree_while_replaced(s: Scene, count: int, *, each: int = OPERATIONS_OF_A_POLICY) -> None:
    """COUNT operations, EACH while two policies take turns: what both say alike is what happens."""
    with loaded() as tables:
        tables.enforce(EVERYTHING)
        work = Work(s, mount(s))
        done = seed = 0
        while done < count:
            seed += 1
            source = policies.Random(-seed)
            both = plain(source.policy()), plain(source.policy())
            judges = [Judge(policy) for policy in both]
            tables.enforce(EVERYTHING)
            tables.load(both[0], 3)
            tables.load(both[1], 4)
            tables.kernel.replace(POLICY, 3)
            ended = threading.Event()
            turning = threading.Thread(target=turn, args=(tables, ended))
            turning.start()
            try:
                for _ in range(each):
                    name, asked, call, mend = work.draw(source)
                    said = [[judge.allows(request) for judge in judges] for request in asked]
                    found = outcome(call)
                    mend()
                    assert isinstance(found, bool), found
                    may = all(any(verdicts) for verdicts in said)
                    must = all(all(verdicts) for verdicts in said)
                    assert must <= found <= may, (
                        f"seed {-seed}, {name}: {found}{told(both[0], asked)}{told(both[1], asked)}"
                    )
                    done += 1
            finally:
                ended.set()
                turning.join()
        s.values.update(operations=done, policies=2 * seed)
        s.umount()
        tables.kernel.forget(POLICY)
        for number in (3, 4):
            tables.kernel.take_away(number)


def turn(tables: Tables, ended: threading.Event) -> None:
    """Let tables 3 and 4 take turns."""
    number = 3
    while not ended.is_set():
        number = 7 - number
        tables.kernel.replace(POLICY, number)
        time.sleep(0.0005)
