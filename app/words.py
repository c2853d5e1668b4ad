"""How sentences and quantities are written on the page."""


def capitalized(sentence: str) -> str:
    """Begin with a capital, unless it begins with the name of a file, model or module."""
    first = sentence.split(" ", 1)[0]
    named = "." in first or "_" in first
    return sentence if named else sentence[:1].upper() + sentence[1:]


def duration(seconds: float) -> str:
    """Such as ``1.23 ms``: three digits, in the unit that fits."""
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{1e3 * seconds:.3g} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.3g} µs"


def size(num_bytes: float) -> str:
    """Such as ``4.5 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024 or unit == "GiB":
            break
        num_bytes /= 1024
    return f"{num_bytes:.3g} {unit}"
