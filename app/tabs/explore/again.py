"""The photo of a look, through the same model once more: for what a look does not keep."""

from torch import Tensor

from app.visit import Look, require_look
from app.visitors import MAX_COST, lens_for, require_affordable, require_photo
from sima_core import load_image
from sima_core.errors import InputError
from sima_core.lens.lens import Lens


def look_again(
    seen: Look | None, model_key: str | None, max_cost: float = MAX_COST
) -> tuple[Lens, Tensor]:
    """The model of a look, and the photo's pixels as it took them: (1, 3, height, width).

    Read anew rather than kept: a visit holds no more for what may be asked of it.

    Args:
        max_cost: what one forward pass may cost; less where several follow.

    Raises:
        ImageError, InputError, ModelGoneError: the photo or the model is no longer there, or
            another model is in use; with a sentence for the visitor.
    """
    analysis = require_look(seen).analysis
    lens = lens_for(model_key)
    if (lens.name, lens.provenance) != (analysis.name, analysis.provenance):
        raise InputError("another model made what is shown: choose the photo again.")
    assert seen is not None
    image = load_image(require_photo(seen.path))
    require_affordable(lens, image, analysis.resolution, max_cost)
    return lens, lens.preprocess(image, analysis.resolution)
