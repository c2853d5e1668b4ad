"""The tool itself: it finds where bugs can be set in, and tells a test that notices from none."""

import ast

import pytest

from tests.mutation import running
from tests.mutation.known import KNOWN
from tests.mutation.points import Point, draw, find_points, modules_of
from tests.mutation.running import Tree, stages_for
from tests.mutation.tracing import TracedTest
from tests.support import ROOT

TOY = '''"""A toy of 3 rooms."""

def largest(values: list[int], least: int = 5) -> int:
    """At most 7."""
    if not values:
        raise ValueError("no more than 9 values")
    assert len(values) < 100
    return max(max(values), least)
'''


def test_points_are_where_bugs_can_be_and_not_in_words():
    found = {(p.line, p.kind, p.after) for p in find_points("sima_core/toy.py", TOY.encode())}
    assert found == {
        (3, "constant", "0"),
        (3, "constant", "6"),
        (5, "guard", "pass"),
        (5, "condition", "(not not values)"),
        (5, "sign", "(values)"),
        (8, "return", "return None"),
        (8, "limit", "(min(max(values), least))"),
        (8, "limit", "(min(values))"),
    }


def test_a_sample_hits_every_room_and_is_the_same_again():
    points = [p for m in modules_of(ROOT) for p in find_points(m, (ROOT / m).read_bytes())]
    sample = draw(points, 60, seed=1)
    assert sample == draw(points, 60, seed=1)
    assert sample != draw(points, 60, seed=2)
    assert len(set(sample)) == 60
    assert {p.room for p in sample} == {p.room for p in points}
    for point in sample:
        broken = point.applied((ROOT / point.module).read_bytes())
        assert ast.dump(ast.parse(broken)) != ast.dump(
            ast.parse((ROOT / point.module).read_bytes())
        )


@pytest.mark.parametrize(
    ("checked", "caught"), [("largest([1, 9]) == 9", True), ("largest([7]) >= 0", False)]
)
def test_a_bug_is_caught_where_a_test_notices_it(tmp_path, checked, caught):
    checkout = tmp_path / "checkout"
    (checkout / "tests").mkdir(parents=True)
    (checkout / "toy.py").write_text(TOY)
    test = f"from toy import largest\ndef test_largest():\n    assert {checked}\n"
    (checkout / "tests" / "test_toy.py").write_text(test)
    bug = next(p for p in find_points("toy.py", TOY.encode()) if "min(values)" in p.after)
    tests = [TracedTest("tests/test_toy.py::test_largest", 0.1, frozenset({"toy.py:largest"}))]
    tree = Tree(checkout, tmp_path / "copy", tmp_path / "kept")
    assert not tree.verdict("toy.py", TOY.encode(), [tests]).caught_by  # no bug, nothing found
    found = tree.verdict("toy.py", bug.applied(TOY.encode()), [tests])
    assert found.caught_by == ("tests/test_toy.py::test_largest" if caught else "")
    assert (checkout / "toy.py").read_text() == TOY


def test_a_bug_by_which_a_test_never_ends_is_caught_by_the_clock(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "_MORE_SECONDS", 1)
    checkout = tmp_path / "checkout"
    (checkout / "tests").mkdir(parents=True)
    (checkout / "toy.py").write_text("done = True\n")
    test = "import toy\ndef test_end():\n    while not toy.done:\n        pass\n"
    (checkout / "tests" / "test_toy.py").write_text(test)
    tests = [TracedTest("tests/test_toy.py::test_end", 0.5, frozenset())]
    tree = Tree(checkout, tmp_path / "copy", tmp_path / "kept")
    found = tree.verdict("toy.py", b"done = False\n", [tests])
    assert found.caught_by.startswith(running.CLOCK)
    assert found.seconds < 30


def test_a_test_that_fails_now_and_then_shows_no_bug(tmp_path):
    checkout, mark = tmp_path / "checkout", tmp_path / "mark"
    (checkout / "tests").mkdir(parents=True)
    (checkout / "toy.py").write_text(TOY)
    test = (
        "from pathlib import Path\ndef test_first():\n"
        f"    mark, again = Path({str(mark)!r}), Path({str(mark)!r}).exists()\n"
        "    mark.touch()\n    assert again\n"
    )
    (checkout / "tests" / "test_toy.py").write_text(test)
    tests = [TracedTest("tests/test_toy.py::test_first", 0.1, frozenset())]
    tree = Tree(checkout, tmp_path / "copy", tmp_path / "kept")
    assert not tree.verdict("toy.py", TOY.encode(), [tests]).caught_by
    assert mark.exists()


def test_tests_that_run_the_function_come_first():
    def test(name: str, seconds: float, *runs: str) -> TracedTest:
        return TracedTest(name, seconds, frozenset(runs))

    point = Point("sima_core/lens/norms.py", "f", 1, "constant", "1", "0", 0, 1, "0")
    tests = [
        test("tests/lens/test_maps.py::slow", 3, "sima_core/lens/norms.py:f"),
        test("tests/lens/test_norms.py::other", 1),
        test("tests/lens/test_maps.py::quick", 1, "sima_core/lens/norms.py:f"),
        test("tests/bench/test_orders.py::far", 1, "sima_core/lens/norms.py:f"),
        test("tests/bench/test_orders.py::unrelated", 1),
    ]
    here, there = stages_for(point, tests, 60)
    assert [t.name.partition("::")[2] for t in here] == ["quick", "slow", "other"]
    assert [t.name.partition("::")[2] for t in there] == ["far"]
    assert len(stages_for(point, tests, 4.5)[0]) == 2


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_bugs_that_were_once_missed_can_still_be_set_in(known):
    point = known.point(ROOT)
    ast.parse(point.applied((ROOT / point.module).read_bytes()))
