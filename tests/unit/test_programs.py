# SPDX-License-Identifier: Apache-2.0
"""The administrator's programs: the directory, the kernel, and what is left when one refuses. The kernel is played;
tests/vm has the real one."""

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import boesfsd
from boesfsd.errors import BoesError


class Kernel(SimpleNamespace):
    """What is loaded, by name; objects that begin with `bad` are refused."""

    def __init__(self) -> None:
        super().__init__(loaded={}, log=[])

    def set_up_own(self, name: str, file: Path, called: str) -> None:
        self.log.append(name)
        if file.read_bytes().startswith(b"bad"):
            raise BoesError("InvalidPolicy", f"{called} is refused by the kernel")
        self.loaded[name] = file.read_bytes()

    def own_programs(self) -> list[str]:
        return sorted(self.loaded)

    def take_down_own(self, name: str) -> None:
        self.loaded.pop(name, None)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    played = Kernel()
    monkeypatch.setitem(sys.modules, "boesfsd.kernel", played)
    monkeypatch.setattr(boesfsd, "kernel", played, raising=False)
    monkeypatch.delitem(sys.modules, "boesfsd.programs", raising=False)
    return played


@pytest.fixture
def programs(kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    found = importlib.import_module("boesfsd.programs")
    monkeypatch.setattr(found, "DIRECTORY", tmp_path / "programs")
    monkeypatch.setattr(found, "LOADED", tmp_path / "loaded")
    (tmp_path / "one").write_bytes(b"one")
    (tmp_path / "bad").write_bytes(b"bad")
    return found


def kept(programs: ModuleType) -> list[str]:
    return sorted(file.name for file in programs.DIRECTORY.iterdir())


def test_a_program_is_loaded_and_kept_and_not_loaded_twice(
    programs: ModuleType, kernel: Kernel, tmp_path: Path
) -> None:
    assert programs.put("a", tmp_path / "one")
    assert not programs.put("a", tmp_path / "one")
    assert (kernel.log, kept(programs), programs.known()) == (["a"], ["a.bpf.o"], {"a": True})


def test_one_that_is_refused_changes_nothing(programs: ModuleType, kernel: Kernel, tmp_path: Path) -> None:
    programs.put("a", tmp_path / "one")
    with pytest.raises(BoesError, match=f"{tmp_path}/bad is refused"):
        programs.put("a", tmp_path / "bad")
    assert (kernel.loaded, kept(programs)) == ({"a": b"one"}, ["a.bpf.o"])
    assert (programs.DIRECTORY / "a.bpf.o").read_bytes() == b"one"


def test_after_a_boot_all_are_loaded_that_can_be(programs: ModuleType, kernel: Kernel) -> None:
    programs.DIRECTORY.mkdir()
    for name, text in (("a", b"one"), ("b", b"bad"), ("c", b"two"), ("d e", b"one")):
        (programs.DIRECTORY / f"{name}.bpf.o").write_bytes(text)
    faults = programs.set_up()
    assert [fault.message for fault in faults] == [
        f"{programs.DIRECTORY}/b.bpf.o is refused by the kernel",
        "'d e' is no name for a program",
    ]
    assert kernel.loaded == {"a": b"one", "c": b"two"}
    assert programs.known() == {"a": True, "b": False, "c": True, "d e": False}


def test_what_was_exchanged_is_loaded_and_what_is_gone_is_taken_down(programs: ModuleType, kernel: Kernel) -> None:
    programs.DIRECTORY.mkdir()
    for name in ("a", "b", "c"):
        (programs.DIRECTORY / f"{name}.bpf.o").write_bytes(b"one")
    assert programs.set_up() == []
    (programs.DIRECTORY / "a.bpf.o").unlink()
    (programs.DIRECTORY / "b.bpf.o").write_bytes(b"two")
    kernel.log.clear()
    assert programs.set_up() == []
    assert (kernel.log, kernel.loaded) == (["b"], {"b": b"two", "c": b"one"})


def test_one_that_the_kernel_lost_is_loaded_again(programs: ModuleType, kernel: Kernel, tmp_path: Path) -> None:
    programs.put("a", tmp_path / "one")
    kernel.loaded.clear()
    assert programs.set_up() == []
    assert kernel.loaded == {"a": b"one"}


def test_one_is_removed(programs: ModuleType, kernel: Kernel, tmp_path: Path) -> None:
    programs.put("a", tmp_path / "one")
    programs.remove("a")
    assert (kernel.loaded, kept(programs), list(programs.LOADED.iterdir())) == ({}, [], [])
    with pytest.raises(BoesError, match="There is no program a"):
        programs.remove("a")


@pytest.mark.parametrize("name", ["", "a b", "../a", "a" * 32, "boesfsd", "a,b"])
def test_names_that_cannot_be_are_refused(programs: ModuleType, kernel: Kernel, tmp_path: Path, name: str) -> None:
    with pytest.raises(BoesError, match="is no name for a program"):
        programs.put(name, tmp_path / "one")
    assert kernel.log == []


def test_a_file_that_is_not_there_is_named(programs: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(BoesError, match="nowhere cannot be read"):
        programs.put("a", tmp_path / "nowhere")
    assert not programs.DIRECTORY.exists()


def test_a_file_that_cannot_be_read_is_told_and_does_not_keep_others_out(programs: ModuleType, kernel: Kernel) -> None:
    programs.DIRECTORY.mkdir()
    (programs.DIRECTORY / "a.bpf.o").symlink_to("/nowhere")
    (programs.DIRECTORY / "b.bpf.o").mkdir()
    (programs.DIRECTORY / "c.bpf.o").write_bytes(b"one")
    kernel.loaded["gone"] = b""
    faults = [fault.message for fault in programs.set_up()]
    assert faults == [
        f"{programs.DIRECTORY}/a.bpf.o cannot be read: No such file or directory",
        f"{programs.DIRECTORY}/b.bpf.o cannot be read: Is a directory",
    ]
    assert kernel.loaded == {"c": b"one"}
