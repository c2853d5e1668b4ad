"""What an interrupted evaluation has done, kept on disk."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from sima_core.coco.root import annotations_file
from sima_core.coco.split import CocoSplit
from sima_core.files import cache_folder, open_regular
from sima_core.lens.lens import Lens
from sima_core.machine import versions
from sima_core.scoring.metrics import Scores
from sima_core.scoring.results import SKIPPED, PictureResult, parse_map

#: Grows when what is scored changes, so that an interrupted run of old code is not continued.
_FORMAT = 2
#: Bytes of the longest line; one has some kilobytes.
_MAX_LINE = 2**20


class Journal:
    """Results on disk, one JSON line each, so that an interrupted run can go on."""

    def __init__(self, file: Path, resume: bool) -> None:
        self._file = file
        #: Where the line of each picture begins; the results themselves stay on disk.
        self.found: dict[int, int] = {}
        if not resume:
            self.delete()
        with suppress(OSError), open_regular(file) as lines:
            start = 0
            while line := lines.readline(_MAX_LINE):
                if result := _parse(line):
                    self.found[result.id] = start
                start += len(line)

    def get(self, image_id: int) -> PictureResult | None:
        """The result of a picture that an earlier run has done."""
        if image_id in self.found:
            # Another run of the same, when it ends, deletes the file.
            with suppress(OSError), open_regular(self._file) as lines:
                lines.seek(self.found[image_id])
                result = _parse(lines.readline(_MAX_LINE))
                if result and result.id == image_id:  # not of a file that is new there since
                    return result
        return None

    def add(self, result: PictureResult) -> None:
        """Append a result; without a journal a run goes on, only not after an interruption."""
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as lines:
                lines.write("\n" + _line(result))  # the last line may have been cut off

    def delete(self) -> None:
        """Forget all results, where the disk lets that be done."""
        with suppress(OSError):
            self._file.unlink(missing_ok=True)


def _line(result: PictureResult) -> str:
    values = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
    values["scores"] = {str(of): dataclasses.astuple(s) for of, s in result.scores.items()}
    return json.dumps(values)


def _parse(line: bytes) -> PictureResult | None:
    """The result in a line; None for a damaged one, and where a run was killed while it wrote."""
    try:
        values = json.loads(line)
        scores = {parse_map(of): Scores(*s) for of, s in values.pop("scores").items()}
        result = PictureResult(scores=scores, **values)
        numbers = [
            *(n for s in scores.values() for n in dataclasses.astuple(s)),
            *(n for areas in result.faithfulness.values() for n in areas.values()),
            *(n for figures in result.sanity.values() for n in figures.values()),
            result.forward_seconds,
            result.scoring_seconds,
        ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    sound = type(result.id) is int and result.skipped in (None, *SKIPPED)
    return result if sound and {type(n) for n in numbers} <= {bool, int, float} else None


def journal_file(
    split: CocoSplit,
    lens: Lens,
    named: Mapping[int, Sequence[str]],
    resolution: int,
    faithful: bool,
    sane: bool = False,
) -> Path:
    """Where the journal of an evaluation lies: another one for whatever changes its results."""
    listed = annotations_file(split.root, split.split).stat()
    about = [
        _FORMAT, lens.name, [layer.attention for layer in lens.layers], _weights(lens),
        str(split.root.resolve()), split.split, listed.st_size, listed.st_mtime_ns,
        list(named.items()), resolution, faithful, sane, versions(),
    ]  # fmt: skip
    name = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:24]
    return cache_folder() / "evaluations" / f"{name}.jsonl"


def _weights(lens: Lens) -> str:
    """A digest of the weights as they are now, wherever they come from."""
    digest = hashlib.sha256()
    for name, values in lens.model.state_dict().items():
        digest.update(name.encode())
        digest.update(values.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
