# SPDX-License-Identifier: Apache-2.0
"""Settings of the daemon: /etc/boesfsd/boesfsd.conf, then /etc/boesfsd/conf.d/*.conf in order; later ones win."""

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from boesfsd.errors import BoesError

CONF = Path("/etc/boesfsd")
MODULE, PINS = Path("/sys/module/boesfs"), Path("/sys/fs/bpf/boesfs")
"""Where the kernel shows that BoesFS is there, and the policy programs."""
LEVELS = ("error", "warning", "info", "debug")
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
UID_LOWEST, UID_HIGHEST = 100_000, 4_294_900_000


@dataclass(frozen=True, slots=True)
class Config:
    """One field a key; boesfsd.conf(5) has the same list, with meanings."""

    log_level: str = "info"
    enforcement: str = "landlock"
    landlock: str = "required"
    stricter: bool = False
    uid_range: tuple[int, int] = (1_879_048_192, 1_879_113_727)
    init_timeout: int = 5
    max_request_size: int = 100 << 20
    max_code_size: int = 512 << 20
    max_code_files: int = 50_000
    eager_sockets: int = 1000


def _choice(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return text

    return parse


def _is_yes(text: str) -> bool:
    return _choice("yes", "no")(text) == "yes"


def _number(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise ValueError(f"must be a number from {low} to {high}")
        return int(text)

    return parse


def _size(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,12})([KMG]?)", text)
    if not match:
        raise ValueError("must be a size such as 4096, 64K, 100M or 1G")
    return int(match[1]) * UNITS[match[2]]


def _uid_range(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,10})-([0-9]{1,10})", text)
    if not match or not UID_LOWEST <= int(match[1]) < int(match[2]) <= UID_HIGHEST:
        raise ValueError(f"must be FIRST-LAST with uids from {UID_LOWEST} to {UID_HIGHEST}")
    return int(match[1]), int(match[2])


KEYS: dict[str, Callable[[str], object]] = {
    "log-level": _choice(*LEVELS),
    "enforcement": _choice("boesfs", "landlock"),
    "landlock": _choice("required", "optional"),
    "stricter": _is_yes,
    "uid-range": _uid_range,
    "init-timeout": _number(1, 300),
    "max-request-size": _size,
    "max-code-size": _size,
    "max-code-files": _number(1, 10_000_000),
    "eager-sockets": _number(0, 1_000_000),
}


def load(directory: Path = CONF) -> Config:
    """Read all files. A missing file is an empty one; what is wrong is InvalidConfiguration with file and line."""
    values: dict[str, object] = {}
    for file in (directory / "boesfsd.conf", *sorted((directory / "conf.d").glob("*.conf"))):
        values.update(_read(file))
    return dataclasses.replace(Config(), **values)  # type: ignore[arg-type]


def _read(file: Path) -> dict[str, object]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise BoesError("InvalidConfiguration", f"Cannot read {file}: {error}") from error
    values: dict[str, object] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith(("#", ";")) or text == "[boesfsd]":
            continue
        key, equals, value = (part.strip() for part in text.partition("="))
        values[key.replace("-", "_")] = _parse(f"{file}, line {number}", key, value if equals else None)
    return values


def _parse(where: str, key: str, value: str | None) -> object:
    if value is None:
        raise BoesError("InvalidConfiguration", f"{where}: {key!r} is not KEY = VALUE")
    if key not in KEYS:
        raise BoesError("InvalidConfiguration", f"{where}: unknown key {key}", hint=f"known are {', '.join(KEYS)}")
    try:
        return KEYS[key](value)
    except ValueError as error:
        raise BoesError("InvalidConfiguration", f"{where}: {key} = {value}: {error}") from error
