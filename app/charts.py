"""Charts as inline SVG that follows the page's light and dark colours."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .viewer import escape

_WIDTH, _HEIGHT = 720, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 14, 48


@dataclass(frozen=True)
class Series:
    """A line of a chart: (x, y) points, and the low and high end of each y where they are known."""

    name: str
    points: Sequence[tuple[float, float]]
    spread: Sequence[tuple[float, float]] = ()
    dashed: bool = False
    marks: bool = True
    color: int = 0


@dataclass(frozen=True)
class Rule:
    """A vertical line with a word."""

    x: float
    name: str


def log_chart(
    series: Sequence[Series], x_name: str, y_name: str, alt: str, rules: Sequence[Rule] = ()
) -> str:
    """Lines over two logarithmic axes, with a legend; empty if there is no point yet."""
    points = [p for s in series for p in s.points]
    if not points:
        return ""
    x_low, x_high = _range([x for x, _ in points] + [r.x for r in rules])
    y_low, y_high = _range(
        [y for _, y in points] + [y for s in series for p in s.spread for y in p]
    )

    def x_at(value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * math.log(value / x_low) / math.log(
            x_high / x_low
        )

    def y_at(value: float) -> float:
        room = _HEIGHT - _TOP - _BOTTOM
        return _TOP + room * (1 - math.log(value / y_low) / math.log(y_high / y_low))

    parts = []
    for value in _ticks(x_low, x_high):
        parts.append(
            f'<line class="sl-grid" x1="{x_at(value):.1f}" x2="{x_at(value):.1f}" y1="{_TOP}" '
            f'y2="{_HEIGHT - _BOTTOM}"/><text x="{x_at(value):.1f}" y="{_HEIGHT - _BOTTOM + 18}" '
            f'text-anchor="middle">{_short(value)}</text>'
        )
    for value in _ticks(y_low, y_high):
        parts.append(
            f'<line class="sl-grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y_at(value):.1f}" '
            f'y2="{y_at(value):.1f}"/><text x="{_LEFT - 8}" y="{y_at(value) + 4:.1f}" '
            f'text-anchor="end">{_short(value)}</text>'
        )
    for row, rule in enumerate(rules):  # their names one below the other, so that none meet
        anchor = "start" if x_at(rule.x) < _WIDTH / 2 else "end"
        shift = 5 if anchor == "start" else -5
        parts.append(
            f'<line class="sl-rule" x1="{x_at(rule.x):.1f}" x2="{x_at(rule.x):.1f}" y1="{_TOP}" '
            f'y2="{_HEIGHT - _BOTTOM}"/><text class="sl-rule-name" x="{x_at(rule.x) + shift:.1f}" '
            f'y="{_TOP + 12 + 16 * row}" text-anchor="{anchor}">{escape(rule.name)}</text>'
        )
    for s in series:
        path = " ".join(f"{x_at(x):.1f},{y_at(y):.1f}" for x, y in s.points)
        parts.append(f'<polyline class="sl-line sl-c{s.color}"{_dash(s)} points="{path}"/>')
        for (x, _), (low, high) in zip(s.points, s.spread, strict=False):
            parts.append(
                f'<line class="sl-line sl-c{s.color}" x1="{x_at(x):.1f}" x2="{x_at(x):.1f}" '
                f'y1="{y_at(low):.1f}" y2="{y_at(high):.1f}"/>'
            )
        if s.marks:
            parts += [
                f'<circle class="sl-c{s.color}" cx="{x_at(x):.1f}" cy="{y_at(y):.1f}" r="4">'
                f"<title>{escape(s.name)}: {_short(x)}, {y:.4g} {escape(y_name)}</title></circle>"
                for x, y in s.points
            ]
    axis = (
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 8}" text-anchor="middle">'
        f"{escape(x_name)}</text>"
        f'<text transform="translate(14 {_HEIGHT / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_name)}</text>"
    )
    legend = "".join(
        f'<li><svg width="26" height="10" aria-hidden="true"><line class="sl-line sl-c{s.color}" '
        f'x1="1" x2="25" y1="5" y2="5"{_dash(s)}/></svg>'
        f"{escape(s.name)}</li>"
        for s in series
    )
    return (
        f'<figure class="sl-chart"><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(alt)}">{"".join(parts)}{axis}</svg><ul>{legend}</ul></figure>'
    )


def _dash(series: Series) -> str:
    return ' stroke-dasharray="6 5"' if series.dashed else ""


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return low / 1.25, high * 1.25


def _ticks(low: float, high: float) -> list[float]:
    """1, 2, 5 in each decade, thinned to powers of ten where there are many decades."""
    steps = (1, 2, 5) if math.log10(high / low) < 3.2 else (1,)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [s * 10.0**d for d in decades for s in steps if low <= s * 10.0**d <= high]


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.3g}"
