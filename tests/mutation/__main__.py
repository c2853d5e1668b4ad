"""Set bugs into the code and see whether the tests notice.

    python -m tests.mutation --sample 60 --seed 1
    python -m tests.mutation --only sima_core/lens sima_core/cli/options.py
    python -m tests.mutation --known

The first run notes which tests run which functions, which takes as long as all tests do; later
ones do so for files that have changed. What is done is kept in `out/mutation`, so that an
interrupted run goes on. Mutants are run in copies of the tree. Exit status: 0 where at least 95 %
are caught.
"""

import argparse
import dataclasses
import hashlib
import json
import queue
import sys
import tempfile
import textwrap
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.mutation.known import KNOWN
from tests.mutation.points import Point, draw, find_points, modules_of
from tests.mutation.running import CLOCK, Tree, Verdict, stages_for
from tests.mutation.tracing import Suite, TracedTest, record, whole_files

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "out" / "mutation"
#: Survivors that change nothing that anyone could see, each with the reason.
ACCEPTED = Path(__file__).with_name("accepted.toml")
LEAST_CAUGHT = 0.95
#: Tests of this tool, and those that take minutes; the page's are for its own bugs alone.
LEFT_OUT = ("tests/mutation/", "tests/hostile/")
#: Files of tests that are run together to see what they run; an interrupted run keeps those before.
FILES_AT_ONCE = 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    options = _options().parse_args(arguments)
    try:
        points = _known() if options.known else _sample(options)
    except LookupError as error:
        print(error.args[0])
        return 1
    journal = _Journal(KEPT / "journal.jsonl", options.fresh)
    survived, by_clock = {}, 0
    with (
        tempfile.TemporaryDirectory(prefix="mutation-") as folder,
        _Trees(Path(folder), options.workers) as trees,
    ):
        on_page = any(point.module.startswith("app/") for point in points.values())
        left_out = LEFT_OUT if on_page else (*LEFT_OUT, "tests/app/")
        tests = _traced(trees, left_out, options.as_is)
        for name, point, verdict in _verdicts(points, trees, tests, journal, options.seconds):
            by_clock += verdict.caught_by.startswith(CLOCK)
            reason = _accepted(point)
            outcome = f"caught by {verdict.caught_by}"
            if not verdict.caught_by:
                outcome = f"accepted: {reason}" if reason else "SURVIVED"
                survived[name] = reason
            print(f"{_in_words(point)}: {outcome} ({verdict.seconds:.0f} s)", flush=True)
    return _summary(len(points), by_clock, survived)


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m tests.mutation", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--sample", type=int, default=60, help="how many mutants")
    parser.add_argument("--seed", type=int, default=1, help="which ones")
    parser.add_argument("--only", nargs="+", default=["sima_core"], help="modules or folders")
    parser.add_argument("--known", action="store_true", help="the bugs that were once missed")
    parser.add_argument("--seconds", type=float, default=60, help="of a room's tests for a mutant")
    parser.add_argument("--workers", type=int, default=2, help="mutants at a time")
    parser.add_argument(
        "--as-is", action="store_true", help="note no more what tests run: whole files if unknown"
    )
    parser.add_argument("--fresh", action="store_true", help="forget what earlier runs found")
    return parser


def _sample(options: argparse.Namespace) -> dict[str, Point]:
    wanted = tuple(path.rstrip("/") for path in options.only)
    modules = [m for m in modules_of(ROOT) if m in wanted or m.startswith(_folders(wanted))]
    points = [p for m in modules for p in find_points(m, (ROOT / m).read_bytes())]
    return {_key(point): point for point in draw(points, options.sample, options.seed)}


def _folders(paths: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{path}/" for path in paths)


def _known() -> dict[str, Point]:
    return {known.name: known.point(ROOT) for known in KNOWN}


def _traced(trees: "_Trees", left_out: tuple[str, ...], as_is: bool) -> list[TracedTest]:
    """All tests that pass, and what they run; those that are not known so far are run now."""
    suite = Suite(KEPT / "tests.json")
    stale = suite.stale(ROOT, left_out)
    if as_is:
        return suite.tests() + whole_files(set(stale) - suite.files)
    if stale:
        print(f"noting what the tests run: {len(stale)} files of tests", flush=True)

    def trace(files: list[str]) -> None:
        with trees.one() as tree:
            found = record(tree.root, files, tree.environment(), tree.root.parent / "found.json")
            suite.learn(tree.root, found, files)
            tree.keep_cache()

    parts = [stale[start : start + FILES_AT_ONCE] for start in range(0, len(stale), FILES_AT_ONCE)]
    list(trees.pool.map(trace, parts))
    return suite.tests()


def _verdicts(
    points: dict[str, Point],
    trees: "_Trees",
    tests: list[TracedTest],
    journal: "_Journal",
    seconds: float,
) -> Iterator[tuple[str, Point, Verdict]]:
    """What becomes of each mutant, as it is known: from the journal at once, others in parallel."""

    def judge(point: Point) -> Verdict:
        stages = stages_for(point, tests, seconds)
        with trees.one() as tree:
            source = (tree.root / point.module).read_bytes()
            return tree.verdict(point.module, point.applied(source), stages)

    running = {}
    for name, point in points.items():
        if found := journal.get(point):
            yield name, point, found
        else:
            running[trees.pool.submit(judge, point)] = name
    for done in as_completed(running):
        name = running[done]
        journal.add(points[name], done.result())
        yield name, points[name], done.result()


class _Trees:
    """Copies of the checkout, and a thread for each; what waits is dropped at the end."""

    def __init__(self, folder: Path, count: int) -> None:
        self.pool = ThreadPoolExecutor(count)
        self._free: queue.SimpleQueue[Tree] = queue.SimpleQueue()
        for number in range(count):
            self._free.put(Tree(ROOT, folder / str(number), KEPT / "cache"))

    def __enter__(self) -> "_Trees":
        return self

    def __exit__(self, *exception: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    @contextmanager
    def one(self) -> Iterator[Tree]:
        """A copy that nobody else works in."""
        tree = self._free.get()
        try:
            yield tree
        finally:
            self._free.put(tree)


class _Journal:
    """Verdicts on disk, a JSON line each; a survivor's holds until the tests change."""

    def __init__(self, file: Path, fresh: bool) -> None:
        self._file = file
        self._tests = _digest(path.read_bytes() for path in sorted(ROOT.glob("tests/**/*.py")))
        self._found: dict[str, Verdict] = {}
        if fresh:
            file.unlink(missing_ok=True)
        for line in file.read_text("utf-8").splitlines() if file.exists() else ():
            with suppress(ValueError, KeyError):  # the last line of a run that was killed
                about = json.loads(line)
                if about["caught_by"] or about["tests"] == self._tests:
                    self._found[about["key"]] = Verdict(about["caught_by"], about["seconds"])

    def get(self, point: Point) -> Verdict | None:
        return self._found.get(_key(point))

    def add(self, point: Point, verdict: Verdict) -> None:
        about = {"key": _key(point), "tests": self._tests, **dataclasses.asdict(verdict)}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(about) + "\n")


def _key(point: Point) -> str:
    """What a mutant is known by: its module's text, and the bug."""
    return _digest([(ROOT / point.module).read_bytes(), repr(point).encode()])


def _digest(parts: "Iterator[bytes] | list[bytes]") -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:24]


def _accepted(point: Point) -> str:
    """Why a survivor is accepted; empty if it is not."""
    accepted = tomllib.loads(ACCEPTED.read_text("utf-8")).get("survivor", [])
    about = ("module", "function", "before", "after")
    return next(
        (
            entry["reason"]
            for entry in accepted
            if all(entry[k] == getattr(point, k) for k in about)
        ),
        "",
    )


def _in_words(point: Point) -> str:
    before, after = (textwrap.shorten(part, 60) for part in (point.before, point.after))
    return f"{point.module}:{point.line} {before} → {after or 'nothing'}"


def _summary(total: int, by_clock: int, survived: dict[str, str]) -> int:
    caught = total - len(survived)
    accepted = sum(bool(reason) for reason in survived.values())
    share = caught / max(1, total - accepted)
    print(
        f"{caught} of {total} caught, {by_clock} of them by the clock alone; {accepted} of the "
        f"others accepted as no bugs, {len(survived) - accepted} survived: {share:.1%}"
    )
    return 0 if share >= LEAST_CAUGHT else 1


if __name__ == "__main__":
    sys.exit(main())
