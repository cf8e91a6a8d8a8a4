# SPDX-License-Identifier: Apache-2.0
"""The kernel's side of policies: the module, the policy program and its maps. The only module that speaks to libbpf."""

import contextlib
import errno
import fcntl
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Any, NamedTuple

from _boesfs_bpf import ffi, lib

from boesfsd.config import MODULE, PINS
from boesfsd.errors import BoesError
from boesfsd.model import Learn
from boesfsd.policy.image import FORMATS, ROW, SHORT_KEY, Image

OBJECT = Path("/usr/lib/boesfs/boesfs_policy.bpf.o")
MAPS = ("table_rows", "table_names", "table_long_names", "tables", "programs", "counts", "kills", "told", "records")
LATER = {"told"}  # maps that programs of older versions have not
REPLACE, LOOK = "replace", "look"  # programs
OWN = "own"  # the directory of the administrator's
ARRAY, HASH, STRUCT_OPS = 2, 1, 26  # enum bpf_map_type
OPS = Struct("<QQI32s4x")  # struct boesfs_policy_ops
FS_IOC_GETVERSION = 0x80087601
MINOR_BITS = 20
DIGEST = 16  # bytes
BATCH = 500  # records, after which others have their turn
INNER_MAP = 1 << 12  # BPF_F_INNER_MAP: tables differ in size
NUMBERS: dict[str, int] = {
    name: value
    for kind in (
        *("boesfs_abi_version", "boesfs_op", "boesfs_attr", "boesfs_replace_flag", "boesfs_maps_limits"),
        *("boesfs_rule_op", "boesfs_condition_flag", "boesfs_test_kind", "boesfs_rule_number", "boesfs_look_kind"),
    )
    for name, value in ffi.typeof(f"enum {kind}").relements.items()
}
_said: list[str] = []


@ffi.def_extern()  # type: ignore[misc]
def boesfs_said(text: Any) -> None:
    """A line of libbpf's, or the verifier's log."""
    _said.append(ffi.string(text).decode("utf-8", "replace"))


@ffi.def_extern(error=0)  # type: ignore[misc]
def boesfs_record_came(context: Any, data: Any, size: int) -> int:
    """A record of the program's."""
    ffi.from_handle(context)(bytes(ffi.buffer(data, size)))
    return 0


lib.boesfs_listen()


def _failed(what: str, number: int) -> BoesError:
    told = "".join(_said).strip()
    _said.clear()
    return BoesError("Failed", f"{what}: {os.strerror(abs(number))}{': ' + told if told else ''}")


def _checked(what: str, answer: int) -> int:
    if answer < 0:
        raise _failed(what, answer if answer != -1 else ffi.errno)
    _said.clear()
    return answer


def check_module() -> None:
    """Unsupported unless the module is there and speaks our version."""
    try:
        version = (MODULE / "parameters/abi").read_text().strip()
    except OSError as error:
        raise BoesError(
            "Unsupported",
            "The kernel module boesfs is not loaded",
            hint="modprobe boesfs; it is in the package boesfs-dkms",
        ) from error
    major, minor = (int(part) for part in version.split("."))
    ours = (NUMBERS["BOESFS_ABI_MAJOR"], NUMBERS["BOESFS_ABI_MINOR"])
    if major != ours[0] or minor < ours[1]:
        problem = f"The kernel module boesfs has version {version} of its interface, boesfsd speaks {ours[0]}.{ours[1]}"
        raise BoesError(
            "Unsupported", problem, hint="install boesfs-dkms and boesfsd of one version, then reload the module"
        )


def set_up(file: Path = OBJECT, pins: Path = PINS) -> None:
    """Load the program and pin it; one that is pinned is exchanged, with all that its maps have."""
    check_module()
    pins.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = lib.bpf_object__open_file(str(file).encode(), ffi.NULL)
    if target == ffi.NULL:
        raise _failed(f"{file} cannot be read", ffi.errno)
    try:
        _load(target, pins)
    finally:
        lib.bpf_object__close(target)


def set_up_own(name: str, file: Path, called: str, pins: Path = PINS) -> None:
    """Load a program of the administrator's, for mounts that name it; one that has the name is exchanged for all of
    them at once. CALLED is what the administrator calls the file. InvalidPolicy: it cannot be used; the verifier's log
    is told in full, and what judges judges on."""
    check_module()
    _said.clear()
    directory = pins / OWN
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = lib.bpf_object__open_file(str(file).encode(), ffi.NULL)
    if target == ffi.NULL:
        raise _refused(called, f"cannot be read: {_taken() or os.strerror(ffi.errno)}")
    link = ffi.NULL
    try:
        ops = _named(target, name, called)
        if lib.bpf_object__load(target):
            raise _refused(called, f"is refused by the kernel:\n{_taken()}")
        place = str(directory / name).encode()
        if (directory / name).exists():
            link = lib.bpf_link__open(place)
            if link == ffi.NULL:
                raise _failed(str(directory / name), ffi.errno)
            _checked(f"{name} cannot be exchanged", lib.bpf_link__update_map(link, ops))
        else:
            link = lib.bpf_map__attach_struct_ops(ops)
            if link == ffi.NULL:
                raise _refused(called, f"cannot be attached as {name}: {os.strerror(ffi.errno)}")
            _checked(f"{name} cannot be pinned", lib.bpf_link__pin(link, place))
    finally:
        if link != ffi.NULL:
            lib.bpf_link__destroy(link)  # that is, our descriptor of it
        lib.bpf_object__close(target)


def _named(target: Any, name: str, called: str) -> Any:
    """The program's struct boesfs_policy_ops, which gets the name if it has none."""
    found, ops = [], ffi.NULL
    while (ops := lib.bpf_object__next_map(target, ops)) != ffi.NULL:
        if lib.bpf_map__type(ops) == STRUCT_OPS:
            found.append(ops)
    size = ffi.new("size_t *")
    value = lib.bpf_map__initial_value(found[0], size) if len(found) == 1 else ffi.NULL
    if value == ffi.NULL or size[0] != OPS.size:
        raise _refused(called, "has not just one struct boesfs_policy_ops, as boesfs.bpf.h has it")
    data = ffi.buffer(value, OPS.size)
    *fields, said = OPS.unpack(bytes(data))
    if (own := said.rstrip(b"\0").decode("utf-8", "replace")) not in ("", name):
        raise _refused(called, f"says that its name is {own}, and is to be {name}")
    data[:] = OPS.pack(*fields, name.encode())
    return found[0]


def _refused(called: str, problem: str) -> BoesError:
    _said.clear()
    return BoesError("InvalidPolicy", f"{called} {problem}", hint="see /usr/share/doc/boesfsd/programs.md")


def _taken() -> str:
    """What libbpf has said."""
    return "".join(_said).strip()


def own_programs(pins: Path = PINS) -> list[str]:
    """Names of the administrator's programs that are there."""
    directory = pins / OWN
    return sorted(file.name for file in directory.iterdir()) if directory.is_dir() else []


def take_down_own(name: str, pins: Path = PINS) -> None:
    """Let go of a program: on mounts that name it everything is denied, and there are no new ones."""
    (pins / OWN / name).unlink(missing_ok=True)


def _load(target: Any, pins: Path) -> None:
    known = (pins / "link").exists()
    maps = {name: lib.bpf_object__find_map_by_name(target, name.encode()) for name in MAPS}
    if known:
        for name in [name for name in maps if name not in LATER or (pins / name).exists()]:
            with _pinned(pins / name) as fd:
                _checked(f"{pins / name} does not fit", lib.bpf_map__reuse_fd(maps.pop(name), fd))
    _checked("The kernel refuses the policy program", lib.bpf_object__load(target))
    ops = lib.bpf_object__find_map_by_name(target, b"boesfs")
    if known:
        link = lib.bpf_link__open(str(pins / "link").encode())
        if link == ffi.NULL:
            raise _failed(str(pins / "link"), ffi.errno)
        _checked("The policy program cannot be exchanged", lib.bpf_link__update_map(link, ops))
        for name in (REPLACE, LOOK):
            (pins / name).unlink(missing_ok=True)
    else:
        link = lib.bpf_map__attach_struct_ops(ops)
        if link == ffi.NULL:
            raise _failed("The policy program cannot be attached", ffi.errno)
    for name, found in maps.items():
        _checked(f"{pins / name} cannot be pinned", lib.bpf_map__pin(found, str(pins / name).encode()))
    for name in (REPLACE, LOOK):
        program = lib.bpf_object__find_program_by_name(target, name.encode())
        _checked(f"{pins / name} cannot be pinned", lib.bpf_program__pin(program, str(pins / name).encode()))
    if not known:  # the last: who finds it finds all
        _checked("The link cannot be pinned", lib.bpf_link__pin(link, str(pins / "link").encode()))
    lib.bpf_link__destroy(link)  # that is, our descriptor of it


@contextlib.contextmanager
def _pinned(path: Path) -> Iterator[int]:
    fd = lib.bpf_obj_get(str(path).encode())
    if fd < 0:
        problem = f"{path} is not there" if ffi.errno == 2 else f"{path}: {os.strerror(ffi.errno)}"
        raise BoesError("Unsupported", problem, hint="systemctl restart boesfs-setup, then systemctl reload boesfsd")
    try:
        yield fd
    finally:
        os.close(fd)


class Loaded(NamedTuple):
    """A table that is filled: for which policy, and the digest of what it was made from."""

    number: int
    policy: int
    digest: bytes


class Executable(NamedTuple):
    """A program by its file: inode, the device that has it, as the kernel numbers devices, and its generation."""

    ino: int
    dev: int
    generation: int


def executable(file: Path) -> Executable | None:
    """The file behind a path, or None: there is none."""
    try:
        found_as = os.open(file, os.O_PATH | os.O_CLOEXEC)  # to open a FIFO or a device would do something
    except OSError:
        return None
    try:
        found, generation = os.fstat(found_as), bytearray(8)
        if not stat.S_ISREG(found.st_mode):
            return None
        with contextlib.suppress(OSError):  # who has no generations has 0
            opened = os.open(f"/proc/self/fd/{found_as}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.ioctl(opened, FS_IOC_GETVERSION, generation)
            finally:
                os.close(opened)
    finally:
        os.close(found_as)
    dev = os.major(found.st_dev) << MINOR_BITS | os.minor(found.st_dev)
    return Executable(found.st_ino, dev, int.from_bytes(generation[:4], sys.byteorder))


@dataclass(frozen=True, slots=True)
class Record:
    """A denial, or what a rule wants to be told of. Fields as in struct boesfs_record; those of
    arg and program are arg0 and program_ino, and so on."""

    fields: dict[str, int]
    comm: bytes
    path: bytes
    other: bytes
    string: bytes


class Policies:
    """The tables of a running program, and what it tells."""

    def __init__(self, pins: Path = PINS) -> None:
        """Unsupported names what is missing and how to get it."""
        check_module()
        self._open = contextlib.ExitStack()
        self._fds = {
            name: self._open.enter_context(_pinned(pins / name)) for name in (*MAPS, REPLACE) if name not in LATER
        }
        self._pins = pins
        self._ring: Any = ffi.NULL
        self._handle: Any = None
        self._programs = self._read_programs()

    def close(self) -> None:
        """Close all descriptors; what is loaded stays."""
        if self._ring != ffi.NULL:
            lib.ring_buffer__free(self._ring)
        self._open.close()

    def put(
        self,
        table: int,
        image: Image,
        *,
        policy: int,
        kill: int,
        learn: Learn | None = None,
        digest: bytes = bytes(DIGEST),
        programs: Sequence[Executable | None] = (),
    ) -> None:
        """Fill a table that judges nobody, for POLICY. PROGRAMS: the files behind image.programs, None: there is none.
        Failed: there is no room."""
        self.put_programs(table, programs)
        maps = (
            ("table_rows", ARRAY, 4, ROW, image.rows, INNER_MAP, None),
            ("table_names", HASH, SHORT_KEY.size, 16, image.short_steps, 0, image.short_keys),
            ("table_long_names", HASH, FORMATS["boesfs_key"].size, 16, image.long_steps, 0, image.long_keys),
        )
        for name, kind, key_size, value_size, values, flags, keys in maps:
            count = len(values) // value_size
            if not count and name == "table_long_names":
                self._remove(name, table)  # that of a policy before
                continue
            fd = _checked(
                "A table cannot be made",
                lib.boesfs_map_create(kind, b"boesfs_table", key_size, value_size, max(count, 1), flags),
            )
            try:
                if count:
                    numbers = keys if keys is not None else ffi.new("__u32[]", list(range(count)))
                    source = ffi.from_buffer(numbers) if keys is not None else numbers
                    answer = lib.boesfs_map_fill(fd, source, ffi.from_buffer(values), count)
                    _checked("A table cannot be filled", answer)
                self._update(name, table, ffi.new("int *", fd))
            finally:
                os.close(fd)
        number, until = learn or (0, 0)
        head = ffi.new("struct boesfs_table *", {"kill": kill, "learn": number, "until": until, "policy_id": policy})
        ffi.buffer(head.digest)[:] = digest
        self._update("tables", table, head)  # the last: who finds it finds all

    def unlearn(self, table: int, policy: int) -> None:
        """From now on the table denies."""
        self._update("tables", table, ffi.new("struct boesfs_table *", {"policy_id": policy}))

    def put_programs(self, table: int, programs: Sequence[Executable | None], *, keep: bool = False) -> None:
        """The files behind the programs that a table's rules name, in the order of its slots; None: there is none. KEEP
        those from before, too: who runs is one of them."""
        slots: dict[Executable, int] = {}
        for slot, program in enumerate(programs):
            if program:
                slots[program] = slots.get(program, 0) | 1 << slot
        before, self._programs[table] = self._programs.get(table, []), []
        for program, mask in slots.items():
            key = ffi.new("struct boesfs_program_key *", {"table": table})
            key.id.ino, key.id.dev, key.id.generation = program
            value = ffi.new("__u64 *", mask)
            self._programs[table].append(key)
            _checked("programs cannot be written", lib.bpf_map_update_elem(self._fds["programs"], key, value, 0))
        for key in before:
            if (key.id.ino, key.id.dev, key.id.generation) in slots:
                continue
            if keep:
                self._programs[table].append(key)
            else:
                lib.bpf_map_delete_elem(self._fds["programs"], key)

    def tables(self) -> list[Loaded]:
        """All that are filled, by number."""
        count = NUMBERS["BOESFS_TABLES"]
        keys, heads = ffi.new("__u32[]", count), ffi.new("struct boesfs_table[]", count)
        _checked("tables cannot be read", lib.boesfs_map_read(self._fds["tables"], keys, heads, count))
        size = ffi.sizeof("struct boesfs_table")
        empty, text = bytes(size), bytes(ffi.buffer(heads))
        return [
            Loaded(number, int(heads[number].policy_id), bytes(ffi.buffer(heads[number].digest)))
            for number in range(count)
            if text[number * size : (number + 1) * size] != empty
        ]

    def take_away(self, table: int) -> None:
        """Free a table that no policy uses any longer; waits until no operation is judged by it."""
        self._update("tables", table, ffi.new("struct boesfs_table *"))
        for name in ("table_names", "table_long_names", "table_rows"):
            self._remove(name, table)
        for key in self._programs.pop(table, []):
            lib.bpf_map_delete_elem(self._fds["programs"], key)

    def _read_programs(self) -> dict[int, list[Any]]:
        """The keys of all programs, by their tables."""
        found: dict[int, list[Any]] = {}
        key = ffi.NULL
        while True:
            following = ffi.new("struct boesfs_program_key *")
            if lib.bpf_map_get_next_key(self._fds["programs"], key, following):
                return found
            found.setdefault(int(following.table), []).append(following)
            key = following

    def replace(self, policy: int, table: int, *, kill_mapped: bool = False) -> None:
        """From now on TABLE judges what is under POLICY. Returns when it does."""
        flags = NUMBERS["BOESFS_REPLACE_KILL_MAPPED"] if kill_mapped else 0
        self._call(policy_id=policy, table=table, flags=flags)

    def forget(self, policy: int) -> None:
        """Everything is denied on mounts of this policy, and no new ones can name it. Failed: it is not known."""
        self._call(policy_id=policy, forget=1)

    def _call(self, **fields: int) -> None:
        call, problem = ffi.new("struct boesfs_call *", fields), "The policy cannot be replaced"
        _checked(problem, lib.boesfs_run(self._fds[REPLACE], call, ffi.sizeof("struct boesfs_call")))
        _checked(problem, call.answer)

    # --- what is loaded

    def maps(self, table: int) -> "TableMaps":
        """Those of a table. Unsupported: the program that is loaded cannot be asked."""
        if LOOK not in self._fds:  # who does not ask does not need it
            self._fds[LOOK] = self._open.enter_context(_pinned(self._pins / LOOK))
        return TableMaps(self._fds[LOOK], table)

    def program_mask(self, table: int, program: Executable) -> int:
        """Which slots of a table's programs this one has."""
        key, mask = ffi.new("struct boesfs_program_key *", {"table": table}), ffi.new("__u64 *")
        key.id.ino, key.id.dev, key.id.generation = program
        return 0 if lib.bpf_map_lookup_elem(self._fds["programs"], key, mask) else int(mask[0])

    def _update(self, name: str, number: int, value: Any) -> None:
        key = ffi.new("__u32 *", number)
        _checked(f"{name} cannot be written", lib.bpf_map_update_elem(self._fds[name], key, value, 0))

    def _remove(self, name: str, number: int) -> None:
        """What is not there is no fault."""
        answer = lib.bpf_map_delete_elem(self._fds[name], ffi.new("__u32 *", number))
        if answer and ffi.errno != errno.ENOENT:
            raise _failed(f"{name} cannot be written", ffi.errno)

    # --- what the program tells

    def untold(self, instance: int) -> int:
        """How many denials of an instance were not told: there were too many at once."""
        key = ffi.new("struct boesfs_count_key *", {"instance": instance, "rule": NUMBERS["BOESFS_RULE_ANY"]})
        count = ffi.new("struct boesfs_count *")
        return int(count.untold) if not lib.bpf_map_lookup_elem(self._fds["counts"], key, count) else 0

    def listen(self, hear: Callable[[Record], None]) -> int:
        """A descriptor that is readable when read() has something for HEAR."""
        if self._ring != ffi.NULL:
            lib.ring_buffer__free(self._ring)
        self._handle = ffi.new_handle(lambda data: hear(parse_record(data)))
        callback = lib.boesfs_record_came
        self._ring = lib.ring_buffer__new(self._fds["records"], callback, self._handle, ffi.NULL)
        if self._ring == ffi.NULL:
            raise _failed("records", ffi.errno)
        return int(lib.ring_buffer__epoll_fd(self._ring))

    def read(self) -> int:
        """Hand on what there is, at most BATCH; how many."""
        return _checked("records", lib.ring_buffer__consume_n(self._ring, BATCH))


class TableMaps:
    """The maps of a table, asked through the kernel's program; as judge.Maps."""

    def __init__(self, program: int, table: int) -> None:
        self._program = program
        self._table = table

    def row(self, number: int) -> bytes:
        """A row. KeyError: there is none."""
        found = self._look("ROW", row=number)
        if found is None:
            raise KeyError(f"table {self._table} has no row {number}")
        return found

    def step(self, key: bytes) -> bytes | None:
        """Where a name leads."""
        found = self._look("NAME" if len(key) == SHORT_KEY.size else "LONG_NAME", key)
        return found[: FORMATS["boesfs_step"].size] if found else None

    def _look(self, kind: str, key: bytes = b"", **fields: int) -> bytes | None:
        fields |= {"table": self._table, "kind": NUMBERS[f"BOESFS_LOOK_{kind}"]}
        asked = ffi.new("struct boesfs_look *", fields)
        ffi.buffer(asked.key)[: len(key)] = key
        problem = f"Table {self._table} cannot be read"
        _checked(problem, lib.boesfs_run(self._program, asked, ffi.sizeof("struct boesfs_look")))
        if asked.answer == -errno.ENOENT:
            return None
        _checked(problem, asked.answer)
        return bytes(ffi.buffer(asked.value))


def parse_record(data: bytes) -> Record:
    """From the bytes of a struct boesfs_record and its strings."""
    size = ffi.sizeof("struct boesfs_record")
    record = ffi.new("struct boesfs_record *")
    ffi.buffer(record)[:] = data[:size]
    fields = {
        name: int(getattr(record, name))
        for name, kind in ffi.typeof("struct boesfs_record").fields
        if kind.type.kind == "primitive"
    }
    fields |= {f"arg{index}": int(value) for index, value in enumerate(record.arg)}
    fields |= {f"program_{name}": int(getattr(record.program, name)) for name in ("ino", "dev", "generation")}
    texts, at = [], size
    for name in ("path_length", "other_length", "string_length"):
        texts.append(data[at : at + fields[name]])
        at += fields[name] + 1
    return Record(fields, ffi.string(record.comm), *texts)
