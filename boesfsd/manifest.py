# SPDX-License-Identifier: Apache-2.0
"""func.yaml (Fn's schema 20180708 with our keys) and the options of Deploy, checked and merged into Settings."""

import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path

from boesfsd import options
from boesfsd.documents import Document, Schema
from boesfsd.errors import BoesError
from boesfsd.model import Json, PolicyFiles, PolicySource, Ports, Settings
from boesfsd.policy import sources

FILE = "func.yaml"
SCHEMA_VERSION = 20180708
MANIFEST_MAX = 256 << 10
POLICY_MAX = 16 << 20
VALUE_MAX = 64 << 10
VARIABLES_MAX = 256 << 10

_text: Json = {"type": "string"}
_texts: Json = {"type": "array", "items": _text}
_trigger: Json = {
    "type": "object",
    "properties": {"name": _text, "type": {"enum": ["http"]}, "source": {"type": "string", "pattern": "^/"}},
    "required": ["name", "type", "source"],
    "additionalProperties": False,
}
_expected: Json = {
    "type": "object",
    "properties": {"name": _text, "required": {"type": "boolean"}},
    "required": ["name"],
    "additionalProperties": False,
}
_fn_keys: Json = {
    "schema_version": {"const": SCHEMA_VERSION},
    "name": _text,
    "version": {"type": ["string", "number"]},
    "build_image": _text,
    "run_image": _text,
    "cmd": _text,
    "entrypoint": _text,
    "content_type": _text,
    "type": _text,
    "annotations": {"type": "object"},
    "build": _texts,
    "expects": {
        "type": "object",
        "properties": {"config": {"type": "array", "items": _expected}},
        "additionalProperties": False,
    },
    "triggers": {"type": "array", "items": _trigger},
    "signing_details": {"type": "object"},
    "deploy": {"type": "object"},
}
_policy: Json = {
    "description": "a policy block, the name of a file with one, or a map of program, or of model, policy and kill",
    "anyOf": [
        {"type": "string", "minLength": 1},
        {
            "type": "object",
            "properties": {"model": _text, "policy": _text, "kill": {"type": "integer", "minimum": 0}},
            "required": ["model", "policy"],
            "additionalProperties": False,
        },
        {"type": "object", "not": {"required": ["model"]}},
    ],
}
SCHEMA: Json = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "func.yaml",
    "type": "object",
    "properties": {
        **_fn_keys,
        "policy": _policy,
        **{key: option.schema for key, option in options.STORED.items()},
    },
    "required": ["schema_version"],
    "additionalProperties": False,
}


_manifest_schema = Schema(SCHEMA)
_options_schema = Schema(options.schema(options.TABLE))


@dataclass(frozen=True, slots=True)
class Manifest:
    """A checked func.yaml. `given` holds the option keys it sets; without entrypoint and cmd the command is empty.
    `policy` is what it has under that key; see read_policy."""

    name: str
    command: tuple[str, ...]
    given: Json
    required_config: tuple[str, ...]
    policy: Json | str | None = None
    text: str = ""


def read(file: Path) -> Manifest:
    """The manifest in FILE; InvalidManifest names the line or the key that is wrong."""
    try:
        if file.stat().st_size > MANIFEST_MAX:
            raise BoesError("InvalidManifest", f"{FILE} is over {MANIFEST_MAX >> 10} KiB")
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise BoesError("InvalidManifest", f"There is no {FILE} in the source", hint="fn init writes one") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BoesError("InvalidManifest", f"Cannot read {FILE}: {error}") from error
    return parse(text)


def parse(text: str) -> Manifest:
    """As read, from the file's text."""
    data = Document(text, FILE, "InvalidManifest").data
    _validate(_manifest_schema, data, "InvalidManifest", f"{FILE}: ")
    if data.get("network", "none") == "none" and data.get("ports"):
        raise BoesError("InvalidManifest", f"{FILE}: ports: there are none to reach with network: none")
    return Manifest(
        name=data.get("name", ""),
        command=(*_words("entrypoint", data), *_words("cmd", data)),
        given={key: value for key, value in data.items() if key in options.STORED},
        required_config=tuple(
            item["name"] for item in data.get("expects", {}).get("config", []) if item.get("required", True)
        ),
        policy=data.get("policy"),
        text=text,
    )


def read_policy(manifest: Manifest, tree: Path, given: Json) -> PolicySource | None:
    """The function's own policy: that of Deploy's options, or func.yaml's with the files of TREE that it names; None:
    it has none. InvalidManifest, InvalidPolicy."""
    if "policy" in given:
        return option_policy(given)
    match manifest.policy:
        case None:
            return None
        case str(name):
            return sources.open_block(_bundled(tree, name), name)
        case {"model": str(model), "policy": str(rules)}:
            kill = manifest.policy.get("kill")
            return PolicyFiles(model, _bundled(tree, model), rules, _bundled(tree, rules), kill)
    return sources.open_block(manifest.text, FILE)


def option_policy(given: Json) -> PolicySource | None:
    """The option policy, of Deploy and CreateApp."""
    if len(given.get("policy", "")) > POLICY_MAX:
        raise BoesError("InvalidPolicy", f"The option policy is over {POLICY_MAX >> 20} MiB")
    return sources.open_block(given["policy"], "option policy") if "policy" in given else None


def _bundled(tree: Path, name: str) -> str:
    file = tree / name
    if not name.isprintable():
        raise BoesError("InvalidManifest", f"{FILE}: policy: {name!r} is no name for a file")
    try:
        if not file.resolve().is_relative_to(tree.resolve()):
            raise BoesError("InvalidManifest", f"{FILE}: policy: {name} is not in the source", hint="copy it there")
        if file.stat().st_size > POLICY_MAX:
            raise BoesError("InvalidManifest", f"{FILE}: policy: {name} is over {POLICY_MAX >> 20} MiB")
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise BoesError("InvalidManifest", f"{FILE}: policy: {name} cannot be read: {error}") from error


def _words(key: str, data: Json) -> list[str]:
    try:
        return shlex.split(data.get(key, ""))
    except ValueError as error:
        raise BoesError("InvalidManifest", f"{FILE}: {key}: {error}") from error


def check_options(given: Json) -> None:
    """InvalidArgs that names the unknown key or the wrong value of Deploy's options."""
    _validate(_options_schema, given, "InvalidArgs", "")


def settings(manifest: Manifest, given: Json) -> Settings:
    """func.yaml's settings with those of Deploy's options on top; config is merged key by key."""
    merged: Json = {**manifest.given, **{key: value for key, value in given.items() if key in options.STORED}}
    for key in ("config", "environment"):
        merged[key] = options.text_values({**manifest.given.get(key, {}), **given.get(key, {})})
    for key in ("memory", "timeout", "idle_timeout"):  # Fn: zero means the default
        if merged.get(key) == 0:
            del merged[key]
    ports = merged.pop("ports", {})
    calls = tuple(sorted(set(merged.pop("system_calls", ()))))
    sides = {side: tuple(sorted(set(numbers))) for side, numbers in ports.items()}
    result = Settings(**merged, ports=Ports(**sides), system_calls=calls)
    if result.network == "none" and result.ports != Ports():
        raise BoesError("InvalidArgs", "ports: there are none to reach with network = none")
    _check_values(result)
    return result


def check_variables(values: dict[str, str]) -> None:
    """InvalidManifest unless a plan can hold them: three such maps fit into one."""
    for name, value in values.items():
        if "\0" in value or len(value) > VALUE_MAX:
            raise BoesError("InvalidManifest", f"config: {name}: a value is text of at most 64 KiB without NUL")
    if sum(len(f"{name}={value}".encode()) for name, value in values.items()) > VARIABLES_MAX:
        raise BoesError("InvalidManifest", f"config: all of it together is over {VARIABLES_MAX >> 10} KiB")


def _check_values(result: Settings) -> None:
    check_variables({**result.environment, **result.config})
    for part in filter(None, result.cpuset.split(",")):
        first, _, last = part.partition("-")
        if last and int(first) > int(last):
            raise BoesError("InvalidManifest", f"cpuset: {part} runs backwards")
    if max(options.parse_cpuset(result.cpuset), default=0) > options.CPU_HIGHEST:
        raise BoesError("InvalidManifest", f"cpuset: {result.cpuset}: CPU numbers end at {options.CPU_HIGHEST}")


def to_json(value: Settings) -> Json:
    """Settings as the store keeps them."""
    return dataclasses.asdict(value)


def from_json(data: Json) -> Settings:
    """The reverse of to_json; keys that a later version may have added are left out."""
    known = {item.name for item in dataclasses.fields(Settings)}
    values = {key: value for key, value in data.items() if key in known}
    ports = {side: None if value is None else tuple(value) for side, value in values.pop("ports", {}).items()}
    calls = tuple(values.pop("system_calls", ()))
    return Settings(**values, ports=Ports(**ports), system_calls=calls)


def _validate(schema: Schema, data: Json, code: str, prefix: str) -> None:
    if fault := schema.fault(data):
        keys, problem, hint = fault
        where = ".".join(map(str, keys))
        told = f"{problem}{' in ' + where if where else ''}" if hint else f"{where + ': ' if where else ''}{problem}"
        raise BoesError(code, f"{prefix}{told}", hint=hint)
