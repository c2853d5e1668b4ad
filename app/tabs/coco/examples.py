"""The hand-picked pictures of COCO that a Space fetches for its visitors."""

import json
import threading

from sima_core import environment
from sima_core.coco.download import download
from sima_core.coco.root import default_root
from sima_core.errors import SimaLensError
from sima_core.files import ASSETS


class Examples:
    """Fetches the hand-picked example pictures in the background, once."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    @property
    def fetching(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Begin, where this is a Space without COCO; elsewhere nothing is fetched unasked."""
        if environment.SPACE_ID.get() and self._thread is None:
            self._thread = threading.Thread(target=self._fetch, daemon=True)
            self._thread.start()

    @staticmethod
    def _fetch() -> None:
        listed = json.loads((ASSETS / "coco_examples.json").read_text("utf-8"))
        ids = [image["id"] for image in listed["images"]]
        try:
            download(default_root(), listed["split"], ids, annotations=True, progress=False)
        except SimaLensError as error:
            print(f"the COCO examples could not be fetched: {error}")


EXAMPLES = Examples()
