# SPDX-License-Identifier: Apache-2.0
"""What operations cost on boesfs and its peers, in instructions of the guest. No tests: tests/bench/vm.py runs them."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from scene import BY_CHECK, BY_LABEL, Policy, Scene, bits, has_overlayfs, run

ROUNDS = 5
MEASURES = {"read4k": 1000, "write4k": 1000, "stat": 1000, "open-close": 1000, "create-unlink": 300,
            "mmap-fault": 20_000, "readdir": 100, "rename": 300, "fileserver": 40}  # fmt: skip
FIRST = 500
RULES = 1000
SETTLE = 0.5  # what an unmounting frees is freed later, and would be measured
IMPORTS = "import argparse, asyncio, email.message, http.client, json, logging, tempfile, urllib.request"
SOURCE, SMALLEST = "/usr/src/linux", "/usr/src/smallest"
WARM = "include arch/x86 kernel mm fs lib init block security scripts"
PROFILE = """
abi <abi/4.0>,
profile bench flags=(attach_disconnected) {{
  / r, /** r, /usr/** mrix, /t/** mrix, /scratch/** rwmlkix, /dev/** rw, /proc/** r,
  {rules}
}}
"""


def timed(s: Scene, measure: str, subject: str, *command: object) -> None:
    """A figure that a command prints."""
    figure = float(run(*command).stdout)
    s.values.setdefault(measure, {}).setdefault(subject, []).append(figure)


def judged(s: Scene) -> None:
    """Load a policy with a thousand rules, none of which is for what is measured."""
    policy = s.policy(advance=BY_LABEL | BY_CHECK)
    policy.do("many", 0, RULES)
    policy.rule("/never/there", deny=bits("open"))


def packing(place: Path | str, what: str = ".") -> list[object]:
    """tar at work, writing into a pipe: to /dev/null itself it would read nothing. What fails is no measure."""
    return ["sh", "-c", f"{{ tar -C {place} -cf - {what} || kill $$; }} | cat > /dev/null"]


class Subjects:
    """Directories with the same files, and words that a command is run by."""

    def __init__(self, s: Scene, prepare: Callable[[Path], None], *, copies: bool = True) -> None:
        self.directories: dict[str, Path] = {}
        self.words: dict[str, list[str]] = {}
        prepare(s.lower)
        judged(s)
        self._add("native", s.lower)
        run("mount", "--bind", s.lower, self._new(s, "bind"))
        s.mounts.append(self.directories["bind"])
        up, work, below = s.home / "ov-up", s.home / "ov-work", s.home / "ov-low"
        for path in (up, work, below):
            path.mkdir()
        if copies:  # of what is there, for overlayfs
            run("cp", "-a", f"{s.lower}/.", up)
        has_overlayfs()
        options = f"lowerdir={below},upperdir={up},workdir={work}"
        run("mount", "-t", "overlay", "overlay", "-o", options, self._new(s, "overlayfs"))
        s.mounts.append(self.directories["overlayfs"])
        self._add("apparmor", s.lower)
        rules = "\n".join(f"  deny /unused/u{number}/** w," for number in range(RULES))
        Path("/tmp/profile").write_text(PROFILE.format(rules=rules))
        if not Path("/sys/kernel/security/apparmor").exists():
            run("mount", "-t", "securityfs", "securityfs", "/sys/kernel/security")
        run("apparmor_parser", "-K", "-r", "/tmp/profile")
        self.words["apparmor"] = ["aa-exec", "-p", "bench", "--"]
        s.mount(s.lower, self._new(s, "boesfs-off"), nopolicy=True)
        s.mount(s.lower, self._new(s, "boesfs-policy"), policy="test")

    def _new(self, s: Scene, name: str) -> Path:
        path = s.home / name
        path.mkdir()
        self._add(name, path)
        return path

    def _add(self, name: str, path: Path) -> None:
        self.directories[name] = path
        self.words[name] = []


def operations(s: Scene) -> None:
    """Single operations on objects that are known."""
    subjects = Subjects(s, lambda lower: run("/t/fsbench", "-p", FIRST, lower) and None)
    for measure, count in MEASURES.items():
        for _ in range(ROUNDS):
            for name, path in subjects.directories.items():
                timed(s, measure, name, *subjects.words[name], "/t/fsbench", "-n", count, measure, path)
            timed(s, measure, "landlock", "/t/fsbench", "-l", "-n", count, measure, s.lower)


def new_objects(s: Scene) -> None:
    """The first stat of a name on a mount; the lower directory's own names are known."""
    run("/t/fsbench", "-p", FIRST, s.lower)
    policy = s.policy(advance=BY_LABEL | BY_CHECK)
    policy.do("many", 0, RULES)
    timed(s, "first-stat-warm", "native", "/t/fsbench", "-n", FIRST, "first-stat", s.lower)
    for _ in range(ROUNDS):
        time.sleep(SETTLE)
        timed(s, "first-stat", "native", "/t/fsbench", "-n", FIRST, "first-stat", s.lower)
        for name, options in (("boesfs-off", {"nopolicy": True}), ("boesfs-policy", {"policy": "test"})):
            s.mount(**options)
            time.sleep(SETTLE)
            timed(s, "first-stat", name, "/t/fsbench", "-1", "-n", FIRST, "first-stat", s.upper)
            s.umount()
    del s.values["first-stat-warm"]


def rules(s: Scene) -> None:
    """How cost grows with the number of rules: new objects, and known ones."""
    run("/t/fsbench", "-p", FIRST, s.lower)
    policies: dict[str, Policy] = {}
    for count in (10, 100_000):
        policies[f"rules-{count}"] = policy = s.policy(f"rules{count}", advance=BY_LABEL | BY_CHECK)
        policy.do("many", 0, count)
    for _ in range(ROUNDS):
        for name, policy in policies.items():
            s.mount(policy=policy.name)
            time.sleep(SETTLE)
            timed(s, f"{name}-new", "boesfs-policy", "/t/fsbench", "-1", "-n", FIRST, "first-stat", s.upper)
            timed(s, name, "boesfs-policy", "/t/fsbench", "-n", 1000, "open-close", s.upper)
            s.umount()


def programs(s: Scene) -> None:
    """Whole programs: (un)packing a part of the kernel's own tree, and Python with modules from the subject."""

    def prepare(lower: Path) -> None:
        shutil.copytree("/usr/lib/python3.13", lower / "python", symlinks=True)

    subjects = Subjects(s, prepare)
    for number in range(2 + 1):
        for name, path in subjects.directories.items():
            out = path / "out"
            out.mkdir()
            python = ["env", "PYTHONHASHSEED=0", f"PYTHONPATH={path}/python", "python3", "-S", "-c", IMPORTS]
            commands = {
                "untar": ["tar", "-C", out, "-xf", "/t/tree.tar"],
                "tar": packing(out),
                "python-imports": python,
            }
            for measure, command in commands.items():
                os.sync()
                words = [*subjects.words[name], "/t/fsbench", "-c", *command]
                if number:
                    timed(s, measure, name, *words)
                else:
                    run(*words)  # the first time is no measure
            shutil.rmtree(out)


def kernel_tree(s: Scene) -> None:
    """Linux's whole source, unpacked; then one tree of it packed, in memory and with nothing in memory: where on its
    disk a tree lies changes more than what is to be measured. In a guest that has it."""
    archive = s.home / "linux.tar"
    run("tar", "-C", SOURCE, "-cf", archive, ".")
    places = Subjects(s, lambda lower: None, copies=False).directories
    for name in ("warm", "boesfs-policy", "native"):  # the disk is used for the first time, which is no measure
        out = places.get(name, s.lower) / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        unpack: list[object] = ["tar", "-C", out, "-xf", archive]
        forget()
        if name == "warm":
            run(*unpack)
        else:
            timed(s, "untar-kernel", name, "/t/fsbench", "-c", *unpack)
    for measure, ready in (("tar-kernel", lambda pack: run(*pack)), ("tar-kernel-cold", lambda pack: forget())):
        for name in ("native", "boesfs-policy") * 2:
            pack = packing(places[name] / "out")
            ready(pack)
            timed(s, measure, name, "/t/fsbench", "-c", *pack)


def forget() -> None:
    """Nothing is in memory."""
    os.sync()
    for _ in range(2):  # what BoesFS lets go of lets go of what is below
        Path("/proc/sys/vm/drop_caches").write_text("3")
    time.sleep(SETTLE)  # the kernel frees it a while after


def build_kernel(s: Scene, name: str) -> None:
    """Linux's smallest configuration, all of it, in a guest that has its source and has it prepared."""
    run(*packing(SOURCE, WARM))  # using the disk first is no measure
    timed(s, "kernel-build", name, "/t/fsbench", "-c", "make", "-s", "-C", SOURCE, f"O={SMALLEST}", "vmlinux")
    assert Path(SMALLEST, "vmlinux").exists()


def kernel_build_native(s: Scene) -> None:
    """On ext4."""
    build_kernel(s, "native")


def kernel_build_policy(s: Scene) -> None:
    """On boesfs with its policy, over its own source, so that all paths are the same."""
    judged(s)
    s.mount(Path("/usr/src"), Path("/usr/src"), policy="test")
    build_kernel(s, "boesfs-policy")
