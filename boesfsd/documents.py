# SPDX-License-Identifier: Apache-2.0
"""YAML and JSON schema: text to data, with the line of each value, and what is wrong with it in words."""

import math
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

import jsonschema
import yaml

from boesfsd.errors import BoesError

Keys = tuple[str | int, ...]
TEXT, NUMBER, BOOLEAN = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "bool"))
LONGEST_NUMBER = 80  # characters: 64 bits in binary, with underscores


class _Composer(yaml.composer.Composer):
    """Without aliases, which can make a small file explode. In Python, so that a text that is nested too deep ends in a
    RecursionError: libyaml's own would end the process."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[attr-defined]
        if isinstance(event, yaml.events.AliasEvent):
            mark: Any = event.start_mark
            raise yaml.MarkedYAMLError(problem="aliases are not allowed", problem_mark=mark)
        if isinstance(event, yaml.events.ScalarEvent) and event.anchor is None:  # most are; the way below is long
            return self.compose_scalar_node(None)  # type: ignore[arg-type]
        return super().compose_node(parent, index)


class _Loader(_Composer, yaml.SafeLoader):
    """Safe YAML."""


if yaml.__with_libyaml__:

    class _FastLoader(_Composer, yaml.CSafeLoader):
        """The same with libyaml's parser, in a third of the time. What is wrong the other tells better."""

        def __init__(self, text: str) -> None:
            yaml.CSafeLoader.__init__(self, text)
            _Composer.__init__(self)
else:
    _FastLoader = _Loader  # type: ignore[assignment,misc]


def _load(text: str) -> tuple[Any, Any]:
    """The node of a text, checked, and its data; None is an empty text."""
    try:
        return _read(_FastLoader, text)
    except (yaml.YAMLError, RecursionError, ValueError, AttributeError, IndexError, KeyError, TypeError):
        return _read(_Loader, text)


def _read(kind: Any, text: str) -> tuple[Any, Any]:
    loader = kind(text)
    node = loader.get_single_node()
    _check(node)
    return node, loader.construct_document(node) if node else None


class Document:
    """A YAML file: DATA, and where in it what stands. A key `on` is text: YAML 1.1 takes it for a truth value, as it
    does yes, no and off."""

    def __init__(self, text: str, file: str, code: str) -> None:
        """CODE is the error that is raised: it names FILE, line and column."""
        self.text, self.file = text, file
        try:
            self._node, data = _load(text)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
            raise BoesError(code, f"{file}{where}: {error.problem or error.context}") from error
        except (yaml.YAMLError, RecursionError, ValueError, AttributeError, IndexError, KeyError, TypeError) as error:
            raise BoesError(code, f"{file}: {' '.join(str(error).split())}") from error
        if not isinstance(data, dict):
            found = "empty" if data is None else type(data).__name__
            raise BoesError(code, f"{file}: must be a map of keys, is {found}")
        self.data: dict[str, Any] = data

    @cached_property
    def _marks(self) -> dict[Keys, Any]:
        return dict(_marks(self._node, ()))

    @cached_property
    def _lines(self) -> list[str]:
        return self.text.splitlines()

    def place(self, keys: Keys) -> tuple[int, int, str]:
        """Line and column, from 1, of the value behind KEYS, or of what is nearest above it; and the line's text."""
        while keys not in self._marks:
            keys = keys[:-1]
        mark = self._marks[keys]
        return mark.line + 1, mark.column + 1, self._lines[mark.line].strip() if mark.line < len(self._lines) else ""

    def text_of(self, keys: Keys) -> str:
        """The part of the text that is the value behind KEYS."""
        node: Any = self._node
        for key in keys:
            pairs = node.value if isinstance(node, yaml.MappingNode) else enumerate(node.value)
            node = next(value for name, value in pairs if getattr(name, "value", name) == key)
        start, end = node.start_mark, node.end_mark
        return f"{' ' * start.column}{self.text[start.index : end.index].rstrip()}\n"


def _check(node: Any) -> None:
    """Keys are text and stand once; numbers are not longer than any that is used."""
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if key.tag == BOOLEAN and key.value.lower() not in ("true", "false"):
                key.tag = TEXT
            if key.tag != TEXT:
                raise yaml.MarkedYAMLError(problem=f"the key {_word(key)} is no text", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {_word(key)} stands twice", problem_mark=key.start_mark)
            seen.add(key.value)
            _check(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check(item)
    elif isinstance(node, yaml.ScalarNode) and node.tag == NUMBER and len(node.value) > LONGEST_NUMBER:
        raise yaml.MarkedYAMLError(problem="the number is too long", problem_mark=node.start_mark)


def _word(key: Any) -> str:
    return str(key.value)[:60] if isinstance(key, yaml.ScalarNode) else "here"


def _marks(node: Any, keys: Keys) -> Iterator[tuple[Keys, Any]]:
    yield keys, node.start_mark
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _marks(value, (*keys, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _marks(value, (*keys, index))


def _is_integer(_: Any, value: Any) -> bool:
    """JSON schema takes 128.0 for an integer; systemd, the agent and D-Bus do not."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(_: Any, value: Any) -> bool:
    """NaN passes every comparison."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_types = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine_many({"integer": _is_integer, "number": _is_number})
_Validator = jsonschema.validators.extend(  # type: ignore[no-untyped-call]
    jsonschema.Draft202012Validator, type_checker=_types
)


class Schema:
    """A JSON schema that tells the first thing that is wrong."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._validator = _Validator(schema)

    def fault(self, data: Any) -> tuple[Keys, str, str] | None:
        """Of the first thing that is wrong: where, what, and a hint or ""."""
        for error in _sorted(self._validator.iter_errors(data)):
            keys = tuple(error.absolute_path)
            if unknown := _unknown_keys(error):
                return (
                    keys,
                    f"unknown key {', '.join(unknown)}",
                    f"known are {', '.join(sorted(error.schema['properties']))}",
                )
            described = error.schema.get("description") if isinstance(error.schema, dict) else None
            return keys, f"{error.instance!r} is not {described}" if described else error.message, ""
        return None


def _sorted(errors: Iterable[Any]) -> list[Any]:
    return sorted(errors, key=lambda error: [str(part) for part in error.absolute_path])


def _unknown_keys(error: Any) -> list[str]:
    if error.validator != "additionalProperties" or error.schema.get("additionalProperties") is not False:
        return []
    return sorted(str(key) for key in error.instance if key not in error.schema["properties"])
