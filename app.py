"""Start SimA Lens: ``python app.py``; the page itself is made in `app.page`."""

from app import (  # noqa: F401  # all, at start
    api,
    arguments,
    bodies,
    charts,
    controls,
    gate,
    handlers,
    mishaps,
    own_checkpoint,
    page,
    raw_image,
    templating,
    theme,
    viewer,
    visit,
    visitors,
    words,
)
from app.tabs import compare, evidence, explore, latency  # noqa: F401
from app.tabs.coco import browsing, curves, examples, picture, tab  # noqa: F401

demo = page.build()

if __name__ == "__main__":
    page.launch(demo)
