"""SECURITY.md promises what the code holds."""

from app import bodies, connections, page, sessions, turns, uploads, visitors
from app.visitors import MODELS
from sima_core.coco import listing
from sima_core.environment import MAX_UPLOAD_MB
from sima_core.lens import decoding, pictures
from sima_core.training import sources
from sima_core.weights import formats, hub, tensors
from tests.test_docs import tables


def test_limits_that_are_promised_are_those_of_the_code():
    [[heading, *rows]] = tables("SECURITY.md")
    assert heading == ["what", "limit"]

    def mib(num_bytes: int) -> str:
        return f"{num_bytes // 2**30} GiB" if num_bytes >= 2**30 else f"{num_bytes // 2**20} MiB"

    limits = {
        "picture: size": f"{pictures.MAX_IMAGE_PIXELS // 10**6} million pixels (WebP: "
        f"{decoding.MOST_PIXELS['WEBP'] // 10**6}), {mib(pictures.MAX_FILE_BYTES)}",
        "picture: decoding": f"{decoding.SECONDS:g} s, and {decoding.MORE_SECONDS:g} s more for "
        f"each million pixels; {pictures.LIMITS.seconds:g} s in all; "
        f"{mib(pictures.LIMITS.memory_bytes)}",
        "`.safetensors`": f"a header of {mib(tensors.MAX_HEADER_BYTES)}, {tensors.MAX_TENSORS:,} "
        f"tensors, {mib(tensors.MAX_WEIGHTS_BYTES)} of weights",
        "pickle: reading": f"{formats.UNPICKLE_SECONDS:g} s, and 1 s more for each "
        f"{mib(formats.SLOW_DISK)}; {mib(formats.UNPICKLE_MEMORY)} beyond its size",
        "visitors' models": f"{MODELS.max_models}, of {mib(MODELS.max_bytes)} together",
        "list of COCO": f"{mib(listing.MAX_LIST_BYTES)}; {listing.SECONDS:g} s, and 1 s more for "
        f"each {mib(listing.BYTES_PER_SECOND)}; {mib(listing.MEMORY_BYTES)}",
        "tar file to train on": f"{mib(sources.MAX_FILE_BYTES)} a picture, "
        f"{mib(sources.MAX_HEADER_BYTES)} of headers before it; unpacked {sources.MAX_EXPANSION} "
        f"times its size and {mib(sources.EXPANSION_BASIS)}",
        "one look": f"{visitors.MAX_TOKENS:,} tokens; a turn of {turns.TURN_SECONDS:g} s, one "
        f"visitor at a time; waiting for it {turns.WAIT_SECONDS:g} s",
        "requests that wait": str(page.MAX_WAITING),
        "upload": f"`{MAX_UPLOAD_MB.name}` ({MAX_UPLOAD_MB.default}), {uploads.MAX_FILES} files; "
        f"{bodies.MAX_PAUSE} s without a byte of it",
        "any other request": f"a body of {mib(bodies.MAX_JSON)} and {bodies.MAX_PARTS:,} values; "
        f"{connections.SILENT_SECONDS:g} s for a connection on which nothing is asked",
        "visits remembered": f"{sessions.MAX_VISITS:,}, of {mib(sessions.MAX_BYTES)} together",
        "weights from the Hub": f"{mib(hub.MAX_HUB_BYTES)}, {hub.FETCH_SECONDS:g} s",
    }
    found = dict(rows)
    formats_read = found.pop("picture: formats").upper().split(", ")
    assert sorted(formats_read) == sorted(decoding.FORMATS)
    assert found == limits
