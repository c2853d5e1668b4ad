"""Run tests on mutants: each in a copy of the tree, with a cache and limits of its own."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mutation.points import Point
from tests.mutation.tracing import PYTEST, TracedTest, limit

#: Seconds before a run or a test counts as hung: so many, and so many times what it takes.
_MORE_SECONDS, _TIMES = 60, 10
#: Of a test that is run again by itself.
_UNKNOWN_SECONDS = 20.0
#: What pytest says of a test that took so long.
_HUNG = "Timeout ("
#: How verdicts begin where no test failed, but one never ended.
CLOCK = "the clock"


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant."""

    #: The test that failed, or what else showed the bug; empty if nothing did.
    caught_by: str
    seconds: float


class Tree:
    """A copy of a checkout to break; its files are its own, so that the real ones stay whole."""

    def __init__(self, checkout: Path, folder: Path, kept: Path) -> None:
        self.root, self._cache, self._scratch = folder / "tree", folder / "cache", folder / "tmp"
        #: What an unbroken run left in the cache, such as the compiled kernel.
        self._kept = kept
        left = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", "out", "dist")
        shutil.copytree(checkout, self.root, ignore=left)

    def environment(self) -> dict[str, str]:
        """For a run of tests: one thread, nothing shared with the user."""
        for folder in (self._cache, self._scratch):
            shutil.rmtree(folder, ignore_errors=True)
        if self._kept.exists():
            shutil.copytree(self._kept, self._cache)
        self._scratch.mkdir()
        return {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",  # a mutant may be as old and as long as the original
            "XDG_CACHE_HOME": str(self._cache),
            "TMPDIR": str(self._scratch),
        }

    def keep_cache(self) -> None:
        """Let what lies in the cache now, after a run without a bug, be there in later runs."""
        if self._cache.exists() and not self._kept.exists():
            self._kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(self._cache, self._kept, dirs_exist_ok=True)

    @contextlib.contextmanager
    def changed(self, module: str, source: bytes) -> Iterator[None]:
        """The tree with another text for one module."""
        path = self.root / module
        original = path.read_bytes()
        path.write_bytes(source)
        try:
            yield
        finally:
            path.write_bytes(original)

    def verdict(
        self, module: str, source: bytes, stages: Sequence[Sequence[TracedTest]]
    ) -> Verdict:
        """Run tests, stage by stage, until one fails on the changed module."""
        start = time.perf_counter()
        caught = ""
        with self.changed(module, source):
            for tests in stages:
                caught = caught or self._noticed(tests)
        return Verdict(caught, time.perf_counter() - start)

    def _noticed(self, tests: Sequence[TracedTest]) -> str:
        """What shows a bug, and shows it again; a test that fails now and then shows nothing."""
        unsteady: list[str] = []
        while (found := self._run(tests, unsteady)) and "::" in found:
            if self._run([TracedTest(found, _UNKNOWN_SECONDS, frozenset())], []):
                break
            unsteady.append(found)
        return found

    def _run(self, tests: Sequence[TracedTest], but: Sequence[str]) -> str:
        """What shows a bug: the name of the first test that fails, a hang, a crash; or nothing."""
        if not tests:
            return ""
        names = [test.name for test in tests]
        command = [sys.executable, "-m", "pytest", "-x", "-rfE", *PYTEST, *names]
        limit_all = _MORE_SECONDS + _TIMES * sum(test.seconds for test in tests)
        limit_each = _MORE_SECONDS + _TIMES * max(test.seconds for test in tests)
        clock = [f"faulthandler_timeout={limit_each}", "faulthandler_exit_on_timeout=true"]
        command += [part for setting in clock for part in ("-o", setting)]
        command += [f"--deselect={name}" for name in but]
        environment, printed = self.environment(), self._scratch / "printed"
        with printed.open("wb") as out:
            process = subprocess.Popen(
                command,
                cwd=self.root,
                env=environment,
                stdout=out,  # a file: a pipe is not at its end while a grandchild holds it
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that whatever it starts can be ended with it
                preexec_fn=limit,
            )
            try:
                status = process.wait(limit_all)
            except subprocess.TimeoutExpired:
                return f"{CLOCK}, after {limit_all:.0f} s"
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if status in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            return ""
        lines = printed.read_text("utf-8", errors="replace").splitlines()
        if any(line.startswith(_HUNG) for line in lines):
            return f"{CLOCK}, after {limit_each:.0f} s in one test"
        failed = (_named(line) for line in lines if _names_failure(line))
        return next(failed, f"pytest's exit status {status}")


def _named(line: str) -> str:
    return line.partition(" ")[2].partition(" - ")[0]


def _names_failure(line: str) -> bool:
    return line.startswith(("FAILED tests", "ERROR tests"))


def stages_for(point: Point, tests: Sequence[TracedTest], seconds: float) -> list[list[TracedTest]]:
    """The tests that can catch a bug, in stages: those of its room, then those elsewhere.

    Of each stage those that run the function come first, quickest first; then, in the room, those
    that run anything of the module, since fixtures and imports run much that no test is seen to.
    No stage takes more than `seconds` of the room's tests, or a fifth of that elsewhere.
    """
    run = f"{point.module}:{point.function}"
    at_import = _is_run_at_import(point)
    stages: list[list[TracedTest]] = []
    direct = [t for t in tests if run in t.runs and not at_import]
    nearby = [t for t in tests if any(name.startswith(f"{point.module}:") for name in t.runs)]
    mirror = [t for t in tests if t.name.startswith(_mirror(point))]
    here = _unique([t for t in _quickest(direct) if t in mirror], _by_closeness(point, mirror))
    there = _unique(_quickest(direct), _quickest(nearby))
    stages.append(_within(here, seconds))
    stages.append(_within([t for t in there if t not in here], seconds / 5))
    return stages


def _mirror(point: Point) -> tuple[str, ...]:
    """How tests of the module's room are named.

    What lies in no room has tests that do not either, and those that run the whole program.
    """
    lies_in_room = (Path(__file__).parents[1] / point.room).is_dir()
    return (f"tests/{point.room}/",) if lies_in_room else ("tests/test_", "tests/cli/")


def _is_run_at_import(point: Point) -> bool:
    """Whether the code runs when the module is imported, not when a function is called."""
    return point.function == "" or point.function.rpartition(".")[2][:1].isupper()


def _by_closeness(point: Point, tests: Sequence[TracedTest]) -> list[TracedTest]:
    """Those named like the module first, then those that run something of it, then the rest."""
    named = f"test_{Path(point.module).stem}."
    return sorted(
        tests,
        key=lambda t: (
            named not in t.file,
            not any(name.startswith(f"{point.module}:") for name in t.runs),
            t.seconds,
        ),
    )


def _quickest(tests: Sequence[TracedTest]) -> list[TracedTest]:
    return sorted(tests, key=lambda test: test.seconds)


def _unique(*parts: Sequence[TracedTest]) -> list[TracedTest]:
    return list(dict.fromkeys(test for part in parts for test in part))


def _within(tests: Sequence[TracedTest], seconds: float) -> list[TracedTest]:
    """As many of the first tests as fit into a time."""
    chosen: list[TracedTest] = []
    for test in tests:
        seconds -= test.seconds
        if chosen and seconds < 0:
            break
        chosen.append(test)
    return chosen
