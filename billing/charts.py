"""Usage charts as SVG that stands within a page: one bar a day."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from xml.sax.saxutils import escape, quoteattr

WIDTH, HEIGHT = 680, 96
_BASE = HEIGHT - 16
_GAP = 2
# Colours stand in the SVG itself: a renderer of PDF does not take those of the page.
_BAR, _SOFT = "#1f5fbf", "#5c6b7a"


def bars(values: Sequence[tuple[str, Decimal | None, str]], label: str) -> str:
    """A bar for each (day, value, text of the value); negative values hang below the line.

    A day without a value has no bar.

    `label` is what the chart shows, for those who cannot see it.
    """
    known = [value for _, value, _ in values if value is not None]
    most, least = max([Decimal(0), *known]), min([Decimal(0), *known])
    span = most - least or Decimal(1)
    step = WIDTH / max(len(values), 1)
    zero = float(most / span) * _BASE
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label={quoteattr(label)} fill="{_BAR}" font-size="10">'
    ]
    for index, (day, value, text) in enumerate(values):
        if value is None:
            continue
        height = float(abs(value) / span) * _BASE
        top = zero - height if value >= 0 else zero
        parts.append(
            f'<rect x="{index * step + _GAP / 2:.2f}" y="{top:.2f}" '
            f'width="{max(step - _GAP, 0.5):.2f}" height="{max(height, 0.75):.2f}" rx="1.5">'
            f"<title>{escape(day)}: {escape(text)}</title></rect>"
        )
    if values:
        first, last = escape(values[0][0]), escape(values[-1][0])
        parts.append(f'<text x="0" y="{HEIGHT - 3}" fill="{_SOFT}">{first}</text>')
        end = f'x="{WIDTH}" y="{HEIGHT - 3}" fill="{_SOFT}" text-anchor="end"'
        parts.append(f"<text {end}>{last}</text>")
    return "".join([*parts, "</svg>"])
