"""`beammeter keys`: make, list and revoke."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from meters.timestamps import format_instant
from runners.output import Format, notice, print_csv, print_json, print_table
from service.keys import Key, KeyStore, Right

_COLUMNS = {
    "id": "id",
    "tenant": "tenant",
    "rights": "rights",
    "label": "label",
    "created_at": "created",
    "revoked_at": "revoked",
}


def create_key(
    path: Path,
    *,
    tenant: str,
    rights: Sequence[Right],
    label: str,
    requests_rate: float | None,
    events_rate: float | None,
) -> None:
    """Make a key; stdout holds it and nothing else."""
    key, text = KeyStore(path).create(
        tenant, rights, label=label, requests_rate=requests_rate, events_rate=events_rate
    )
    notice(f"key {key.id} of tenant {key.tenant} may {', '.join(key.rights)}; it is shown once:")
    click.echo(text)


def list_keys(path: Path, form: Format) -> None:
    """All keys, revoked ones as well."""
    rows = [_row(key) for key in KeyStore(path).all()]
    if form == "json":
        print_json(rows)
    elif form == "csv":
        print_csv(rows, list(_COLUMNS))
    else:
        print_table(rows, _COLUMNS)


def revoke_key(path: Path, name: str) -> None:
    """End a key."""
    key = KeyStore(path).revoke(name)
    notice(f"key {key.id} of tenant {key.tenant} is revoked")


def _row(key: Key) -> dict[str, object]:
    return {
        "id": key.id,
        "tenant": key.tenant,
        "rights": ", ".join(key.rights),
        "label": key.label,
        "created_at": format_instant(key.created_at),
        "revoked_at": None if key.revoked_at is None else format_instant(key.revoked_at),
    }
