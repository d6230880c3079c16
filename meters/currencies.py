"""Currencies and their minor units, by ISO 4217 (through py-moneyed)."""

from __future__ import annotations

from difflib import get_close_matches
from functools import lru_cache

from moneyed import CURRENCIES

_NEWER = {"XCG": 2, "ZWG": 2}
"""In ISO 4217 since 2024, and not yet in py-moneyed."""

_MONEY_WITH_X = {"XAF", "XCD", "XOF", "XPF"}


@lru_cache(maxsize=1024)
def currency_exponent(code: str) -> int:
    """How many decimals an amount in this currency has: EUR 2, JPY 0, KWD 3.

    Raises ValueError for a code that is not an ISO 4217 currency, and for metals and
    units of account (XAU, XDR), which have no minor unit.
    """
    if code in _NEWER:
        return _NEWER[code]
    known = CURRENCIES.get(code)
    if known is None or (code.startswith("X") and code not in _MONEY_WITH_X):
        close = get_close_matches(code.upper(), CURRENCIES, 1)
        hint = f"; did you mean {close[0]}?" if close and close[0] != code else ""
        raise ValueError(f"must be an ISO 4217 currency code such as EUR (got {code[:40]!r}{hint})")
    # sub_unit is a power of ten: 100 cents, 1000 fils, 1 where there is no minor unit.
    return len(str(known.sub_unit)) - 1
