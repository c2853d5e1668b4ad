"""What a run keeps on disk while it goes: its state, whole or not at all, and its log."""

import errno
import json
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import torch

from sima_core.files import replacing, write_text
from sima_core.training.recipe import Settings, TrainingError

#: What `torch.load` raises for files that are cut off, or hold something else.
_DAMAGED = (
    EOFError,
    KeyError,
    TypeError,
    ValueError,
    RuntimeError,
    OSError,
    UnpicklingError,
    IndexError,
)


def run_settings(settings: Settings, fingerprint: str) -> dict[str, Any]:
    """What decides a run's outcome, as it is kept with its state.

    Args:
        fingerprint: that of the pictures.
    """
    return {**settings.as_dict(), "data": fingerprint}


class RunFolder:
    """The folder of one run, with its ``state.pt`` and ``log.jsonl``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state_file = path / "state.pt"
        self.log_file = path / "log.jsonl"

    def holds_run(self) -> bool:
        """Whether a run has saved its state here."""
        return self.state_file.exists()

    def state_of(self, run: dict[str, Any], epochs_may_differ: bool) -> dict[str, Any]:
        """The saved state, if it is of a certain run.

        Args:
            run: its `run_settings`.
            epochs_may_differ: they were chosen by minutes, which come out otherwise each time.

        Raises:
            TrainingError: it is damaged, or of another run.
            OSError: it cannot be read.
        """
        saved, found = self._load()
        if found.keys() != run.keys():
            raise TrainingError(
                f"The run in {self.path.name} was begun by another version of this program: "
                "name another folder."
            )
        other = [key for key, value in found.items() if run[key] != value]
        if epochs_may_differ and "epochs" in other:
            other.remove("epochs")
        if other:
            raise TrainingError(
                f"The run in {self.path.name} has another {' and '.join(sorted(other))}: "
                "resume it with the options it was started with, or name another folder."
            )
        return saved

    def _load(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The saved state, and the settings in it."""
        try:  # to the processor: optimisers keep their step counts there
            saved: dict[str, Any] = torch.load(self.state_file, "cpu", weights_only=True)
            return saved, dict(saved["settings"])
        except _DAMAGED as error:
            if isinstance(error, OSError) and error.errno != errno.EINVAL:  # so cut files end too
                raise
            raise self.damaged() from None

    def damaged(self) -> TrainingError:
        """What to raise where the saved state is not what it should be."""
        return TrainingError(
            f"The state saved in {self.path.name} is damaged: delete its "
            f"{self.state_file.name} to begin anew, or name another folder."
        )

    def save(self, state: dict[str, Any]) -> None:
        """Replace the saved state, at once or not at all.

        Raises:
            OSError: it cannot be written; what was saved before is kept.
        """
        with replacing(self.state_file) as file:
            try:
                torch.save(state, file)
            except RuntimeError as error:  # raised over the file's own
                raise error.__context__ or error from None

    def log(self, line: dict[str, Any]) -> None:
        """Add a line to the log."""
        with self.log_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def logged(self) -> list[dict[str, Any]]:
        """The lines of the log, without damaged ones, such as one that a kill cut off."""
        if not self.log_file.exists():
            return []
        lines = self.log_file.read_text("utf-8", "replace").splitlines()
        return [line for line in map(_json_line, lines) if line]

    def forget_log_after(self, step: int) -> None:
        """Drop lines that a killed run wrote after its last saved state."""
        kept = [line for line in self.logged() if line["step"] <= step]
        write_text(self.log_file, "".join(json.dumps(line) + "\n" for line in kept))

    def discard_log(self) -> None:
        """Remove the log of a run that never saved."""
        self.log_file.unlink(missing_ok=True)


def _json_line(text: str) -> dict[str, Any] | None:
    """A line of the log: numbers by name, a step among them; None if it is damaged."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(line, dict) and {type(n) for n in line.values()} <= {int, float}
    return cast(dict[str, Any], line) if whole and "step" in line else None
