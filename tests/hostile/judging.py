"""When something was answered in words, and the one line that says how often."""

import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher

from tests.hostile.measuring import Ended

#: What the program promises: seconds, MiB above an ordinary input, characters of a sentence.
MAX_SECONDS = 10.0
MAX_MIB = 1024.0
MAX_SENTENCE = 200
#: The exit statuses of a command that was answered: done, some inputs failed, cannot be done.
ANSWERED = (0, 1, 2)

#: What never stands in an answer: terminal escapes and other control characters, but line breaks.
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
#: What tqdm draws, and how it takes that away again.
_BAR = re.compile(r"\r[^\r\n]*\[\d\d:\d\d[^\r\n]*|\r *\r|\r *$", re.MULTILINE)
_LEAKS = ("Traceback (most recent call last)", "Warning:", "site-packages")


def wrong_with(
    ended: Ended, given: Sequence[str], good: bool, usual: float, most_seconds: float = MAX_SECONDS
) -> list[str]:
    """What is wrong with the answer of a command, a few words each; empty where nothing is.

    Args:
        given: the user's own arguments, which a sentence may repeat.
        good: the input was good, and had to be done.
        usual: the MiB that the command takes with an ordinary input.
    """
    found = []
    if ended.status is None:
        found.append(f"took more than {ended.seconds:.0f} s ({ended.cpu:.1f} of CPU)")
    elif ended.status not in ANSWERED:
        found.append(f"ended with status {ended.status}")
    elif good and ended.status != 0:
        found.append(f"a good file was refused: {_last_line(ended.stderr)}")
    if ended.status is not None and ended.seconds > most_seconds:
        found.append(f"took {ended.seconds:.1f} s ({ended.cpu:.1f} of CPU)")
    if ended.peak - usual > MAX_MIB:
        found.append(f"took {ended.peak - usual:,.0f} MiB more than usual")
    if ended.lingering:
        found.append(f"left {ended.lingering} process(es) behind")
    if ended.status in (1, 2) and not ended.stderr.strip():
        found.append("said nothing")
    stdout, stderr = (_without_bars(text) for text in (ended.stdout, ended.stderr))
    return found + wrong_in_text(stdout + stderr) + _too_long(stderr, given)


def _without_bars(text: str) -> str:
    """What is left when progress bars are done."""
    once = _BAR.sub("", text)
    return _BAR.sub("", once)


def wrong_in_text(text: str) -> list[str]:
    """What must not stand in any answer."""
    found = [f"said {leak!r}" for leak in _LEAKS if leak in text]
    if control := _CONTROL.search(text):
        found.append(f"printed {control[0]!r} raw")
    return found


def wrong_sentence(sentence: object, given: Sequence[str] = ()) -> list[str]:
    """What is wrong with the sentence of an error, which comes alone."""
    if not isinstance(sentence, str) or not sentence.strip():
        return [f"the error is {sentence!r:.60}, no sentence"]
    return wrong_in_text(sentence) + _too_long(sentence, given)


def _too_long(text: str, given: Sequence[str]) -> list[str]:
    """A line that is longer than a sentence may be, what it repeats of the user's left out."""
    for line in text.splitlines():
        length = len(line)
        for argument in given:
            if length <= MAX_SENTENCE:
                break
            matcher = SequenceMatcher(None, line[:4000], argument[:4000], autojunk=False)
            same = matcher.find_longest_match().size
            length -= same if same >= 8 and len(line) < 1000 else 0
        if length > MAX_SENTENCE:
            return [f"a sentence of {length:,} characters: {line[:60]!r}…"]
    return []


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["nothing was said"])[-1][:120]


@dataclass
class Tally:
    """Answers counted, failures named as they come, one line at the end."""

    total: int = 0
    failed: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "none")
    largest: tuple[float, str] = (0.0, "none")

    def count(self, name: str, wrong: Iterable[str], seconds: float, mib: float = 0.0) -> None:
        """One attempt more."""
        self.total += 1
        self.slowest = max(self.slowest, (seconds, name))
        self.largest = max(self.largest, (mib, name))
        if said := "; ".join(wrong):
            self.failed.append(name)
            print(f"{name}: {said}", flush=True)

    def summary(self) -> str:
        """The one line."""
        return (
            f"{self.total - len(self.failed)} of {self.total} answered in words, "
            f"slowest {self.slowest[0]:.1f} s ({self.slowest[1]}), "
            f"largest {self.largest[0]:,.0f} MiB ({self.largest[1]})"
        )

    def end(self, *more: str) -> int:
        """Print the one line; returns the exit status."""
        print("; ".join((self.summary(), *more)))
        sys.stdout.flush()
        return 1 if self.failed else 0
