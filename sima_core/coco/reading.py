"""Read a list of pictures and objects piece by piece; the sandbox runs it over long lists.

Whatever the list's length, one of its pieces is in memory at a time. What comes out are columns of
numbers, which are quickly loaded, and where in the file the words on each object lie: an outline is
parsed when it is needed. It imports little, since the sandbox's process does so at its start.
"""

import json
import re
from array import array
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

#: Characters of the longest piece: an object's words, a picture's, or all of ``info``.
MAX_PIECE = 4 * 2**20
#: Bytes of the longest name of a file, and characters of other names and of addresses.
MAX_FILE_NAME, MAX_NAME, MAX_ADDRESS = 255, 100, 2000
#: The most categories and licences.
MAX_KINDS = 10_000
#: Ids are below; larger ones are no longer exact elsewhere.
MAX_ID = 2**53
#: Pixels of the longest side of a picture.
MAX_SIDE = 2**16

#: Columns of whole numbers for pictures and for objects, in the order in which they are written;
#: begin and length are bytes of the list.
PICTURE_COLUMNS = ("id", "width", "height", "begin", "length")
OBJECT_COLUMNS = ("id", "picture", "category", "crowd", "begin", "length")

_BLOCK = 2**20
_SPACE = re.compile(r"[ \t\n\r]*")


class _WrongError(Exception):
    """What is wrong in the list, in a few words."""


def read(file: BinaryIO, out: BinaryIO, pictures_only: bool) -> dict[str, Any]:
    """Read a list, and write its columns.

    Written are the columns of pictures and of objects, 8 bytes a number, then the objects' areas,
    then JSON: names of files, categories by id, licences.

    Args:
        pictures_only: leave all but pictures out, whose sizes may then be missing (0) and whose
            names may be any text.

    Returns:
        ``{"pictures": number, "objects": number}``, or ``{"wrong": words}``.
    """
    found = _Columns(pictures_only)
    try:
        _read_sections(_Pieces(file), found)
    except _WrongError as error:
        return {"wrong": str(error)}
    except (ValueError, RecursionError, OverflowError):
        return {"wrong": "no JSON"}
    return found.write(out)


class _Columns:
    """What was found in a list."""

    def __init__(self, pictures_only: bool) -> None:
        self._pictures_only = pictures_only
        self._pictures = [array("q") for _ in PICTURE_COLUMNS]
        self._objects = [array("q") for _ in OBJECT_COLUMNS]
        self._areas = array("d")
        self._names: list[str] = []
        self._categories: list[tuple[int, str]] = []
        self._licences: list[tuple[int, str, str]] = []
        #: What takes an item of a section: its place, its values, and its begin and length.
        self.takers: dict[str, Callable[[str, dict[str, Any], int, int], None]] = {
            "images": self._take_picture
        }
        if not pictures_only:
            self.takers |= {
                "annotations": self._take_object,
                "categories": self._take_category,
                "licenses": self._take_licence,
            }

    def write(self, out: BinaryIO) -> dict[str, int]:
        """Write everything, and say how much that is."""
        for column in (*self._pictures, *self._objects):
            out.write(column.tobytes())
        out.write(self._areas.tobytes())
        texts = {"names": self._names, "categories": self._categories, "licences": self._licences}
        out.write(json.dumps(texts).encode())
        return {"pictures": len(self._names), "objects": len(self._areas)}

    def _take_picture(self, where: str, values: dict[str, Any], begin: int, length: int) -> None:
        name = values.get("file_name")
        if self._pictures_only:
            if not isinstance(name, str):
                raise _WrongError(f"the file_name of {where}")
            name = name[: MAX_FILE_NAME + 1]
            size = tuple(_whole(values[s], s, where, 1, MAX_SIDE) if values.get(s) is not None
                         else 0 for s in ("width", "height"))  # fmt: skip
        else:
            name = _file_name(name, where)
            size = tuple(_whole(values.get(s), s, where, 1, MAX_SIDE) for s in ("width", "height"))
        numbers = (_whole(values.get("id"), "id", where), *size, begin, length)
        for column, number in zip(self._pictures, numbers, strict=True):
            column.append(number)
        self._names.append(name)

    def _take_object(self, where: str, values: dict[str, Any], begin: int, length: int) -> None:
        area, crowd = values.get("area", 0), values.get("iscrowd") or 0
        if type(area) not in (int, float) or not 0 <= area <= MAX_SIDE**2:
            raise _WrongError(f"the area of {where}")
        numbers = (
            _whole(values.get("id"), "id", where),
            _whole(values.get("image_id"), "image_id", where),
            _whole(values.get("category_id"), "category_id", where),
            _whole(int(crowd) if crowd is True else crowd, "iscrowd", where, 0, 1),
            begin,
            length,
        )
        for column, number in zip(self._objects, numbers, strict=True):
            column.append(number)
        self._areas.append(area)

    def _take_category(self, where: str, values: dict[str, Any], _begin: int, _length: int) -> None:
        name = _text(values.get("name"), MAX_NAME, f"the name of {where}")
        if not name:
            raise _WrongError(f"the name of {where}")
        self._categories.append((_whole(values.get("id"), "id", where), name))
        self._bounded(self._categories, "categories")

    def _take_licence(self, where: str, values: dict[str, Any], _begin: int, _length: int) -> None:
        name = _text(values.get("name"), MAX_NAME, f"the name of {where}")
        address = _text(values.get("url"), MAX_ADDRESS, f"the url of {where}")
        self._licences.append((_whole(values.get("id"), "id", where), name, address))
        self._bounded(self._licences, "licenses")

    def _bounded(self, kinds: list[Any], what: str) -> None:
        if len(kinds) > MAX_KINDS:
            raise _WrongError(f"too many {what}")


def _whole(value: Any, key: str, where: str, least: int = 0, most: int = MAX_ID) -> int:
    """A whole number within bounds; true and false, and 12.0, are none."""
    if type(value) is not int or not least <= value <= most:
        raise _WrongError(f"the {key} of {where}")
    return value


def _text(value: Any, most: int, what: str) -> str:
    """A text that can be shown; empty where there is none."""
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > most or not value.isprintable():
        raise _WrongError(what)
    return value


def _file_name(value: Any, where: str) -> str:
    """A name that a file can have. Folders before it are allowed, and left out later."""
    if (
        not isinstance(value, str)
        or not value.isprintable()  # nor are halves of characters, which no disk takes
        or len(value.encode()) > MAX_FILE_NAME
        or value.rpartition("/")[2] in ("", ".", "..")
    ):
        raise _WrongError(f"the file_name of {where}")
    return value


def _read_sections(pieces: "_Pieces", found: _Columns) -> None:
    """Go through the object that a list is, and hand each item to its taker."""
    pieces.skip("{")
    seen = set()
    while True:
        key, _, _ = pieces.value()
        pieces.skip(":")
        if not isinstance(key, str) or key in seen:
            raise _WrongError("a name is there twice, or is none")
        seen.add(key)
        if taker := found.takers.get(key):
            for number, (values, begin, length) in enumerate(_items(pieces), 1):
                where = f"item {number} of {key}"
                if not isinstance(values, dict):
                    raise _WrongError(where)
                taker(where, values, begin, length)
        else:
            pieces.value()
        if pieces.next_is("}"):
            break
        pieces.skip(",")
    pieces.require_end()
    if "images" not in seen:
        raise _WrongError("no images")


def _items(pieces: "_Pieces") -> Iterator[tuple[Any, int, int]]:
    """The items of the array that begins here, or of null."""
    if not pieces.next_is("["):
        if pieces.value()[0] is not None:
            raise _WrongError("no array where one belongs")
        return
    if pieces.next_is("]"):
        return
    while True:
        yield pieces.value()
        if pieces.next_is("]"):
            return
        pieces.skip(",")


class _Pieces:
    """A JSON text, read value by value.

    It is taken for Latin-1, where a character is a byte: what JSON is made of looks the same in
    UTF-8. Values that hold other characters are parsed again for what they are.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._text, self._at, self._ended = "", 0, False
        self._before = 0  # bytes before the text
        self._decode = json.JSONDecoder().raw_decode
        self._more()
        if self._text.startswith("\xef\xbb\xbf"):  # a byte order mark
            self._at = 3

    def next_is(self, character: str) -> bool:
        """Whether this character comes next, which is then passed."""
        found = self._peek() == character
        self._at += found
        return found

    def skip(self, character: str) -> None:
        """Pass this character, which must come next."""
        if not self.next_is(character):
            raise ValueError(character)

    def require_end(self) -> None:
        """Nothing may follow."""
        if self._peek():
            raise ValueError("more")

    def value(self) -> tuple[Any, int, int]:
        """The value that comes next, its first byte's place in the file, and its length."""
        self._peek()
        while True:
            try:
                found, end = self._decode(self._text, self._at)
                if end < len(self._text) or self._ended:  # else a number may go on
                    break
            except json.JSONDecodeError:
                if self._ended:
                    raise
            if len(self._text) - self._at > MAX_PIECE:
                raise _WrongError("a piece of it is broken, or too long")
            self._more()
        begin, length, text = self._before + self._at, end - self._at, self._text[self._at : end]
        self._at = end
        if not text.isascii():
            found = json.loads(text.encode("latin-1"))
        return found, begin, length

    def _peek(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            match = _SPACE.match(self._text, self._at)
            assert match
            self._at = match.end()
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._more()

    def _more(self) -> None:
        """Read on; more, the longer the piece that was begun is, so that few tries find its end."""
        rest = self._text[self._at :]
        block = self._file.read(max(_BLOCK, len(rest)))
        self._ended = not block
        self._before += self._at
        self._text, self._at = rest + block.decode("latin-1"), 0
