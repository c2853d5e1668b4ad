"""Charts as inline SVG that follows the page's light and dark colours."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from app.templating import render


@dataclass(frozen=True)
class Series:
    """A line of a chart: (x, y) points, and the low and high end of each y where they are known."""

    name: str
    points: Sequence[tuple[float, float]]
    spread: Sequence[tuple[float, float]] = ()
    dashed: bool = False
    marks: bool = True
    color: int = 0

    @property
    def ranges(self) -> list[tuple[float, float, float]]:
        """(x, low, high) where the ends are known."""
        pairs = zip(self.points, self.spread, strict=False)
        return [(x, low, high) for (x, _), (low, high) in pairs]


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


@dataclass(frozen=True)
class _Canvas:
    """Where values lie in the picture, in its own units; `x` and `y` write them for SVG."""

    across: _Axis
    up: _Axis
    width = 720
    height = 380
    left = 64
    right = width - 16
    top = 14
    bottom = height - 48

    def x(self, value: float, shift: float = 0) -> str:
        return f"{self._x(value) + shift:.1f}"

    def y(self, value: float, shift: float = 0) -> str:
        place = 1 - self.up.place(value)
        return f"{self.top + (self.bottom - self.top) * place + shift:.1f}"

    def is_left(self, value: float) -> bool:
        """Whether a value lies in the left half, so that there is room to write on its right."""
        return self._x(value) < self.width / 2

    def _x(self, value: float) -> float:
        return self.left + (self.right - self.left) * self.across.place(value)


def log_chart(
    series: Sequence[Series], x_name: str, y_name: str, alt: str, rules: Sequence[Rule] = ()
) -> Markup:
    """Lines over two logarithmic axes, with a legend; empty if there is no point yet."""
    if not any(s.points for s in series):
        return Markup()
    x, y = _values(series)
    canvas = _Canvas(_log_axis([*x, *(r.x for r in rules)]), _log_axis(y))
    return _chart(canvas, series, x_name, y_name, alt, rules)


def linear_chart(
    series: Sequence[Series], x_name: str, y_name: str, alt: str, also: Sequence[float] = ()
) -> Markup:
    """Lines over whole numbers, or over shares from 0 to 1; both axes linear, with a legend.

    Args:
        also: values that the vertical axis has in any case.
    """
    x, y = _values(series)
    y += also
    margin = 0.04 * (max(x) - min(x)) or 0.5
    marked = [0, 0.25, 0.5, 0.75, 1] if max(x) <= 1 and min(x) < 1 else sorted(set(x))
    across = _Axis(min(x) - margin, max(x) + margin, marked, log=False)
    step = next(s for s in (0.05, 0.1, 0.2, 0.5, 1, 2, 5) if max(y) - min(y) <= 8 * s)
    low, high = math.floor(min(y) / step), math.ceil(max(y) / step)
    ticks = [step * i for i in range(low, high + 1)]
    up = _Axis(ticks[0], max(ticks[-1], ticks[0] + step), ticks, log=False)
    return _chart(_Canvas(across, up), series, x_name, y_name, alt)


def _chart(
    canvas: _Canvas,
    series: Sequence[Series],
    x_name: str,
    y_name: str,
    alt: str,
    rules: Sequence[Rule] = (),
) -> Markup:
    return render(
        "chart",
        at=canvas,
        series=series,
        x_name=x_name,
        y_name=y_name,
        alt=alt,
        rules=rules,
        short=_short,
    )


def _values(series: Sequence[Series]) -> tuple[list[float], list[float]]:
    x = [x for s in series for x, _ in s.points]
    y = [y for s in series for _, y in s.points] + [y for s in series for p in s.spread for y in p]
    return x, y


def _log_axis(values: Sequence[float]) -> _Axis:
    """Ticks at 1, 2, 5 in each decade, thinned to powers of ten where there are many decades."""
    low, high = min(values) / 1.25, max(values) * 1.25
    steps = (1, 2, 5) if math.log10(high / low) < 3.2 else (1,)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [s * 10.0**d for d in decades for s in steps if low <= s * 10.0**d <= high]
    return _Axis(low, high, ticks, log=True)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.3g}"
