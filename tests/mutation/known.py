"""Bugs that the tests once missed, set in again by name: each must be caught.

A bug is found by its function, wherever that lies now, and by a pattern within it.
"""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

from tests.mutation.points import Point, modules_of
from tests.mutation.tracing import PACKAGES


@dataclass(frozen=True)
class Known:
    """A bug: in `function`, or at the module's level where that is empty, `pattern` is replaced.

    Attributes:
        hint: part of the module's path, for names that several modules have.
    """

    name: str
    function: str
    pattern: str
    replacement: str
    hint: str = ""

    def point(self, root: Path) -> Point:
        """Where the bug is set in now.

        Raises:
            LookupError: the code has changed so much that the pattern has to follow.
        """
        for package in PACKAGES:
            for module in modules_of(root, package):
                if self.hint in module and (
                    found := self._in(module, (root / module).read_bytes())
                ):
                    return found
        raise LookupError(f"{self.name}: no {self.function or self.hint} with {self.pattern!r}")

    def _in(self, module: str, source: bytes) -> Point | None:
        text = source.decode()
        for first, last, function in _spans(text, self.function):
            if match := re.compile(self.pattern, re.DOTALL).search(text, first, last):
                start, end = (len(text[:place].encode()) for place in match.span())
                after = match.expand(self.replacement)
                line = text.count("\n", 0, match.start()) + 1
                return Point(module, function, line, "known", match[0], after, start, end, after)
        return None


def _spans(text: str, function: str) -> list[tuple[int, int, str]]:
    """Where functions of a name begin and end, with their qualified names; else the whole text."""
    if not function:
        return [(0, len(text), "")]
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []

    def look(node: ast.AST, names: tuple[str, ...]) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                inner = (*names, child.name)
                if ".".join(inner).endswith(function) and inner[-1] == function.split(".")[-1]:
                    found.append(
                        (starts[child.lineno - 1], starts[child.end_lineno or 0], ".".join(inner))
                    )
                look(child, inner)

    look(ast.parse(text), ())
    return found


KNOWN = (
    Known(
        "the floor of l1_normalize",
        "l1_normalize", r"\.clamp(_min)?\([^)]*floor\)", "", hint="attention/",
    ),
    Known(
        "the floor of class attention",
        "SimAClassAttention.forward", r"CLASS_NORM_FLOOR", "0.0", hint="attention/",
    ),
    Known(
        "unreadable pictures are written to the journal",
        "evaluate", r'result\.skipped != "unreadable"', "True", hint="scoring/",
    ),
    Known(
        "calibrated crossovers are never applied",
        "apply", r"set_crossovers\(\w+\)", "pass", hint="bench/calibration",
    ),
    Known(
        "the pickle allowlist is widened",
        "", r"\(argparse\.Namespace,\)", "(argparse.Namespace, Path, Exception)", hint="weights/",
    ),
    Known(
        "no memory limit where a stranger's file is read",
        "_limit", r"\(resource\.RLIMIT_AS,[^\n]*\),\n", "", hint="sandbox/",
    ),
    Known(
        "no way out where the kernel cannot be loaded",
        "_function", r"except \(OSError,[^)]*\):", "except ZeroDivisionError:", hint="kernel",
    ),
    Known(
        "errors are not escaped for HTML",
        "refusal", r"html\.escape\((.*?), quote=False\)", r"\1", hint="app/handlers",
    ),
)  # fmt: skip
