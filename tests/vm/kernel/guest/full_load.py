# SPDX-License-Identifier: Apache-2.0
"""The long tests: what make test-vm-full adds to the others. BOESFS_SCALE (of make soak) multiplies what they do."""

import contextlib
import filecmp
import hashlib
import mmap
import os
import random
import re
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from alike import STRESSORS, kernel_is_content
from scene import SCALE, Scene, T, opened, parallel, run
from test_generations import flip_under_load

FSX = """
[weights]
close_open = 2
invalidate = 2
read = 10
write = 10
mapread = 10
mapwrite = 10
truncate = 4
fsync = 1
fdatasync = 1
posix_fallocate = 2
punch_hole = 3
sendfile = 3
posix_fadvise = 1
copy_file_range = 3
"""
FSX_RUNS, FSX_OPS = 8, 4000
NAMES = ("a", "b", "c/a", "c/b", "c/d/a", "c/d/b", "e", "e/a")
STEPS, LOOKS = 4000, 8
FLIPS = 10_000
NOT_HERE = {"fiemap", "verity"}  # skipped over a mount alone: see "How it differs" in docs/boesfs.md
FEW = 5  # stressors that are skipped


def drop_caches() -> None:
    """What is read next comes from the disk."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def content(file: Path) -> bytes | None:
    """All of it, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        return file.read_bytes()
    return None


def test_fsx_finds_no_difference_and_the_lower_file_has_the_same_bytes(s: Scene) -> None:
    """fsx knows what the file has to be; each run has a seed of its own, and two run at a time. While it works, what is
    read below twice without a change is what is read on the mount in between."""
    s.policy()
    up = s.mount()
    config = s.home / "fsx.toml"
    config.write_text(FSX)

    def one(seed: int) -> None:
        name, same = f"fsx{seed}", 0
        words = [T / "fsx", "-N", FSX_OPS * SCALE, "-S", seed, "-f", config, up / name]
        with (s.home / f"{name}.log").open("w+b") as log:
            with subprocess.Popen([str(word) for word in words], stdout=log, stderr=log) as fsx:
                while fsx.poll() is None:
                    before, here, after = (content(top / name) for top in (s.lower, up, s.lower))
                    if before == after and before:
                        assert here == before
                        same += 1
            log.seek(0)
            assert not fsx.returncode, log.read()[-4000:]
        assert same > 3, "there was no time to compare"
        assert filecmp.cmp(up / name, s.lower / name, shallow=False)
        before = hashlib.sha256((up / name).read_bytes()).digest()
        drop_caches()
        assert hashlib.sha256((s.lower / name).read_bytes()).digest() == before

    for seed in range(0, FSX_RUNS, 2):
        parallel([lambda seed=seed: one(seed), lambda seed=seed: one(seed + 1)])
    assert sorted(os.listdir(s.lower)) == sorted(f"fsx{seed}" for seed in range(FSX_RUNS))


def step(rng: random.Random, top: Path) -> str:
    """One operation below TOP, and what came of it. What is chosen does not depend on what is there."""
    path, other = top / rng.choice(NAMES), top / rng.choice(NAMES)
    size, offset, mode = rng.randrange(1, 9000), rng.randrange(20000), rng.choice((0o600, 0o644, 0o755, 0o400))
    data = rng.randbytes(size)

    def write(flags: int = 0) -> None:
        with opened(path, os.O_RDWR | os.O_CREAT | flags) as fd:
            os.pwrite(fd, data, offset)

    def map_write() -> None:
        with opened(path, os.O_RDWR) as fd:
            length = os.fstat(fd).st_size
            if length:
                with mmap.mmap(fd, length) as mapping:
                    mapping[: min(length, size)] = data[: min(length, size)]

    def copy() -> None:  # a FIFO in one of the places must not make it wait
        flags = os.O_NONBLOCK
        with opened(path, flags) as source, opened(other, flags | os.O_WRONLY | os.O_CREAT) as target:
            os.copy_file_range(source, target, size, 0, offset)

    def fallocate() -> None:
        with opened(path, os.O_RDWR) as fd:
            os.posix_fallocate(fd, offset, size)

    acts: list[Callable[[], object]] = [
        write,
        write,
        lambda: write(os.O_APPEND),
        lambda: write(os.O_TRUNC),
        lambda: write(os.O_EXCL),
        map_write,
        copy,
        fallocate,
        lambda: path.mkdir(mode),
        lambda: os.rename(path, other),
        lambda: os.rename(path, other),
        lambda: os.link(path, other, follow_symlinks=False),
        lambda: os.symlink(data.hex()[:40], path),
        path.unlink,
        path.unlink,
        path.rmdir,
        lambda: os.truncate(path, offset),
        lambda: path.chmod(mode),
        lambda: os.chown(path, offset, size, follow_symlinks=False),
        lambda: os.setxattr(path, f"user.{offset % 3}", data[:100], follow_symlinks=False),
        lambda: os.removexattr(path, f"user.{offset % 3}", follow_symlinks=False),
        lambda: os.mkfifo(path),
    ]
    act = rng.choice(acts)
    try:
        act()
    except OSError as error:
        return f"{error.errno}"
    return "done"


def inventory(top: Path) -> Iterator[tuple[object, ...]]:
    """Everything below TOP with its attributes and content."""
    for directory, directories, files in os.walk(top):
        directories.sort()
        for name in sorted([*directories, *files]):
            path = Path(directory, name)
            found = path.lstat()
            links = 0 if stat.S_ISDIR(found.st_mode) else found.st_nlink
            content = b""
            if stat.S_ISREG(found.st_mode):
                content = path.read_bytes()
            elif stat.S_ISLNK(found.st_mode):
                content = os.fsencode(os.readlink(path))
            names = sorted(os.listxattr(path, follow_symlinks=False))
            attributes = [(name, os.getxattr(path, name, follow_symlinks=False)) for name in names]
            yield (
                *(str(path.relative_to(top)), found.st_mode, found.st_uid, found.st_gid, links, len(content)),
                *(hashlib.sha256(content).hexdigest(), attributes),
            )


def test_random_work_on_trees_is_byte_by_byte_that_of_the_lower_filesystem(s: Scene) -> None:
    """The same steps are taken on ext4 itself and through the mount, by several at once: same outcomes, same trees."""
    s.policy()
    up = s.mount()

    def one(number: int) -> None:
        twin, mine, below = s.home / f"twin{number}", up / f"w{number}", s.lower / f"w{number}"
        twin.mkdir()
        mine.mkdir()
        rngs = random.Random(number), random.Random(number)
        for look in range(LOOKS * SCALE):
            for turn in range(STEPS // LOOKS):
                there, here = step(rngs[0], twin), step(rngs[1], mine)
                assert there == here, f"worker {number}, step {look}/{turn}: {there} on ext4, {here} on boesfs"
            wanted = list(inventory(twin))
            assert list(inventory(mine)) == wanted
            assert list(inventory(below)) == wanted
        drop_caches()
        assert list(inventory(below)) == wanted
        assert list(inventory(mine)) == wanted
        assert any(entry[5] for entry in wanted), "all is empty: nothing was shown"

    parallel([lambda number=number: one(number) for number in range(4)])
    kernel_is_content()


def skipped(said: str) -> set[str]:
    """The stressors that stress-ng says it has skipped: `skipped: 2: chattr (1) swap (1)`."""
    return {
        name for names in re.findall(r"skipped: [1-9]\d*: (.*)", said) for name in re.findall(r"([\w-]+) \(", names)
    }


def stress(name: str, seconds: int, place: Path) -> str:
    """What stress-ng says after one of its stressors has worked below PLACE."""
    (place / "work").mkdir()
    words = (f"--{name}", 2, "--verify", "-t", seconds, "--temp-path", place / "work")
    done = run("stress-ng", *words, check=False, cwd="/tmp")
    run("rm", "-rf", place / "work")
    return done.stdout + done.stderr


def each_is_stressed(s: Scene, names: set[str]) -> None:
    """None fails over a mount, and none is skipped there that works on ext4 itself, but for those that are known."""
    s.policy()
    up = s.mount()
    faults, here, there = [], set(), set()
    for name in sorted(names):
        said = stress(name, 4 * SCALE, up)
        if "failed: 0" not in said:
            faults.append(said[-1500:])
        here |= skipped(said)
        there |= skipped(stress(name, 1, s.lower))
    assert not faults, "\n".join(faults)
    wanted = there | NOT_HERE & names
    assert here == wanted, f"skipped over the mount: {sorted(here)}, on ext4: {sorted(there)}"
    assert len(here) <= FEW, sorted(here)
    assert os.listdir(s.lower) == []
    kernel_is_content()


def test_each_stressor_of_the_filesystem_class_verifies_what_it_does(s: Scene) -> None:
    """stress-ng's class filesystem, each of its members by itself."""
    known = run("stress-ng", "--class", "filesystem?", check=False)
    names = (known.stdout + known.stderr).partition(":")[2].split()
    left_out = {"bind-mount", "binderfs", "ramfs", "swap", "mount"}  # these make filesystems of their own
    assert len(set(names) & set(STRESSORS)) > 20, names
    each_is_stressed(s, set(names) - left_out)


def test_ten_thousand_replacements_under_load_mix_no_policies(s: Scene) -> None:
    flip_under_load(s, FLIPS * SCALE)
