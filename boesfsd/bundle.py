# SPDX-License-Identifier: Apache-2.0
"""Code of functions: checked copies of source trees and archives, kept read-only under the hash of their content.

A bundle is staged beside its final place and renamed there; what a crash leaves in the staging directory is
removed at the next start. Everything here blocks: call it in a thread.
"""

import contextlib
import errno
import gzip
import hashlib
import os
import secrets
import shutil
import stat
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, cast

from boesfsd.errors import BoesError

CHUNK = 1 << 20
NAME_BYTES = 255
DEPTH_MAX = 128
PATH_BYTES = 3072  # leaves room for the store's own prefix below PATH_MAX
EXTENDED_HEADERS = (
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
)
EXTENDED_BYTES = 64 << 10
END_MARK = 2 * tarfile.BLOCKSIZE
BROKEN_ARCHIVE = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, gzip.BadGzipFile, EOFError),
    *(NotImplementedError, RuntimeError, ValueError),
)
MAGIC_GZIP, MAGIC_ZSTD, MAGIC_ZIP = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04"


@dataclass(frozen=True, slots=True)
class Limits:
    """Most bytes of content and most entries of one bundle."""

    size: int
    files: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing of a source: a directory (no content, no target), a file or a symbolic link."""

    path: PurePosixPath
    executable: bool = False
    content: IO[bytes] | None = None
    target: str | None = None


@dataclass
class _Writer:
    """Copies entries below ROOT, checking each, and hashes what it wrote."""

    root: Path
    limits: Limits
    bytes: int = 0
    seen: dict[str, str] = field(default_factory=dict)

    def add(self, entry: Entry) -> None:
        name = str(entry.path)
        _check_path(entry.path)
        if entry.content is None and entry.target is None and self.seen.get(name) == "directory":
            return
        if name in self.seen:
            raise BoesError("InvalidCode", f"{name!r} is in the source twice")
        if len(self.seen) >= self.limits.files:
            raise BoesError("InvalidCode", f"{name!r} is one entry too many: {self.limits.files} are allowed")
        self._make_parents(entry.path)
        place = self.root / entry.path
        if entry.target is not None:
            _check_link(entry.path, entry.target)
            os.symlink(entry.target, place)
            self.seen[name] = f"link {entry.target}"
        elif entry.content is not None:
            self.seen[name] = self._copy(entry, place)
        else:
            place.mkdir()
            self.seen[name] = "directory"

    def _make_parents(self, path: PurePosixPath) -> None:
        for parent in reversed(path.parents[:-1]):
            kind = self.seen.get(str(parent))
            if kind is None:
                self.add(Entry(parent))
            elif kind != "directory":
                raise BoesError("InvalidCode", f"{str(path)!r} lies below {str(parent)!r}, which is no directory")

    def _copy(self, entry: Entry, place: Path) -> str:
        assert entry.content is not None
        digest = hashlib.sha256()
        with place.open("xb") as file:
            while chunk := entry.content.read(CHUNK):
                self.bytes += len(chunk)
                if self.bytes > self.limits.size:
                    raise BoesError(
                        "InvalidCode",
                        f"The source is over {self.limits.size} bytes at {str(entry.path)!r}",
                        hint="raise max-code-size",
                    )
                digest.update(chunk)
                file.write(chunk)
            os.fchmod(file.fileno(), 0o555 if entry.executable else 0o444)
        return f"{'program' if entry.executable else 'file'} {digest.hexdigest()}"

    def digest(self) -> str:
        """SHA-256 over the sorted entries; only what a function can see counts, so no times or owners."""
        total = hashlib.sha256(b"boesfs bundle 1\n")
        for name, what in sorted(self.seen.items()):
            total.update(f"{name}\0{what}\n".encode("utf-8", "surrogateescape"))
        return total.hexdigest()

    def seal(self) -> None:
        root = os.path.realpath(self.root)
        for name, what in self.seen.items():
            # links of links: only their real end tells
            end = os.path.realpath(self.root / name) if what.startswith("link ") else root
            if end != root and not end.startswith(f"{root}/"):
                raise BoesError("InvalidCode", f"Symbolic link {name!r} leaves the source by way of another")
            if what == "directory":
                (self.root / name).chmod(0o555)
        self.root.chmod(0o555)


@dataclass(frozen=True, slots=True)
class Staged:
    """A checked copy that is not in its place yet."""

    path: Path
    digest: str


class Bundles:
    """The directory of all code, /var/lib/boesfsd/code, with its staging directory beside it."""

    def __init__(self, state: Path, limits: Limits) -> None:
        self.limits = limits
        self._code = state / "code"
        self._stage = state / "stage"
        for directory in (self._code, self._stage):
            directory.mkdir(mode=0o700, exist_ok=True)

    def path(self, digest: str) -> Path:
        """Where the bundle with this digest is, or would be."""
        return self._code / digest

    def stage_tree(self, source: Path) -> Staged:
        """Copy the directory SOURCE; InvalidCode names the path that is refused, NoSpace."""
        return self._staged(_tree_entries(source))

    def stage_archive(self, archive: BinaryIO) -> Staged:
        """Copy what a tar, tar.gz, tar.zst or zip file holds; a regular file, read from its start."""
        return self._staged(_archive_entries(archive))

    def commit(self, staged: Staged) -> Path:
        """Move the staged copy to its place, for good: it is on the disk when this returns."""
        place = self.path(staged.digest)
        if place.exists():
            self.discard(staged)
            return place
        os.sync()
        staged.path.chmod(0o755)  # rename needs it: ".." changes
        staged.path.rename(place)
        place.chmod(0o555)
        _fsync_directory(self._code)
        return place

    def discard(self, staged: Staged) -> None:
        """Remove the staged copy."""
        remove_tree(staged.path)

    def sweep(self, used: set[str]) -> list[str]:
        """Remove what is not in USED and all that is staged; only when nothing is being deployed."""
        removed = [entry.name for entry in self._code.iterdir() if entry.name not in used]
        for name in removed:
            remove_tree(self._code / name)
        for entry in self._stage.iterdir():
            remove_tree(entry)
        return removed

    def remove(self, digest: str) -> None:
        """Remove one bundle."""
        remove_tree(self.path(digest))

    def _staged(self, entries: Generator[Entry]) -> Staged:
        root = self._stage / secrets.token_hex(8)
        try:
            root.mkdir(mode=0o755)
            writer = _Writer(root, self.limits)
            with contextlib.closing(entries):
                for entry in entries:
                    writer.add(entry)
            writer.seal()
        except BROKEN_ARCHIVE as error:
            remove_tree(root)
            raise BoesError(
                "InvalidCode", f"The archive cannot be read: {error}", hint="tar, tar.gz, tar.zst or zip"
            ) from error
        except OSError as error:
            remove_tree(root)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise BoesError(
                    "NoSpace", "No space left for the code", hint="free space under /var/lib/boesfsd"
                ) from error
            raise BoesError("InvalidCode", f"Cannot read the source: {error}") from error
        except BaseException:
            remove_tree(root)
            raise
        return Staged(root, writer.digest())


def remove_tree(path: Path) -> None:
    """Remove a tree whose directories are read-only; one that is gone already is fine."""
    for directory, _, _ in os.walk(path):
        os.chmod(directory, 0o700)
    shutil.rmtree(path, ignore_errors=True)


def _fsync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_path(path: PurePosixPath) -> None:
    name = str(path)
    if path.is_absolute() or ".." in path.parts or name in (".", ""):
        raise BoesError("InvalidCode", f"{name!r} leads out of the source")
    if "\n" in name or "\0" in name:
        raise BoesError("InvalidCode", f"{name!r}: a path may not hold a newline or NUL")
    if len(path.parts) > DEPTH_MAX:
        raise BoesError("InvalidCode", f"{name[:80]!r}… is over {DEPTH_MAX} directories deep")
    encoded = os.fsencode(name)
    if len(encoded) > PATH_BYTES or any(len(os.fsencode(part)) > NAME_BYTES for part in path.parts):
        raise BoesError("InvalidCode", f"{name[:80]!r}… is too long for a path")


def _check_link(path: PurePosixPath, target: str) -> None:
    depth = len(path.parts) - 1
    parts = PurePosixPath(target).parts
    if "\0" in target:
        raise BoesError("InvalidCode", f"Symbolic link {str(path)!r} has a NUL in its target")
    if not target or target.startswith("/"):
        raise BoesError("InvalidCode", f"Symbolic link {str(path)!r} -> {target!r} leaves the source")
    for part in parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            raise BoesError("InvalidCode", f"Symbolic link {str(path)!r} -> {target!r} leaves the source")


def _tree_entries(source: Path) -> Generator[Entry]:
    """Walk by descriptor, never through a link, so that a path cannot be exchanged under our feet."""
    if not source.is_absolute():
        raise BoesError("InvalidArgs", f"The source {str(source)!r} is not an absolute path")
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise BoesError("InvalidCode", f"Cannot open the source directory {str(source)!r}: {error}") from error
    try:
        yield from _walk(descriptor, PurePosixPath())
    finally:
        os.close(descriptor)


def _walk(directory: int, below: PurePosixPath) -> Generator[Entry]:
    for name in sorted(os.listdir(directory)):
        path = below / name
        info = os.stat(name, dir_fd=directory, follow_symlinks=False)
        _check_mode(path, info.st_mode)
        if stat.S_ISLNK(info.st_mode):
            yield Entry(path, target=os.readlink(name, dir_fd=directory))
        elif stat.S_ISDIR(info.st_mode):
            yield Entry(path)
            child = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            try:
                yield from _walk(child, path)
            finally:
                os.close(child)
        else:
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
            with open(descriptor, "rb") as content:
                _check_mode(path, os.fstat(descriptor).st_mode)
                yield Entry(path, executable=bool(info.st_mode & 0o111), content=content)


def _check_mode(path: PurePosixPath, mode: int) -> None:
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
        raise BoesError("InvalidCode", f"{str(path)!r} is a device, socket or pipe")
    if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
        raise BoesError("InvalidCode", f"{str(path)!r} has a set-id bit", hint="chmod ug-s it")


def _archive_entries(archive: BinaryIO) -> Generator[Entry]:
    if not stat.S_ISREG(os.fstat(archive.fileno()).st_mode):
        raise BoesError("InvalidArgs", "The archive's descriptor is no regular file")
    archive.seek(0)
    magic = archive.read(4)
    archive.seek(0)
    if magic == MAGIC_ZIP:
        yield from _zip_entries(archive)
    elif magic == MAGIC_ZSTD:
        yield from _zstd_entries(archive)
    else:
        stream = gzip.GzipFile(fileobj=archive) if magic.startswith(MAGIC_GZIP) else archive
        yield from _tar_entries(cast("BinaryIO", stream))


def _zstd_entries(archive: BinaryIO) -> Generator[Entry]:
    os.lseek(archive.fileno(), 0, os.SEEK_SET)  # what we peeked at is in our buffer, not zstd's
    with subprocess.Popen(
        ["/usr/bin/zstd", "-dcq", "-M128MB"], stdin=archive.fileno(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            assert process.stdout
            yield from _tar_entries(cast("BinaryIO", process.stdout))
            if process.wait() != 0:
                raise BoesError("InvalidCode", "The archive's zstd stream is broken")
        finally:
            process.kill()


class _Header(tarfile.TarInfo):
    """Extended headers are read into memory whole: a small archive must not fill it with one."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in EXTENDED_HEADERS and self.size > EXTENDED_BYTES:
            raise BoesError("InvalidCode", f"The archive has an extended header of {self.size} bytes")
        return cast("tarfile.TarInfo", super()._proc_member(tar))  # type: ignore[misc]


class _Tail:
    """Passes reads on and remembers the last bytes: tarfile takes a missing end mark for an end."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._tail = b""

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._tail = (self._tail + data)[-END_MARK:]
        return data

    def is_end_mark(self) -> bool:
        """Two blocks of zeros end a tar, and its padding is zeros too."""
        return len(self._tail) == END_MARK and not any(self._tail)


def _tar_entries(stream: BinaryIO) -> Generator[Entry]:
    watched = _Tail(stream)
    with tarfile.open(fileobj=cast("BinaryIO", watched), mode="r|", tarinfo=_Header) as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            if path == PurePosixPath("."):
                continue
            if member.islnk():
                raise BoesError(
                    "InvalidCode", f"{str(path)!r} is a hard link", hint="make the archive with --hard-dereference"
                )
            _check_mode(path, _tar_mode(member))
            if member.issym():
                yield Entry(path, target=member.linkname)
            elif member.isdir():
                yield Entry(path)
            else:
                yield Entry(path, executable=bool(member.mode & 0o111), content=tar.extractfile(member))
    while watched.read(CHUNK):  # a checksum of the compression comes last
        pass
    if not watched.is_end_mark():
        raise tarfile.ReadError("it ends before its end mark")


def _tar_mode(member: tarfile.TarInfo) -> int:
    if member.isdir():
        return stat.S_IFDIR
    if member.issym():
        return stat.S_IFLNK
    return stat.S_IFREG | member.mode if member.isreg() else stat.S_IFCHR


def _zip_entries(archive: BinaryIO) -> Generator[Entry]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            path = PurePosixPath(info.filename)
            mode = info.external_attr >> 16
            kind = stat.S_IFMT(mode) or (stat.S_IFDIR if info.is_dir() else stat.S_IFREG)
            _check_mode(path, kind | stat.S_IMODE(mode))
            if info.flag_bits & 1:
                raise BoesError("InvalidCode", f"{str(path)!r} is encrypted")
            if kind == stat.S_IFDIR:
                yield Entry(path)
            elif kind == stat.S_IFLNK:
                if info.file_size > PATH_BYTES:
                    raise BoesError("InvalidCode", f"Symbolic link {str(path)!r} has too long a target")
                yield Entry(path, target=file.read(info).decode("utf-8", "surrogateescape"))
            else:
                with file.open(info) as content:
                    yield Entry(path, executable=bool(mode & 0o111), content=content)
