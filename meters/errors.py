"""The exception tree of Beammeter.

Every error that may reach a user derives from `BeammeterError`; the command
line prints its message and exits with its `exit_code`, never a traceback.

    BeammeterError                  exit 1: the run failed
    |- ConfigurationError           exit 2: wrong usage, nothing was written
    |  |- CatalogError              one or more `Problem`s with file, line and path
    |  `- OtherCatalog              it is none of the tenant's catalogs in time
    |- InputError                   an input that cannot be read at all
    |- WarehouseError               ClickHouse refused or cannot be reached
    |  `- WarehouseUnavailable      worth another try later
    |     `- UsageClaimed           another run has the lease on a tenant's usage
    `- JournalError                 the journal refused, or does not hold what it should
       `- JournalUnavailable        worth another try later

`Rejected` stands outside: it says why one event, or one event for one meter,
goes to quarantine, and never stops a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class BeammeterError(Exception):
    """Base of all errors that are shown to a user."""

    exit_code = 1


class ConfigurationError(BeammeterError):
    """Wrong usage or configuration; raised before anything is written."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in a catalog, and where."""

    file: str
    line: int | None
    path: str
    message: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"


class CatalogError(ConfigurationError):
    """A catalog that cannot be used, with every problem that was found."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[CatalogError], tuple[tuple[Problem, ...]]]:
        """Made again of its problems, in another process as well."""
        return type(self), (self.problems,)


class OtherCatalog(ConfigurationError):
    """A catalog that is none of the tenant's catalogs in time."""


class InputError(BeammeterError):
    """An input that cannot be read at all."""


class WarehouseError(BeammeterError):
    """ClickHouse refused a statement; trying again would not help."""


class WarehouseUnavailable(WarehouseError):
    """ClickHouse cannot be reached; trying again may help."""


class UsageClaimed(WarehouseUnavailable):
    """Another run has the lease on a tenant's usage; trying again when it is done helps."""


class JournalError(BeammeterError):
    """The journal of finalized documents refused, or is not what it should be."""


class JournalUnavailable(JournalError):
    """The journal cannot be reached, or somebody else holds it; trying again may help."""


class Rejected(Exception):
    """Why an event, or an event for one meter, goes to quarantine.

    `reason` is a stable code such as `invalid_timestamp`; `field` names what was
    wrong, `value` what was found (shortened), `expected` what was due.
    """

    MAX_VALUE = 200

    def __init__(self, reason: str, field: str, value: object, expected: str) -> None:
        text = value if isinstance(value, str) else repr(value)
        if len(text) > self.MAX_VALUE:
            text = text[: self.MAX_VALUE] + "..."
        self.reason = reason
        self.field = field
        self.value = text
        self.expected = expected
        found = "nothing" if value is None else repr(text)
        super().__init__(f"{field} must be {expected} (got {found})")

    @property
    def detail(self) -> str:
        """The message for people: field, expectation and value."""
        return str(self)
