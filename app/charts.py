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


@dataclass(frozen=True)
class _Axis:
    """What values an axis runs over, where its ticks are, and whether it is logarithmic."""

    low: float
    high: float
    ticks: Sequence[float]
    log: bool

    def place(self, value: float) -> float:
        """From 0 at the axis' low end to 1 at its high one."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def log_chart(
    series: Sequence[Series], x_name: str, y_name: str, alt: str, rules: Sequence[Rule] = ()
) -> str:
    """Lines over two logarithmic axes, with a legend; empty if there is no point yet."""
    if not any(s.points for s in series):
        return ""
    x, y = _values(series)
    axes = (_log_axis([*x, *(r.x for r in rules)]), _log_axis(y))
    return _chart(series, x_name, y_name, alt, rules, *axes)


def linear_chart(series: Sequence[Series], x_name: str, y_name: str, alt: str) -> str:
    """Lines over whole numbers, or over shares from 0 to 1; both axes linear, with a legend."""
    x, y = _values(series)
    margin = 0.04 * (max(x) - min(x)) or 0.5
    marked = [0, 0.25, 0.5, 0.75, 1] if max(x) <= 1 and min(x) < 1 else sorted(set(x))
    across = _Axis(min(x) - margin, max(x) + margin, marked, log=False)
    step = next(s for s in (0.05, 0.1, 0.2, 0.5, 1, 2, 5) if max(y) - min(y) <= 8 * s)
    low, high = math.floor(min(y) / step), math.ceil(max(y) / step)
    ticks = [step * i for i in range(low, high + 1)]
    up = _Axis(ticks[0], max(ticks[-1], ticks[0] + step), ticks, log=False)
    return _chart(series, x_name, y_name, alt, (), across, up)


def _values(series: Sequence[Series]) -> tuple[list[float], list[float]]:
    x = [x for s in series for x, _ in s.points]
    y = [y for s in series for _, y in s.points] + [y for s in series for p in s.spread for y in p]
    return x, y


def _chart(
    series: Sequence[Series],
    x_name: str,
    y_name: str,
    alt: str,
    rules: Sequence[Rule],
    across: _Axis,
    up: _Axis,
) -> str:
    def x_at(value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * across.place(value)

    def y_at(value: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - up.place(value))

    parts = []
    for value in across.ticks:
        parts.append(
            f'<line class="sl-grid" x1="{x_at(value):.1f}" x2="{x_at(value):.1f}" y1="{_TOP}" '
            f'y2="{_HEIGHT - _BOTTOM}"/><text x="{x_at(value):.1f}" y="{_HEIGHT - _BOTTOM + 18}" '
            f'text-anchor="middle">{_short(value)}</text>'
        )
    for value in up.ticks:
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


def _log_axis(values: Sequence[float]) -> _Axis:
    """Ticks at 1, 2, 5 in each decade, thinned to powers of ten where there are many decades."""
    low, high = min(values) / 1.25, max(values) * 1.25
    steps = (1, 2, 5) if math.log10(high / low) < 3.2 else (1,)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [s * 10.0**d for d in decades for s in steps if low <= s * 10.0**d <= high]
    return _Axis(low, high, ticks, log=True)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.3g}"
