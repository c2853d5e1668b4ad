"""JSON from strangers, parsed only where that is quick: others wait while a parser runs."""

import json

#: The longest text that is parsed, in bytes.
MAX_JSON_BYTES = 4 * 2**20
#: The most lists and objects in it: making them takes the time. 1000 named classes have 1000.
MAX_CONTAINERS = 60_000


def parsed_json(text: str | bytes) -> object:
    """What a JSON text of bearable size says; None if it is none."""
    try:
        words = text.decode() if isinstance(text, bytes) else text
        long = len(words) > MAX_JSON_BYTES or words.count("[") + words.count("{") > MAX_CONTAINERS
        return None if long else json.loads(words)
    except (ValueError, RecursionError):
        return None
