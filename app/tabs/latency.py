"""The Latency tab: both orders of the product, timed live on the picture from Explore."""

import base64
import csv
import functools
import io
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
import torch
from markupsafe import Markup

from app.charts import Rule, Series, log_chart
from app.controls import whole
from app.handlers import COMPUTE, plainly_each
from app.templating import render
from app.turns import TURNS
from app.visit import Look, Visit, require_look
from app.visitors import MAX_COST, lens_for, require_affordable, require_photo
from sima_core import load_image
from sima_core.attention.operation import WEIGHTS_BUDGET, mean_tokens
from sima_core.bench.crossover import crossing_between
from sima_core.bench.orders import ORDERS, Level, OrderComparison, compare_orders, product_macs
from sima_core.bench.sweeps import SWEEP_SIZES, SweepPoint, orders_over_tokens, sweep
from sima_core.bench.timing import quartiles
from sima_core.bench.whole_models import time_models
from sima_core.defaults import LAYER, RESOLUTION
from sima_core.errors import InputError
from sima_core.machine import Machine

#: Multiply-accumulates of one product, (Q̂K̂ᵀ)V, that a visitor may ask for; about ten seconds.
MAX_PRODUCT_MACS = 400e9
#: Below so many, the whole block and the whole model are timed in both orders too.
MAX_MODEL_MACS = 30e9
#: The fewest and the most seconds that a visitor may spend, and what the page begins with.
MIN_SECONDS, MAX_SECONDS, DEFAULT_SECONDS = 1, 20, 6
#: Seconds between two updates of the page.
UPDATE_SECONDS = 0.4
#: A moment without measuring after each update: where browser and app share a machine, as on a
#: laptop, the browser draws then.
PAUSE_SECONDS = 0.06
CURVE_POINTS, CURVE_SECONDS = 9, 0.4

NAMES = {"qk_first": "(Q̂K̂ᵀ)V", "kv_first": "Q̂(K̂ᵀV)"}
_LEVEL_NAMES: dict[Level, str] = {
    "attention": "Attention alone",
    "block": "Whole layer",
    "model": "Whole model",
}


def measure_orders(
    seen: Look | None,
    model_key: str | None,
    layer: float | None,
    resolution: float | None,
    seconds: float | None,
) -> Iterator[str]:
    """The two bars, again and again while they are measured."""
    seen = require_look(seen)
    side = whole(resolution, RESOLUTION)
    budget = DEFAULT_SECONDS if seconds is None else seconds
    if not lens_for(model_key).has_two_orders:
        yield whole_model_html(seen.path, model_key, side, budget)
        return
    last = 0.0
    page = ""
    number = whole(layer, LAYER)
    for found in compare_within_limits(seen.path, model_key, number, side, budget):
        page = orders_html(found)
        if time.monotonic() - last >= UPDATE_SECONDS:
            yield page
            time.sleep(PAUSE_SECONDS)
            last = time.monotonic()
    yield page


def compare_within_limits(
    path: str, model_key: str | None, layer: int, resolution: int, seconds: float
) -> Iterator[OrderComparison]:
    """Measure both orders on the picture at `path`, within what one visitor may use.

    Raises:
        ImageError, InputError, ModelGoneError: with a sentence for the visitor, before any work.
    """
    lens, image = lens_for(model_key), load_image(require_photo(path))
    require_affordable(lens, image, resolution)
    chosen = lens.layer(layer)
    width, height = lens.input_size(*image.size, resolution)
    num_tokens, num_keys = map(math.prod, chosen.grids(height, width))
    macs = product_macs("qk_first", chosen.num_heads, chosen.head_dim, num_tokens, num_keys)
    if macs > MAX_PRODUCT_MACS:
        raise InputError(
            f"at {resolution} px this picture becomes {num_tokens:,} tokens, and (Q̂K̂ᵀ)V over so "
            "many would take too long here: choose a lower resolution."
        )
    everything = macs * lens.depth <= MAX_MODEL_MACS
    levels: tuple[Level, ...] = ("attention", "block", "model") if everything else ("attention",)
    pixels = lens.preprocess(image, resolution)
    del image  # whoever waits for a turn holds no large picture
    yield from TURNS.each(
        compare_orders(lens, pixels, chosen.number, _within_limits(seconds), levels)
    )


def whole_model_html(path: str, model_key: str | None, resolution: int, seconds: float) -> Markup:
    """The time of a model whose attention has one order only: softmax, or XCA.

    Raises:
        ImageError, InputError, ModelGoneError: with a sentence for the visitor, before any work.
    """
    lens, image = lens_for(model_key), load_image(require_photo(path))
    require_affordable(lens, image, resolution, MAX_COST / 2)  # at least four passes
    pixels = lens.preprocess(image, resolution)
    del image  # whoever waits for a turn holds no large picture
    with TURNS.turn():
        [timed] = time_models([lens.model], [pixels], _within_limits(seconds))
    return render("latency/whole_model", model=lens.name, timed=timed, machine=Machine.here(pixels))


def _within_limits(seconds: float) -> float:
    return min(max(seconds, MIN_SECONDS), MAX_SECONDS)


@dataclass(frozen=True)
class _Bar:
    """One order's time as a bar; shares of the whole width in percent."""

    order: str
    best: bool
    median: float
    half_iqr: float
    median_percent: float
    low_percent: float
    spread_percent: float
    #: The size of the order's intermediate.
    num_bytes: int

    @property
    def name(self) -> str:
        return NAMES[self.order]

    @classmethod
    def of(cls, found: OrderComparison, order: str) -> "_Bar":
        attention = found.levels["attention"]
        medians = [attention.seconds(o) for o in ORDERS]
        timed = attention.measurements[order]
        percent = 100 / (1.25 * max(medians))
        low, high = (percent * q for q in quartiles(timed.times))
        return cls(
            order,
            timed.median == min(medians),
            timed.median,
            timed.iqr / 2,
            percent * timed.median,
            low,
            max(high - low, 0.3),
            found.intermediate_bytes(order),
        )


def orders_html(found: OrderComparison) -> Markup:
    """Both orders as bars with median and spread, the ratios, and what they mean."""
    ratio = found.measured_ratio()
    kv_first = ratio.median >= 1
    rows = [("level", "order", "seconds")] + [
        (level, order, seconds)
        for level, timings in found.levels.items()
        for order in ORDERS
        for seconds in timings.measurements[order].times
    ]
    return render(
        "latency/orders",
        found=found,
        faster=NAMES["kv_first" if kv_first else "qk_first"],
        factor=ratio.median if kv_first else 1 / ratio.median,
        ratio=ratio,
        bars=[_Bar.of(found, order) for order in ORDERS],
        level_names=_LEVEL_NAMES,
        unsteady=any(timings.unsteady for timings in found.levels.values()),
        held_at_most=(
            WEIGHTS_BUDGET if found.intermediate_bytes("qk_first") > WEIGHTS_BUDGET else None
        ),
        csv=csv_link(rows, "orders"),
    )


def curve(
    seen: Look | None, model_key: str | None, layer: float | None, resolution: float | None
) -> Iterator[str]:
    """Both orders over the number of tokens, up to the slider's, point by point."""
    seen = require_look(seen)
    lens = lens_for(model_key)
    if not lens.has_two_orders:
        yield ""
        return
    chosen = lens.layer(min(whole(layer, LAYER), lens.depth))
    size = load_image(require_photo(seen.path)).size
    width, height = lens.input_size(*size, whole(resolution, RESOLUTION))
    most = mean_tokens(*map(math.prod, chosen.grids(height, width)))
    least = max(2, chosen.head_dim // 4)
    sizes = sorted(
        {round(least * (most / least) ** (i / (CURVE_POINTS - 1))) for i in range(CURVE_POINTS)}
    )
    points: list[SweepPoint] = []
    for point in TURNS.each(
        orders_over_tokens(sizes, chosen.num_heads, chosen.head_dim, CURVE_SECONDS)
    ):
        points.append(point)
        yield curve_html(points, most)


def curve_html(points: Sequence[SweepPoint], most: int) -> Markup:
    """The curve of both orders with the prediction behind it and the crossover marked."""
    head_dim = points[0].head_dim
    ratios = {p.num_tokens: p.timings.ratio("qk_first", "kv_first").median for p in points}
    crossing = crossing_between(ratios)
    rules = [Rule(head_dim, f"rule: N = {head_dim}"), Rule(most, f"this picture: {most:,}")]
    found = "the measured orders do not cross between these sizes"
    if crossing is not None:
        rules.insert(0, Rule(crossing, f"measured crossover: {crossing:.0f}"))
        found = f"the measured orders cross near {crossing:.0f} tokens"
    alt = f"Time of both orders over tokens; {found}"
    rows = [("tokens", *(f"{order} seconds" for order in ORDERS))] + [
        (p.num_tokens, *(p.timings.seconds(order) for order in ORDERS)) for p in points
    ]
    return render(
        "latency/curve",
        chart=log_chart(_curve_series(points), "tokens N", "milliseconds", alt, rules),
        head_dim=head_dim,
        found=found,
        machine=Machine.here(torch.empty(0)),
        csv=csv_link(rows, "curve"),
    )


def _curve_series(points: Sequence[SweepPoint]) -> list[Series]:
    """Both orders in milliseconds: as multiplications predict, and as measured."""
    head_dim, num_heads = points[0].head_dim, points[0].num_heads

    macs = functools.partial(product_macs, num_heads=num_heads, head_dim=head_dim)
    last = points[-1]
    # One speed for both orders, from the largest size, where overheads weigh least.
    speed = max(macs(o, num_tokens=last.num_tokens) / last.timings.seconds(o) for o in ORDERS)
    series = []
    for color, order in enumerate(ORDERS):
        predicted = [
            (p.num_tokens, 1e3 * macs(order, num_tokens=p.num_tokens) / speed) for p in points
        ]
        name = f"{NAMES[order]} predicted"
        series.append(Series(name, predicted, dashed=True, marks=False, color=color))
        measured = [(p.num_tokens, 1e3 * p.timings.seconds(order)) for p in points]
        ranges = (quartiles(p.timings.measurements[order].times) for p in points)
        spread = [(1e3 * low, 1e3 * high) for low, high in ranges]
        series.append(Series(NAMES[order], measured, spread, color=color))
    return series


def run_sweep(over: str, progress: gr.Progress = gr.Progress()) -> Iterator[str]:  # noqa: B008
    """A sweep, point by point."""
    points: list[SweepPoint] = []
    sizes = SWEEP_SIZES[over]
    for point in TURNS.each(sweep(over, seconds=1.5)):
        points.append(point)
        progress((len(points), len(sizes)), desc="Measuring")
        yield sweep_html(over, points)


def sweep_html(over: str, points: Sequence[SweepPoint]) -> Markup:
    """SimA against softmax attention and XCA, as a chart and a table."""
    first = points[0]
    if over == "tokens":
        x_name, held = "tokens N", f"{first.head_dim} channels a head"
        sizes = [p.num_tokens for p in points]
    else:
        x_name, held = "channels of a head d", f"{first.num_tokens} tokens"
        sizes = [p.head_dim for p in points]
    names = list(first.timings.measurements)
    series = [
        Series(
            name,
            [(at, 1e3 * p.timings.seconds(name)) for at, p in zip(sizes, points, strict=True)],
            dashed=not name.endswith(("fused", "auto")),
            color=i,
        )
        for i, name in enumerate(names)
    ]
    rows = [(x_name, *names)] + [
        (at, *(p.timings.seconds(name) for name in names))
        for at, p in zip(sizes, points, strict=True)
    ]
    return render(
        "latency/sweep",
        x_name=x_name,
        chart=log_chart(series, x_name, "milliseconds", f"Attention times over {x_name}"),
        held=held,
        num_heads=first.num_heads,
        machine=Machine.here(torch.empty(0)),
        csv=csv_link(rows, "sweep"),
    )


def csv_link(rows: Sequence[Sequence[object]], name: str) -> Markup:
    """A link that holds `rows` as a CSV file."""
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    data = base64.b64encode(text.getvalue().encode()).decode()
    return render("latency/csv", name=name, data=data)


def build(visit: Visit) -> None:
    """Lay the tab out inside the current Blocks."""
    with gr.Column(elem_id="latency"):
        with gr.Column(elem_id="latency-settings"):
            gr.Markdown("Times the photo, model and layer that are chosen in **Explore**.")
            resolution = gr.Slider(
                112, 1536, RESOLUTION, step=16, precision=0, label="Resolution (pixels)"
            )
            seconds = gr.Slider(
                2,
                MAX_SECONDS,
                DEFAULT_SECONDS,
                step=1,
                precision=0,
                label="Time to spend (seconds)",
            )
            with gr.Row():
                start = gr.Button("Measure", variant="primary", min_width=110)
                stop = gr.Button("Stop", min_width=90)
            gr.Markdown(
                "One measurement or forward pass runs at a time, so that visitors never time each "
                "other: you may have to wait, and see how many come first."
            )
            with gr.Accordion("Against softmax and XCA", open=False):
                over_tokens = gr.Button("Sweep over tokens", size="sm")
                over_dim = gr.Button("Sweep over channels", size="sm")
        with gr.Column(elem_id="latency-result"):
            orders = gr.HTML(render("latency/start"))
            chart = gr.HTML()
            swept = gr.HTML()

    given: list[Any] = [visit.look, visit.model_key, visit.layer, resolution]
    measuring = start.click(plainly_each(measure_orders), [*given, seconds], orders, **COMPUTE)
    drawing = measuring.success(plainly_each(curve), given, chart, **COMPUTE)
    sweeps = [
        button.click(plainly_each(run_sweep), gr.State(over), swept, **COMPUTE)
        for button, over in ((over_tokens, "tokens"), (over_dim, "dim"))
    ]
    stop.click(None, cancels=[measuring, drawing, *sweeps])
