# SPDX-License-Identifier: Apache-2.0
"""What operations cost on boesfs and its peers, in instructions of the guest. Not tests: bench_vm.py runs them."""

from pathlib import Path

from scene import Scene, bits, run

MEASURES = ("read4k", "write4k", "stat", "open-close", "create-unlink", "mmap-fault", "readdir", "rename")


def operations(s: Scene) -> None:
    """All subjects over one prepared directory of ext4; overlayfs has its upper directory there too."""
    run("/t/fsbench", "-n", 0, "-p", s.lower)
    policy = s.policy()
    policy.do("many", 0, 1000)
    policy.rule("/d1/d2/secret", deny=bits("open"))
    subjects = {"native": s.lower}
    for name in ("bind", "overlayfs", "boesfs-off", "boesfs-policy"):
        subjects[name] = s.home / name
        subjects[name].mkdir()
    run("mount", "--bind", s.lower, subjects["bind"])
    s.mounts.append(subjects["bind"])
    up, work, below = s.home / "ov-up", s.home / "ov-work", s.home / "ov-low"
    for path in (up, work, below):
        path.mkdir()
    run("cp", "-a", f"{s.lower}/.", up)
    run("modprobe", "overlay")
    run("mount", "-t", "overlay", "ov", "-o", f"lowerdir={below},upperdir={up},workdir={work}", subjects["overlayfs"])
    s.mounts.append(subjects["overlayfs"])
    s.mount(s.lower, subjects["boesfs-off"], nopolicy=True)
    s.mount(s.lower, subjects["boesfs-policy"], policy="test")
    words = [f"{name}={path}" for name, path in subjects.items()]
    for measure in MEASURES:
        count = 200 if measure == "readdir" else 1000
        done = run("/t/fsbench", "-r", 5, "-n", count, measure, "--", *words)
        for line in done.stdout.splitlines():
            what, subject, value = line.split()
            s.values.setdefault(what, {}).setdefault(subject, []).append(float(value))
    Path("/dev/kmsg").write_text("measured\n")
