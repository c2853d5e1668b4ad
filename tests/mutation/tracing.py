"""Which tests run which functions of the program: found once, kept on disk, by file of tests.

A mutant needs only the tests that run its function, the quickest first. They are found by running
the tests with `sys.settrace`, which costs little where only calls are noted. By name rather than by
line, so that what is found outlives small changes.
"""

import hashlib
import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType

import pytest

PACKAGES = ("sima_core", "app")
#: What every run of tests has: quiet, without the browser, nothing left in the tree.
PYTEST = ("-q", "--tb=no", "-p", "no:cacheprovider", "-m", "not browser")
#: Bytes that a run of tests may have mapped, and of the largest file it may write.
_ADDRESS_SPACE = 12 * 2**30
_FILE_SIZE = 2 * 2**30


@dataclass(frozen=True)
class TracedTest:
    """A test that passes without a bug in the code."""

    name: str
    seconds: float
    #: "module:function" of all that it runs.
    runs: frozenset[str]

    @property
    def file(self) -> str:
        return self.name.partition("::")[0]


class Recorder:
    """A plugin of pytest: notes each test's functions, its time, and whether it passed."""

    def __init__(self, root: Path) -> None:
        self._prefixes = tuple(f"{root / package}{os.sep}" for package in PACKAGES)
        self._skip = len(str(root)) + 1
        self._runs: dict[str, set[str]] = {}
        #: What code the test runs, by its id: code itself takes long to hash.
        self._codes: dict[int, CodeType] = {}
        self._passed: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._codes = {}
        start = time.perf_counter()
        sys.settrace(self._trace)
        threading.settrace(self._trace)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            threading.settrace(None)
            codes = list(self._codes.values())
            self._runs[item.nodeid] = {self._named(code) for code in codes if self._is_ours(code)}
            if item.nodeid in self._passed:
                self._passed[item.nodeid] = time.perf_counter() - start

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self._passed[report.nodeid] = report.duration
        elif report.failed:
            self._passed.pop(report.nodeid, None)

    def _trace(self, frame: FrameType, event: str, arg: object) -> None:
        self._codes[id(frame.f_code)] = frame.f_code

    def _is_ours(self, code: CodeType) -> bool:
        file = code.co_filename
        return file.startswith(self._prefixes) and file.endswith(".py")  # templates are code too

    def _named(self, code: CodeType) -> str:
        function = code.co_qualname.replace(".<locals>", "")
        named = ".".join(part for part in function.split(".") if not part.startswith("<"))
        return f"{code.co_filename[self._skip :]}:{named}"

    def found(self) -> dict[str, dict[str, object]]:
        """What is known of the tests that passed, by name."""
        return {
            name: {"seconds": round(seconds, 3), "runs": sorted(self._runs[name])}
            for name, seconds in self._passed.items()
        }


class Suite:
    """The tests of a tree; what is known is kept in a JSON file."""

    def __init__(self, file: Path) -> None:
        self._file, self._lock = file, threading.Lock()
        self._known: dict[str, dict] = json.loads(file.read_text()) if file.exists() else {}

    @property
    def files(self) -> set[str]:
        """Those of which something is known, be it old."""
        return set(self._known)

    def tests(self) -> list[TracedTest]:
        """All that pass."""
        return [
            TracedTest(name, about["seconds"], frozenset(about["runs"]))
            for file in self._known.values()
            for name, about in file["tests"].items()
        ]

    def stale(self, root: Path, left_out: tuple[str, ...]) -> list[str]:
        """Files of tests to be run again: they, or modules that they run, have changed.

        Args:
            left_out: folders, with a slash at the end, whose tests are not wanted.
        """
        digests = _digests(root)
        for gone in self._known.keys() - digests.keys():
            del self._known[gone]
        return [
            file
            for file in sorted(digests)
            if Path(file).name.startswith("test_") and not file.startswith(left_out)
            if file not in self._known
            or any(digests.get(path) != old for path, old in self._known[file]["about"].items())
        ]

    def learn(self, root: Path, found: dict[str, dict], files: Sequence[str]) -> None:
        """Take in what `Recorder` found in `files`, and write it down."""
        digests = _digests(root)
        with self._lock:
            self._learn(digests, found, files)

    def _learn(self, digests: dict[str, str], found: dict[str, dict], files: Sequence[str]) -> None:
        for file in files:
            tests = {name: of for name, of in found.items() if name.startswith(f"{file}::")}
            ran = {run.partition(":")[0] for of in tests.values() for run in of["runs"]}
            about = {path: digests[path] for path in (file, *sorted(ran))}
            self._known[file] = {"about": about, "tests": tests}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(json.dumps(self._known))


def whole_files(files: Iterable[str]) -> list[TracedTest]:
    """Files of tests of which nothing is known but that they should pass, in about this time."""
    return [TracedTest(file, 20.0, frozenset()) for file in files]


def _digests(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for folder in (*PACKAGES, "tests")
        for path in sorted((root / folder).rglob("*.py"))
    }


def limit() -> None:
    """Keep this process from asking for all the memory or the disk, as a bug can have it do."""
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_SIZE, _FILE_SIZE))


def record(root: Path, files: Sequence[str], env: dict[str, str], out: Path) -> dict[str, dict]:
    """Run files of tests in a tree and return what `Recorder` found.

    They have the limits that they have on mutants: what cannot pass within them shows no bug.
    """
    command = [sys.executable, "-m", "tests.mutation.tracing", str(out), *files]
    subprocess.run(command, cwd=root, env=env, check=False, preexec_fn=limit)
    return json.loads(out.read_text())


if __name__ == "__main__":
    recorder = Recorder(Path.cwd())
    pytest.main([*PYTEST, *sys.argv[2:]], plugins=[recorder])
    Path(sys.argv[1]).write_text(json.dumps(recorder.found()))
