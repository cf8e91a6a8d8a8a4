# SPDX-License-Identifier: Apache-2.0
"""What can be mounted upon what, with which options, and that nothing is left of mounts under load."""

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import re
import shutil
import stat
import time
from pathlib import Path

from alike import (
    AT_FDCWD,
    FSCONFIG,
    FSMOUNT,
    FSOPEN,
    MOVE_MOUNT,
    STRESSORS,
    USER,
    apart,
    bound,
    call,
    inodes,
    kernel_is_content,
    link_fd,
    mount_fails,
    ofd,
    soon,
)
from scene import LIBC, PACE, Scene, opened, refused, run, start


def test_mounts_that_make_no_sense_are_refused_with_a_sentence(s: Scene) -> None:
    s.policy()
    (s.lower / "file").touch()
    for said, words, source in (
        ("no policy", ["at=/"], s.lower),
        ("no policy", [], s.lower),
        ("no such program is attached", ["policy=other"], s.lower),
        ("nopolicy and a policy", ["policy=test", "nopolicy"], s.lower),
        ("no such program is attached", ["policy_id=1"], s.lower),
        ("has no such policy", ["policy=test", "policy_id=77"], s.lower),
        ("numbered from 1", ["policy=test", "policy_id=0"], s.lower),
        ("not a BPF link", ["policy_fd=0"], s.lower),
        ("not an absolute path", ["policy=test", "at=relative"], s.lower),
        ("are not allowed", ["policy=test", "at=/a/../b"], s.lower),
        ("are not allowed", ["policy=test", "at=/a/./b"], s.lower),
        ("are not allowed", ["policy=test", "at=/a//b"], s.lower),
        ("are not allowed", ["policy=test", "at=/a/"], s.lower),
        ("are not allowed", ["policy=test", "at=/.."], s.lower),
        ("nknown parameter", ["policy=test", "colour=red"], s.lower),
        ("", ["policy=test", "instance=many"], s.lower),
        ("cannot be stacked upon", ["policy=test"], "/proc"),
        ("cannot be stacked upon", ["policy=test"], "/sys"),
        ("cannot be stacked upon", ["policy=test"], "/proc/self/fdinfo"),
        ("cannot be stacked upon", ["policy=test"], "/sys/fs/bpf"),
        ("cannot be stacked upon", ["policy=test"], "/sys/fs/cgroup"),
        ("error 20", ["policy=test"], s.lower / "file"),
        ("error 2", ["policy=test"], s.lower / "none"),
    ):
        answer = mount_fails(*words, source=source, target=s.upper)
        assert said in answer, (words, source, answer)
        assert not answer.rstrip().endswith("system call failed:"), answer
    for words, number in (
        ("policy=test,at=/" + "x" * 256, errno.EINVAL),
        ("policy=test,at=/" + "x" * 255 + "/y" * 300, 0),  # longer than fsconfig(2) takes
    ):
        found = LIBC.mount(os.fsencode(s.lower), os.fsencode(s.upper), b"boesfs", 0, words.encode())
        assert (found and ctypes.get_errno()) == number, words[:30]
        if not number:
            (s.upper / "f").touch()
            run("umount", s.upper)
    assert "boesfs" not in Path("/proc/mounts").read_text()


def test_a_filesystem_that_compares_names_in_its_own_way_is_refused(s: Scene) -> None:
    """Two names that are one file to ext4 would have two labels."""
    s.policy()
    image, folding = s.home / "image", s.home / "folding"
    run("truncate", "-s", "16M", image)
    run("mkfs.ext4", "-q", "-O", "casefold", "-E", "encoding=utf8", image)
    folding.mkdir()
    run("modprobe", "loop", check=False)  # or built in
    run("mount", "-o", "loop", image, folding)
    s.mounts.append(folding)
    assert "names" in mount_fails("policy=test", source=folding, target=s.upper)


def test_a_mount_over_its_own_source_and_mounts_on_mounts(s: Scene) -> None:
    s.policy()
    (s.lower / "f").write_text("below")
    two = s.home / "two"
    s.mount(s.lower, s.lower)
    assert Path("/proc/mounts").read_text().count(f"{s.lower} {s.lower} boesfs") == 1
    (s.lower / "g").write_text("through")
    s.mount(s.lower, two)
    assert (two / "g").read_text() == "through"
    (two / "d").mkdir()
    (two / "f").rename(two / "d/f")
    assert (s.lower / "d/f").read_text() == "below"
    with opened(two / "d/f", os.O_RDWR) as fd:
        page = mmap.mmap(fd, 5)
        page[:5] = b"BELOW"
        maps = Path("/proc/self/maps").read_text()
        page.close()
        # newer kernels show the path that was opened; others that in the lower boesfs's mount of the source, which has
        # no place of its own
        assert f" {two}/d/f\n" in maps or " /d/f\n" in maps
        fcntl.lockf(fd, fcntl.LOCK_EX)
        with opened(s.lower / "d/f", os.O_RDWR) as below, refused(errno.EAGAIN):
            ofd(below, fcntl.F_WRLCK)
        os.lseek(fd, 0, os.SEEK_SET)
        reader, writer = os.pipe()
        assert os.splice(fd, writer, 5) == 5
        assert os.read(reader, 9) == b"BELOW"
        os.close(reader)
        os.close(writer)
    (two / "suid").touch()
    (two / "suid").chmod(0o6777)
    with opened(two / "suid", os.O_RDWR) as fd:
        apart(lambda: os.write(fd, b"x"))
    assert stat.S_IMODE((two / "suid").stat().st_mode) == 0o777
    (s.lower / "suid").chmod(0o6777)
    apart(lambda: os.truncate(two / "suid", 0))
    assert stat.S_IMODE((two / "suid").stat().st_mode) == 0o777
    with opened(two / "log", os.O_CREAT | os.O_RDWR | os.O_APPEND) as fd:
        os.write(fd, b"a")
        os.pwrite(fd, b"b", 0)
        assert (two / "log").read_bytes() == b"ab"
    with opened(two, os.O_TMPFILE | os.O_RDWR) as fd:
        os.write(fd, b"tmp")
        link_fd(fd, two / "tmp")
    assert (s.lower / "tmp").read_text() == "tmp"
    shutil.copy("/usr/bin/true", two / "true")
    run(two / "true")
    assert "as deep a stack" in mount_fails("policy=test", source=two, target=s.home / "three")
    kernel_is_content()


def test_options_are_shown_again(s: Scene) -> None:
    s.policy()

    def shown(target: Path) -> str:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        (line,) = [line for line in lines if line.split()[4] == str(target)]
        return line.split(" - ")[1]

    up = s.mount(policy="test", at="/srv/data", instance=2**64 - 1)
    assert shown(up) == f"boesfs {s.lower} rw,policy=test,at=/srv/data,instance=18446744073709551615"
    options = shown(up).split()[-1]
    s.umount()
    run("mount", "-i", "-t", "boesfs", "-o", options, s.lower, up)
    s.mounts.append(up)
    assert shown(up).split()[-1] == options
    run("mount", "-o", "remount,ro", up)
    assert shown(up).split()[-1] == options.replace("rw", "ro", 1)
    with refused(errno.EROFS):
        (up / "f").touch()
    (s.lower / "f").write_text("not read-only below")
    assert (up / "f").read_text() == "not read-only below"
    run("mount", "-o", "remount,rw", up)
    (up / "g").touch()
    with opened(up / "g", os.O_RDWR):
        assert "busy" in run("mount", "-o", "remount,ro", up, check=False).stderr
    s.umount()
    s.mount(nopolicy=True)
    assert shown(up) == f"boesfs {s.lower} rw,nopolicy,at=/"


def test_the_mount_calls_take_what_a_word_with_commas_cannot_say(s: Scene) -> None:
    s.policy()
    fs = call(FSOPEN, b"boesfs", 0)
    strings = ((b"source", os.fsencode(s.lower)), (b"policy", b"test"), (b"at", b"/with,comma and space/\\x"))
    for key, value in strings:
        call(FSCONFIG, fs, 1, key, value, 0)
    with refused(errno.EINVAL):
        call(FSCONFIG, fs, 1, b"source", b"/tmp", 0)
    log = os.read(fs, 4096)
    assert b"boesfs: more than one source" in log, log
    with refused(errno.EINVAL):
        call(FSCONFIG, fs, 1, b"at", b"no path", 0)
    assert b"not an absolute path" in os.read(fs, 4096)
    call(FSCONFIG, fs, 6, None, None, 0)
    mounted = call(FSMOUNT, fs, 0, 0)
    call(MOVE_MOUNT, mounted, b"", AT_FDCWD, os.fsencode(s.upper), 4)
    s.mounts.append(s.upper)
    os.close(mounted)
    os.close(fs)
    assert ",at=/with\\054comma\\040and\\040space/\\134x" in Path("/proc/self/mountinfo").read_text()
    (s.upper / "f").touch()
    assert (s.lower / "f").exists()
    fs = call(FSOPEN, b"boesfs", 0)
    call(FSCONFIG, fs, 1, b"policy", b"test", 0)
    with refused(errno.EINVAL):
        call(FSCONFIG, fs, 6, None, None, 0)
    assert b"boesfs: no source" in os.read(fs, 4096)
    os.close(fs)


def test_a_read_only_lower_mount_is_read_only(s: Scene) -> None:
    s.policy()
    (s.lower / "f").write_text("x")
    up = s.mount(bound(s, "ro"))
    for work in (
        lambda: (up / "f").write_text("y"),
        lambda: (up / "g").touch(),
        lambda: (up / "f").unlink(),
        lambda: (up / "f").chmod(0),
        lambda: os.utime(up / "f"),
        lambda: os.truncate(up / "f", 0),
        lambda: (up / "d").mkdir(),
        lambda: (up / "f").rename(up / "g"),
        lambda: os.link(up / "f", up / "g"),
        lambda: os.setxattr(up / "f", "user.a", b""),
        lambda: os.open(up, os.O_TMPFILE | os.O_RDWR),
    ):
        with refused(errno.EROFS):
            work()
    assert not os.access(up / "f", os.W_OK)
    assert (up / "f").read_text() == "x"
    assert os.statvfs(up).f_flag & os.ST_RDONLY
    assert run("mount", "-o", "remount,rw", up, check=False).returncode
    with refused(errno.EROFS):
        (up / "g").touch()


def test_a_lower_mount_without_programs_devices_and_set_id_bits_stays_so(s: Scene) -> None:
    s.policy()
    shutil.copy("/usr/bin/id", s.lower / "id")
    (s.lower / "id").chmod(0o6755)
    (s.lower / "script").write_text("#!/bin/sh\n")
    (s.lower / "script").chmod(0o755)
    (s.lower / "sgid").mkdir()
    os.chown(s.lower / "sgid", 0, 55)
    (s.lower / "sgid").chmod(0o2777)
    os.mknod(s.lower / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    lower = bound(s, "noexec,nosuid,nodev")
    up = s.mount(lower)
    for d in (lower, up):
        for name in ("id", "script"):
            with refused(errno.EACCES):
                run(d / name)
        with opened(d / "id", os.O_RDONLY) as fd, refused(errno.EPERM):
            mmap.mmap(fd, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)
        with refused(errno.EACCES):
            os.open(d / "null", os.O_RDWR)
    s.umount()
    run("mount", "-o", "remount,bind,exec,dev,nosuid", lower)
    up = s.mount(lower)
    for d in (lower, up):
        for _ in range(2):
            assert run(d / "id", "-u", user=USER, group=USER).stdout == f"{USER}\n"
            assert run(d / "id", "-g", user=USER, group=USER).stdout == f"{USER}\n"
            assert stat.S_IMODE((d / "id").stat().st_mode) == 0o6755, "shown all the same"
            (d / "id").chmod(0o6755)
        os.chown(d / "id", 0, 0)
        (d / "id").chmod(0o6755)
        assert run(d / "id", "-u", user=USER).stdout == f"{USER}\n"
        (d / "sgid" / d.name).touch()
        assert (d / "sgid" / d.name).stat().st_gid == 55
        with opened(d / "null", os.O_RDWR) as fd:
            os.write(fd, b"x")
    s.umount()
    run("mount", "-o", "remount,bind,suid", lower)
    up = s.mount(lower)
    assert run(up / "id", "-u", user=USER).stdout == "0\n"
    for flag in ("nosuid", "noexec"):
        run("mount", "-o", f"remount,bind,{flag}", up)
        done = run("sh", "-c", f"{up}/id -u", check=False, user=USER)
        assert done.stdout == (f"{USER}\n" if flag == "nosuid" else ""), flag


def test_nothing_is_left_after_many_mounts_under_load(s: Scene) -> None:
    """A hundred mounts come and go while files are made behind and through them; then the module can go."""
    policy = s.policy()
    (s.lower / "d").mkdir()
    for n in range(50):
        (s.lower / f"d/f{n}").write_text("x")
    stop = s.home / "stop"

    def load() -> None:
        n, took = 0, 0.0
        while not stop.exists():
            n += 1
            time.sleep(max(0.002, took))  # who umounts has to find it unused for a moment, however slow this kernel is
            begun = time.monotonic()
            with contextlib.suppress(OSError):
                path = s.upper / f"d/f{n % 60}"
                path.read_bytes()
                path.write_text("y")
                path.rename(s.upper / f"d/f{(n * 7) % 60}")
                (s.upper / f"d/n{n % 5}").touch()
                (s.upper / f"d/n{n % 5}").unlink()
                os.listdir(s.upper / "d")
            took = time.monotonic() - begun

    def load_below() -> None:
        n = 0
        while not stop.exists():
            n += 1
            time.sleep(0.002)
            with contextlib.suppress(OSError):
                (s.lower / f"d/f{n % 60}").write_text("z")
                (s.lower / f"d/f{(n * 11) % 60}").unlink()
                (s.lower / "d/sub").mkdir(exist_ok=True)
                (s.lower / "d/sub").rename(s.lower / f"sub{n % 3}")

    joins = [start(load), start(load_below)]
    for _ in range(100):
        s.mount()
        os.listdir(s.upper / "d")
        for n in range(0, 50, 10):
            (s.upper / f"d/f{n}").exists()
        s.mounts.remove(s.upper)
        soon(lambda: not run("umount", s.upper, check=False).returncode)
    stop.touch()
    for join in joins:
        join()
    policy.unload()
    s.policies.remove(policy)
    soon(lambda: inodes() == 0)
    soon(lambda: not run("rmmod", "boesfs", check=False).returncode)
    assert "boesfs" not in Path("/proc/filesystems").read_text()
    kernel_is_content()


def test_stress_upsets_nobody(s: Scene) -> None:
    """Whatever stress-ng knows about files, all at once over a mount; the kernel has nothing to say about it."""
    s.policy()
    up = s.mount()
    (up / "work").mkdir()
    known = run("stress-ng", "--stressors", check=False).stdout.split()
    impatient = {"inotify"} if PACE > 1 else set()  # an event has a second, beside fifty others
    names = [name for name in STRESSORS if name in known and name not in impatient]
    words = [word for name in names for word in (f"--{name}", "1")]
    assert len(words) > 100
    done = run("stress-ng", "--verify", "--temp-path", up / "work", "-t", "30", *words, check=False, cwd="/tmp")
    said = done.stdout + done.stderr
    s.values["stress"] = said[-6000:]
    kernel_is_content()
    assert "failed: 0" in said, said[-6000:]
    passed = [int(number) for number in re.findall(r"passed: (\d+)", said)]
    assert passed[0] > len(words) // 2 - 5, "few are skipped: " + said[-6000:]
    run("rm", "-rf", up / "work")
    assert os.listdir(s.lower) == []
