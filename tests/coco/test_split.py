"""Reading COCO: where it is, what is in it, and what is wrong with it."""

import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from sima_core.coco.root import CocoError, find_root
from sima_core.coco.split import CocoSplit, Filter, _is_thumbnail, credit
from sima_core.files import ASSETS


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SIMA_COCO_ROOT", raising=False)


@pytest.fixture(scope="module")
def split(coco_root: Path) -> CocoSplit:
    return CocoSplit(coco_root, "val2017")


def copy_with(coco_root: Path, tmp_path: Path, change) -> Path:
    """A copy of the root whose list of pictures went through `change`."""
    root = Path(shutil.copytree(coco_root, tmp_path / "copy"))
    file = root / "annotations" / "instances_val2017.json"
    listed = json.loads(file.read_text())
    file.write_text(json.dumps(change(listed) or listed))
    return root


def test_named_root_goes_before_environment_and_cache(coco_root, tmp_path, monkeypatch):
    assert find_root() is None
    cached = tmp_path / "cache" / "sima-lens" / "coco"
    shutil.copytree(coco_root, cached)
    assert find_root() == cached
    monkeypatch.setenv("SIMA_COCO_ROOT", str(coco_root))
    assert find_root() == coco_root
    assert find_root(cached) == cached


def test_a_home_that_nobody_has():
    with pytest.raises(CocoError, match="a name that nobody has"):
        find_root("~nosuchuser/coco")


@pytest.mark.parametrize("how", ["named", "environment"])
def test_a_named_folder_that_is_no_root_is_said_so_without_its_path(tmp_path, monkeypatch, how):
    monkeypatch.setenv("SIMA_COCO_ROOT", str(tmp_path))
    with pytest.raises(CocoError, match=r"no COCO root: expected annotations/") as error:
        find_root(tmp_path if how == "named" else None)
    assert str(tmp_path) not in str(error.value)


def test_masks_are_unions_without_crowds(split):
    mask = split.mask(1)
    assert mask.shape == (90, 120)
    assert mask.sum() == 30 * 30 + 20 * 20
    assert mask[20:50, 20:50].all()
    assert mask[40:60, 70:90].all()
    assert split.mask(1, "dog").sum() == mask.sum()
    assert not split.mask(1, "person").any()
    assert not split.mask(8).any()
    assert not split.mask(3).any()


def test_a_picture_knows_its_objects_licence_and_credit(split):
    picture = split.picture(1)
    assert picture.categories == ("dog", "person")
    assert [o.crowd for o in picture.objects] == [False, False, True]
    assert picture.licence.name == "Attribution License"
    assert picture.credit == "https://www.flickr.com/photo.gne?id=1777"
    [crowd] = picture.objects[2].outline  # from run lengths: the ten leftmost columns
    assert crowd[:, 0].max() == pytest.approx(9.5)


def test_credit_is_an_address_or_nothing():
    assert credit({"flickr_url": "javascript:alert(1)"}) == ""
    assert credit({"coco_url": "http://example.org/1.jpg"}) == "http://example.org/1.jpg"
    assert credit({}) == ""


def test_filters(split):
    there = [i for i in range(1, 41) if i != 6]  # 6 has no file
    assert split.select() == there
    assert split.select(Filter(("cat",))) == [2, 5, 7]
    assert split.select(Filter(("dog", "person"))) == [1]
    assert split.select(Filter(num_objects=(2, 5))) == [1]
    assert split.select(Filter(num_objects=(0, 0))) == [3, 8]
    assert split.select(Filter(largest=(0.5, 1))) == [5]
    with pytest.raises(CocoError, match="no category 'unicorn' in val2017"):
        split.select(Filter(("cat", "unicorn")))


def test_grey_pictures_are_read_and_others_named(split):
    assert split.load(2).mode == "RGB"
    with pytest.raises(CocoError, match=r"Picture 6 is not on this disk: .*--ids 6"):
        split.load(6)
    with pytest.raises(CocoError, match=r"Picture 7 cannot be read.*ends too early"):
        split.load(7)
    with pytest.raises(CocoError, match="no picture 99 in val2017"):
        split.load(99)


def test_a_picture_of_another_size_is_not_scored(coco_root, tmp_path):
    root = copy_with(coco_root, tmp_path, lambda listed: listed["images"][0].update(width=121))
    with pytest.raises(CocoError, match="120 × 90 pixels, but is annotated at 121 × 90"):
        CocoSplit(root, "val2017").load(1)


def test_a_turned_picture_stays_as_it_was_annotated(coco_root, tmp_path):
    root = Path(shutil.copytree(coco_root, tmp_path / "copy"))
    split = CocoSplit(root, "val2017")
    before = np.asarray(split.load(1)).astype(int)
    with Image.open(split.path(1)) as image:
        exif = image.getexif()
        exif[0x0112] = 3  # upside down, by the camera's word
        image.save(split.path(1), exif=exif, quality=95)
    after = np.asarray(split.load(1)).astype(int)
    assert abs(after - before).mean() < 10 < abs(after[::-1, ::-1] - before).mean()


def test_no_file_name_leads_out_of_the_split(coco_root, tmp_path):
    def escape(listed):
        listed["images"][0]["file_name"] = "../../secret.jpg"

    split = CocoSplit(copy_with(coco_root, tmp_path, escape), "val2017")
    assert split.path(1).parent == split.root / "val2017"


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[1, 2]",
        lambda text: '{"images": [], "annotations": []}',
        lambda text: text.replace('"file_name"', '"name"'),
        lambda text: text.replace('"category_id": 18', '"category_id": 99'),
        lambda text: text.replace("{", "\udcff", 1),
        lambda text: text.replace('"width": 120', '"width": 0'),
        lambda text: text.replace('"width": 120', '"width": Infinity'),
        lambda text: text.replace('"licenses": [', '"licenses": [3, '),
        lambda text: "[" * 100_000,
        lambda text: "1" * 5000,
    ],
)
def test_a_broken_list_is_said_so(coco_root, tmp_path, change):
    root = Path(shutil.copytree(coco_root, tmp_path / "copy"))
    file = root / "annotations" / "instances_val2017.json"
    file.write_text(change(file.read_text()), "utf-8", errors="surrogateescape")
    with pytest.raises(CocoError, match=r"broken or half-written: .*--annotations") as error:
        CocoSplit(root, "val2017")
    assert str(root) not in str(error.value)


def test_a_missing_list_says_how_to_fetch_it(coco_root):
    with pytest.raises(CocoError, match=r"no list of train2017: .*--split train2017 --annotations"):
        CocoSplit(coco_root, "train2017")


@pytest.mark.parametrize(
    "segmentation",
    [
        [["a", "b"]],
        {"size": [9, 9], "counts": [81]},
        {"size": [90, 120]},
        {"size": [90, 120], "counts": [100, 500]},  # ends before the picture does
        {"size": [90, 120], "counts": []},
        {"size": [90, 120], "counts": ""},
        {"size": [90, 120], "counts": "d3"},  # 100 pixels
        {"size": [90, 120], "counts": [0, 10**9]},
        {"size": [10**6, 10**6], "counts": [10]},  # would crash pycocotools
        5,
    ],
)
def test_a_broken_outline_is_named(coco_root, tmp_path, segmentation):
    def damage(listed):
        listed["annotations"][0]["segmentation"] = segmentation

    split = CocoSplit(copy_with(coco_root, tmp_path, damage), "val2017")
    for read in (split.mask, split.picture):
        with pytest.raises(CocoError, match="outline in picture 1 is broken"):
            read(1)


def test_compressed_run_lengths(coco_root, tmp_path):
    stripes = np.zeros((90, 120), np.uint8, order="F")
    stripes[::3, 5:50] = stripes[:, 60:100] = 1
    encoded = rle.encode(stripes)

    def compress(listed):
        listed["annotations"][0]["segmentation"] = {
            "size": encoded["size"], "counts": encoded["counts"].decode()
        }  # fmt: skip

    split = CocoSplit(copy_with(coco_root, tmp_path, compress), "val2017")
    expected = stripes.astype(bool)
    expected[40:60, 70:90] = True  # the other dog
    assert np.array_equal(split.mask(1), expected)


def test_thumbnails_are_made_once(coco_root, tmp_path):
    root = Path(shutil.copytree(coco_root, tmp_path / "copy"))
    split = CocoSplit(root, "val2017")
    first = split.thumbnail(1, 60)
    with Image.open(io.BytesIO(first)) as image:
        assert image.size == (60, 45)
    kept = next((tmp_path / "cache").rglob("1-60.jpg"))
    other = io.BytesIO()
    Image.new("RGB", (9, 9)).save(other, "JPEG")
    kept.write_bytes(other.getvalue())  # what is there is taken
    assert split.thumbnail(1, 60) == other.getvalue()
    Image.new("RGB", (120, 90)).save(split.path(1))  # until the picture changes
    assert split.thumbnail(1, 60) not in (other.getvalue(), first)


def test_damaged_thumbnails_are_made_anew(split, tmp_path):
    first = split.thumbnail(1, 60)
    kept = next((tmp_path / "cache").rglob("1-60.jpg"))
    large = io.BytesIO()
    Image.new("RGB", (61, 9)).save(large, "JPEG")
    for damaged in (b"", first[:-1], first[:100], b"x" * 99 + b"\xff\xd9", large.getvalue()):
        kept.write_bytes(damaged)
        assert split.thumbnail(1, 60) == first
        assert kept.read_bytes() == first
    kept.unlink()
    os.mkfifo(kept)
    assert split.thumbnail(1, 60) == first


@pytest.mark.parametrize("raised", [OSError, ValueError, SyntaxError, Image.DecompressionBombError])
def test_whatever_pillow_says_of_a_kept_thumbnail_it_is_damaged(split, monkeypatch, raised):
    def refuse(*arguments: object, **options: object) -> None:
        raise raised("no picture")

    first = split.thumbnail(1, 60)
    with monkeypatch.context() as patch:
        patch.setattr("sima_core.coco.split.Image.open", refuse)
        assert not _is_thumbnail(first, 60)
    assert _is_thumbnail(first, 60)


def test_thumbnails_without_a_place_to_keep_them(split, tmp_path):
    (tmp_path / "cache").write_text("no folder")
    assert split.thumbnail(1, 60) == split.thumbnail(1, 60)


def test_the_examples_may_be_shown():
    listed = json.loads((ASSETS / "coco_examples.json").read_text("utf-8"))
    images = listed["images"]
    assert listed["split"] == "val2017"
    assert len({image["id"] for image in images}) == len(images) >= 20
    for image in images:
        assert image["licence"] in (4, 5, 7, 8)
        assert image["credit"].startswith("https://www.flickr.com/")
        assert min(image["width"], image["height"]) > 100


def test_categories_and_presence_scale_to_large_splits(split):
    assert split.categories == ("person", "cat", "dog")
    assert split.present().sum() == len(split.ids) - 1
    assert np.array_equal(split.ids, np.arange(1, 41))
