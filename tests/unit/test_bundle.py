# SPDX-License-Identifier: Apache-2.0
"""Code trees and archives: what is copied, what is refused, what is left behind."""

import gzip
import hashlib
import io
import os
import shutil
import socket
import stat
import subprocess
import tarfile
import threading
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from boesfsd.bundle import DEPTH_MAX, Bundles, Limits, Staged
from boesfsd.errors import BoesError

MIB = 1 << 20
KINDS = ("tar", "tar.gz", "tar.zst", "zip")


@pytest.fixture
def bundles(tmp_path: Path) -> Bundles:
    return make(tmp_path / "state")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    place = tmp_path / "source"
    place.mkdir()
    return place


def make(state: Path, size: int = 64 * MIB, files: int = 1000) -> Bundles:
    state.mkdir(exist_ok=True)
    return Bundles(state, Limits(size, files))


def write(source: Path, **files: str) -> None:
    for name, text in files.items():
        (source / name).write_text(text)


def staged_names(bundles: Bundles) -> list[str]:
    return os.listdir(bundles.path("x").parent.parent / "stage")


def refused(bundles: Bundles, stage: Callable[[], Staged], path: str, code: str = "InvalidCode") -> str:
    """It is refused, the message names PATH, and nothing stays in the staging directory."""
    with pytest.raises(BoesError) as refusal:
        stage()
    assert refusal.value.code == code
    assert path in str(refusal.value)
    assert staged_names(bundles) == []
    return str(refusal.value)


def content(place: Path) -> dict[str, str]:
    """Everything below PLACE, with kind and mode."""
    found = {}
    for directory, names, files in os.walk(place):
        for name in names + files:
            path = Path(directory) / name
            mode = path.lstat().st_mode
            text = os.readlink(path) if path.is_symlink() else path.read_text() if path.is_file() else "/"
            found[str(path.relative_to(place))] = f"{stat.filemode(mode)} {text}"
    return found


# --- archives, made by hand so that they can lie

Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, data: bytes = b"x", **fields: object) -> Member:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def tar(*members: Member, pack: str = "tar") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return packed(out.getvalue(), pack)


def packed(data: bytes, pack: str) -> bytes:
    if pack == "tar.gz":
        return gzip.compress(data, mtime=0)
    if pack == "tar.zst":
        return subprocess.run(["zstd", "-qc"], input=data, capture_output=True, check=True).stdout
    return data


def zipped(*entries: tuple[str, bytes, int]) -> bytes:
    """Entries of (name, content, unix mode)."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data, mode in entries:
            info = zipfile.ZipInfo("placeholder")
            info.filename = name
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return out.getvalue()


def archived(kind: str, *entries: tuple[str, bytes, int]) -> bytes:
    if kind == "zip":
        return zipped(*entries)
    return tar(*(member(name, data, mode=stat.S_IMODE(mode)) for name, data, mode in entries), pack=kind)


def stage_bytes(bundles: Bundles, data: bytes) -> Staged:
    place = bundles.path("x").parent.parent / "archive"
    place.write_bytes(data)
    with place.open("rb") as file:
        return bundles.stage_archive(file)


# --- trees


def test_a_tree_is_copied_read_only_with_execute_bits_kept(bundles: Bundles, source: Path) -> None:
    write(source, plain="a", program="b")
    (source / "program").chmod(0o700)
    (source / "plain").chmod(0o666)
    (source / "sub").mkdir()
    (source / "sub/link").symlink_to("../plain")
    (source / "dangling").symlink_to("sub/nothing")
    place = bundles.commit(bundles.stage_tree(source))
    assert content(place) == {
        "plain": "-r--r--r-- a",
        "program": "-r-xr-xr-x b",
        "sub": "dr-xr-xr-x /",
        "sub/link": "lrwxrwxrwx ../plain",
        "dangling": "lrwxrwxrwx sub/nothing",
    }
    assert stat.S_IMODE(place.stat().st_mode) == 0o555
    assert staged_names(bundles) == []


def test_code_and_stage_are_nobody_elses(bundles: Bundles) -> None:
    for name in ("code", "stage"):
        assert stat.S_IMODE((bundles.path("x").parent.parent / name).stat().st_mode) == 0o700


@pytest.mark.parametrize("target", ["/etc/passwd", "..", "../source/plain", "sub/../../x", "sub/../..", "/"])
def test_a_link_that_leaves_the_tree_is_refused(bundles: Bundles, source: Path, target: str) -> None:
    (source / "sub").mkdir()
    (source / "link").symlink_to(target)
    assert "leaves the source" in refused(bundles, lambda: bundles.stage_tree(source), "'link'")


def test_a_link_that_leaves_the_tree_from_a_subdirectory_is_refused(bundles: Bundles, source: Path) -> None:
    (source / "sub").mkdir()
    (source / "sub/fine").symlink_to("..")
    (source / "sub/link").symlink_to("../..")
    refused(bundles, lambda: bundles.stage_tree(source), "'sub/link'")


def test_a_link_that_leaves_by_way_of_another_is_refused(bundles: Bundles, source: Path) -> None:
    (source / "a/b").mkdir(parents=True)
    (source / "a/b/up").symlink_to("..")
    (source / "z").symlink_to("a/b/up/../../outside")  # by its text within, by its end not
    refused(bundles, lambda: bundles.stage_tree(source), "'z'")


def test_a_link_to_the_top_of_the_tree_stays_in_it(bundles: Bundles, source: Path) -> None:
    write(source, plain="a")
    (source / "sub").mkdir()
    (source / "sub/top").symlink_to("..")
    (source / "self").symlink_to(".")
    assert "self" in content(bundles.commit(bundles.stage_tree(source)))


def test_a_link_to_itself_does_no_harm(bundles: Bundles, source: Path) -> None:
    (source / "loop").symlink_to("loop")
    assert "loop" in content(bundles.commit(bundles.stage_tree(source)))


def test_a_pipe_is_refused(bundles: Bundles, source: Path) -> None:
    os.mkfifo(source / "pipe")
    refused(bundles, lambda: bundles.stage_tree(source), "'pipe'")


def test_a_socket_is_refused(bundles: Bundles, source: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(source / "sock"))
        refused(bundles, lambda: bundles.stage_tree(source), "'sock'")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_a_device_is_refused(bundles: Bundles, source: Path) -> None:
    os.mknod(source / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    refused(bundles, lambda: bundles.stage_tree(source), "'null'")


@pytest.mark.parametrize("bit", [stat.S_ISUID, stat.S_ISGID])
def test_a_set_id_bit_is_refused(bundles: Bundles, source: Path, bit: int) -> None:
    (source / "sub").mkdir()
    (source / "sub/su").touch()
    (source / "sub/su").chmod(0o755 | bit)
    refused(bundles, lambda: bundles.stage_tree(source), "'sub/su'")


def test_a_tree_over_the_size_is_refused_while_it_is_copied(tmp_path: Path, source: Path) -> None:
    bundles = make(tmp_path / "state", size=3 * MIB)
    for name in "abcd":
        with (source / name).open("wb") as file:
            file.truncate(MIB)
    assert "max-code-size" in refused(bundles, lambda: bundles.stage_tree(source), "'d'")


def test_the_exact_size_is_allowed(tmp_path: Path, source: Path) -> None:
    write(source, a="x" * 100)
    bundles = make(tmp_path / "state", size=100)
    bundles.stage_tree(source)
    write(source, b="x")
    refused(bundles_again := make(tmp_path / "again", size=100), lambda: bundles_again.stage_tree(source), "'b'")


def test_a_sparse_file_of_a_terabyte_is_refused_at_once(bundles: Bundles, source: Path) -> None:
    with (source / "huge").open("wb") as file:
        file.truncate(1 << 40)
    refused(bundles, lambda: bundles.stage_tree(source), "'huge'")


def test_too_many_entries_are_refused(tmp_path: Path, source: Path) -> None:
    bundles = make(tmp_path / "state", files=3)
    write(source, a="", b="", c="")
    bundles.discard(bundles.stage_tree(source))
    (source / "d").mkdir()
    refused(bundles, lambda: bundles.stage_tree(source), "'d'")


def test_a_tree_that_is_too_deep_is_refused(bundles: Bundles, source: Path) -> None:
    (source / "/".join("d" * DEPTH_MAX)).mkdir(parents=True)
    bundles.discard(bundles.stage_tree(source))
    (source / "/".join("d" * (DEPTH_MAX + 1))).mkdir()
    refused(bundles, lambda: bundles.stage_tree(source), "d/d/d")


def test_a_path_that_is_too_long_is_refused(bundles: Bundles, source: Path) -> None:
    (source / "/".join(["d" * 250] * 13)).mkdir(parents=True)
    refused(bundles, lambda: bundles.stage_tree(source), "too long")


def test_a_newline_in_a_name_is_refused(bundles: Bundles, source: Path) -> None:
    (source / "a\nb").touch()
    refused(bundles, lambda: bundles.stage_tree(source), r"'a\nb'")


def test_a_name_that_is_no_utf_8_is_kept_or_refused_by_name(bundles: Bundles, source: Path) -> None:
    Path(os.fsdecode(os.fsencode(source) + b"/\xff")).touch()
    assert os.listdir(os.fsencode(bundles.commit(bundles.stage_tree(source)))) == [b"\xff"]


@pytest.mark.parametrize("place", ["nothing", "file", "file/below"])
def test_a_source_that_is_no_directory_is_named(bundles: Bundles, source: Path, place: str) -> None:
    write(source, file="")
    refused(bundles, lambda: bundles.stage_tree(source / place), str(source / place))


def test_a_relative_source_is_refused(bundles: Bundles) -> None:
    refused(bundles, lambda: bundles.stage_tree(Path("source")), "'source'", "InvalidArgs")


def test_a_source_with_nul_is_refused(bundles: Bundles) -> None:
    with pytest.raises(BoesError):
        bundles.stage_tree(Path("/tmp/a\0b"))


def test_an_empty_tree_is_a_bundle(bundles: Bundles, source: Path) -> None:
    assert content(bundles.commit(bundles.stage_tree(source))) == {}


# --- digest


def digest(bundles: Bundles, source: Path) -> str:
    staged = bundles.stage_tree(source)
    bundles.discard(staged)
    return staged.digest


def test_the_digest_is_that_of_the_content_alone(bundles: Bundles, source: Path, tmp_path: Path) -> None:
    write(source, b="2", a="1")
    (source / "d").mkdir()
    (source / "l").symlink_to("a")
    first = digest(bundles, source)
    other = tmp_path / "other"
    shutil.copytree(source, other, symlinks=True)
    os.utime(other / "a", (1, 1))
    (other / "a").chmod(0o600)
    if os.geteuid() == 0:
        os.chown(other / "b", 7, 7)
    assert digest(bundles, other) == first


@pytest.mark.parametrize(
    "change",
    [
        lambda s: (s / "a").write_text("3"),
        lambda s: (s / "a").chmod(0o755),
        lambda s: (s / "a").rename(s / "c"),
        lambda s: (s / "e").mkdir(),
        lambda s: (s / "n").touch(),
        lambda s: ((s / "l").unlink(), (s / "l").symlink_to("b")),
        lambda s: ((s / "l").unlink(), (s / "l").write_text("a")),
    ],
)
def test_the_digest_tells_every_change_that_a_function_can_see(
    bundles: Bundles, source: Path, change: Callable[[Path], object]
) -> None:
    write(source, a="1", b="2")
    (source / "l").symlink_to("a")
    first = digest(bundles, source)
    change(source)
    assert digest(bundles, source) != first


def test_the_digest_of_this_tree_will_always_be_this(bundles: Bundles, source: Path) -> None:
    """It names directories under /var/lib/boesfsd: another algorithm would orphan them."""
    write(source, a="1")
    want = hashlib.sha256(b"boesfs bundle 1\na\0file " + hashlib.sha256(b"1").hexdigest().encode() + b"\n").hexdigest()
    assert digest(bundles, source) == want


def test_tree_and_archives_of_the_same_content_have_one_digest(bundles: Bundles, source: Path) -> None:
    write(source, a="1", p="2")
    (source / "p").chmod(0o755)
    entries = (("a", b"1", 0o100644), ("p", b"2", 0o100755))
    digests = {stage_bytes(bundles, archived(kind, *entries)).digest for kind in KINDS}
    assert digests == {digest(bundles, source)}


# --- commit, discard, sweep


def test_the_same_content_is_stored_once(bundles: Bundles, source: Path) -> None:
    write(source, a="1")
    first, second = bundles.commit(bundles.stage_tree(source)), bundles.commit(bundles.stage_tree(source))
    assert first == second
    assert staged_names(bundles) == []


def test_discarding_twice_is_fine(bundles: Bundles, source: Path) -> None:
    staged = bundles.stage_tree(source)
    bundles.discard(staged)
    bundles.discard(staged)
    assert staged_names(bundles) == []


def test_discarding_what_was_committed_leaves_it(bundles: Bundles, source: Path) -> None:
    write(source, a="1")
    staged = bundles.stage_tree(source)
    place = bundles.commit(staged)
    bundles.discard(staged)
    assert (place / "a").read_text() == "1"


def test_sweep_removes_what_is_not_used_and_all_that_is_staged(bundles: Bundles, source: Path) -> None:
    write(source, a="1")
    kept = bundles.commit(bundles.stage_tree(source))
    (source / "d/e").mkdir(parents=True)
    write(source, a="2")
    gone = bundles.commit(bundles.stage_tree(source))
    bundles.stage_tree(source)
    assert bundles.sweep({kept.name}) == [gone.name]
    assert kept.is_dir()
    assert not gone.exists()
    assert staged_names(bundles) == []


def test_removing_does_not_follow_links(bundles: Bundles, source: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir(mode=0o750)
    (tmp_path / "precious/file").touch()
    place = bundles.commit(bundles.stage_tree(source))
    place.chmod(0o755)
    (place / "link").symlink_to(tmp_path / "precious")
    bundles.remove(place.name)
    assert (tmp_path / "precious/file").exists()
    assert stat.S_IMODE((tmp_path / "precious").stat().st_mode) == 0o750


# --- archives


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_is_copied_read_only_with_execute_bits_kept(bundles: Bundles, kind: str) -> None:
    data = archived(kind, ("sub/p", b"1", 0o100700), ("./a", b"2", 0o100666))
    assert content(bundles.commit(stage_bytes(bundles, data))) == {
        "sub": "dr-xr-xr-x /",
        "sub/p": "-r-xr-xr-x 1",
        "a": "-r--r--r-- 2",
    }


@pytest.mark.parametrize("command", [["tar", "-cf"], ["tar", "-czf"], ["tar", "--zstd", "-cf"], ["zip", "-qry"]])
def test_what_peoples_tools_write_is_understood(
    bundles: Bundles, source: Path, tmp_path: Path, command: list[str]
) -> None:
    if not shutil.which(command[0]):
        pytest.skip(f"no {command[0]} here")
    write(source, a="1", p="2")
    (source / "p").chmod(0o755)
    (source / ("long" * 40)).write_text("3")
    (source / "sub").mkdir()
    (source / "sub/link").symlink_to("../a")
    out = tmp_path / "archive.zip"
    subprocess.run([*command, str(out), "."], cwd=source, check=True)
    with out.open("rb") as file:
        assert bundles.stage_archive(file).digest == digest(bundles, source)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["/etc/evil", "../evil", "a/../../evil", "a/../b", ".."])
def test_a_member_that_leads_out_is_refused(bundles: Bundles, kind: str, name: str) -> None:
    refused(bundles, lambda: stage_bytes(bundles, archived(kind, (name, b"x", 0o100644))), repr(name))


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_that_comes_twice_is_refused(bundles: Bundles, kind: str) -> None:
    data = archived(kind, ("a", b"1", 0o100644), ("./a", b"2", 0o100644))
    assert "twice" in refused(bundles, lambda: stage_bytes(bundles, data), "'a'")


@pytest.mark.parametrize("kind", KINDS)
def test_a_set_id_member_is_refused(bundles: Bundles, kind: str) -> None:
    refused(bundles, lambda: stage_bytes(bundles, archived(kind, ("su", b"x", 0o104755))), "'su'")


@pytest.mark.parametrize("pack", ["tar", "tar.gz", "tar.zst"])
@pytest.mark.parametrize("target", ["/etc", "..", "a/../../x"])
def test_a_tar_link_that_leaves_is_refused(bundles: Bundles, pack: str, target: str) -> None:
    data = tar(member("l", b"", type=tarfile.SYMTYPE, linkname=target), pack=pack)
    refused(bundles, lambda: stage_bytes(bundles, data), "'l'")


@pytest.mark.parametrize("target", [b"/etc", b"..", b"a/../../x", b""])
def test_a_zip_link_that_leaves_is_refused(bundles: Bundles, target: bytes) -> None:
    refused(bundles, lambda: stage_bytes(bundles, zipped(("l", target, 0o120777))), "'l'")


@pytest.mark.parametrize("target", [b"a\0b", b"x" * 5000, b"\xff"])
def test_a_strange_zip_link_is_kept_or_refused(bundles: Bundles, target: bytes) -> None:
    try:
        assert "l" in content(bundles.commit(stage_bytes(bundles, zipped(("l", target, 0o120777)))))
    except BoesError as refusal:
        assert refusal.code == "InvalidCode"  # noqa: PT017 (either is fine)
    assert staged_names(bundles) == []


def test_nothing_is_written_through_a_link_of_the_archive(bundles: Bundles) -> None:
    data = tar(member("d/x"), member("l", b"", type=tarfile.SYMTYPE, linkname="d"), member("l/evil"))
    refused(bundles, lambda: stage_bytes(bundles, data), "'l/evil'")
    data = zipped(("d/x", b"", 0o100644), ("l", b"d", 0o120777), ("l/evil", b"", 0o100644))
    refused(bundles, lambda: stage_bytes(bundles, data), "'l/evil'")


def test_a_file_is_no_directory_of_another(bundles: Bundles) -> None:
    refused(bundles, lambda: stage_bytes(bundles, tar(member("a"), member("a/b"))), "'a/b'")
    refused(bundles, lambda: stage_bytes(bundles, tar(member("a/b"), member("a"))), "'a'")


@pytest.mark.parametrize("pack", ["tar", "tar.gz", "tar.zst"])
def test_a_hard_link_is_refused_with_the_option_that_helps(bundles: Bundles, pack: str) -> None:
    data = tar(member("a"), member("h", b"", type=tarfile.LNKTYPE, linkname="a"), pack=pack)
    assert "--hard-dereference" in refused(bundles, lambda: stage_bytes(bundles, data), "'h'")


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_a_device_or_pipe_in_a_tar_is_refused(bundles: Bundles, kind: bytes) -> None:
    refused(bundles, lambda: stage_bytes(bundles, tar(member("dev", b"", type=kind))), "'dev'")


@pytest.mark.parametrize("mode", [stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_a_device_or_pipe_in_a_zip_is_refused(bundles: Bundles, mode: int) -> None:
    refused(bundles, lambda: stage_bytes(bundles, zipped(("dev", b"", mode | 0o644))), "'dev'")


def test_an_encrypted_zip_is_refused(bundles: Bundles) -> None:
    data = bytearray(zipped(("secret", b"x", 0o100644)))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    refused(bundles, lambda: stage_bytes(bundles, bytes(data)), "'secret'")


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_bomb_is_refused_when_it_is_over_the_size(bundles: Bundles, kind: str) -> None:
    data = archived(kind, ("bomb", bytes(65 * MIB), 0o100644))
    assert len(data) < MIB
    refused(bundles, lambda: stage_bytes(bundles, data), "'bomb'")


def test_a_zip_that_lies_about_sizes_is_refused(bundles: Bundles) -> None:
    data = bytearray(zipped(("a", b"x" * 1000, 0o100644)))
    central = data.index(b"PK\x01\x02")
    data[central + 24 : central + 28] = (10).to_bytes(4, "little")
    refused(bundles, lambda: stage_bytes(bundles, bytes(data)), "")


def _peak(action: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_text_of_a_zip_link_does_not_fill_the_memory(bundles: Bundles) -> None:
    data = zipped(("l", b"x" * (60 * MIB), 0o120777))
    assert _peak(lambda: refused(bundles, lambda: stage_bytes(bundles, data), "")) < 20 * MIB


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_long_name_in_a_tar_does_not_fill_the_memory(bundles: Bundles, kind: bytes) -> None:
    """A kilobyte of tar.gz may hold a gigabyte of extended header, which tarfile reads in one piece."""
    long = b"x" * (60 * MIB)
    if kind in (tarfile.XHDTYPE, tarfile.XGLTYPE):
        long = b"%d path=%b\n" % (len(long) + 14, long)
    data = tar(member("././@LongLink", long, type=kind), member("short"), pack="tar.gz")
    assert _peak(lambda: refused(bundles, lambda: stage_bytes(bundles, data), "")) < 20 * MIB


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_archive_is_refused_wherever_it_ends(bundles: Bundles, kind: str) -> None:
    noise = hashlib.shake_256(b"boesfs").digest(30_000)
    data = archived(kind, ("a", noise, 0o100644), ("b", noise[::-1], 0o100644))
    end = len(data.rstrip(b"\0")) if kind == "tar" else len(data)
    for cut in {1, 2, 4, 100, 511, 512, 513, 600, 20_000, end // 2, end - 1000, end - 9, end - 5, end - 1}:
        refused(bundles, lambda cut=cut: stage_bytes(bundles, data[:cut]), "")


def test_a_tar_that_ends_between_two_members_is_truncated(bundles: Bundles) -> None:
    """tar(5): two blocks of zeros end an archive; without them it is not whole."""
    whole = tar(member("a"), member("b"))
    refused(bundles, lambda: stage_bytes(bundles, whole[: 2 * 512]), "")


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_damaged_archive_is_refused(bundles: Bundles, kind: str) -> None:
    noise = hashlib.shake_256(b"boesfs").digest(30_000)
    data = bytearray(archived(kind, ("a", noise, 0o100644)))
    data[len(data) // 2] ^= 0xFF
    refused(bundles, lambda: stage_bytes(bundles, bytes(data)), "")


NO_ARCHIVES = [
    b"", b"x", b"PK\x03\x04", b"PK\x03\x04" + bytes(100), b"\x1f\x8b", b"\x28\xb5\x2f\xfd",
    b"hello" * 1000, b"\xfd7zXZ\0" + bytes(100), b"BZh9" + bytes(100),
]  # fmt: skip


@pytest.mark.parametrize("data", NO_ARCHIVES)
def test_what_is_no_archive_is_refused(bundles: Bundles, data: bytes) -> None:
    assert "tar, tar.gz, tar.zst or zip" in refused(bundles, lambda: stage_bytes(bundles, data), "")


def test_a_pipe_is_no_archive(bundles: Bundles) -> None:
    read, write_end = os.pipe()
    os.close(write_end)
    with os.fdopen(read, "rb") as file:
        refused(bundles, lambda: bundles.stage_archive(file), "no regular file", "InvalidArgs")


def test_an_archive_is_read_from_its_start(bundles: Bundles, tmp_path: Path) -> None:
    place = tmp_path / "a.tar"
    place.write_bytes(tar(member("a")))
    with place.open("rb") as file:
        file.seek(100)
        assert "a" in content(bundles.stage_archive(file).path)


def test_a_broken_archive_leaves_no_process(bundles: Bundles) -> None:
    data = tar(member("a"), member("../evil"), member("b", bytes(MIB)), pack="tar.zst")
    refused(bundles, lambda: stage_bytes(bundles, data), "evil")
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
    assert not [pid for pid in children if "zstd" in Path(f"/proc/{pid}/comm").read_text()]


# --- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=32", "boesfs-test", place], check=False
    ).returncode:
        pytest.skip("may not mount here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_is_no_space_and_leaves_nothing(small_disk: Path, source: Path) -> None:
    bundles = make(small_disk)
    (source / "big").write_bytes(bytes(2 * MIB))
    refused(bundles, lambda: bundles.stage_tree(source), "free space under /var/lib/boesfsd", "NoSpace")
    (source / "big").write_bytes(bytes(MIB // 2))
    assert bundles.commit(bundles.stage_tree(source)).is_dir()


def test_a_disk_without_inodes_is_no_space_and_leaves_nothing(small_disk: Path, source: Path) -> None:
    bundles = make(small_disk)
    for number in range(40):
        (source / f"d{number}").mkdir()
    refused(bundles, lambda: bundles.stage_tree(source), "No space left", "NoSpace")


def test_a_full_disk_is_no_space_for_archives_too(small_disk: Path, tmp_path: Path) -> None:
    bundles = make(small_disk)
    place = tmp_path / "a.zip"
    place.write_bytes(zipped(("big", bytes(2 * MIB), 0o100644)))
    with place.open("rb") as file:
        refused(bundles, lambda: bundles.stage_archive(file), "No space left", "NoSpace")
