"""The Latency tab: both orders of the product, timed live on the picture from Explore."""

import base64
import csv
import io
import itertools
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr
import torch

from sima_core import load_image, preprocess, provenance
from sima_core.attention.operation import WEIGHTS_BUDGET, mean_tokens
from sima_core.bench.orders import ORDERS, Level, OrderComparison, compare_orders, sima_layers
from sima_core.bench.sweeps import SWEEP_SIZES, SweepPoint, orders_over_tokens, sweep
from sima_core.bench.timing import quartiles
from sima_core.bench.whole_models import time_models
from sima_core.lens.layers import layer_numbers, patch_size
from sima_core.lens.lens import Lens
from sima_core.lens.pictures import input_size
from sima_core.machine import Machine

from .charts import Rule, Series, log_chart
from .explore import DEFAULT_LAYER, DEFAULT_RESOLUTION, Explore, Look, RawImage
from .viewer import escape
from .visitors import (
    COMPUTE,
    MAX_COST,
    model_for,
    plainly,
    plainly_each,
    require_affordable,
    require_photo,
    whole,
)

#: Multiply-accumulates of one product, (Q̂K̂ᵀ)V, that a visitor may ask for; about ten seconds.
MAX_PRODUCT_MACS = 400e9
#: Below so many, the whole block and the whole model are timed in both orders too.
MAX_MODEL_MACS = 30e9
#: Seconds between two updates of the page.
UPDATE_SECONDS = 0.4
#: A moment without measuring after each update: where browser and app share a machine, as on a
#: laptop, the browser draws then.
PAUSE_SECONDS = 0.06
CURVE_POINTS = 9
#: Seconds to spend on both orders, on the page and through the API.
DEFAULT_SECONDS, API_SECONDS = 6, 3

NAMES = {"qk_first": "(Q̂K̂ᵀ)V", "kv_first": "Q̂(K̂ᵀV)"}
_LEVEL_NAMES: dict[Level, str] = {
    "attention": "Attention alone",
    "block": "Whole layer",
    "model": "Whole model",
}

START = (
    '<section class="sl-card sl-empty"><h3>Which order is faster?</h3>'
    "<p>Attention without softmax is a product of three matrices, and such a product may be "
    "taken in either order. <b>(Q̂K̂ᵀ)V</b> needs N²·d multiplications a head, <b>Q̂(K̂ᵀV)</b> "
    "needs N·d². Press <b>Measure</b> to time both on the picture and model in Explore.</p>"
    "</section>"
)


def measure_orders(
    seen: Look | None,
    model_key: str | None,
    layer: float | None,
    resolution: float | None,
    seconds: float | None,
) -> Iterator[str]:
    """The two bars, again and again while they are measured."""
    if seen is None:
        raise ValueError("choose a photo in Explore first.")
    side = whole(resolution, DEFAULT_RESOLUTION)
    budget = DEFAULT_SECONDS if seconds is None else seconds
    if not Lens(model_for(model_key)).has_two_orders:
        yield whole_model_html(seen.path, model_key, side, budget)
        return
    last = 0.0
    page = ""
    number = whole(layer, DEFAULT_LAYER)
    for found in comparison(seen.path, model_key, number, side, budget):
        page = orders_html(found)
        if time.monotonic() - last >= UPDATE_SECONDS:
            yield page
            time.sleep(PAUSE_SECONDS)
            last = time.monotonic()
    yield page


def whole_model_html(path: str, model_key: str | None, resolution: int, seconds: float) -> str:
    """The time of a model whose attention has one order only: softmax, or XCA.

    Raises:
        ImageError, ValueError, ModelGoneError: with a sentence for the visitor, before any work.
    """
    model, image = model_for(model_key), load_image(require_photo(path))
    require_affordable(model, image, resolution, MAX_COST / 2)  # at least four passes
    pixels = preprocess(image, resolution, patch_size(model))
    [timed] = time_models([model], [pixels], min(max(seconds, 1), 20))
    return (
        '<section class="sl-card sl-orders"><h3>'
        f"{escape(provenance(model).architecture)} takes {duration(timed.forward.median)}</h3>"
        f"<p>Of that, its attention layers take <b>{duration(timed.attention.median)}</b> (medians "
        f"of {len(timed.forward.times)} passes). Softmax and XCA leave only one order of the "
        "products; SimA's two can be timed with a model whose name begins with <b>sima_</b>.</p>"
        f'<p class="sl-fine">{escape(Machine.here(pixels))}</p></section>'
    )


def comparison(
    path: str, model_key: str | None, layer: int, resolution: int, seconds: float
) -> Iterator[OrderComparison]:
    """Measure both orders on the picture at `path`, within what one visitor may use.

    Raises:
        ImageError, ValueError, ModelGoneError: with a sentence for the visitor, before any work.
    """
    model, image = model_for(model_key), load_image(require_photo(path))
    require_affordable(model, image, resolution)
    layers = sima_layers(model)
    [number] = layer_numbers(layer, len(layers))
    attention = layers[number - 1]
    width, height = input_size(*image.size, resolution, patch_size(model))
    num_tokens, num_keys = map(math.prod, Lens(model).layer(number).grids(height, width))
    macs = 2.0 * num_tokens * num_keys * attention.num_heads * attention.head_dim
    if macs > MAX_PRODUCT_MACS:
        raise ValueError(
            f"at {resolution} px this picture becomes {num_tokens:,} tokens, and (Q̂K̂ᵀ)V over so "
            "many would take too long here: choose a lower resolution."
        )
    everything = macs * len(layers) <= MAX_MODEL_MACS
    levels: tuple[Level, ...] = ("attention", "block", "model") if everything else ("attention",)
    pixels = preprocess(image, resolution, patch_size(model))
    yield from compare_orders(model, pixels, number, min(max(seconds, 1), 20), levels)


def orders_html(found: OrderComparison) -> str:
    """Both orders as bars with median and spread, the ratios, and what they mean."""
    attention = found.levels["attention"]
    slowest = max(attention.seconds(order) for order in ORDERS)
    bars = ""
    for order in ORDERS:
        m = attention.measurements[order]
        low, high = (100 * q / (slowest * 1.25) for q in quartiles(m.times))
        best = m.median == min(attention.seconds(o) for o in ORDERS)
        bars += (
            f'<li class="{"sl-best" if best else ""}"><span class="sl-order">{NAMES[order]}</span>'
            f'<span class="sl-bar"><i style="width:{100 * m.median / (slowest * 1.25):.2f}%"></i>'
            f'<b style="left:{low:.2f}%;width:{max(high - low, 0.3):.2f}%"></b></span>'
            f'<span class="sl-time">{duration(m.median)}'
            f"<small>± {duration(m.iqr / 2)}</small></span>"
            f'<span class="sl-memory">{size(found.intermediate_bytes(order))}</span></li>'
        )
    ratio = found.measured_ratio()
    faster, factor = (
        (NAMES["kv_first"], ratio.median)
        if ratio.median >= 1
        else (NAMES["qk_first"], 1 / ratio.median)
    )
    rows = "".join(
        f"<tr><th>{_LEVEL_NAMES[level]}</th>"
        + "".join(f"<td>{duration(timings.seconds(o))}</td>" for o in ORDERS)
        + f"<td>{found.measured_ratio(level).median:.2f} ×</td></tr>"
        for level, timings in found.levels.items()
    )
    unsteady = (
        "<p class='sl-fine'>The times vary much: something else is using this machine.</p>"
        if any(timings.unsteady for timings in found.levels.values())
        else ""
    )
    blocks = (
        f" Of the larger intermediate no more than {size(WEIGHTS_BUDGET)} are held at a time."
        if found.intermediate_bytes("qk_first") > WEIGHTS_BUDGET
        else ""
    )
    return (
        '<section class="sl-card sl-orders" aria-label="Both orders of the product">'
        f"<h3>{faster} is {factor:.2f} times as fast</h3>"
        f"<p>Layer {found.layer}: {found.num_tokens:,} tokens, {found.num_heads} heads of "
        f"{found.head_dim} channels. Counting multiplications predicts a ratio of "
        f"<b>{found.predicted_ratio:.2f}</b>; measured: <b>{ratio.median:.2f}</b> "
        f"({ratio.p25:.2f} to {ratio.p75:.2f}, {ratio.rounds} rounds).</p>"
        '<div class="sl-heads" aria-hidden="true"><span></span><span></span><span>median</span>'
        f"<span>intermediate</span></div><ol>{bars}</ol>"
        f"<p>{escape(found.reason)}</p>"
        f"<table><thead><tr><td></td>{''.join(f'<th>{NAMES[o]}</th>' for o in ORDERS)}"
        f"<th>ratio</th></tr></thead><tbody>{rows}</tbody></table>"
        '<p class="sl-fine">Times are medians; a ratio is the median over rounds, each of which '
        "times both orders, so that a slow moment falls on both.</p>"
        f'<p class="sl-fine">The two results differ by at most {found.relative_difference:.1e} of '
        f"their largest value: rounding.{blocks}</p>{unsteady}"
        f'<p class="sl-fine">{escape(found.machine)}. {csv_link(comparison_rows(found), "orders")}'
        "</p></section>"
    )


def curve(
    seen: Look | None, model_key: str | None, layer: float | None, resolution: float | None
) -> Iterator[str]:
    """Both orders over the number of tokens, up to the slider's, point by point."""
    if seen is None:
        raise ValueError("choose a photo in Explore first.")
    model = model_for(model_key)
    if not Lens(model).has_two_orders:
        yield ""
        return
    layers = sima_layers(model)
    [number] = layer_numbers(min(whole(layer, DEFAULT_LAYER), len(layers)), len(layers))
    attention = layers[number - 1]
    photo = load_image(require_photo(seen.path))
    width, height = input_size(
        *photo.size, whole(resolution, DEFAULT_RESOLUTION), patch_size(model)
    )
    most = mean_tokens(*map(math.prod, Lens(model).layer(number).grids(height, width)))
    least = max(2, attention.head_dim // 4)
    sizes = sorted(
        {round(least * (most / least) ** (i / (CURVE_POINTS - 1))) for i in range(CURVE_POINTS)}
    )
    points: list[SweepPoint] = []
    for point in orders_over_tokens(sizes, attention.num_heads, attention.head_dim, 0.4):
        points.append(point)
        yield curve_html(points, most)


def curve_html(points: Sequence[SweepPoint], most: int) -> str:
    """The curve of both orders with the prediction behind it and the crossover marked."""
    head_dim, num_heads = points[0].head_dim, points[0].num_heads

    def macs(order: str, tokens: int) -> float:
        return 2.0 * num_heads * tokens * head_dim * (tokens if order == "qk_first" else head_dim)

    last = points[-1]
    # One speed for both orders, from the largest size, where overheads weigh least.
    speed = max(macs(o, last.num_tokens) / last.timings.seconds(o) for o in ORDERS)
    series = []
    for color, order in enumerate(ORDERS):
        predicted = [(p.num_tokens, 1e3 * macs(order, p.num_tokens) / speed) for p in points]
        series.append(
            Series(f"{NAMES[order]} predicted", predicted, dashed=True, marks=False, color=color)
        )
        measured = [(p.num_tokens, 1e3 * p.timings.seconds(order)) for p in points]
        ranges = (quartiles(p.timings.measurements[order].times) for p in points)
        spread = [(1e3 * low, 1e3 * high) for low, high in ranges]
        series.append(Series(NAMES[order], measured, spread, color=color))
    rules = [Rule(head_dim, f"rule: N = {head_dim}"), Rule(most, f"this picture: {most:,}")]
    crossing = crossing_point(points)
    if crossing:
        rules.insert(0, Rule(crossing, f"measured crossover: {crossing:.0f}"))
    found = (
        f"the measured orders cross near {crossing:.0f} tokens"
        if crossing
        else "the measured orders do not cross between these sizes"
    )
    rows = [("tokens", *(f"{o} seconds" for o in ORDERS))] + [
        (p.num_tokens, *(p.timings.seconds(o) for o in ORDERS)) for p in points
    ]
    chart = log_chart(
        series, "tokens N", "milliseconds", f"Time of both orders over tokens; {found}", rules
    )
    return (
        f'<section class="sl-card"><h3>Time over the number of tokens</h3>{chart}'
        f"<p>Multiplications alone would cross at {head_dim} tokens; {found}. With few tokens, "
        "starting the operations takes longer than the multiplications themselves.</p>"
        f'<p class="sl-fine">{escape(Machine.here(torch.empty(0)))}. {csv_link(rows, "curve")}</p>'
        "</section>"
    )


def crossing_point(points: Sequence[SweepPoint]) -> float | None:
    """Where (Q̂K̂ᵀ)V stops being the faster one, between two measured sizes; None if nowhere."""
    ratios = [(p.num_tokens, p.timings.ratio("qk_first", "kv_first").median) for p in points]
    for (n0, r0), (n1, r1) in itertools.pairwise(ratios):
        if r0 < 1 <= r1:
            return float(n0 + (n1 - n0) * (1 - r0) / (r1 - r0))
    return None


def sweep_html(over: str, points: Sequence[SweepPoint]) -> str:
    """SimA against softmax attention and XCA, as a chart and a table."""
    names = list(points[0].timings.measurements)
    at = "num_tokens" if over == "tokens" else "head_dim"
    series = [
        Series(
            name,
            [(getattr(p, at), 1e3 * p.timings.seconds(name)) for p in points],
            dashed=not name.endswith(("fused", "auto")),
            color=i,
        )
        for i, name in enumerate(names)
    ]
    held = (
        f"{points[0].head_dim} channels a head"
        if over == "tokens"
        else f"{points[0].num_tokens} tokens"
    )
    x_name = "tokens N" if over == "tokens" else "channels of a head d"
    chart = log_chart(series, x_name, "milliseconds", f"Attention times over {x_name}")
    rows = [(x_name, *names)] + [
        (getattr(p, at), *(p.timings.seconds(n) for n in names)) for p in points
    ]
    return (
        f'<section class="sl-card"><h3>SimA, softmax attention and XCA over {x_name}</h3>{chart}'
        f'<p class="sl-fine">{held}, {points[0].num_heads} heads. Dashed: order held fixed, so '
        "that only softmax and normalisation differ; solid: each as fast as it can. "
        f"{escape(Machine.here(torch.empty(0)))}. {csv_link(rows, 'sweep')}</p></section>"
    )


def run_sweep(over: str, progress: gr.Progress = gr.Progress()) -> Iterator[str]:  # noqa: B008
    """A sweep, point by point."""
    points: list[SweepPoint] = []
    sizes = SWEEP_SIZES[over]
    for point in sweep(over, seconds=1.5):
        points.append(point)
        progress((len(points), len(sizes)), desc="Measuring")
        yield sweep_html(over, points)


def latency_api(
    image: str | None,
    model_key: str | None,
    layer: int | None = DEFAULT_LAYER,
    resolution: int | None = DEFAULT_RESOLUTION,
    seconds: float | None = API_SECONDS,
) -> dict[str, Any]:
    """Both orders timed on a picture: medians, quartiles, ratios, raw times in seconds."""
    if image is None:
        raise ValueError("give a picture.")
    *_, last = comparison(
        image,
        model_key,
        whole(layer, DEFAULT_LAYER),
        whole(resolution, DEFAULT_RESOLUTION),
        API_SECONDS if seconds is None else seconds,
    )
    return last.as_dict()


def comparison_rows(found: OrderComparison) -> list[tuple[object, ...]]:
    """Every raw time, for the CSV file."""
    return [("level", "order", "seconds")] + [
        (level, order, seconds)
        for level, timings in found.levels.items()
        for order in ORDERS
        for seconds in timings.measurements[order].times
    ]


def csv_link(rows: Sequence[Sequence[object]], name: str) -> str:
    """A link that holds `rows` as a CSV file."""
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    data = base64.b64encode(text.getvalue().encode()).decode()
    return f'<a download="{name}.csv" href="data:text/csv;base64,{data}">Data as CSV</a>'


def duration(seconds: float) -> str:
    """Such as ``1.23 ms``: three digits, in the unit that fits."""
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{1e3 * seconds:.3g} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.3g} µs"


def size(num_bytes: float) -> str:
    """Such as ``4.5 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024 or unit == "GiB":
            break
        num_bytes /= 1024
    return f"{num_bytes:.3g} {unit}"


def build(explore: Explore) -> None:
    """Lay the tab out inside the current Blocks."""
    with gr.Column(elem_id="latency"):
        with gr.Column(elem_id="latency-settings"):
            gr.Markdown("Times the photo, model and layer that are chosen in **Explore**.")
            resolution = gr.Slider(
                112, 1536, DEFAULT_RESOLUTION, step=16, precision=0, label="Resolution (pixels)"
            )
            seconds = gr.Slider(
                2, 20, DEFAULT_SECONDS, step=1, precision=0, label="Time to spend (seconds)"
            )
            with gr.Row():
                start = gr.Button("Measure", variant="primary", min_width=110)
                stop = gr.Button("Stop", min_width=90)
            gr.Markdown(
                "One measurement or forward pass runs at a time, so that visitors never time each "
                "other: you may have to wait, and see your place in the queue."
            )
            with gr.Accordion("Against softmax and XCA", open=False):
                over_tokens = gr.Button("Sweep over tokens", size="sm")
                over_dim = gr.Button("Sweep over channels", size="sm")
        with gr.Column(elem_id="latency-result"):
            orders = gr.HTML(START)
            chart = gr.HTML()
            swept = gr.HTML()

    run: dict[str, Any] = {**COMPUTE, "api_visibility": "private"}
    given = [explore.seen, explore.model_key, explore.layer, resolution]
    measuring = start.click(plainly_each(measure_orders), [*given, seconds], orders, **run)
    drawing = measuring.success(plainly_each(curve), given, chart, **run)
    sweeps = [
        button.click(plainly_each(run_sweep), gr.State(over), swept, **run)
        for button, over in ((over_tokens, "tokens"), (over_dim, "dim"))
    ]
    stop.click(None, cancels=[measuring, drawing, *sweeps])

    api_inputs = [
        RawImage(visible=False, type="filepath", image_mode=None, label="picture"),
        explore.model_key,
        gr.Number(DEFAULT_LAYER, precision=0, visible=False, label="layer, from 1"),
        gr.Number(DEFAULT_RESOLUTION, precision=0, visible=False, label="resolution, pixels"),
        gr.Number(API_SECONDS, visible=False, label="seconds to spend, at most 20"),
    ]
    gr.Button(visible=False).click(
        plainly(latency_api), api_inputs, gr.JSON(visible=False), api_name="latency", **COMPUTE
    )
