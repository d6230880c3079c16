"""What pydantic finds wrong in one item of a catalog, in the words of its reader.

    ValidationError --each error--> (path of keys and indexes, "must be X (got Y)")

Pydantic's locations have the tags of unions in them, which stand in brackets
(`meters.catalog`) and are no part of a path.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator
from difflib import get_close_matches

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from meters.catalog_charges import Fee, UsageCharge
from meters.catalog_prices import PRICE_MODELS
from meters.catalog_values import Misfit, Unquoted
from meters.yaml_documents import Path

_TAGS: dict[str, type[BaseModel]] = {
    "(fee)": Fee,
    "(usage)": UsageCharge,
    **{f"({name})": model for name, model in PRICE_MODELS.items()},
}
_MAX_SHOWN = 60


def problems_of(error: ValidationError, model: type[BaseModel]) -> Iterator[tuple[Path, str]]:
    """Every problem of one item: its path below the item, and the message."""
    for details in error.errors(include_url=False):
        path = tuple(step for step in details["loc"] if step not in _TAGS)
        cause = details.get("ctx", {}).get("error")
        if isinstance(cause, Misfit):
            yield from (((*path, *below), message) for below, message in cause.conflicts)
        elif details["type"] == "extra_forbidden":
            yield path, unknown_key(str(path[-1]), _model_at(model, details["loc"][:-1]))
        elif details["type"].startswith("union_tag"):
            yield from _bad_price(path, details["input"])
        else:
            yield path, _message(details)


def unknown_key(key: str, known: type[BaseModel]) -> str:
    """The message for a key that `known` does not have."""
    names = [field.alias or name for name, field in known.model_fields.items()]
    return f"unknown key{_suggestion(key, names)}; known keys: {', '.join(names)}"


def shown(value: object) -> str:
    """A value of a catalog as messages show it, shortened."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Unquoted):
        return value.text[:_MAX_SHOWN]
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _suggestion(name: str, known: list[str]) -> str:
    close = get_close_matches(name, known, 1, 0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _model_at(model: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel]:
    """The model whose keys are expected at a location of pydantic's."""
    for step in location:
        if step in _TAGS:
            model = _TAGS[str(step)]
        elif isinstance(step, str) and step in model.model_fields:
            model = next(_models_in(model.model_fields[step].annotation), model)
    return model


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models_in(argument)


def _bad_price(path: Path, value: object) -> Iterator[tuple[Path, str]]:
    names = list(PRICE_MODELS)
    one = f"one of {', '.join(names)}"
    if not isinstance(value, dict):
        yield path, f"must be a mapping that names its model, {one} (got {shown(value)})"
    elif "model" not in value:
        yield (*path, "model"), f"must be given: {one}"
    else:
        found = value["model"]
        suggestion = _suggestion(found, names) if isinstance(found, str) else ""
        yield (*path, "model"), f"must be {one} (got {shown(found)}{suggestion})"


def _message(details: ErrorDetails) -> str:
    kind, value = details["type"], details["input"]
    context = details.get("ctx", {})
    got = f"(got {shown(value)})"
    match kind:
        case "missing":
            return "must be given"
        case "value_error":
            return str(context["error"])
        case "string_type":
            quote = ": put it in quotes" if isinstance(value, int | Unquoted) else ""
            return f"must be text {got[:-1]}{quote})"
        case "string_unicode":
            return f"must be valid Unicode {got}"
        case "string_too_short":
            return "must not be empty"
        case "string_too_long":
            size = len(value) if isinstance(value, str) else 0
            return f"must have at most {context['max_length']} characters (got {size})"
        case "too_short":
            return "must have at least one item (got none)"
        case "list_type":
            return f"must be a list {got}"
        case "dict_type" | "model_type":
            return f"must be a mapping {got}"
        case "int_type":
            return f"must be a whole number {got}"
        case "bool_type":
            return f"must be true or false {got}"
        case "greater_than_equal":
            return f"must be at least {context['ge']} {got}"
        case "literal_error":
            names = [name.strip("'") for name in str(context["expected"]).split(" or ")]
            names = [part.strip("'") for name in names for part in name.split(", ")]
            suggestion = _suggestion(value, names) if isinstance(value, str) else ""
            return f"must be one of {', '.join(names)} {got[:-1]}{suggestion})"
    return f"must be valid: {details['msg'].lower()} {got}"
