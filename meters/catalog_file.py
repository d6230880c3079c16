"""Reading a catalog from YAML: one file, or a folder of them.

    files --read--> documents --split--> items --validate, compare--> Catalog, or every problem

A folder is all its `*.yaml` and `*.yml` files in the order of their names; their
sections are concatenated. A catalog is used as a whole or not at all: whatever is
wrong is collected, with file, line and path, and raised as one `CatalogError`
(exit 2).

Hashes say whether a change of the catalog can change numbers: they cover neither
names nor descriptions nor who issues invoices, neither the order of items nor keys
that have their default.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path as FilePath

from pydantic import ValidationError

from meters.catalog import (
    Catalog,
    Coupon,
    CreditGrant,
    Customer,
    Entitlement,
    Issuer,
    Meter,
    Model,
    Plan,
    Subscription,
    Tax,
    repeated_charge,
)
from meters.catalog_links import link_conflicts
from meters.catalog_problems import problems_of, shown, unknown_key
from meters.collection import without_collection
from meters.errors import CatalogError, Problem
from meters.scalars import canonical_json, parse_json
from meters.timestamps import format_instant
from meters.yaml_documents import BrokenDocument, Document, Path, read_document

_SECTIONS: dict[str, type[Model]] = {
    "meters": Meter,
    "customers": Customer,
    "plans": Plan,
    "subscriptions": Subscription,
    "coupons": Coupon,
    "taxes": Tax,
    "credits": CreditGrant,
    "entitlements": Entitlement,
    "issuers": Issuer,
}
_SUFFIXES = {".yaml", ".yml"}
_NO_NUMBERS: dict[str, object] = dict.fromkeys(
    ("name", "legal_name", "address", "tax_id", "country", "issuer", "payment_terms_days"), True
)
"""Keys of customers that change no amount."""


@dataclass(frozen=True)
class _Item:
    """One entry of one section, as it stands in a file."""

    section: str
    data: dict[str, object]
    document: Document
    index: int

    def problem(self, path: Path, message: str) -> Problem:
        return self.document.problem((self.section, self.index, *path), message)

    @property
    def id(self) -> str | None:
        found = self.data.get("id")
        return found if isinstance(found, str) else None

    @property
    def place(self) -> str:
        return f"{self.document.file}:{self.document.line((self.section, self.index))}"


def load_catalog(path: str) -> Catalog:
    """The catalog in the file or folder `path`.

    Raises CatalogError with every problem that was found, in the order of files and
    lines. References between sections are checked even where items have other
    problems.
    """
    files = _files(path)
    with without_collection():
        return _load(files)


def _load(files: list[FilePath]) -> Catalog:
    problems: list[Problem] = []
    documents: list[Document] = []
    for file in files:
        try:
            documents.append(read_document(str(file), file.read_bytes()))
        except OSError as error:
            reason = error.strerror or type(error).__name__
            problems.append(Problem(str(file), None, "", f"must be readable (got {reason})"))
        except BrokenDocument as error:
            problems.append(error.problem)
    items: list[_Item] = []
    for document in documents:
        problems += document.problems
        items += _split(document, problems)
    found: dict[str, list[Model]] = {section: [] for section in _SECTIONS}
    origins: dict[str, list[_Item]] = {section: [] for section in _SECTIONS}
    for item in items:
        model = _SECTIONS[item.section]
        try:
            found[item.section].append(model.model_validate(item.data))
            origins[item.section].append(item)
        except ValidationError as error:
            problems += [item.problem(at, message) for at, message in problems_of(error, model)]
    problems += _duplicates(items)
    problems += _dangling(items)
    problems += _misfits(Catalog.model_construct(**found), origins)  # type: ignore[arg-type]
    if problems:
        order = {str(file): index for index, file in enumerate(files)}
        problems.sort(key=lambda problem: (order.get(problem.file, 0), problem.line or 0))
        raise CatalogError(_once(documents, problems))
    return Catalog.model_validate(found)


def _once(documents: list[Document], problems: list[Problem]) -> list[Problem]:
    """Each problem once; where a value cannot even be read, nothing else is said of it."""
    unread = {
        (problem.file, problem.path): problem
        for document in documents
        for problem in document.problems
    }
    return [
        problem
        for problem in dict.fromkeys(problems)
        if unread.get((problem.file, problem.path), problem) is problem
    ]


def _files(path: str) -> list[FilePath]:
    place = FilePath(path)
    try:
        if place.is_dir():
            files = sorted(
                (file for file in place.iterdir() if file.suffix in _SUFFIXES),
                key=lambda file: file.name,
            )
            files = [file for file in files if file.is_file() and not file.name.startswith(".")]
        elif place.exists():
            files = [place]
        else:
            raise CatalogError([Problem(path, None, "", "must be a file or folder (got neither)")])
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        message = f"must be a readable file or folder (got {reason})"
        raise CatalogError([Problem(path, None, "", message)]) from None
    if not files:
        message = "must have at least one file *.yaml or *.yml (got none)"
        raise CatalogError([Problem(path, None, "", message)])
    return files


def _split(document: Document, problems: list[Problem]) -> Iterator[_Item]:
    """The items of a document; what cannot be one is a problem."""
    sections = document.data
    if not isinstance(sections, dict):
        message = f"must be a mapping of sections, such as meters (got {shown(sections)})"
        problems.append(document.problem((), message))
        return
    for section, entries in sections.items():
        if section not in _SECTIONS:
            problems.append(document.problem((section,), unknown_key(section, Catalog)))
        elif entries is not None and not isinstance(entries, list):
            message = f"must be a list (got {shown(entries)})"
            problems.append(document.problem((section,), message))
        else:
            for index, entry in enumerate(entries or []):
                if isinstance(entry, dict):
                    yield _Item(section, entry, document, index)
                else:
                    message = f"must be a mapping (got {shown(entry)})"
                    problems.append(document.problem((section, index), message))


def _duplicates(items: list[_Item]) -> Iterator[Problem]:
    first: dict[tuple[str, str], _Item] = {}
    for item in items:
        if item.id is not None:
            known = first.setdefault((item.section, item.id), item)
            if known is not item:
                message = f"must be unique (got {item.id!r}, as in {known.place})"
                yield item.problem(("id",), message)
        if item.section == "plans":
            yield from _duplicate_charges(item)


def _duplicate_charges(item: _Item) -> Iterator[Problem]:
    """As the plan's model would say, but also where the plan has other problems."""
    seen: set[object] = set()
    for path, charge in _charges(item):
        name = charge.get("id")
        if isinstance(name, str):
            if (path[:-1], name) in seen:
                yield item.problem((*path, "id"), repeated_charge(name))
            seen.add((path[:-1], name))


def _charges(item: _Item) -> Iterator[tuple[Path, dict[str, object]]]:
    """The charges of a plan and of its versions, with their paths."""
    yield from _charges_at((), item.data)
    versions = item.data.get("versions")
    for index, version in enumerate(versions if isinstance(versions, list) else []):
        if isinstance(version, dict):
            yield from _charges_at(("versions", index), version)


def _charges_at(path: Path, data: dict[str, object]) -> Iterator[tuple[Path, dict[str, object]]]:
    charges = data.get("charges")
    for index, charge in enumerate(charges if isinstance(charges, list) else []):
        if isinstance(charge, dict):
            yield (*path, "charges", index), charge


def _dangling(items: list[_Item]) -> Iterator[Problem]:
    ids: dict[str, set[str]] = {section: set() for section in _SECTIONS}
    for item in items:
        if item.id is not None:
            ids[item.section].add(item.id)
    for item in items:
        for path, section, name in _references(item):
            if isinstance(name, str) and name and name not in ids[section]:
                message = f"must be the id of one of the {section} (got {name!r})"
                yield item.problem(path, message)


def _misfits(catalog: Catalog, origins: dict[str, list[_Item]]) -> Iterator[Problem]:
    for section, position, path, message in link_conflicts(catalog):
        yield origins[section][position].problem(path, message)


def _references(item: _Item) -> Iterator[tuple[Path, str, object]]:
    if item.section == "subscriptions":
        yield ("customer",), "customers", item.data.get("customer")
        yield ("plan",), "plans", item.data.get("plan")
        changes = item.data.get("changes")
        for index, change in enumerate(changes if isinstance(changes, list) else []):
            if isinstance(change, dict):
                yield ("changes", index, "plan"), "plans", change.get("plan")
        yield from _listed(item, "coupons", "coupons")
        yield from _commitment_tax(item)
    elif item.section == "customers":
        yield ("tax",), "taxes", item.data.get("tax")
        yield ("issuer",), "issuers", item.data.get("issuer")
    elif item.section == "credits":
        yield ("customer",), "customers", item.data.get("customer")
        yield from _listed(item, "plans", "plans")
    elif item.section == "entitlements":
        yield ("customer",), "customers", item.data.get("customer")
        yield ("meter",), "meters", item.data.get("meter")
    elif item.section == "coupons":
        yield from _listed(item, "plans", "plans")
    elif item.section == "plans":
        yield from _commitment_tax(item)
        for path, charge in _charges(item):
            yield (*path, "meter"), "meters", charge.get("meter")
            yield (*path, "tax"), "taxes", charge.get("tax")


def _commitment_tax(item: _Item) -> Iterator[tuple[Path, str, object]]:
    commitment = item.data.get("commitment")
    if isinstance(commitment, dict):
        yield ("commitment", "tax"), "taxes", commitment.get("tax")


def _listed(item: _Item, key: str, section: str) -> Iterator[tuple[Path, str, object]]:
    names = item.data.get(key)
    for index, name in enumerate(names if isinstance(names, list) else []):
        yield (key, index), section, name


def meter_hash(meter: Meter) -> str:
    """16 hex digits over what of a meter affects usage."""
    return _hash(_meter_content(meter))


def catalog_hash(catalog: Catalog) -> str:
    """16 hex digits over what of a catalog affects usage or amounts."""
    # Kept beside the catalog's other derived values, which no copy takes over: a catalog never
    # changes, and its hash is asked for often.
    derived = catalog.__dict__
    if _HASH not in derived:
        derived[_HASH] = _catalog_hash(catalog)
    return str(derived[_HASH])


_HASH = "_catalog_hash"


def _catalog_hash(catalog: Catalog) -> str:
    undescribed: dict[str, object] = {"charges": {"__all__": {"description"}}}
    plans = {**undescribed, "versions": {"__all__": undescribed}, "name": True}
    described: dict[str, object] = {"description": True}
    later = {
        "coupons": _sorted([_content(each, described) for each in catalog.coupons]),
        "taxes": _sorted([_content(each, described) for each in catalog.taxes]),
        "credits": _sorted([_content(each, described) for each in catalog.credits]),
        # In the order of the catalog, in which they are used.
        "entitlements": [_content(each, described) for each in catalog.entitlements],
    }
    return _hash(
        {
            "meters": _sorted([_meter_content(meter) for meter in catalog.meters]),
            "customers": _sorted([_content(each, _NO_NUMBERS) for each in catalog.customers]),
            "plans": _sorted([_content(each, plans) for each in catalog.plans]),
            "subscriptions": _sorted([_content(each, {}) for each in catalog.subscriptions]),
            # Sections that came later: without them the hash is what it always was.
            **{name: content for name, content in later.items() if content},
        }
    )


def catalog_content(catalog: Catalog) -> str:
    """The whole catalog as canonical JSON, as it is kept beside invoices."""
    sections = {name: getattr(catalog, name) for name in _SECTIONS}
    return canonical_json(
        {name: [_content(item, {}) for item in items] for name, items in sections.items()}
    )


def catalog_from_content(content: str) -> Catalog:
    """The catalog that `catalog_content` wrote down."""
    return Catalog.model_validate(parse_json(content))


def _meter_content(meter: Meter) -> dict[str, object]:
    content = _content(meter, {"description": True, "filters": True, "group_by": True})
    content["filters"] = {name: sorted(allowed) for name, allowed in meter.allowed.items()}
    content["group_by"] = sorted(meter.group_by)
    return content


def _content(model: Model, left_out: dict[str, object]) -> dict[str, object]:
    dumped = model.model_dump(by_alias=True, exclude_defaults=True, exclude=left_out)  # type: ignore[arg-type]
    return {key: _written(value) for key, value in dumped.items()}


def _written(value: object) -> object:
    """The value with instants as text, however deep they stand."""
    if isinstance(value, datetime):
        return format_instant(value)
    if isinstance(value, dict):
        return {key: _written(each) for key, each in value.items()}
    return [_written(each) for each in value] if isinstance(value, list) else value


def _sorted(contents: list[dict[str, object]]) -> list[dict[str, object]]:
    return sorted(contents, key=lambda content: str(content["id"]))


def _hash(content: object) -> str:
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()[:16]
