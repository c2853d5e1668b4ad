"""Fixtures shared by the tests."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sima_core
from sima_core.attention.operation import set_crossovers
from sima_core.training.data import TrainingData, read_training_data
from tests.training.support import picture


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same random numbers in every run, so that no test fails once in a hundred."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def uncalibrated() -> None:
    """Nothing of the crossovers that an earlier test measured on this machine."""
    set_crossovers({})


@pytest.fixture(scope="session")
def model() -> torch.nn.Module:
    """The bundled trained model; tests leave it as they found it."""
    return sima_core.load_model()


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    """A picture with structure at several scales, made here: 96 × 64, a bright disc on a ramp."""
    y, x = np.mgrid[:64, :96]
    disc = ((x - 60) ** 2 + (y - 30) ** 2 < 15**2) * 120
    channels = [(x * 2 + disc), (y * 3 + disc // 2), ((x + y) % 64 * 2)]
    return Image.fromarray(np.clip(np.stack(channels, -1), 0, 255).astype(np.uint8))


@pytest.fixture
def photo_file(photo: Image.Image, tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    photo.save(path)
    return path


def _square(x: int, y: int, side: int) -> list[list[float]]:
    """The outline of a square of `side` pixels, as COCO writes polygons."""
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


@pytest.fixture(scope="session")
def coco_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up COCO root of 120 × 90 pictures, one for each thing that can occur.

    1: two dogs and a crowd of people; 2: one cat, in grey; 3: nothing annotated; 4: a tiny dog;
    5: a cat all over; 6: no file; 7: a broken file; 8: a crowd alone; 9 to 40: a dog each.
    """
    root = tmp_path_factory.mktemp("coco")
    (root / "val2017").mkdir()
    (root / "annotations").mkdir()
    rng = np.random.default_rng(0)
    names = {1: "person", 17: "cat", 18: "dog"}
    crowd = {"size": [90, 120], "counts": [0, 90 * 10, 90 * 110]}  # the ten leftmost columns
    objects: dict[int, list[tuple[int, object, int]]] = {
        1: [(18, _square(20, 20, 30), 0), (18, _square(70, 40, 20), 0), (1, crowd, 1)],
        2: [(17, _square(40, 30, 40), 0)],
        3: [],
        4: [(18, _square(50, 50, 5), 0)],
        5: [(17, [[0, 0, 120, 0, 120, 90, 0, 90]], 0)],
        6: [(17, _square(0, 0, 40), 0)],
        7: [(17, _square(0, 0, 40), 0)],
        8: [(1, crowd, 1)],
        **{i: [(18, _square(10 + i, 30, 35), 0)] for i in range(9, 41)},
    }
    images, annotations = [], []
    for image_id, found in objects.items():
        name = f"{image_id:012d}.jpg"
        images.append(
            {
                "id": image_id,
                "file_name": name,
                "width": 120,
                "height": 90,
                "license": 4,
                "flickr_url": f"http://farm1.staticflickr.com/2/{image_id}777_0abc_z.jpg",
            }
        )
        for category, segmentation, is_crowd in found:
            side = 0 if is_crowd else segmentation[0][2] - segmentation[0][0]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category,
                    "segmentation": segmentation,
                    "iscrowd": is_crowd,
                    "area": side * (90 if side == 120 else side),
                }
            )
        noise = rng.integers(0, 255, (9, 12, 3), dtype=np.uint8)
        picture = Image.fromarray(noise).resize((120, 90))
        if image_id != 6:
            picture.convert("L" if image_id == 2 else "RGB").save(root / "val2017" / name)
    broken = root / "val2017" / f"{7:012d}.jpg"
    broken.write_bytes(broken.read_bytes()[:600])
    listed = {
        "licenses": [{"id": 4, "name": "Attribution License", "url": "http://example.org/by/2.0/"}],
        "categories": [{"id": i, "name": name} for i, name in names.items()],
        "images": images,
        "annotations": annotations,
    }
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(listed))
    return root


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread for tests of many tiny models: on a busy machine two wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def flowers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled pictures; tests leave them as they found them.

    Two classes, 16 pictures of each to train on and 4 held out; one file is broken.
    """
    root = tmp_path_factory.mktemp("photos") / "Flowers"
    for tint, name in enumerate(("red_rose", "green leaf")):
        for split, count in (("train", 16), ("val", 4)):
            where = root / split / name
            where.mkdir(parents=True)
            for i in range(count):
                picture(100 * tint + 50 * (split == "val") + i, tint).save(where / f"{i}.png")
    (root / "train" / "red_rose" / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    return root


@pytest.fixture(scope="session")
def data(flowers: Path) -> TrainingData:
    """`flowers`, read to be trained on."""
    return read_training_data([flowers])
