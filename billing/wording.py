"""The words of invoices and explanations in the languages of customers.

    language (de, de-CH, en-GB ...) --Words--> texts, amounts, numbers, dates

Formats come from the CLDR through Babel, for every locale that it knows; texts are those
of the language, else English. What the catalog says (names of charges, taxes) is shown as
it stands. Decimals keep their digits: formatting never rounds.
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Context, Decimal, localcontext
from functools import lru_cache

from babel import Locale, UnknownLocaleError
from babel.dates import format_date
from babel.numbers import format_currency, format_decimal

from billing.texts_de import GERMAN
from billing.texts_en import ENGLISH
from meters.currencies import currency_exponent
from meters.zones import zone_info

TEXTS = {"de": GERMAN, "en": ENGLISH}
"""The texts of each language; all have the keys of English."""

_MOST_PLACES = 40
_READABLE = 12
_WIDE = Context(prec=200)


class Words:
    """One language and the formats of its locale."""

    def __init__(self, language: str) -> None:
        self._locale = locale_of(language)
        self._texts = TEXTS.get(self._locale.language, ENGLISH)
        self.language = str(self._locale).replace("_", "-")
        """For `lang` of HTML."""

    def text(self, key: str, **values: str) -> str:
        """The text of a key, its places filled."""
        return self._texts[key].format(**values)

    def number(self, value: Decimal | str | int) -> str:
        """A number with all its digits, grouped as the locale does."""
        decimal = Decimal(value)
        places = max(-_exponent(decimal), 0)
        pattern = "#,##0" + ("." + "0" * places if places else "")
        with localcontext(_WIDE):
            return format_decimal(decimal, format=pattern, locale=self._locale)

    def money(self, amount: Decimal | str, currency: str) -> str:
        """An amount in its currency, with at least the currency's decimals."""
        decimal = Decimal(amount)
        places = max(-_exponent(decimal), currency_exponent(currency))
        whole = self._locale.currency_formats["standard"].pattern
        digits = "0" if places == 0 else "0." + "0" * min(places, _MOST_PLACES)
        pattern = whole.replace("0.00", digits)
        with localcontext(_WIDE):
            return format_currency(
                decimal, currency, format=pattern, locale=self._locale, currency_digits=False
            )

    def short_number(self, value: str) -> str:
        """A number whose digits are cut where they are too many to read; then with an ellipsis."""
        cut = _cut(value)
        return self.number(cut) if cut == value else f"{self.number(cut)}…"

    def short_money(self, amount: str, currency: str) -> str:
        """As `short_number`, for an amount."""
        cut = _cut(amount)
        return self.money(cut, currency) if cut == amount else f"{self.money(cut, currency)}…"

    def day(self, day: date) -> str:
        """A date."""
        return format_date(day, format="medium", locale=self._locale)

    def local_day(self, instant: datetime, zone: str) -> str:
        """The date that clocks of the zone show."""
        return self.day(instant.astimezone(zone_info(zone)).date())


@lru_cache(maxsize=256)
def locale_of(language: str) -> Locale:
    """The locale of a language tag such as `de` or `de-CH`. Raises ValueError for others."""
    try:
        return Locale.parse(language, sep="-")
    except (UnknownLocaleError, ValueError, TypeError):
        raise ValueError(
            f"must be a language such as en, de or de-CH (got {language[:40]!r})"
        ) from None


def _cut(value: str) -> str:
    whole, point, decimals = value.partition(".")
    return value if len(decimals) <= _READABLE else f"{whole}{point}{decimals[:_READABLE]}"


def _exponent(decimal: Decimal) -> int:
    exponent = decimal.as_tuple().exponent
    if not isinstance(exponent, int):
        raise ValueError(f"number must be finite (got {decimal})")
    return exponent
