"""How uploads are read: nothing but files, and few at once."""

from typing import Any

from gradio import route_utils, routes
from gradio.route_utils import GradioMultiPartParser
from starlette.formparsers import MultiPartException

#: Files of one upload; the page sends one. Thousands take seconds in which nobody is answered.
MAX_FILES = 32
#: Uploads whose progress is kept for a page to ask for; of most programs' nobody ever asks.
MAX_TRACKED = 1000


class _FilesAlone(GradioMultiPartParser):
    """Gradio's reader, which would gather what is no file in memory, up to the largest upload."""

    def on_headers_finished(self) -> None:
        """Look at what the next part is, before its bytes come."""
        super().on_headers_finished()
        if self._current_part.file is None or self._current_files > MAX_FILES:
            raise MultiPartException(f"Send files alone here, at most {MAX_FILES} at once.")


def take_only_files() -> None:
    """Have Gradio read uploads so."""
    changed: Any = route_utils
    changed.GradioMultiPartParser = _FilesAlone


def forget_progress() -> None:
    """Forget the progress of uploads that nobody has asked for, and questions without an upload.

    Gradio forgets what was asked for to its end alone.
    """
    progress = routes.file_upload_statuses
    for kept in (progress._statuses, progress._signals):
        for upload_id in list(kept)[:-MAX_TRACKED]:
            kept.pop(upload_id, None)
