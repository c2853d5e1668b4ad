"""Hostile files, several hundred, the same each time: ``python -m tests.hostile.files FOLDER``.

Each is written by its `Case` when it is needed; most take no time and no room. Those marked `good`
only look odd, and must be read.
"""

import functools
import sys
from itertools import chain
from pathlib import Path

from tests.hostile.annotations import annotations, labels
from tests.hostile.archives import archives
from tests.hostile.case import Case
from tests.hostile.checkpoints import checkpoints
from tests.hostile.oddities import oddities
from tests.hostile.pictures import pictures


@functools.cache
def cases() -> tuple[Case, ...]:
    """All of them, in order of their kinds."""
    return tuple(chain(pictures(), oddities(), checkpoints(), annotations(), labels(), archives()))


def main(folder: str) -> None:
    """Write all files into a folder, and say how many."""
    found = cases()
    for case in found:
        case.place(Path(folder))
    good = sum(case.good for case in found)
    print(f"{len(found)} files, {good} of them odd but good, in {folder}")


if __name__ == "__main__":
    main(*sys.argv[1:])
