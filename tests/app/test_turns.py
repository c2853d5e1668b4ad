"""One computes at a time, in the order in which they came, and none for ever."""

import threading
import time
from collections.abc import Iterator

import pytest

from app import turns
from app.turns import BusyError, Turns
from sima_core.time_limit import OutOfTimeError, check_time


def line_of(count: int, line: Turns, hold: float = 0.0) -> list[int]:
    """Let so many come one after another while the first still has its turn; who computed when."""
    done: list[int] = []
    running: list[int] = []

    def visit(number: int) -> None:
        with line.turn():
            running.append(number)
            time.sleep(hold)
            assert running == [number], "two at once"
            running.clear()
            done.append(number)

    threads = []
    with line.turn():
        for number in range(count):
            threads.append(threading.Thread(target=visit, args=(number,)))
            threads[-1].start()
            while len(line._line) < number + 2:
                time.sleep(0.001)
    for thread in threads:
        thread.join(20)
    return done


def test_turns_come_in_order_and_one_at_a_time() -> None:
    assert line_of(6, Turns(), hold=0.01) == list(range(6))


def test_those_who_wait_are_told_how_many_come_first() -> None:
    told: list[int] = []
    line_of(2, Turns(tell=told.append), hold=0.05)
    assert {1, 2} <= set(told)


def test_who_waits_too_long_is_sent_away_and_the_line_goes_on() -> None:
    line = Turns(wait=0.05)
    caught: list[BaseException] = []

    def impatient() -> None:
        try:
            with line.turn():
                pass
        except BusyError as error:
            caught.append(error)

    with line.turn():
        thread = threading.Thread(target=impatient)
        thread.start()
        thread.join(10)
    assert len(caught) == 1
    with line.turn():
        pass


def test_what_computes_too_long_is_ended() -> None:
    with Turns(seconds=0.01).turn():
        time.sleep(0.02)
        with pytest.raises(OutOfTimeError):
            check_time()


def test_a_turn_that_does_not_end_is_over_for_the_others(monkeypatch) -> None:
    """One operation of torch cannot be interrupted."""
    monkeypatch.setattr(turns, "GRACE_SECONDS", 0.05)
    line = Turns(seconds=0.05)
    release, other = threading.Event(), threading.Event()

    def stuck() -> None:
        with line.turn():
            release.wait(20)

    thread = threading.Thread(target=stuck)
    thread.start()
    while not line._line:
        time.sleep(0.001)
    with line.turn():
        other.set()
    release.set()
    thread.join(20)
    assert other.is_set()
    with line.turn():  # and the one who was stuck leaves nothing behind
        pass


def test_an_iterator_has_one_turn_whatever_threads_its_steps_run_in() -> None:
    line = Turns()

    def numbers() -> Iterator[int]:
        for number in range(3):
            check_time()
            yield number

    steps = line.each(numbers())
    found: list[int] = []
    for _ in range(3):
        thread = threading.Thread(target=lambda: found.append(next(steps)))
        thread.start()
        thread.join(10)
        assert len(line._line) == 1
    assert list(steps) == []
    assert found == [0, 1, 2]
    assert not line._line


def test_an_iterator_that_computes_too_long_is_ended_and_one_left_alone_makes_room() -> None:
    def endless() -> Iterator[int]:
        while True:
            check_time()
            yield 0

    line = Turns(seconds=0.05)
    steps = line.each(endless())
    next(steps)
    time.sleep(0.06)
    with pytest.raises(OutOfTimeError):
        next(steps)
    left = line.each(endless())
    next(left)
    left.close()
    assert not line._line
