"""An attacker of the command line: ``python -m tests.hostile.commands``.

Gives every hostile file and option to the commands that take it, each time in a process of its own
with caps of time and memory, and prints what was not answered in words, then one line.

    --only WORD    only attempts with this word in their name; may be given several times
    --known        only those that once stopped the program
    --limit N      at most so many, spread over all of them
    --seconds S    the most that an answer may take; 10 where the machine has nothing else to do
"""

import argparse
import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.hostile import options
from tests.hostile.annotations import PICTURE_NAME
from tests.hostile.case import Case
from tests.hostile.checkpoints import BUNDLED
from tests.hostile.encoding import encoded
from tests.hostile.files import cases
from tests.hostile.judging import MAX_SECONDS, Tally, wrong_with
from tests.hostile.measuring import Ended, run_forked
from tests.support import ROOT

#: Seconds over the limit after which a command is killed, and bytes that it may map.
GRACE_SECONDS, CAP_BYTES = 4.0, 5 * 2**30
#: Imported once, so that a forked process begins at once; nothing of it computes.
_WARM = (
    "sima_core.cli.app", "sima_core.cli.coco", "sima_core.cli.latency", "sima_core.cli.pictures",
    "sima_core.cli.training", "sima_core.coco.split", "sima_core.comparison",
    "sima_core.lens.export", "sima_core.scoring.summary", "sima_core.training.train", "timm",
    "matplotlib.pyplot",
)  # fmt: skip


@dataclass(frozen=True)
class Attempt:
    """One command on one input."""

    name: str
    #: What stands behind the program's name; made when its turn comes, in a folder of its own.
    arguments: Callable[[Path], list[str]]
    good: bool = False
    known: bool = False
    #: What happens to the cache before.
    damage: Callable[[Path], None] | None = None

    @property
    def command(self) -> str:
        """The command's name, with which its attempts begin."""
        return self.name.split()[0]


class Attacker:
    """Runs attempts one after another; knows what each command usually takes."""

    def __init__(self, scratch: Path, most_seconds: float) -> None:
        for module in _WARM:
            importlib.import_module(module)
        torch.set_num_threads(1)  # a fork would wait for threads that are not its own
        self.scratch, self.most_seconds = scratch, most_seconds
        self.tally = Tally()
        self._usual: dict[str, float] = {}
        os.environ.update(
            XDG_CACHE_HOME=str(scratch / "cache"), HF_HUB_OFFLINE="1", SIMA_COCO_ROOT=""
        )

    def usual(self, command: str) -> float:
        """The MiB that a command takes with an ordinary input; that fills the cache, too."""
        if command not in self._usual:
            self._usual[command] = 0.0
            if attempt := ordinary().get(command):
                ended, _ = self._run(attempt, 300)
                assert ended.status == 0, f"{attempt.name}: {ended.stderr or ended.stdout}"
                self._usual[command] = ended.peak
        return self._usual[command]

    def attack(self, attempt: Attempt) -> None:
        """One attempt, judged and counted."""
        usual = self.usual(attempt.command)
        ended, given = self._run(attempt, self.most_seconds + GRACE_SECONDS)
        wrong = wrong_with(ended, given, attempt.good, usual, self.most_seconds)
        folder = self.scratch / "attempt"
        if ended.status is not None:  # else it was killed, and could not clear up
            wrong += [f"left {file.name!r:.80} empty" for file in _empty_results(folder)]
        if list(folder.rglob("pwned")) or Path("/tmp/pwned").exists():
            wrong.append("RAN CODE FROM A FILE, or wrote outside")
        self.tally.count(attempt.name, wrong, ended.seconds, max(0.0, ended.peak - usual))

    def _run(self, attempt: Attempt, seconds: float) -> tuple[Ended, list[str]]:
        folder = self.scratch / "attempt"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "run").mkdir(parents=True)
        arguments = attempt.arguments(folder)
        cache = self.scratch / "cache"
        if attempt.damage:
            cache = folder / "cache"
            shutil.copytree(self.scratch / "cache", cache, dirs_exist_ok=True)
            attempt.damage(cache)

        def call() -> int:
            os.chdir(folder / "run")
            os.environ["XDG_CACHE_HOME"] = str(cache)
            from sima_core.cli import main

            return main(arguments)

        return run_forked(call, folder, seconds, CAP_BYTES), arguments


def _empty_results(folder: Path) -> Iterator[Path]:
    """Results that were begun and never written."""
    for file in (folder / "run").rglob("*"):
        if file.is_file() and not file.stat().st_size:
            yield file


# What is tried


def _on_picture(path: str) -> dict[str, list[str]]:
    small = ["--resolution", "64"]
    return {
        "heatmap": ["heatmap", path, *small, "--out", "out"],
        "latency": ["latency", path, *small, "--seconds", "0.2"],
        "compare": [
            "compare",
            path,
            *small,
            "--models",
            "bundled@1,bundled@2",
            "--out",
            "out.png",
            "--seconds",
            "0.2",
        ],
    }


def _on_checkpoint(path: str, photo: str, tar: str) -> dict[str, list[str]]:
    return {
        "heatmap": ["heatmap", photo, "--checkpoint", path, "--resolution", "64", "--out", "out"],
        "train": [*_train(tar), "--init", path],
    }


def _train(tar: str) -> list[str]:
    tiny = ["--epochs", "0.1", "--batch-size", "4", "--no-compile"]
    return ["train", tar, "--model", "sima_nano_12_p16", "--out", "out", *tiny]


def _on_root(root: str) -> dict[str, list[str]]:
    nobody = ["--ids", "1", "--base-url", "http://127.0.0.1:9"]
    return {
        "evaluate": ["evaluate", "--coco", root, "--resolution", "64", "--limit", "2"],
        "coco": ["coco", "download", "--coco", root, *nobody],
    }


def _on_tar(path: str) -> dict[str, list[str]]:
    return {"accuracy": ["accuracy", path, "--resolutions", "32"], "train": _train(path)}


def commands_on(case: Case, folder: Path) -> dict[str, list[str]]:
    """The commands that take a case's file, which is put in place, by name."""
    path = case.place(folder)
    if case.kind == "picture":
        return _on_picture(str(path))
    if case.kind == "tar":
        return _on_tar(str(path))
    if case.kind == "annotations":
        root = path.parent.parent
        picture = root / PICTURE_NAME
        picture.parent.mkdir()
        picture.write_bytes(encoded("JPEG"))
        return _on_root(str(root))
    photo = folder / "photo.jpg"
    photo.write_bytes(encoded("JPEG"))
    if case.kind == "labels":
        path = path.with_name(BUNDLED.name)
        path.write_bytes(BUNDLED.read_bytes())
    return _on_checkpoint(str(path), str(photo), str(_tar(folder)))


def _by_label(label: str) -> Case:
    return next(case for case in cases() if case.label == label)


def _tar(folder: Path) -> Path:
    return _by_label("good-tar").place(folder)


def ordinary() -> dict[str, Attempt]:
    """Each command on an input as most are, by its name."""
    labels = ("good-ordinary", "good-safetensors", "good-list", "good-tar")
    found: dict[str, Attempt] = {}
    for label in labels:
        case = _by_label(label)
        for command in _COMMANDS[case.kind]:
            if (label, command) not in _NO_USUAL and command not in found:
                found[command] = _attempt(case, command)
    return found


#: The commands that each kind of file goes to: those after the first only now and then.
_COMMANDS: dict[str, tuple[str, ...]] = {
    "picture": ("heatmap", "latency", "compare"),
    "checkpoint": ("heatmap", "train"),
    "labels": ("heatmap",),
    "annotations": ("evaluate", "coco"),
    "tar": ("accuracy", "train"),
}
_NOW_AND_THEN = 8
#: Fails by itself, since nobody listens; or has nothing to do with the bundled weights.
_NO_USUAL = {("good-list", "coco"), ("good-safetensors", "train"), ("good-tar", "accuracy")}


def _attempt(case: Case, command: str) -> Attempt:
    done = case.good and (case.label, command) not in _NO_USUAL
    known = case.known and command == _COMMANDS[case.kind][0]
    name = f"{command} {case.label}"
    return Attempt(name, lambda folder: commands_on(case, folder)[command], done, known)


def attempts() -> Iterator[Attempt]:
    """Every file with its command, some of them with others too; options; damaged caches."""
    for number, case in enumerate(cases()):
        first, *others = _COMMANDS[case.kind]
        yield _attempt(case, first)
        for shift, command in enumerate(others):
            if case.known or number % _NOW_AND_THEN == shift:
                yield _attempt(case, command)
    for number, listed in enumerate(options.argument_lists()):
        name = " ".join([*listed[:1], *listed[-2:]]).encode("unicode_escape").decode()
        yield Attempt(f"{_plain(name)} [{number}]", _filling(listed), known=number % 40 == 0)
    for label, content in _DAMAGES.items():
        yield Attempt(
            f"latency cache-{label}",
            _filling(options.latency("--seconds", "0.2")),
            True,
            label == "null",
            _damaging(content),
        )


def _plain(name: str) -> str:
    return name if len(name) <= 60 else name[:60] + "…"


def _filling(listed: Sequence[str]) -> Callable[[Path], list[str]]:
    """The arguments, with files put in place of the words that stand for them."""

    def fill(folder: Path) -> list[str]:
        made = {options.OUT: "out"}
        if options.PHOTO in listed:
            made[options.PHOTO] = str(_by_label("good-ordinary").place(folder))
        if options.TAR in listed:
            made[options.TAR] = str(_tar(folder))
        if options.ROOT in listed:
            good = _by_label("good-list")
            made[options.ROOT] = commands_on(good, folder)["evaluate"][2]
        return [made.get(word, word.replace(f"{options.OUT}.png", "out.png")) for word in listed]

    return fill


_DAMAGES: dict[str, bytes | None] = {
    "null": b'{"32": null}',
    "list": b"[]",
    "nan": b'{"32": NaN, "x": 1e999}',
    "deep": b"[" * 100_000,
    "empty": b"",
    "rubbish": b"\x7fELF" + bytes(range(256)) * 8,
    "half": None,
}


def _damaging(content: bytes | None) -> Callable[[Path], None]:
    """Every file of the cache gets other bytes, or loses its second half."""

    def damage(cache: Path) -> None:
        for file in cache.rglob("*"):
            if file.is_file():
                whole = file.read_bytes()
                file.write_bytes(whole[: len(whole) // 2] if content is None else content)

    return damage


def chosen(only: Sequence[str], known: bool, limit: int | None) -> list[Attempt]:
    """The attempts that the options ask for; with a limit those that are spread over all."""
    found = [a for a in attempts() if not only or any(word in a.name for word in only)]
    found = [a for a in found if a.known] if known else found
    if limit is not None and len(found) > limit:
        found = [found[i * len(found) // limit] for i in range(limit)]
    return found


def main() -> int:
    """Attack, and tell; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", default=[], metavar="WORD")
    parser.add_argument("--known", action="store_true")
    parser.add_argument("--limit", type=int, metavar="N")
    parser.add_argument("--seconds", type=float, default=MAX_SECONDS, metavar="S")
    asked = parser.parse_args()
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory(prefix="hostile-") as scratch:
        attacker = Attacker(Path(scratch), asked.seconds)
        for attempt in chosen(asked.only, asked.known, asked.limit):
            attacker.attack(attempt)
    return attacker.tally.end()


if __name__ == "__main__":
    sys.exit(main())
