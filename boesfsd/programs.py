# SPDX-License-Identifier: Apache-2.0
"""Policy programs of the administrator's own: BPF objects in a directory, by name, and in the kernel. root's business:
the daemon can neither load nor exchange them."""

import hashlib
import logging
import os
from pathlib import Path

from boesfsd import host, kernel
from boesfsd.config import CONF
from boesfsd.errors import BoesError
from boesfsd.model import PROGRAM_NAME
from boesfsd.plan import BOESFSD
from boesfsd.units import RUN

log = logging.getLogger("boesfs-setup")
DIRECTORY = CONF / "programs"
SUFFIX = ".bpf.o"
LOADED = RUN / "programs"
"""A file for each that is in the kernel, with the digest of what it was made from."""


def put(name: str, source: Path) -> bool:
    """Let functions name the program in SOURCE; one that has the name is exchanged, also for instances that run. False:
    it was there already. InvalidArgs, InvalidPolicy: nothing has changed. Failed: if the file could not be renamed, the
    program is in force until the next boot."""
    _check_name(name)
    kept = DIRECTORY / f"{name}{SUFFIX}"
    try:
        data = source.read_bytes()
    except OSError as error:
        raise BoesError("InvalidArgs", f"{source} cannot be read: {error.strerror}") from error
    part = DIRECTORY / f".{name}.{os.getpid()}"
    try:
        DIRECTORY.mkdir(mode=0o755, exist_ok=True)
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new = _load(name, part, str(source))
        part.rename(kept)
    except OSError as error:
        raise BoesError("Failed", f"{kept} cannot be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
    return new


def remove(name: str) -> None:
    """Functions that name it have no program: what runs is denied everything, and nothing starts. InvalidArgs: there is
    none."""
    _check_name(name)
    file = DIRECTORY / f"{name}{SUFFIX}"
    if not file.exists() and name not in kernel.own_programs():
        raise BoesError("InvalidArgs", f"There is no program {name}", hint="boesfsctl program list")
    file.unlink(missing_ok=True)
    _take_down(name)


def known() -> dict[str, bool]:
    """Those of the directory and of the kernel, and whether the kernel has them."""
    loaded = kernel.own_programs()
    return {name: name in loaded for name in sorted({*_files(), *loaded})}


def set_up() -> list[BoesError]:
    """Have the kernel have what the directory has; what could not be loaded."""
    faults, files = [], _files()
    for name, file in files.items():
        try:
            _check_name(name)
            if _load(name, file, str(file)):
                log.info("Policy program %s is in force", name)
        except BoesError as error:
            faults.append(error)
        except OSError as error:
            faults.append(BoesError("InvalidPolicy", f"{file} cannot be read: {error.strerror}"))
    for name in kernel.own_programs():
        if name not in files:
            log.info("Policy program %s is gone", name)
            _take_down(name)
    return faults


def _files() -> dict[str, Path]:
    return {file.name.removesuffix(SUFFIX): file for file in sorted(DIRECTORY.glob(f"[!.]*{SUFFIX}"))}


def _check_name(name: str) -> None:
    if not PROGRAM_NAME.fullmatch(name) or name == BOESFSD:
        raise BoesError("InvalidArgs", f"{name!r} is no name for a program", hint="1 to 31 letters, digits, _ and -")


def _load(name: str, file: Path, called: str) -> bool:
    digest, mark = hashlib.sha256(file.read_bytes()).hexdigest(), LOADED / name
    if name in kernel.own_programs() and mark.exists() and mark.read_text() == digest:
        return False
    kernel.set_up_own(name, file, called)
    LOADED.mkdir(mode=0o755, parents=True, exist_ok=True)
    host.write(mark, digest)
    return True


def _take_down(name: str) -> None:
    kernel.take_down_own(name)
    (LOADED / name).unlink(missing_ok=True)
