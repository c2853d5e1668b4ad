"""Hostile tar files, of the kind that training reads: ``<class>/<picture>``."""

import bz2
import functools
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator

from tests.hostile.case import Case, flipped, holding
from tests.hostile.encoding import deflated_zeros, encoded, many_scans, photo, saved, zeros

Content = bytes | Callable[[], bytes]

_KNOWN = {"tar-gz-bomb", "tar-gz-bomb-picture", "tar-pax-bomb", "tar-links"}


def archives() -> Iterator[Case]:
    """All of them; the good one has two classes of pictures, some of them held out."""
    for label, (name, content) in _TARS.items():
        yield Case(label, "tar", holding(content), name, known=label in _KNOWN)
    yield Case("good-tar", "tar", holding(_good), "flowers.tar", good=True, known=True)


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, **more: object) -> bytes:
    """One member of a tar file: its header, and its bytes in whole blocks."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content)
    for key, value in more.items():
        setattr(info, key, value)
    head = info.tobuf(tarfile.GNU_FORMAT, errors="surrogateescape")
    return head + content + bytes(-len(content) % 512)


def lying(name: str, size: int, content: bytes = b"") -> bytes:
    """A member whose header claims another size."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)


@functools.cache
def _pictures(count: int = 12) -> bytes:
    """Good pictures in two classes, so that what is hostile beside them is all that is wrong."""
    parts = []
    for split, several in (("train", count), ("val", 4)):
        for number in range(several):
            turned = photo().rotate(37 * number + (5 if split == "val" else 0))
            for name in ("rose", "leaf"):
                picture = turned if name == "rose" else turned.rotate(90, expand=True)
                content = saved(picture.convert("RGB"), "WEBP")
                parts.append(member(f"{split}/{name}/{number}.webp", content))
    return b"".join(parts)


def _good() -> bytes:
    return _pictures() + bytes(1024)


def _with(*members: bytes) -> Callable[[], bytes]:
    return lambda: b"".join(members) + _good()


def _gzip_zeros(size: int, before: bytes = b"") -> bytes:
    """`before` and then so many zeros, which deflate to a thousandth; their checksum is wrong."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(before) + packer.flush(zlib.Z_FULL_FLUSH)
    return gzip.compress(b"")[:10] + packed + deflated_zeros(size >> 20) + bytes(8)


def _pax(headers: bytes) -> bytes:
    return member("pax", headers, tarfile.XHDTYPE) + member("train/rose/p.webp", encoded("WEBP"))


def _record(key: bytes, value: bytes) -> bytes:
    body = b" " + key + b"=" + value + b"\n"
    size = len(body) + 1
    while len(str(size)) + len(body) != size:
        size += 1
    return str(size).encode() + body


_TARS: dict[str, tuple[str, Content]] = {
    "tar-gz-bomb": (
        "bomb.tar.gz",
        lambda: _gzip_zeros(4 << 30, lying("train/rose/b.jpg", 4 << 30)),
    ),
    "tar-gz-bomb-picture": (
        "bomb.tar.gz",
        lambda: _gzip_zeros(1 << 30, _pictures() + lying("train/rose/b.jpg", 1 << 30)),
    ),
    "tar-gz-bomb-skipped": (
        "bomb.tar.gz",
        lambda: _gzip_zeros(4 << 30, lying("notes.txt", 4 << 30)),
    ),
    "tar-gz-zeros": ("zeros.tar.gz", lambda: _gzip_zeros(2 << 30)),
    "tar-gz-cut": ("cut.tar.gz", lambda: gzip.compress(_good())[:2000]),
    "tar-gz-flipped": ("flipped.tar.gz", lambda: flipped(gzip.compress(_good()), 1)),
    "tar-bz2-bomb": (
        "bomb.tar.bz2",
        lambda: bz2.compress(lying("a/b.jpg", 1 << 28) + bytes(1 << 28)),
    ),
    "tar-xz-bomb": (
        "bomb.tar.xz",
        lambda: lzma.compress(lying("a/b.jpg", 1 << 28) + bytes(1 << 28), preset=0),
    ),
    "tar-cut": ("cut.tar", lambda: _good()[:3000]),
    "tar-flipped": ("flipped.tar", lambda: flipped(_good(), 2, 200)),
    "tar-claims-8-gb": (
        "claims.tar",
        lambda: _pictures() + lying("train/rose/c.jpg", (8 << 30) - 1, bytes(512)),
    ),
    "tar-claims-negative": (
        "claims.tar",
        lambda: lying("train/rose/c.jpg", -1, bytes(512)) + _good(),
    ),
    "tar-pax-bomb": ("pax.tar", lambda: _pax(_record(b"comment", b"c" * (60 << 20))) + _good()),
    "tar-pax-many": ("pax.tar", lambda: _pax(_record(b"k%d" % 7, b"v") * 500_000) + _good()),
    "tar-pax-size": ("pax.tar", lambda: _pax(_record(b"size", b"9" * 400)) + _good()),
    "tar-pax-rubbish": ("pax.tar", lambda: _pax(b"99999999999999999999 a=b\n") + _good()),
    "tar-pax-sparse": (
        "pax.tar",
        lambda: (
            _pax(
                _record(b"GNU.sparse.size", b"999999999999")
                + _record(b"GNU.sparse.map", b"0,1")
                + _record(b"GNU.sparse.name", b"train/rose/s.jpg")
            )
            + _good()
        ),
    ),
    "tar-pax-gz": (
        "pax.tar.gz",
        lambda: _gzip_zeros(
            1 << 30, lying("pax", 1 << 30)[:156] + b"x" + lying("pax", 1 << 30)[157:]
        ),
    ),
    "tar-long-name": (
        "names.tar",
        _with(member("train/rose/" + "n" * 60_000 + ".jpg", encoded("JPEG"))),
    ),
    "tar-names": (
        "names.tar",
        _with(
            member("train/rose/\x1b[2J\x07\n.jpg", b"x"),
            member("../../../../tmp/pwned/a.jpg", b"x"),
            member("/tmp/pwned/b.jpg", encoded("JPEG")),
            member("train/\udcff\udcfe/c.jpg", encoded("JPEG")),
        ),
    ),
    "tar-links": (
        "links.tar",
        _with(
            member("train/rose/l.jpg", kind=tarfile.SYMTYPE, linkname="/etc/passwd"),
            member("train/rose/h.jpg", kind=tarfile.LNKTYPE, linkname="../../etc/passwd"),
            member("train/rose/loop.jpg", kind=tarfile.SYMTYPE, linkname="train/rose/loop.jpg"),
        ),
    ),
    "tar-devices": (
        "devices.tar",
        _with(
            member("train/rose/d.jpg", kind=tarfile.CHRTYPE, devmajor=1, devminor=5),
            member("train/rose/f.jpg", kind=tarfile.FIFOTYPE),
        ),
    ),
    "tar-100000-members": (
        "many.tar",
        lambda: b"".join(member(f"train/rose/{i}.txt") for i in range(100_000)) + _good(),
    ),
    "tar-100000-classes": (
        "many.tar",
        lambda: b"".join(member(f"train/c{i}/a.jpg", b"x") for i in range(20_000)) + _good(),
    ),
    "tar-scans": (
        "scans.tar",
        lambda: _pictures() + member("train/rose/s.jpg", many_scans(20_000)) + bytes(1024),
    ),
    "tar-broken-pictures": (
        "broken.tar",
        lambda: (
            b"".join(member(f"train/rose/b{i}.jpg", b"\xff\xd8\xff" + zeros(99)) for i in range(50))
            + _good()
        ),
    ),
    "tar-only-broken": ("broken.tar", lambda: member("a/b.jpg", b"x") + bytes(1024)),
    "tar-one-class": ("one.tar", lambda: member("a/b.jpg", encoded("JPEG")) + bytes(1024)),
    "tar-empty": ("empty.tar", b""),
    "tar-zeros": ("zeros.tar", bytes(10_240)),
    "tar-text": ("text.tar", b"only words\n" * 100),
    "tar-zip": ("zip.tar", b"PK\x03\x04" + bytes(600)),
}
