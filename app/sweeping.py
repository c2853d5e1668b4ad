"""Uploads and results: the folder of our own in which they lie, and their end after an hour.

Gradio deletes only what the running process knows of. What a killed app left, uploads that broke
off and empty folders would stay, so everything here is deleted by its age, whoever put it there.
"""

import os
import stat
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from sima_core import environment

#: Seconds: how old a file gets, and how often is looked.
MAX_AGE, EVERY = 3600.0, 600.0
#: Seconds after which an upload of which no more came has broken off.
MAX_PAUSE = 600.0


def claim_folder() -> None:
    """Have Gradio keep its files in a folder of this program's and this user's alone.

    It lies in ``GRADIO_TEMP_DIR``, else in the system's folder for temporary files, where other
    Gradio apps may have theirs. Gradio asks for it when it is imported: call this before.
    """
    name = f"sima-lens-{_user()}"
    try:
        base = Path(environment.GRADIO_TEMP_DIR.get() or tempfile.gettempdir()).resolve()
    except OSError:
        sys.exit(
            "There is no folder for temporary files that can be written: name one in "
            f"{environment.GRADIO_TEMP_DIR.name}."
        )
    # A process that an app of ours started inherits the folder.
    folder = base if base.name == name else base / name
    with suppress(OSError):  # who writes there says what is wrong
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours(folder):  # somebody has put it there to read along
            folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=base))
    environment.GRADIO_TEMP_DIR.put(str(folder))


def sweep(folder: Path, max_age: float = MAX_AGE) -> int:
    """Delete what is older than `max_age` seconds inside `folder`, and folders left empty.

    What lies right in it is an upload that is coming in, or has broken off. Links are deleted, not
    followed. What vanishes meanwhile, or may not be deleted, is passed over.

    Returns:
        How many files, links and folders were deleted.
    """
    now, count = time.time(), 0
    folder = folder.resolve()
    thinned: set[Path] = set()  # what was deleted from them has made them look young
    for parent, folders, files in os.walk(folder, topdown=False):
        for path in (Path(parent, name) for name in files + folders):
            with suppress(OSError):
                info = path.lstat()
                is_folder = stat.S_ISDIR(info.st_mode)
                coming_in = path.parent == folder and not is_folder
                limit = min(max_age, MAX_PAUSE) if coming_in else max_age
                if now - info.st_mtime <= limit and path not in thinned:
                    continue
                if is_folder:
                    path.rmdir()  # a full one refuses
                else:
                    path.unlink()
                thinned.add(path.parent)
                count += 1
    return count


def renew(paths: Iterable[str]) -> None:
    """Make files young again: no sweep of any app takes, say, the samples that the page shows."""
    for path in paths:
        with suppress(OSError):
            os.utime(path)


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else "user"


def _is_ours(folder: Path) -> bool:
    """Whether it is a folder of this user's, to which nobody else has access; makes it so."""
    info = folder.lstat()
    if not stat.S_ISDIR(info.st_mode) or (hasattr(os, "getuid") and info.st_uid != os.getuid()):
        return False
    folder.chmod(0o700)
    return True
