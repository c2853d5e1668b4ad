"""When not to believe the maps: the checks of `scoring.sanity`, run when somebody asks."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency
from markupsafe import Markup

from app.charts import Series, linear_chart
from app.handlers import COMPUTE, plainly
from app.standing import Yardstick, standing_in_words, strip_html, yardstick
from app.tabs.explore.again import look_again
from app.tabs.explore.look import View
from app.tabs.explore.named_map import PAPER
from app.templating import render
from app.turns import TURNS
from app.viewer import STATIC, heat_uri
from app.visit import Look, Visit, require_look
from app.visitors import MAX_COST, lens_for
from app.words import capitalized
from sima_core import Analysis
from sima_core.lens.heatmaps import heatmap
from sima_core.lens.layers import SIDES
from sima_core.lens.lens import Lens
from sima_core.lens.maps import MAPS
from sima_core.scoring.sanity import EVERYTHING, OUTLIER, Check, Level, Sanity, sanity

#: What all passes together may cost: some thirty seconds of two cores.
MAX_CHECKS_COST = 3 * MAX_COST
#: The longer side in pixels of the maps beside the slider, which are no finer anyway.
_STEP_SIDE = 224
#: How many outliers are named by their places.
_MOST_NAMED = 3
#: The folder of the softmax twin among the assets.
_SOFTMAX = "twins"

_TITLES = {
    "random": "Does it show what was learnt?",
    "mirror": "Does it survive mirroring?",
    "centre": "Is it just the centre?",
    "outliers": "Do single tokens run away?",
    "agreement": "Is the norm what really happens?",
}
#: The figure of `Sanity.figures` that stands for each check among the evidence pictures.
_FIGURES = {"random": "random", "mirror": "mirror", "centre": "centre", "outliers": "largest"}
_EXACT = {
    "received": "with the size of what each token receives, once its parts have cancelled",
    "gathered": "with the sizes of its parts, before they cancel",
    "sent": "with the size of all that each token sends",
}


@dataclass(frozen=True)
class Reading:
    """One map's number of one check, as it is shown."""

    symbol: str
    number: str
    words: str
    level: Level
    #: Where it stands among the evidence pictures; empty where they have no such number.
    strip: Markup
    standing: str
    #: The softmax twin's median, for comparison; empty where it says nothing.
    softmax: str = ""


def check(
    seen: Look | None,
    layer: float | None,
    head: float,
    colormap: str,
    map_name: str,
    model_key: str | None,
) -> Markup:
    """The panel: a verdict on each map that is shown, its checks, and the maps of random layers."""
    seen = require_look(seen)
    view = View.of(seen.analysis, layer, head, colormap)
    passes = lens_for(model_key).depth + 3
    lens, pixels = look_again(seen, model_key, MAX_CHECKS_COST / passes)
    with TURNS.turn():
        start = time.perf_counter()
        names = SIDES if map_name == PAPER else (map_name,)
        found = sanity(lens, pixels, view.layer, names, view.head)
        seconds = time.perf_counter() - start
    return _Panel(lens, seen, view, found).html(seconds)


@dataclass(frozen=True)
class _Panel:
    """What was found, on its way to the page."""

    lens: Lens
    seen: Look
    view: View
    found: Mapping[str, Sanity]

    @property
    def analysis(self) -> Analysis:
        return self.seen.analysis

    def html(self, seconds: float) -> Markup:
        bundled = yardstick()
        provenance = self.analysis.provenance
        like = (
            provenance is not None
            and provenance.sha256 == bundled.sha256
            and (self.view.layer, self.view.head) == (bundled.layer, None)
            and self.analysis.resolution == bundled.resolution
        )
        return render(
            "explore/trust",
            verdicts=[(self.symbol(name), one.verdict()) for name, one in self.found.items()],
            view=self.view,
            analysis=self.analysis,
            name=self.seen.name,
            seconds=seconds,
            checks=self.checks(bundled),
            yardstick=bundled,
            like=like,
            outlier=OUTLIER,
            own=self.largest(),
            references=self.references(bundled),
            photo=self.seen.photo,
            steps=self.steps(),
            of_norms=all(name in SIDES for name in self.found),
            figures=[self.figure(name, one) for name, one in self.found.items()],
            chart=self.chart(bundled if like else None),
        )

    def symbol(self, name: str) -> str:
        return self.analysis.symbol(name, self.view.layer) if name in SIDES else MAPS[name].title

    def checks(self, bundled: Yardstick) -> list[dict[str, Any]]:
        """A row a check: its title, and the readings of each map."""
        by_kind: dict[str, list[Sequence[Reading]]] = {kind: [] for kind in _TITLES}
        for name, one in self.found.items():
            for check in one.checks():
                by_kind[check.name].append(self.readings(name, one, check, bundled))
        return [
            {"kind": kind, "title": _TITLES[kind], "columns": columns}
            for kind, columns in by_kind.items()
        ]

    def readings(
        self, name: str, one: Sanity, check: Check, bundled: Yardstick
    ) -> Sequence[Reading]:
        """What a check says of one map; for agreement, a reading of each exact size."""
        if check.name == "agreement":
            return [
                self.reading(name, exact, value, _EXACT[exact], check, bundled)
                for exact, value in one.agreement.items()
            ]
        assert check.value is not None
        return [
            self.reading(
                name, _FIGURES[check.name], check.value, _words(check, one), check, bundled
            )
        ]

    def reading(
        self, name: str, figure: str, value: float, words: str, check: Check, bundled: Yardstick
    ) -> Reading:
        of = bundled.of(name, figure)
        # A map held against several sizes is judged by the first.
        level = check.level if value == check.value else "fine"
        twin = yardstick(_SOFTMAX).of(name, figure) if check.name == "agreement" else None
        return Reading(
            self.symbol(name),
            _number(value),
            words,
            level,
            strip_html(of, value, level) if of else Markup(),
            standing_in_words(of, value, bundled.images) if of else "",
            _number(twin.median) if twin else "",
        )

    def largest(self) -> list[float | None]:
        """The largest token of either map, and of those that leave the layer."""
        maps = list(self.found.values())
        return [*(one.largest for one in maps), maps[0].output_largest]

    def references(self, bundled: Yardstick) -> list[dict[str, Any]]:
        """The largest tokens of the bundled SimA and of the softmax twin, for comparison."""
        rows = []
        for title, of in (("bundled SimA", bundled), ("softmax twin", yardstick(_SOFTMAX))):
            figures = [of.of(name, "largest") for name in self.found]
            rows.append({"title": title, "of": [*figures, of.of("query", "output")]})
        return rows

    def steps(self) -> list[str]:
        """What the slider says at each place."""
        longest = max((one.steps for one in self.found.values()), key=len)
        first = longest[0].random
        said = ["as trained"]
        for step in longest:
            if step.random == EVERYTHING:
                said.append("everything random: nothing that was learnt is left")
            elif step.random == first:
                said.append(f"{first} random")
            else:
                said.append(f"{first} down to {step.random} random")
        return [capitalized(one) for one in said]

    def figure(self, name: str, one: Sanity) -> dict[str, Any]:
        """The map as trained and after every step, as pictures, with the correlations."""
        width, height = self.seen.photo.size
        scale = _STEP_SIDE / max(width, height)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        maps = [one.map, *(step.map for step in one.steps)]
        return {
            "symbol": self.symbol(name),
            "uris": [heat_uri(heatmap(values), size, self.view.colormap) for values in maps],
            "correlations": [1.0, *(step.correlation for step in one.steps)],
        }

    def chart(self, like: Yardstick | None) -> Markup:
        """The correlation after each step, with the evidence pictures' median where it compares."""
        series = []
        for color, (name, one) in enumerate(self.found.items()):
            points = [(0.0, 1.0), *((i, s.correlation) for i, s in enumerate(one.steps, 1))]
            series.append(Series(self.symbol(name), points, color=color))
        for color, (name, one) in enumerate(self.found.items()):
            medians = [like.of(name, f"random/{s.random}") if like else None for s in one.steps]
            points = [(i, m.median) for i, m in enumerate(medians, 1) if m]
            if like and points:
                said = f"{self.symbol(name)}, median of {like.images} COCO pictures"
                whole = [(0.0, 1.0), *points]
                series.append(Series(said, whole, dashed=True, marks=False, color=color))
        alt = "; ".join(
            f"{self.symbol(name)}: {one.steps[0].correlation:.2f} once {one.steps[0].random} is "
            f"random, {one.random:.2f} once all layers are"
            for name, one in self.found.items()
        )
        return linear_chart(series, "layers made random", "rank correlation", alt, also=(0, 1))


def _number(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _words(check: Check, one: Sanity) -> str:
    """What follows the number."""
    assert check.value is not None
    if check.name == "centre":
        return f"a blob in the middle explains {100 * check.value**2:.0f} % of its order"
    if check.name != "outliers":
        return ""
    number = len(one.outliers)
    if one.name not in SIDES:
        return "× the median"
    if not number:
        return "× the median: no outlier"
    places = ", ".join(f"row {r} column {c}" for r, c in one.outliers[:_MOST_NAMED])
    more = f" and {number - _MOST_NAMED} more" if number > _MOST_NAMED else ""
    return f"× the median: {number} outlier{'s' * (number > 1)}, {places}{more}"


@dataclass(frozen=True)
class Trust:
    """The panel's button and its place."""

    button: gr.Button
    panel: gr.HTML

    @classmethod
    def lay_out(cls) -> "Trust":
        """Inside the current Blocks, nothing checked yet."""
        script = (STATIC / "trust.js").read_text(encoding="utf-8")
        with gr.Column(elem_id="explore-trust"):
            panel = gr.HTML(render("explore/unchecked"), js_on_load=script, elem_id="trust")
            button = gr.Button("Check these maps", elem_id="trust-check")
        return cls(button, panel)

    def wire(self, visit: Visit, view: Sequence[Component]) -> None:
        """Check what `view` shows: the look, the layer, the head, the colours and the map."""
        self.button.click(
            plainly(check),
            [*view, visit.model_key],
            self.panel,
            **COMPUTE,
            show_progress_on=self.panel,
            trigger_mode="always_last",
        )

    def outdated_after(self, listen: Callable[..., Dependency]) -> None:
        """Mark what stands there as of another view, once the event has happened."""
        listen(None, js=_VIEW_CHANGED)


# The panel's script hears of it, and of the button: only the page knows which came first.
_VIEW_CHANGED = "() => { document.dispatchEvent(new Event('sl-unchecked')); }"
