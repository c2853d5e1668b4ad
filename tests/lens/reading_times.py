"""How long pictures take to read in two checkouts, side by side: one line for each picture.

    python -m tests.lens.reading_times [--page] OTHER_CHECKOUT PICTURE …

Both read each picture in turn, so that whatever else the machine does meets both alike. --page:
what the page does with an upload: read it, look, draw.
"""

import os
import statistics
import subprocess
import sys
from pathlib import Path

ROUNDS = 15
#: Reads each path that it is told, and says how many milliseconds that took.
_READER = """
import sys, time
from sima_core.lens.pictures import load_image
for line in sys.stdin:
    start = time.perf_counter()
    load_image(line.rstrip(chr(10))).resize((8, 8))  # every pixel is looked at
    print((time.perf_counter() - start) * 1000, flush=True)
"""
#: The same for the page's handlers.
_PAGE = """
import sys, time
from app.tabs.explore.look import draw, explore
from sima_core.machine import keep_freed_memory, use_available_cpus
import app.page  # as the app does
use_available_cpus()
keep_freed_memory()
for line in sys.stdin:
    start = time.perf_counter()
    look, *_ = explore(line.rstrip(chr(10)), None, None, 224)
    draw(look, 12, 0, "inferno")
    print((time.perf_counter() - start) * 1000, flush=True)
"""


class Reader:
    """A process that reads pictures with the code of one checkout."""

    def __init__(self, checkout: Path, program: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def milliseconds(self, picture: Path) -> float:
        """The time to read one picture."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{picture.resolve()}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(10)


def main(*arguments: str) -> None:
    """Print the medians of both checkouts, and the median of the rounds' differences."""
    program = _PAGE if "--page" in arguments else _READER
    other, *pictures = (argument for argument in arguments if argument != "--page")
    readers = [Reader(Path(checkout).resolve(), program) for checkout in (other, ".")]
    print(f"{'milliseconds':<24}{'other':>10}{'this':>10}{'difference':>12}")
    for picture in map(Path, pictures):
        rounds = [[r.milliseconds(picture) for r in readers] for _ in range(ROUNDS)][2:]
        theirs, ours = (statistics.median(column) for column in zip(*rounds, strict=True))
        slower = statistics.median(b - a for a, b in rounds)
        print(f"{picture.name:<24}{theirs:>10.1f}{ours:>10.1f}{slower:>+12.1f}", flush=True)
    for reader in readers:
        reader.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
