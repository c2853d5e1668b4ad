"""Lists of pictures that strangers wrote: sentences for whatever is wrong, within limits."""

import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sima_core.coco import listing as listings
from sima_core.coco.annotations import read_list
from sima_core.coco.root import CocoError, annotations_file
from sima_core.coco.split import CocoSplit

HUGE = "9" * 5000


def root_with(folder: Path, content: bytes) -> Path:
    file = annotations_file(folder, "val2017")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return folder


def listed() -> dict[str, Any]:
    """A good list of two pictures and two objects."""
    square = [[1, 1, 9, 1, 9, 9, 1, 9]]
    return {
        "info": {"year": 2017},
        "licenses": [{"id": 4, "name": "Attribution", "url": "http://example.org/"}],
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "café"}],
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "width": 20, "height": 10, "license": 4}
            for i in (7, 2)
        ],
        "annotations": [
            {"id": i, "image_id": 7, "category_id": 18, "segmentation": square, "area": 64}
            for i in (1, 2)
        ],
    }


def refusal(root: Path) -> str:
    """What is said of a list; a sentence that shows nothing of the server and of strangers."""
    with pytest.raises(CocoError) as caught:
        CocoSplit(root, "val2017")
    said = str(caught.value)
    assert len(said) <= 200
    assert said.isprintable()
    assert str(root) not in said
    return said


WRONG: list[tuple[str, str, Any]] = [
    *(("images", "file_name", name) for name in (
        None, "", 5, [], "x" * 5000, "é" * 200, "a\0.jpg", "\x1b[2J.jpg", "a\nb", "..", "a/..",
        "a/", "\ud800.jpg",
    )),
    *(("images", key, value) for key in ("width", "height") for value in (
        None, 0, -1, 1e308, "20", 20.5, True, 10**400, [], float("nan"), float("inf"), 2**16 + 1,
    )),
    *((section, "id", value) for section in ("images", "annotations", "categories", "licenses")
      for value in (None, "7", 7.0, True, -1, 10**400, [], {})),
    *(("annotations", key, value) for key in ("image_id", "category_id")
      for value in (None, "7", 7.0, 10**400, 99, -1)),
    *(("annotations", "area", value) for value in (
        None, "1", [], -1, 1e308, 10**400, float("nan"), float("inf"))),
    *(("annotations", "iscrowd", value) for value in (2, "1", [1], -1)),
    *(("categories", "name", value) for value in (None, "", 5, [], "x" * 2**20, "\x1b[31m")),
    *(("licenses", key, value) for key in ("name", "url") for value in (5, [], "x" * 5000, "\0")),
    *((section, None, value) for section in ("images", "annotations", "categories", "licenses")
      for value in (3, "x", None, [], [{}])),
]  # fmt: skip


@pytest.mark.parametrize(("section", "key", "value"), WRONG)
def test_a_wrong_field_is_a_sentence(tmp_path: Path, section: str, key: str, value: Any) -> None:
    found = listed()
    if key is None:
        found[section][0] = value
    else:
        found[section][0][key] = value
    assert "broken or half-written" in refusal(root_with(tmp_path, json.dumps(found).encode()))


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f.update(images={}),
        lambda f: f.update(images=None),
        lambda f: f.update(annotations="x"),
        lambda f: f.pop("images"),
        lambda f: f["images"].append(f["images"][0]),
        lambda f: f["annotations"].append(f["annotations"][0]),
        lambda f: f["categories"].append(f["categories"][0]),
        lambda f: f["images"][0].update(width=60_000, height=60_000),
        lambda f: f.update(categories=[{"id": i, "name": "x"} for i in range(20_000)]),
    ],
)
def test_a_wrong_section_is_a_sentence(
    tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    found = listed()
    change(found)
    assert "broken or half-written" in refusal(root_with(tmp_path, json.dumps(found).encode()))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe{\x00}\x00",
        b"{",
        b"{}",
        b"null",
        b'{"images": [' + b"[" * 200_000,
        b'{"a": ' + b'{"a": ' * 200_000,
        b'{"images": [{"id": ' + HUGE.encode() + b"}]}",
        b'{"images": [{"id": 1, "file_name": "\xff.jpg", "width": 1, "height": 1}]}',
        b'{"images": [], "images": []}',
        json.dumps(listed()).encode() + b"}",
        json.dumps(listed()).encode()[:-1],
        json.dumps(listed()).replace('"id": 7', f'"id": {HUGE}').encode(),
    ],
)
def test_no_list_at_all_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    root = root_with(tmp_path, content)
    assert "broken or half-written" in refusal(root)
    with pytest.raises(CocoError, match="is broken: delete it"):
        read_list(annotations_file(root, "val2017"))


@pytest.mark.parametrize("small", [0, 2**20])
@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("padding", [0, 3 * 2**20])
def test_long_and_short_lists_are_read_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: int, before: bytes, padding: int
) -> None:
    """Whether in this process or in another, in one block or in many; names in UTF-8."""
    monkeypatch.setattr(listings, "SMALL_LIST_BYTES", small)
    content = json.dumps(listed(), ensure_ascii=False)
    content = content.replace('"year"', f'"x": "{"é" * (padding // 2)}", "year"')
    split = CocoSplit(root_with(tmp_path, before + content.encode()), "val2017")
    assert split.ids == (2, 7)
    assert split.categories == ("dog", "café")
    assert split.mask(7).sum() == 64
    assert not split.is_annotated(2)
    found = split.picture(7)
    assert [found.file_name, found.licence.name] == ["7.jpg", "Attribution"]
    assert [o.area for o in found.objects] == [64, 64]


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
def test_a_long_list_cannot_take_much_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listings, "MEMORY_BYTES", 8 * 2**20)
    images = b",".join(
        b'{"id":%d,"file_name":"a","width":1,"height":1}' % i for i in range(120_000)
    )
    root = root_with(tmp_path, b'{"images": [' + images + b"]}")
    assert "too large to read" in refusal(root)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of time are Linux's")
def test_a_long_list_cannot_take_much_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listings, "SECONDS", 0.01)
    monkeypatch.setattr(listings, "BYTES_PER_SECOND", 2**40)
    images = b",".join(
        b'{"id":%d,"file_name":"a","width":1,"height":1}' % i for i in range(120_000)
    )
    root = root_with(tmp_path, b'{"images": [' + images + b"]}")
    assert "too long to read" in refusal(root)


def test_a_list_beyond_all_bounds_is_not_looked_at(tmp_path: Path) -> None:
    root = root_with(tmp_path, b"")
    with annotations_file(root, "val2017").open("wb") as file:
        file.truncate(listings.MAX_LIST_BYTES + 1)  # no disk holds it
    assert "too large to read" in refusal(root)


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_what_is_no_file_is_not_read(tmp_path: Path, kind: str) -> None:
    root = root_with(tmp_path, b"")
    file = annotations_file(root, "val2017")
    file.unlink()
    os.mkfifo(file) if kind == "pipe" else file.mkdir()
    assert f"This is a {'named pipe' if kind == 'pipe' else 'folder'}" in refusal(root)


def test_a_list_that_changes_meanwhile_is_said_so(tmp_path: Path) -> None:
    root = root_with(tmp_path, json.dumps(listed()).encode())
    split = CocoSplit(root, "val2017")
    root_with(tmp_path, json.dumps(listed()).encode()[5:])
    for look in (split.picture, split.mask):
        with pytest.raises(CocoError, match="has changed meanwhile"):
            look(7)


def test_wrong_credits_are_left_out(tmp_path: Path) -> None:
    for wrong in (5, "http://" + "x" * 9000, "http://\x1b", None, []):
        found = listed()
        found["images"][0] |= {"license": wrong, "coco_url": wrong}
        picture = CocoSplit(root_with(tmp_path, json.dumps(found).encode()), "val2017").picture(7)
        assert (picture.credit, picture.licence.name) == ("", "unknown licence")


def test_a_picture_with_endless_objects_is_not_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = CocoSplit(root_with(tmp_path, json.dumps(listed()).encode()), "val2017")
    for name, bound in (("MAX_OBJECTS", 1), ("MAX_OBJECT_PIXELS", 399), ("MAX_PIECE", 50)):
        with monkeypatch.context() as patched:
            patched.setattr(listings, name, bound)
            with pytest.raises(CocoError, match="too many objects"):
                split.mask(7)
    assert split.mask(7).any()


def test_mutated_lists_are_read_or_refused(tmp_path: Path) -> None:
    chosen = random.Random(0)
    whole = json.dumps(listed()).encode()
    pieces = [
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b'"',
        b"null",
        b"NaN",
        b"-1",
        b"1e999",
        b"\\u0000",
        b"\xff",
    ]
    outcomes = set()
    for _ in range(400):
        text = bytearray(whole)
        for _ in range(chosen.randint(1, 3)):
            at = chosen.randrange(len(text))
            text[at : at + chosen.randint(0, 4)] = chosen.choice(pieces)
        try:
            split = CocoSplit(root_with(tmp_path, bytes(text)), "val2017")
            for image_id in split.ids:
                split.picture(image_id)
                split.mask(image_id)
            outcomes.add("read")
        except CocoError as error:
            outcomes.add("refused" if len(str(error)) <= 200 else str(error))
    assert outcomes == {"read", "refused"}
