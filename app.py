"""Start SimA Lens: ``python app.py``; the page itself is made in `app.page`."""

from app import (  # noqa: F401  # all, at start
    api,
    arguments,
    bodies,
    charts,
    connections,
    controls,
    gate,
    handlers,
    lifetime,
    messages,
    mishaps,
    own_checkpoint,
    page,
    raw_image,
    sessions,
    standing,
    sweeping,
    templating,
    theme,
    turns,
    uploads,
    viewer,
    visit,
    visitors,
    words,
)
from app.tabs import compare, evidence, latency  # noqa: F401
from app.tabs.coco import browsing, curves, examples, picture, tab  # noqa: F401
from app.tabs.explore import again, brush, flow, look, named_map, samples, trust, why  # noqa: F401
from app.tabs.explore import tab as explore_tab  # noqa: F401

demo = lifetime.or_say_why(page.build)

if __name__ == "__main__":
    lifetime.end_when_told(demo)
    lifetime.or_say_why(lambda: page.launch(demo))
