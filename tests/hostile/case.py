"""What a hostile file is, and small helpers that write one."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

#: What a file pretends to be, and so which commands and which boxes of the page get it.
Kind = Literal["picture", "checkpoint", "annotations", "labels", "tar"]


@dataclass(frozen=True)
class Case:
    """One file of a stranger's; `place` writes it."""

    #: Plain and unique: what a failure is named by.
    label: str
    kind: Kind
    write: Callable[[Path], object]
    #: The file's name on disk, which may be anything that a disk takes.
    name: str | bytes
    #: Odd, but whole: it must be read.
    good: bool = False
    #: Among those that once stopped the app: the bounded share of the suite tries it.
    known: bool = False
    #: No plain file with bytes (a pipe, a link …): it cannot be uploaded.
    plain: bool = True

    def place(self, folder: Path) -> Path:
        """Write the file into a folder of its own below `folder`; returns its path."""
        name = (
            self.name if isinstance(self.name, str) else self.name.decode(errors="surrogateescape")
        )
        path = folder / self.label / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self.write(path)
        return path


def holding(content: bytes | Callable[[], bytes]) -> Callable[[Path], object]:
    """A writer of these bytes, which are made when they are needed."""
    return lambda path: path.write_bytes(content if isinstance(content, bytes) else content())


def sparse(head: bytes, size: int, tail: bytes = b"") -> Callable[[Path], object]:
    """A writer of `head`, zeros up to `size` bytes that take no room on a disk, and `tail`."""

    def write(path: Path) -> None:
        with path.open("wb") as file:
            file.write(head)
            file.truncate(size)
            file.seek(size)
            file.write(tail)

    return write


def flipped(content: bytes, seed: int, flips: int = 12) -> bytes:
    """The same bytes, some of them others; the first four are left, which tell the format."""
    rng = random.Random(seed)
    changed = bytearray(content)
    for _ in range(flips):
        changed[rng.randrange(4, len(changed))] = rng.randrange(256)
    return bytes(changed)
