"""JSON bodies as structs: fast where all is right, and precise about what is not.

body --one call--> structs
  `--on an error--> item by item, field by field --> faults with path, value, expectation
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec

from meters.errors import Rejected
from service.bodies import place
from service.errors import ApiError, Fault, invalid

T = TypeVar("T", bound=msgspec.Struct)

_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ANY = msgspec.json.Decoder()
_BYTE = re.compile(r"\(byte ([0-9]+)\)")
_CLIPPED = 4 * Rejected.MAX_VALUE


@dataclass
class Items(Generic[T]):
    """The items of a request that could be read, where each stood, and what was wrong.

    `paths` is how an item's fields are named: `{}` is its place.
    """

    found: list[T] = field(default_factory=list)
    places: Sequence[int] = ()
    faults: list[Fault] = field(default_factory=list)
    size: int = 0
    paths: str = "{}"

    def path(self, index: int, name: str) -> str:
        """How a field of an item is named in an error."""
        before = self.paths.format(index)
        return f"{before}.{name}" if before and name else before or name


class Shape(Generic[T]):
    """Reads one kind of item. `expected` says what each field must be."""

    def __init__(self, kind: type[T], expected: Mapping[str, str]) -> None:
        self._fields = {each.encode_name: each.type for each in msgspec.structs.fields(kind)}
        self._strict = kind.__struct_config__.forbid_unknown_fields
        self._expected = expected
        self._one = msgspec.json.Decoder(kind)
        self._many = msgspec.json.Decoder(list[kind])  # type: ignore[valid-type]
        self._raws = msgspec.json.Decoder(list[msgspec.Raw])

    def one(self, body: bytes | msgspec.Raw, paths: str = "") -> Items[T]:
        """A body that is one item."""
        try:
            return Items([self._one.decode(body)], (0,), size=1, paths=paths)
        except (msgspec.MsgspecError, RecursionError):
            check_json(bytes(body))
            return self._each([(0, body)], paths)

    def many(self, body: bytes | msgspec.Raw, paths: str) -> Items[T]:
        """A body that is a list of items."""
        try:
            found = self._many.decode(body)
        except (msgspec.MsgspecError, RecursionError):
            check_json(bytes(body))
            try:
                raws = self._raws.decode(body)
            except msgspec.ValidationError:
                fault = Fault(paths.partition("[")[0], "invalid_type", shown(body), "a list")
                raise invalid([fault], code="invalid_body") from None
            return self._each(list(enumerate(raws)), paths)
        return Items(found, range(len(found)), size=len(found), paths=paths)

    def lines(self, body: bytes) -> Items[T]:
        """A body of one item in each line; blank lines are none, but count as places."""
        numbered = [(n, line) for n, line in enumerate(body.split(b"\n")) if line.strip()]
        return self._each(numbered, "[{}]")

    def _each(self, numbered: Sequence[tuple[int, Any]], paths: str) -> Items[T]:
        items: Items[T] = Items(size=len(numbered), paths=paths)
        places = []
        decode: Callable[[Any], T] = self._one.decode
        for index, raw in numbered:
            try:
                items.found.append(decode(raw))
                places.append(index)
            except (msgspec.MsgspecError, RecursionError) as error:
                items.faults += self._wrong(raw, items, index, str(error))
        items.places = places
        return items

    def _wrong(self, raw: Any, items: Items[T], index: int, message: str) -> list[Fault]:
        try:
            fields = _OBJECT.decode(raw)
        except msgspec.ValidationError:
            path = items.path(index, "")
            return [Fault(path, "invalid_type", shown(raw), "a JSON object", index)]
        except (msgspec.DecodeError, RecursionError):
            return [_not_json_line(bytes(raw), index)]
        faults = []
        for name, value in fields.items():
            path = items.path(index, name)
            kind = self._fields.get(name)
            if kind is None:
                if self._strict:
                    known = ", ".join(self._fields)
                    expected = f"left out: fields are {known}"
                    faults.append(Fault(path, "unknown_field", shown(value), expected, index))
                continue
            try:
                msgspec.json.decode(value, type=kind)
            except msgspec.MsgspecError:
                expected = self._expected.get(name, "a string")
                faults.append(Fault(path, "invalid_type", shown(value), expected, index))
        return faults or [Fault(items.path(index, ""), "invalid", None, message, index)]


class json_errors:
    """Errors of msgspec in the block become answers with 400: the body is not as `expected`."""

    def __init__(self, body: bytes, expected: str) -> None:
        self._body = body
        self._expected = expected

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, msgspec.MsgspecError | RecursionError):
            check_json(self._body)
            fault = Fault("", "invalid_type", None, f"{self._expected} ({error})")
            raise invalid([fault], code="invalid_body") from None


def check_json(body: bytes) -> None:
    """Raises 400 with line and column where the body is no JSON at all."""
    if (found := _broken(body)) is None:
        return
    cause, offset = found
    line, column = place(body, offset)
    where = f"JSON: line {line}, column {column}: {cause}"
    raise ApiError(
        400,
        "invalid_json",
        f"the body must be {where}",
        faults=[Fault("", "invalid_json", None, where)],
        extra={"line": line, "column": column},
    )


def shown(raw: bytes | msgspec.Raw) -> str:
    """The start of a value's JSON text; strings without their quotes."""
    text = bytes(raw)[:_CLIPPED].decode(errors="replace")
    if len(raw) <= _CLIPPED and text.startswith('"'):
        text = _ANY.decode(raw)
    return text if len(text) <= Rejected.MAX_VALUE else text[: Rejected.MAX_VALUE] + "..."


def _broken(body: bytes) -> tuple[str, int] | None:
    """What is wrong with a text as JSON, and at which byte; None where nothing is."""
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except RecursionError:
        return "it is nested too deeply", 0
    except msgspec.DecodeError as error:
        text = str(error)
        match = _BYTE.search(text)
        cause = _BYTE.sub("", text).replace("JSON is malformed:", "").strip()
        return cause, int(match[1]) if match else len(body)
    return None


def _not_json_line(line: bytes, index: int) -> Fault:
    cause, offset = _broken(line) or ("it is nested too deeply", 0)
    expected = f"JSON: line {index + 1}, column {offset + 1}: {cause}"
    return Fault(f"[{index}]", "invalid_json", shown(line), expected, index)
