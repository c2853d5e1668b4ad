"""What can lie on a disk beside plain files, and what a file can be called."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.hostile.case import Case, Kind, holding
from tests.hostile.encoding import encoded

#: For each: whether it may be opened at all, and how to make it.
_MADE: dict[str, Callable[[Path], object]] = {
    "folder": lambda path: path.mkdir(),
    "pipe": lambda path: os.mkfifo(path),
    "socket": lambda path: _socket(path),
    "link-loop": lambda path: path.symlink_to(path.name),
    "link-dangling": lambda path: path.symlink_to("nothing-here"),
    "link-dev-zero": lambda path: path.symlink_to("/dev/zero"),
    "link-dev-random": lambda path: path.symlink_to("/dev/urandom"),
    "link-dev-ptmx": lambda path: path.symlink_to("/dev/ptmx"),
    "link-stdin": lambda path: path.symlink_to("/dev/stdin"),
    "link-etc-passwd": lambda path: path.symlink_to("/etc/passwd"),
    "link-proc-mem": lambda path: path.symlink_to("/proc/self/mem"),
    "link-root": lambda path: path.symlink_to("/"),
    "not-there": lambda path: None,
    "unreadable": lambda path: (path.write_bytes(encoded("JPEG")), path.chmod(0)),
}
_KNOWN = {"picture-pipe", "picture-link-loop", "checkpoint-pipe", "checkpoint-link-dev-zero"}
_SUFFIXES: dict[Kind, str] = {"picture": ".jpg", "checkpoint": ".pth", "tar": ".tar"}

#: Names of a good picture, each of which a disk takes.
_NAMES: dict[str, str | bytes] = {
    "newline": "a\nb.png",
    "carriage-return": "good news\rbad news.png",
    "escape": "\x1b[31mred\x1b[0m.png",
    "title": "\x1b]0;title\x07.png",
    "clear": "\x1b[2J\x1b[H.png",
    "bell": "\x07\x08\x7f.png",
    "c1": "\x9b31m.png",
    "right-to-left": "\u202egnp.exe.png",
    "zero-width": "\u200b\u2060\ufeff.png",
    "line-separator": "a\u2028b.png",
    "255-bytes": "n" * 251 + ".png",
    "255-bytes-wide": "é" * 125 + ".png",
    "emoji": "\U0001f600.png",
    "no-utf-8": b"\xff\xfe\x80.png",
    "dash": "-rf.png",
    "dashes": "--out.png",
    "spaces": "  .png",
    "dots": "....png",
    "only-suffix": ".png",
    "html": "<img src=x onerror=alert(1)>.png",
    "percent": "%s%n%00.png",
    "braces": "{0.__class__}.png",
    "quotes": "'\"`$(touch pwned)`.png",
    "brackets": "[a-z]*?.png",
}


def oddities() -> Iterator[Case]:
    """Things that are no plain files, as each kind; then good pictures with strange names."""
    for kind, suffix in _SUFFIXES.items():
        for label, make in _MADE.items():
            known = f"{kind}-{label}" in _KNOWN
            name = f"{label}{suffix}"
            yield Case(f"{kind}-{label}", kind, make, name, known=known, plain=False)
    picture = encoded("PNG")
    for label, name in _NAMES.items():
        known = label in ("escape", "no-utf-8")
        yield Case(f"name-{label}", "picture", holding(picture), name, good=True, known=known)


def _socket(path: Path) -> None:
    here = os.open(path.parent, os.O_RDONLY)  # a socket's own path may have 108 bytes only
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)
