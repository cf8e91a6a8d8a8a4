# SPDX-License-Identifier: Apache-2.0
"""What the product's policy program decides, tells and counts; replaced, upgraded and taken away."""

import ctypes
import errno
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from asking import call
from compiled import (
    EVERYTHING,
    INSTANCE,
    NAME,
    OBJECT,
    POLICY,
    Tables,
    agree,
    agree_while_replaced,
    kernel,
    loaded,
    mount,
    operations,
    rule,
)
from scene import LIBC, SCALE, Scene, opened, refused

from boesfsd.errors import BoesError
from boesfsd.model import Learn
from boesfsd.policy import image
from boesfsd.policy.compiler import compile_policy
from boesfsd.policy.places import Glob, parse
from boesfsd.policy.rules import Number, Other, Policy, Program, Text

OPERATIONS = 10_000
WHILE_REPLACED = 2_000
EXCHANGES = 3
FLOOD, RECORDS_PER_S = 5000, 1000  # the second is the program's
BLACK = operations.ALL
MANY, SPARE, PATIENCE = 1000, 5, 30
BPF, MAP_GET_NEXT_ID = 321, 12


def test_kernel_and_oracle_agree_on_random_policies(s: Scene) -> None:
    agree(s, OPERATIONS * SCALE)


def test_kernel_and_oracle_agree_while_policies_take_turns(s: Scene) -> None:
    agree_while_replaced(s, WHILE_REPLACED * SCALE)


def test_a_policy_is_replaced_for_open_descriptors_too(s: Scene) -> None:
    (s.lower / "file").write_text("0123456789")
    with loaded() as tables:
        tables.enforce(EVERYTHING)
        up = mount(s)
        with opened(up / "file", os.O_RDWR) as fd:
            for allowed in (True, False, True):
                tables.enforce(Policy(BLACK, () if allowed else (rule("deny", "/file", "read"),)))
                if allowed:
                    assert os.pread(fd, 4, 0) == b"0123"
                else:
                    with refused():
                        os.pread(fd, 4, 0)
                os.pwrite(fd, b"x", 9)
        s.umount()


def test_what_is_denied_is_told_with_path_rule_caller_and_count(s: Scene) -> None:
    (s.lower / "d").mkdir()
    for name in ("a", "b"):
        (s.lower / "d" / name).touch()
    heard: list[kernel.Record] = []
    with loaded() as tables:
        rules = (
            rule("deny", "/d/a", "chmod", tests=(Number("mode", 1, 1 << 62, 0o6000),)),
            rule("deny", "/d/a", "link", tests=(Other(parse("/d/new")),)),
            rule("deny", "/d/*", "setxattr", tests=(Text("attribute", Glob((b"user.", b""))),)),
            rule("allow", "/d/b", "getattr", audit=True),
            rule("deny", "/d/b", "unlink"),
        )
        tables.enforce(Policy(BLACK, rules))
        tables.kernel.listen(heard.append)
        up = mount(s)
        for call in (
            lambda: (up / "d/a").chmod(0o4755),
            lambda: os.link(up / "d/a", up / "d/new"),
            lambda: os.setxattr(up / "d/a", "user.x", b""),
            lambda: (up / "d/b").unlink(),
        ):
            with refused():
                call()
        (up / "d/b").stat()
        tables.read()
        said = [(r.path, r.other, r.string, r.fields["verdict"], r.fields["denials"]) for r in heard]
        assert said == [
            (b"/d/a", b"", b"", -errno.EPERM, 1),
            (b"/d/a", b"/d/new", b"", -errno.EPERM, 2),
            (b"/d/a", b"", b"user.x", -errno.EPERM, 3),
            (b"/d/b", b"", b"", -errno.EPERM, 4),
            (b"/d/b", b"", b"", 0, 0),
        ]
        told = table_rules(rules)
        by_rule = [r.fields["rule"] for r in heard]
        assert by_rule == [told[0], told[1], told[2], kernel.NUMBERS["BOESFS_RULE_CLASS"], told[3]]
        for record in heard:
            fields = record.fields
            assert (fields["pid"], fields["uid"], fields["instance"]) == (os.getpid(), 0, INSTANCE)
            program = os.stat("/proc/self/exe")
            assert (fields["program_ino"], fields["program_dev"]) == (program.st_ino, kernel_device(program.st_dev))
            assert (fields["policy_id"], fields["untold"], fields["killed"]) == (POLICY, 0, 0)
        assert heard[0].fields["arg0"] & 0o7777 == 0o4755
        assert [r.fields["time"] for r in heard] == sorted(r.fields["time"] for r in heard)
        s.umount()


def table_rules(rules: tuple) -> list[int]:
    """The numbers that the kernel tells of rules."""
    numbers = compile_policy(Policy(BLACK, rules)).verdicts
    return [numbers[one.verdict] for one in rules]


def in_a_namespace(*words: object) -> subprocess.Popen[str]:
    """A command as a child of PID 1 of a PID namespace, as a function's FDK is."""
    shell = 'sleep 60 & "$@"; echo "ended with $?"; sleep 60'
    command = ["unshare", "--pid", "--fork", "--kill-child", "sh", "-c", shell, "sh", *map(str, words)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


TRY = """
import os, sys
for turn in range(int(sys.argv[1])):
    try:
        os.stat(sys.argv[2])
    except PermissionError:
        print("denied", turn + 1, flush=True)
"""


def killed_after(tries: int, path: Path) -> int | None:
    """With which denial of a new instance it was ended; None: it lived."""
    with in_a_namespace(sys.executable, "-c", TRY, tries, path) as process:
        assert process.stdout
        lines = []
        for line in process.stdout:
            lines.append(line.strip())
            if line.startswith("ended"):
                process.kill()
        denied = sum(line.startswith("denied") for line in lines)
        lived = any(line.startswith("ended") for line in lines)
        assert lived or process.wait(timeout=20) != 0
        return None if lived else denied + 1


def test_an_instance_ends_with_one_denial_more_than_its_threshold(s: Scene) -> None:
    for name in ("a", "b", "c"):
        (s.lower / name).touch()
    with loaded() as tables:
        rules = tuple(rule("deny", f"/{name}", "getattr", kill=kill) for name, kill in (("a", 0), ("b", 2)))
        for whole, path, tries, wanted in (
            (0, "a", 9, None), (4, "a", 4, None), (4, "a", 9, 5), (1, "a", 9, 2), (0, "b", 2, None), (0, "b", 9, 3),
            (1, "b", 9, 2), (4, "c", 9, None),
        ):  # fmt: skip
            tables.enforce(Policy(BLACK, rules), kill=whole)
            s.mount(policy=NAME, policy_id=POLICY, instance=new_instance())
            assert killed_after(tries, s.upper / path) == wanted, (whole, path, tries)
            s.umount()


INSTANCES = iter(range(1000, 2000))


def new_instance() -> int:
    """The cookie of one that has denied nothing yet."""
    return next(INSTANCES)


def test_denials_are_counted_for_each_instance_by_itself(s: Scene) -> None:
    (s.lower / "a").touch()
    with loaded() as tables:
        tables.enforce(Policy(BLACK, (rule("deny", "/a", "getattr"),)), kill=3)
        for _ in range(3):
            s.mount(policy=NAME, policy_id=POLICY, instance=new_instance())
            assert killed_after(3, s.upper / "a") is None
            s.umount()


def map_count() -> int:
    """Of BPF maps in this kernel."""
    found, at = 0, bytearray(8)
    buffer = (ctypes.c_char * 8).from_buffer(at)
    while LIBC.syscall(BPF, MAP_GET_NEXT_ID, buffer, 8) == 0:
        at[:4], found = at[4:], found + 1
    return found


def test_a_thousand_instances_share_one_table(s: Scene) -> None:
    """And all obey the next one with the same breath; each has its own denials."""
    lower = s.lower / "file"
    lower.write_text("x")
    with loaded() as tables:
        tables.enforce(Policy(BLACK, (rule("deny", "/file", "read"),)), kill=MANY)
        before, uppers = map_count(), [s.home / f"upper{number}" for number in range(MANY)]
        assert before > len(("rows", "names", "records"))
        files, mounted = list[int](), list[Path]()
        heard: list[kernel.Record] = []
        try:
            for number, upper in enumerate(uppers):
                upper.mkdir()
                options = f"policy={NAME},policy_id={POLICY},instance={2 * MANY + number}".encode()
                call("mount", os.fsencode(s.lower), os.fsencode(upper), b"boesfs", 0, options)
                mounted.append(upper)
                files.append(os.open(upper / "file", os.O_RDONLY))
            tables.kernel.listen(heard.append)
            for file in files:
                with refused():
                    os.pread(file, 1, 0)
            tables.read()
            assert {record.fields["denials"] for record in heard} == {1}
            assert len({record.fields["instance"] for record in heard}) == len(heard) > MANY // 2  # not all are told
            assert map_count() == before
            tables.load(EVERYTHING, SPARE)
            assert map_count() > before
            tables.kernel.take_away(SPARE)
            tables.enforce(EVERYTHING)
            assert all(os.pread(file, 1, 0) == b"x" for file in files)
            end = time.monotonic() + PATIENCE
            while map_count() != before:  # the kernel lets go of what was taken away a moment later
                assert time.monotonic() < end, (map_count(), before)
                time.sleep(0.1)
        finally:
            for file in files:
                os.close(file)
            for upper in mounted:
                call("umount2", os.fsencode(upper), 0)


def test_who_learns_is_told_of_what_it_would_have_been_denied_and_allowed_it(s: Scene) -> None:
    (s.lower / "a").write_text("x")
    heard: list[kernel.Record] = []
    with loaded() as tables:
        now = int(time.clock_gettime(time.CLOCK_BOOTTIME))
        tables.enforce(Policy(0, ()), learn=Learn(7, now + 1000), kill=1)
        tables.kernel.listen(heard.append)
        up = mount(s)
        for _ in range(2):
            assert (up / "a").read_text() == "x"
        (up / "a").chmod(0o600)
        tables.read()
        numbers = {value: name for name, value in kernel.NUMBERS.items() if name.startswith("BOESFS_OP_")}
        said = {(r.path, numbers[r.fields["op"]].removeprefix("BOESFS_OP_")) for r in heard}
        assert {(b"/a", name) for name in ("LOOKUP", "OPEN", "READ", "SETATTR", "GETATTR")} <= said
        assert {r.fields["verdict"] for r in heard} == {-errno.EPERM}
        counted = Counter((r.path, r.fields["op"], r.fields["access"]) for r in heard)
        assert set(counted.values()) == {1}, counted  # each is told once
        for until, number in ((now + 1000, 7), (now + 1000, 8), (0, 8)):
            tables.enforce(Policy(0, ()), learn=Learn(number, until))
            heard.clear()
            try:
                (up / "a").stat()
                allowed = True
            except PermissionError:
                allowed = False
            tables.read()
            assert (allowed, bool(heard)) == (bool(until), number == 8), (until, number)
        tables.enforce(Policy(0, ()), learn=Learn(9, now + 1000))
        tables.kernel.unlearn(tables.used, POLICY)
        with refused():
            (up / "a").stat()
        s.umount()


def test_the_program_is_exchanged_in_place_and_no_mount_is_open_meanwhile(s: Scene) -> None:
    for name in ("denied", "allowed"):
        (s.lower / name).write_text(name)
    with loaded() as tables:
        tables.enforce(Policy(BLACK, (rule("deny", "/denied", "read"),)))
        up = mount(s)
        wrong: list[str] = []
        done = threading.Event()

        def read() -> None:
            while not done.is_set():
                with refused():
                    (up / "denied").read_text()
                assert (up / "allowed").read_text() == "allowed"

        def guarded() -> None:
            try:
                read()
            except BaseException as error:  # noqa: BLE001 (told below)
                wrong.append(repr(error))

        readers = [threading.Thread(target=guarded) for _ in range(2)]
        for reader in readers:
            reader.start()
        for _ in range(EXCHANGES):
            kernel.set_up(OBJECT)
        done.set()
        for reader in readers:
            reader.join()
        assert wrong == []
        tables.enforce(Policy(BLACK, (rule("deny", "/allowed", "read"),)))  # with what is pinned now
        assert (up / "denied").read_text() == "denied"
        with refused():
            (up / "allowed").read_text()
        s.umount()


def test_both_names_of_a_link_and_a_rename_are_judged_each_with_the_other(s: Scene) -> None:
    (s.lower / "d").mkdir()
    for name in ("a", "b"):
        (s.lower / name).touch()
    calls = {"link": os.link, "rename": os.rename}
    with loaded() as tables:
        tables.enforce(EVERYTHING)
        up = mount(s)
        for operation, call in calls.items():
            for place, asked, other in (("/a", operation, "/d/new"), ("/d/new", f"{operation}-to", "/a")):
                tables.enforce(Policy(BLACK, (rule("deny", place, asked, tests=(Other(parse(other)),)),)))
                with refused():
                    call(up / "a", up / "d/new")
                for old, new in (("b", "d/new"), ("a", "d/other")):
                    call(up / old, up / new)
                    (s.lower / new).unlink()
                    (s.lower / old).touch()
        s.umount()


def test_a_policy_without_a_table_denies_all_and_can_be_unmounted(s: Scene) -> None:
    (s.lower / "a").touch()
    with loaded() as tables:
        tables.enforce(EVERYTHING)
        up = mount(s)
        (up / "a").stat()
        tables.kernel.replace(POLICY, 5)  # which nobody has filled
        for path in (up, up / "a"):
            with refused():
                path.stat()
        s.umount()


def test_names_of_every_length_are_told_apart(s: Scene) -> None:
    names = [letter * length for length in (1, 26, 27, 58, 59, 116, 117, 174, 232, 255) for letter in "ab"]
    for name in names:
        (s.lower / name).touch()
    with loaded() as tables:
        denied = set(names[::2])
        tables.enforce(Policy(BLACK, tuple(rule("deny", f"/{name}", "getattr") for name in sorted(denied))))
        up = mount(s)
        for name in names:
            if name in denied:
                with refused():
                    (up / name).stat()
            else:
                (up / name).stat()
        s.umount()


def test_nothing_of_a_policy_before_is_left_in_a_table_that_is_filled_again(s: Scene) -> None:
    long, short = "a" * 200, "b"
    for name in (long, short):
        (s.lower / name).touch()
    with loaded() as tables:
        tables.enforce(EVERYTHING)
        up = mount(s)
        for policy, denied in (
            (Policy(BLACK, (rule("deny", f"/{long}", "getattr"),)), {long}),
            (Policy(BLACK, (rule("deny", f"/{short}", "getattr"),)), {short}),
            (EVERYTHING, set()),
        ):
            tables.load(policy, 9)
            tables.kernel.replace(POLICY, 9)
            for name in (long, short):
                if name in denied:
                    with refused():
                        (up / name).stat()
                else:
                    (up / name).stat()
            tables.enforce(EVERYTHING)
        s.umount()
        tables.kernel.take_away(9)


def test_a_program_is_known_by_its_file_and_not_by_its_name(s: Scene) -> None:
    (s.lower / "secret").write_text("x")
    cat, copy = Path("/usr/bin/cat"), s.home / "cat"
    copy.write_bytes(cat.read_bytes())
    copy.chmod(0o755)
    link = s.home / "link"
    link.symlink_to(cat)
    with loaded() as tables:
        rules = (rule("allow", "/secret", tests=(Program("/usr/bin/cat"),), opens=True),)
        tables.enforce(Policy(operations.mask(("lookup", "getattr", "open")), rules))
        up = mount(s)
        for program, allowed in ((cat, True), (link, True), (copy, False), (Path("/usr/bin/head"), False)):
            done = subprocess.run([program, up / "secret"], capture_output=True, text=True, check=False)
            assert (done.stdout == "x") == allowed, (program, done)
        s.umount()


def kernel_device(number: int) -> int:
    """As the kernel has device numbers."""
    return os.major(number) << 20 | os.minor(number)


def test_the_tables_that_are_filled_are_told_with_their_policies(s: Scene) -> None:
    with loaded() as tables:
        packed = image.pack(compile_policy(EVERYTHING), kernel.NUMBERS)
        digests = {number: bytes([number % 251]) * kernel.DIGEST for number in (3, 65535)}
        for number, digest in digests.items():
            tables.kernel.put(number, packed, policy=number + 1, kill=0, digest=digest)
        anew = kernel.Policies()
        assert anew.tables() == [(number, number + 1, digest) for number, digest in digests.items()]
        for number in digests:
            anew.take_away(number)
        assert tables.kernel.tables() == []
        anew.close()


def test_the_programs_of_a_table_go_with_it(s: Scene) -> None:
    (s.lower / "secret").write_text("x")
    rules = (rule("allow", "/secret", tests=(Program("/usr/bin/cat"),), opens=True),)
    with loaded() as tables:
        tables.enforce(Policy(operations.mask(("lookup", "getattr", "open")), rules))
        up = mount(s)
        assert subprocess.run(["cat", up / "secret"], capture_output=True, text=True, check=False).stdout == "x"
        packed = image.pack(compile_policy(Policy(0, rules)), kernel.NUMBERS)
        anew = kernel.Policies()  # as the daemon that is started again
        anew.take_away(tables.used)
        anew.put(tables.used, packed, policy=POLICY, kill=0)  # with no such program
        anew.replace(POLICY, tables.used)
        assert subprocess.run(["cat", up / "secret"], capture_output=True, text=True, check=False).stdout == ""
        anew.close()
        s.umount()


def flooded(tables: Tables, path: Path, times: int) -> list[kernel.Record]:
    """What is told of so many denials, when it is read at the end, and of one more after that."""
    heard: list[kernel.Record] = []
    tables.kernel.listen(heard.append)
    for number in range(times + 1):
        if number == times:
            tables.read()
            time.sleep(1.1)  # in the next second there is room again
        with refused():
            path.stat()
    tables.read()
    return heard


def test_a_flood_of_denials_is_counted_and_what_is_not_told_is_said(s: Scene) -> None:
    (s.lower / "a").touch()
    with loaded() as tables:
        tables.enforce(Policy(BLACK, (rule("deny", "/a", "getattr"),)))
        up = s.mount(policy=NAME, policy_id=POLICY, instance=new_instance())
        begun = time.monotonic()
        heard = flooded(tables, up / "a", FLOOD)
        seconds = time.monotonic() - begun
        last = heard[-1].fields
        assert (last["denials"], last["untold"]) == (FLOOD + 1, FLOOD + 1 - len(heard))
        told = Counter(record.fields["time"] // 1_000_000_000 for record in heard)
        assert max(told.values()) <= RECORDS_PER_S
        assert len(heard) < FLOOD or seconds > FLOOD / RECORDS_PER_S  # a kernel that checks itself is not so quick
        s.umount()


def test_what_has_no_room_is_counted_and_said(s: Scene) -> None:
    """The ring has 4 MiB, the longest paths need a thousandth of that."""
    names = [letter * 255 for letter in "abcdefghijklmno"]
    below = s.lower
    for name in names:
        below = below / name
        below.mkdir()
    with loaded() as tables:
        tables.enforce(Policy(BLACK, (rule("deny", "/" + "/".join(names), "getattr"),)))
        up = s.mount(policy=NAME, policy_id=POLICY, instance=new_instance())
        back = os.getcwd()
        os.chdir(up.joinpath(*names[:-1]))
        try:
            heard = flooded(tables, Path(names[-1]), 1200)
        finally:
            os.chdir(back)
        assert 900 < len(heard) < 1200
        assert heard[-1].fields["untold"] == 1201 - len(heard)
        assert heard[-1].path == b"/" + "/".join(names).encode()
        s.umount()


def refusal(call: Callable[[], object]) -> BoesError:
    """What a call is refused with."""
    try:
        call()
    except BoesError as error:
        return error
    raise AssertionError("not refused")


def test_what_is_not_set_up_is_said_with_the_remedy(s: Scene) -> None:
    said = refusal(kernel.Policies)
    assert (said.code, said.hint) == ("Unsupported", "systemctl restart boesfs-setup, then systemctl reload boesfsd")
    assert said.message.startswith("/sys/fs/bpf/boesfs/")
    end = time.monotonic() + 20  # what was attached is let go of by a worker of the kernel's
    while subprocess.run(["rmmod", "boesfs"], check=time.monotonic() > end).returncode:
        time.sleep(0.1)
    said = refusal(lambda: kernel.set_up(OBJECT))
    assert (said.code, said.message) == ("Unsupported", "The kernel module boesfs is not loaded")
    assert "modprobe boesfs" in said.hint
