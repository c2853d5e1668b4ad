"""Hostile lists of COCO's objects, and hostile labels."""

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

from tests.hostile.case import Case, holding

Content = bytes | Callable[[], bytes]
Listing = dict[str, Any]

#: Where a COCO root keeps its list, and where the one picture lies that these lists are about.
LIST_NAME = "annotations/instances_val2017.json"
PICTURE_NAME = "val2017/000000000001.jpg"
#: That picture's size in pixels.
WIDTH, HEIGHT = 96, 64
_KNOWN = {
    "polygon-1e8",
    "polygon-inf",
    "polygon-1e9",
    "polygon-many-1e9",
    "rle-lie",
    "file-name-null",
    "file-name-5000",
    "json-deep",
    "json-400-digits",
}


def annotations() -> Iterator[Case]:
    """All lists of objects."""
    for label, content in {**_OUTLINES, **_LISTS, **_TEXTS}.items():
        yield Case(label, "annotations", holding(content), LIST_NAME, known=label in _KNOWN)
    yield Case("good-list", "annotations", holding(_text(listing())), LIST_NAME, True, True)


def labels() -> Iterator[Case]:
    """All files of class names, which lie beside a checkpoint."""
    for label, content in _LABELS.items():
        known = label == "labels-deep"
        yield Case(label, "labels", holding(content), "labels.json", known=known)


def listing(**changes: Any) -> Listing:
    """A list of one picture with one object, a square of 20 pixels; `changes` to its parts."""
    image = {
        "id": 1,
        "file_name": "000000000001.jpg",
        "width": WIDTH,
        "height": HEIGHT,
        "license": 1,
    }
    outline = [[10, 10, 30, 10, 30, 30, 10, 30]]
    thing = {
        "id": 1,
        "image_id": 1,
        "category_id": 18,
        "segmentation": outline,
        "iscrowd": 0,
        "area": 400,
    }
    return {
        "licenses": [{"id": 1, "name": "A licence", "url": "http://example.org/"}],
        "categories": [{"id": 18, "name": "dog"}],
        "images": [{**image, **changes.pop("image", {})}],
        "annotations": [{**thing, **changes.pop("thing", {})}],
        **changes,
    }


def _text(value: Any) -> bytes:
    return json.dumps(value).encode()


def _outline(segmentation: Any, **thing: Any) -> bytes:
    return _text(listing(thing={"segmentation": segmentation, **thing}))


def _runs(counts: Any, size: Any = (HEIGHT, WIDTH)) -> bytes:
    return _outline({"size": list(size) if isinstance(size, tuple) else size, "counts": counts})


def _image(**changes: Any) -> bytes:
    return _text(listing(image=changes))


def _square(side: float) -> list[list[float]]:
    return [[0, 0, side, 0, side, side, 0, side]]


_OUTLINES: dict[str, Content] = {
    "polygon-1e8": _outline(_square(1e8)),
    "polygon-1e9": _outline(_square(1e9)),
    "polygon-1e10": _outline(_square(1e10)),
    "polygon-1e18": _outline(_square(1e18)),
    "polygon-1e308": _outline(_square(1e308)),
    "polygon-minus-1e9": _outline(_square(-1e9)),
    "polygon-many-1e9": _outline([[-1e9, 1e9] * 500]),
    "polygon-inf": _outline(_square(math.inf)),
    "polygon-nan": _outline(_square(math.nan)),
    "polygon-texts": _outline([["a", "b", "c", "d", "e", "f"]]),
    "polygon-number-texts": _outline([["1", "2", "3", "4", "5", "6"]]),
    "polygon-odd": _outline([[1, 2, 3, 4, 5, 6, 7]]),
    "polygon-two-points": _outline([[1, 2, 3, 4]]),
    "polygon-empty": _outline([[]]),
    "polygon-none": _outline([]),
    "polygon-null": _outline(None),
    "polygon-flat": _outline([1, 2, 3, 4, 5, 6]),
    "polygon-nested": _outline([[[1, 2], [3, 4], [5, 6]]]),
    "polygon-digits": _outline([[10**400, 1, 2, 3, 4, 5]]),
    "polygon-bools": _outline([[True, False, True, True, False, False]]),
    "polygon-million-points": lambda: _outline([[i % 96 for i in range(1_000_000)]]),
    "polygon-zigzag": lambda: _outline(
        [[96 * (i % 4 // 2), 64 * (i % 3 // 2)] * 1 for i in range(3)]
        + [[0, 0, 96, 64, 0, 64] * 50_000]
    ),
    "polygon-100000-parts": lambda: _outline([[1, 1, 2, 1, 2, 2]] * 100_000),
    "polygon-text": _outline("x" * 10_000),
    "polygon-object": _outline({}),
    "rle-lie": _runs([0, 2**31]),
    "rle-short": _runs([10, 10]),
    "rle-negative": _runs([-5, HEIGHT * WIDTH + 5]),
    "rle-overflow": _runs([2**32, 2**32]),
    "rle-floats": _runs([0.5, 1e300]),
    "rle-texts": _runs(["a", "b"]),
    "rle-null": _runs(None),
    "rle-compressed-rubbish": _runs("\x7f\x00\u00e9~~~~~~~~"),
    "rle-compressed-endless": lambda: _runs("o" * 2_000_000),
    "rle-compressed-huge": _runs("o" * 12 + "0"),
    "rle-compressed-empty": _runs(""),
    "rle-size": _runs([0, 5], (2**31, 2**31)),
    "rle-size-negative": _runs([0, 5], (-1, -1)),
    "rle-size-null": _runs([0, 5], None),
    "rle-million-runs": lambda: _runs([0, 1] * 1_000_000),
}

_LISTS: dict[str, Content] = {
    "file-name-null": _image(file_name=None),
    "file-name-5000": _image(file_name="n" * 5000),
    "file-name-traversal": _image(file_name="../../../../etc/passwd"),
    "file-name-absolute": _image(file_name="/etc/passwd"),
    "file-name-device": _image(file_name="/dev/zero"),
    "file-name-dots": _image(file_name=".."),
    "file-name-empty": _image(file_name=""),
    "file-name-number": _image(file_name=7),
    "file-name-list": _image(file_name=["a"]),
    "file-name-nul": _image(file_name="a\0b.jpg"),
    "file-name-surrogate": _image(file_name="\ud800.jpg"),
    "file-name-control": _image(file_name="\x1b[2J\x07\n\r.jpg"),
    "size-0": _image(width=0, height=0),
    "size-negative": _image(width=-1, height=-1),
    "size-1e308": _image(width=1e308, height=1e308),
    "size-inf": _image(width=math.inf),
    "size-nan": _image(width=math.nan),
    "size-digits": _image(width=10**400),
    "size-text": _image(width="96"),
    "size-list": _image(width=[96]),
    "size-null": _image(width=None),
    "size-lie": _image(width=8000, height=7999),
    "size-2e31": _image(width=2**31, height=2**31),
    "id-text": _image(id="one"),
    "id-null": _image(id=None),
    "id-list": _image(id=[1]),
    "id-float": _image(id=1.5),
    "id-digits": _image(id=10**400),
    "id-negative": _image(id=-1),
    "licence-list": _image(license=[1]),
    "licence-control": _text(
        listing(licenses=[{"id": 1, "name": "\x1b[2J" * 999, "url": "javascript:x"}])
    ),
    "address-long": _image(flickr_url="https://" + "a" * 100_000),
    "address-number": _image(flickr_url=7),
    "category-missing": _outline(_square(20), category_id=99),
    "category-null": _outline(_square(20), category_id=None),
    "category-list": _outline(_square(20), category_id=[18]),
    "category-control": _text(listing(categories=[{"id": 18, "name": "\x1b[31m\n" * 99}])),
    "area-text": _outline(_square(20), area="much"),
    "area-nan": _outline(_square(20), area=math.nan),
    "area-digits": _outline(_square(20), area=10**400),
    "area-null": _outline(_square(20), area=None),
    "crowd-text": _outline(_square(20), iscrowd="no"),
    "image-id-missing": _outline(_square(20), image_id=2),
    "image-id-null": _outline(_square(20), image_id=None),
    "image-id-list": _outline(_square(20), image_id=[1]),
    "no-images": _text({"annotations": [], "categories": []}),
    "no-annotations": _text({"images": listing()["images"], "categories": []}),
    "no-categories": _text({"images": listing()["images"], "annotations": []}),
    "images-null": _text(listing(images=None)),
    "images-text": _text(listing(images="images")),
    "images-numbers": _text(listing(images=[1, 2])),
    "annotations-object": _text(listing(annotations={"a": 1})),
    "annotations-null": _text(listing(annotations=[None])),
    "list-of-nothing": _text({}),
    "images-100000": lambda: _text(
        listing(images=[{**listing()["images"][0], "id": i} for i in range(100_000)])
    ),
    "things-200000": lambda: _text(listing(annotations=listing()["annotations"] * 200_000)),
    "same-ids": _text(listing(images=listing()["images"] * 50)),
}

_TEXTS: dict[str, Content] = {
    "json-deep": b"[" * 200_000,
    "json-deep-objects": b'{"a":' * 200_000,
    "json-deep-inside": lambda: b'{"images":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "json-400-digits": b'{"images":[],"annotations":[],"categories":[],"x":' + b"9" * 400 + b"}",
    "json-5000-digits": b'{"images":[],"annotations":[],"categories":[],"x":' + b"9" * 5000 + b"}",
    "json-list-root": b"[1,2,3]",
    "json-text-root": b'"images"',
    "json-number-root": b"7",
    "json-null-root": b"null",
    "json-empty": b"",
    "json-cut": _text(listing())[:120],
    "json-rubbish": bytes(range(256)),
    "json-utf-16": _text(listing()).decode().encode("utf-16"),
    "json-bom": b"\xef\xbb\xbf" + _text(listing()),
    "json-no-utf-8": b'{"images": "\xff\xfe"}',
    "json-nul": bytes(100_000),
    "json-spaces": lambda: b" " * 50_000_000,
}

_LABELS: dict[str, Content] = {
    "labels-deep": b"[" * 1_000_000,
    "labels-object": b"{}",
    "labels-numbers": b"[1,2,3]",
    "labels-few": b'["one"]',
    "labels-empty": b"",
    "labels-no-utf-8": b'["\xff"]',
    "labels-large": lambda: _text(["n" * 100] * 60_000),
    "labels-long-names": lambda: _text(["n" * 4000] * 838),
    "labels-control": lambda: _text(["\x1b[2J\x07\n"] * 838),
    "labels-surrogates": lambda: _text(["\ud800"] * 838),
    "labels-null-ids": lambda: _text([{"id": None, "name": "n"}] * 838),
    "labels-many-sources": lambda: _text([{"id": f"s{i}/x", "name": "n"} for i in range(838)]),
    "labels-null-names": lambda: _text([{"id": "n", "name": None}] * 838),
    "labels-digits": b"[" + b"9" * 5000 + b"]",
    "labels-spaces": lambda: b" " * 50_000_000,
}
