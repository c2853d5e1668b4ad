"""What happens to a picture before it is learnt from."""

import io
import random

import numpy as np
from PIL import Image

from sima_core.training.batches import RandomQuality
from tests.training.support import picture


def test_sharpness_is_taken_away_at_random_and_never_added() -> None:
    image = picture(1).resize((100, 80))
    always, never = RandomQuality(1.0, 0.0), RandomQuality(0.0, 0.0)
    sides = [min(always(image).size) for _ in range(20)]
    assert all(40 <= side <= 80 for side in sides)
    assert len(set(sides)) > 1
    assert never(image) is image
    capped = RandomQuality(0.0, 0.0, sharpest_side=60)(image)
    assert capped.size == (75, 60)


def test_pictures_are_compressed_at_random_and_keep_their_size() -> None:
    image = picture(1).resize((100, 80))

    def error(result: Image.Image) -> float:
        assert result.size == image.size
        return float(np.abs(np.asarray(result, int) - np.asarray(image, int)).mean())

    def error_at(quality: int) -> float:
        jpeg = io.BytesIO()
        image.save(jpeg, "jpeg", quality=quality)
        return error(Image.open(jpeg))

    errors = [error(RandomQuality(0.0, 1.0)(image)) for _ in range(30)]
    assert error_at(95) <= min(errors) < max(errors) <= error_at(15)
    assert len(set(errors)) > 10


def test_runs_without_compression_draw_the_numbers_they_always_drew() -> None:
    image = picture(1).resize((100, 80))
    random.seed(5)
    RandomQuality(1.0, 0.0)(image)
    drawn = random.random()
    random.seed(5)
    random.random(), random.uniform(0, 1)  # whether to make it coarser, and by how much
    assert drawn == random.random()
