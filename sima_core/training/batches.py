"""The batches of a run: pictures in a random order, cropped, made worse, and put together.

Everything random in a step follows from the seed and the step's number, so that a run which was
killed goes on exactly as it would have.
"""

import io
import random

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import Dataset

from sima_core.training.data import PictureSet
from sima_core.training.recipe import STORED_SIDE, Settings, numbers_for


class RandomQuality:
    """Make a picture coarser and compress it, each at random.

    Sources differ in sharpness and in how hard they were compressed, and a model can learn to tell
    them apart by it; so each is at times as coarse, and shows as many artefacts, as the worst.
    """

    def __init__(
        self,
        coarser: float,
        compressed: float,
        sharpest_side: int = STORED_SIDE,
        smallest_side: int = 40,
        lowest_quality: int = 15,
    ) -> None:
        self.coarser = coarser
        self.compressed = compressed
        self.sharpest_side = sharpest_side
        self.smallest_side = smallest_side
        self.lowest_quality = lowest_quality

    def __call__(self, image: Image.Image) -> Image.Image:
        """A picture of as many pixels or fewer, RGB."""
        shorter = min(image.size)
        wanted: float = min(shorter, self.sharpest_side)
        if random.random() < self.coarser and wanted > self.smallest_side:
            wanted = random.uniform(self.smallest_side, wanted)
        if wanted < shorter:
            width, height = (max(1, round(side * (wanted / shorter))) for side in image.size)
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        # Drawn only where it matters, so that runs without it stay what they were.
        if self.compressed and random.random() < self.compressed:
            jpeg = io.BytesIO()
            image.save(jpeg, "JPEG", quality=random.randint(self.lowest_quality, 95))
            image = Image.open(jpeg).convert("RGB")
        return image


class Batches(Dataset[tuple[Tensor, Tensor]]):
    """One item a step: uint8 (B, 3, side, side) and int64 (B,); the same whenever asked for."""

    def __init__(self, pictures: PictureSet, settings: Settings) -> None:
        self.pictures = pictures
        self.settings = settings
        self.steps_per_epoch = len(pictures) // settings.batch_size
        self.num_steps = max(1, round(settings.epochs * self.steps_per_epoch))

    def __len__(self) -> int:
        return self.num_steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        settings = self.settings
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([settings.seed, epoch]).permutation(len(self.pictures))
        chosen = order[place * settings.batch_size :][: settings.batch_size]
        seed_all(settings.seed, step, "augmentation")
        transform = create_transform(
            self.resolution(step),
            is_training=True,
            use_prefetcher=True,  # leaves the scaling to the main process
            scale=(settings.phase(step / self.num_steps).smallest_crop, 1.0),
            color_jitter=settings.color_jitter or None,
            auto_augment=None,
            interpolation="random",
        )
        worse = RandomQuality(
            settings.coarser_probability, settings.compressed_probability, settings.sharpest_side
        )
        images = [transform(worse(self.pictures.image(i))) for i in chosen]
        return torch.stack(images), torch.from_numpy(self.pictures.labels[chosen])

    def resolution(self, step: int) -> int:
        """The input side of one step, in pixels."""
        return self.settings.resolution(step, self.num_steps)

    def pixels_from(self, first: int) -> int:
        """Pixels of one picture of every step from `first` on: what the time left goes by."""
        return sum(self.resolution(step) ** 2 for step in range(first, self.num_steps))


def seed_all(seed: int, step: int, purpose: str) -> None:
    """Seed every generator that timm and torch draw from, for one step and purpose."""
    number = numbers_for(seed, step, purpose).getrandbits(32)
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)
