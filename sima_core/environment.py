"""The environment variables that this program reads, all of them, and what each is for."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Variable:
    """One environment variable; read anew each time it is asked for."""

    name: str
    #: What holds where it is not set; empty where nothing does.
    default: str
    #: A sentence for the documentation.
    meaning: str

    def get(self) -> str:
        """Its value, else its default."""
        return os.environ.get(self.name) or self.default

    def put(self, value: str) -> None:
        """Set it for this process and those that it starts."""
        os.environ[self.name] = value


COCO_ROOT = Variable(
    "SIMA_COCO_ROOT", "", "A folder with COCO 2017; else the one in the cache folder is used."
)
KERNELS = Variable(
    "SIMA_KERNELS", "1", "`0`: do without the compiled kernel; everything works, only slower."
)
MAX_UPLOAD_MB = Variable("SIMA_MAX_UPLOAD_MB", "400", "The largest file that the page takes.")
HOSTS = Variable(
    "SIMA_HOSTS",
    "",
    "Hosts that the page answers to beside loopback and its own address, such as "
    "`lens.example.org`; separated by commas.",
)
CACHE_HOME = Variable(
    "XDG_CACHE_HOME", "", "Where the cache folder `sima-lens` lies; else `~/.cache`."
)
GRADIO_TEMP_DIR = Variable(
    "GRADIO_TEMP_DIR",
    "",
    "Where the page's folder `sima-lens-<user>` lies, in which uploads and results are kept for an "
    "hour; else the system's folder for temporary files.",
)
SPACE_ID = Variable(
    "SPACE_ID", "", "Set on a Hugging Face Space, where a few pictures of COCO are then fetched."
)
SPACE_HOST = Variable("SPACE_HOST", "", "Set on a Space: its host, which the page answers to.")
SERVER_NAME = Variable(
    "GRADIO_SERVER_NAME",
    "",
    "Gradio's: the address that the page listens on, else loopback; it answers to it too.",
)

#: Every variable, in the order of the documentation.
VARIABLES = (
    *(COCO_ROOT, KERNELS, MAX_UPLOAD_MB, HOSTS, GRADIO_TEMP_DIR, CACHE_HOME),
    *(SPACE_ID, SPACE_HOST, SERVER_NAME),
)


def inherited(**changes: str) -> dict[str, str]:
    """The environment for a process that this one starts: its own, with some variables changed."""
    return {**os.environ, **changes}
