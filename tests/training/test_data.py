"""The pictures to learn from: where they are found, and what is held out of them."""

import dataclasses
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sima_core.training.data import (
    PictureSet,
    TrainingDataError,
    near_duplicates,
    read_training_data,
    relabelled,
    signatures,
)
from tests.training.support import picture, tar_of


def test_sources_share_one_label_space_and_copies_are_in_neither_part(
    flowers: Path, tmp_path: Path
) -> None:
    copied = picture(1007).resize((80, 64), Image.Resampling.BICUBIC)  # another size of the same
    trained = tar_of(
        tmp_path / "nets-train.tar",
        {"n01532829/a.webp": picture(1007), "n01532829/b.webp": picture(1008)},
    )
    held_out = tar_of(
        tmp_path / "nets-val.tar", {"n01532829/c.webp": copied, "n01532829/d.webp": picture(1009)}
    )
    data = read_training_data([flowers, trained, held_out])
    assert data.class_ids == ("flowers/green leaf", "flowers/red_rose", "n01532829")
    assert data.class_names == ("green leaf", "red rose", "house finch")
    assert (len(data.training), len(data.held_out)) == (33, 9)
    assert (data.training_duplicates, data.held_out_duplicates, data.unreadable) == (1, 1, 1)
    assert data.training.sources.count("nets") == 1
    by_class = np.bincount(data.training.labels, minlength=3)
    assert by_class.tolist() == [16, 16, 1]
    assert "33 pictures to train on" in data.summary()


def test_pictures_that_nobody_holds_out_are_held_out_by_name(tmp_path: Path) -> None:
    pictures = {f"{c}/{i}.webp": picture(ord(c) * 100 + i) for c in "ab" for i in range(40)}
    first = read_training_data([tar_of(tmp_path / "plain.tar", pictures)])
    assert 0 < len(first.held_out) < 16
    again = read_training_data([tar_of(tmp_path / "plain.tar", dict(reversed(pictures.items())))])
    assert len(again.held_out) == len(first.held_out)


def test_names_that_are_no_utf8_are_read(tmp_path: Path) -> None:
    for name in (b"caf\xe9", b"the"):
        where = tmp_path / "drinks" / os.fsdecode(name)
        where.mkdir(parents=True)
        for i in range(30):
            picture(i + 100 * len(name)).save(where / os.fsdecode(b"%d\xe9.png" % i))
    data = read_training_data([tmp_path / "drinks"])
    assert data.class_names == ("caf\ufffd", "the")
    json.dumps(data.labels_json(), ensure_ascii=False).encode()
    assert data.fingerprint()


def test_what_cannot_be_trained_on_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match=r"no folder or tar file none\.tar"):
        read_training_data([tmp_path / "none.tar"])
    with pytest.raises(TrainingDataError, match="No picture was found"):
        read_training_data([tmp_path])
    (tmp_path / "cut.tar").write_bytes(b"not a tar")
    with pytest.raises(TrainingDataError, match=r"cut\.tar is not a whole tar file"):
        read_training_data([tmp_path / "cut.tar"])
    one = tar_of(tmp_path / "one.tar", {f"x/{i}.webp": picture(i) for i in range(3)})
    with pytest.raises(TrainingDataError, match="one folder a class"):
        read_training_data([one])
    few = tar_of(tmp_path / "few.tar", {f"{c}/1.webp": picture(ord(c)) for c in "ab"})
    with pytest.raises(TrainingDataError, match="No picture is left to hold out"):
        read_training_data([few])


def test_the_two_parts_may_be_named_by_themselves(
    flowers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = read_training_data([flowers])
    monkeypatch.chdir(flowers / "val")
    parts = read_training_data([flowers / "train", Path()])
    assert parts.class_ids == whole.class_ids
    assert parts.fingerprint() == whole.fingerprint()
    assert parts.fingerprint() != dataclasses.replace(parts, held_out=parts.training).fingerprint()


def test_near_duplicates_survive_size_and_compression_and_spare_the_others() -> None:
    def as_set(images: list[Image.Image]) -> PictureSet:
        arrays = [np.asarray(image) for image in images]
        return PictureSet(arrays, np.zeros(len(arrays), np.int64), ("s",) * len(arrays))

    buffer = io.BytesIO()
    picture(3).resize((120, 96)).save(buffer, "jpeg", quality=40)
    ours = as_set([picture(i) for i in range(6)])
    theirs = as_set([Image.open(buffer).convert("RGB"), picture(77)])
    in_ours, in_theirs = near_duplicates(signatures(ours), signatures(theirs))
    assert np.flatnonzero(in_ours).tolist() == [3]
    assert in_theirs.tolist() == [True, False]


def test_labels_follow_the_model_that_is_measured() -> None:
    pixels = [np.asarray(picture(i)) for i in range(4)]
    pictures = PictureSet(pixels, np.array([0, 1, 2, 1]), ("s",) * 4)
    found = relabelled(pictures, ("a", "b", "c"), ("c", "b"))
    assert found.labels.tolist() == [1, 0, 1]
    with pytest.raises(TrainingDataError, match="none of the pictures' classes"):
        relabelled(pictures, ("a", "b", "c"), ())


def test_a_source_whose_name_is_no_utf8_has_classes_that_can_be_written(flowers, tmp_path):
    (tmp_path / os.fsdecode(b"f\xff")).symlink_to(flowers)
    found = read_training_data([tmp_path / os.fsdecode(b"f\xff")])
    assert found.class_ids == ("f\ufffd/green leaf", "f\ufffd/red_rose")
    assert len(found.fingerprint()) == 16
