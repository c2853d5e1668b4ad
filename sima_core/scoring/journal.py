"""What an interrupted evaluation has done, kept on disk."""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from sima_core.coco.root import annotations_file
from sima_core.coco.split import CocoSplit
from sima_core.files import cache_folder
from sima_core.machine import versions
from sima_core.scoring.metrics import (
    Scores,
)
from sima_core.scoring.summary import PictureResult
from sima_core.weights.provenance import provenance

#: Grows when what is scored changes, so that an interrupted run of old code is not continued.
_FORMAT = 1


class Journal:
    """Results on disk, one JSON line each, so that an interrupted run can go on."""

    def __init__(self, file: Path, resume: bool) -> None:
        self._file = file
        #: Where the line of each picture begins; the results themselves stay on disk.
        self.found: dict[int, int] = {}
        if not resume:
            self.delete()
        with contextlib.suppress(OSError), file.open("rb") as lines:
            start = 0
            for line in lines:
                if result := self._parse(line):
                    self.found[result.id] = start
                start += len(line)

    def get(self, image_id: int) -> PictureResult | None:
        """The result of a picture that an earlier run has done."""
        if image_id in self.found:
            # Another run of the same, when it ends, deletes the file.
            with contextlib.suppress(OSError), self._file.open("rb") as lines:
                lines.seek(self.found[image_id])
                result = self._parse(lines.readline())
                if result and result.id == image_id:  # not of a file that is new there since
                    return result
        return None

    @staticmethod
    def _parse(line: bytes) -> PictureResult | None:
        try:
            values = json.loads(line)
            scores = {k: Scores(*v) for k, v in values.pop("scores").items()}
            return PictureResult(scores=scores, **values)
        except (ValueError, TypeError, KeyError, AttributeError):
            return None  # the last line of a run that was killed while it wrote

    def add(self, result: PictureResult) -> None:
        values = dataclasses.asdict(result)
        values["scores"] = {k: dataclasses.astuple(v) for k, v in result.scores.items()}
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as lines:
                lines.write("\n" + json.dumps(values))
        except OSError:
            pass  # without a journal the run goes on, only not after an interruption

    def delete(self) -> None:
        self._file.unlink(missing_ok=True)


def journal_file(
    split: CocoSplit, model: nn.Module, layers: Sequence[int], resolution: int, faithful: bool
) -> Path:
    origin = provenance(model)
    listed = annotations_file(split.root, split.split).stat()
    about = [
        _FORMAT, origin.architecture, origin.sha256, str(split.root.resolve()), split.split,
        listed.st_size, listed.st_mtime_ns, list(layers), resolution, faithful, versions(),
    ]  # fmt: skip
    name = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:24]
    return cache_folder() / "evaluations" / f"{name}.jsonl"
