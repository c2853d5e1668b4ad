"""Hostile values of options: what a user, or a program in a user's name, may type."""

#: Stand for files that `commands` puts in place.
PHOTO, OUT, TAR, ROOT, WEIGHTS = "PHOTO", "OUT", "TAR", "ROOT", "WEIGHTS"

_DIGITS = "9" * 400
_NUMBERS = (
    "nan", "inf", "-inf", "1e999", "1e308", "-1", "0", _DIGITS, "-" + _DIGITS, "9" * 20,
    "1_0", "٣", "0x10", "12.5", "", " ", "\x1b[31m", "1" + "0" * 5000, "true", "[]",
)  # fmt: skip
_TEXTS = (
    "",
    " ",
    "\x1b[2J\x07",
    "n" * 5000,
    "../..",
    "/etc/passwd",
    "%s%n",
    "\u202egnp",
    "a,b,c,d,e",
)


def _heatmap(*options: str) -> list[str]:
    return ["heatmap", PHOTO, "--out", OUT, *options]


def _flow(token: str, *options: str) -> list[str]:
    return ["flow", PHOTO, "--resolution", "64", "--out", OUT, "--token", token, *options]


def _knockout(tokens: str, *options: str) -> list[str]:
    return ["knockout", PHOTO, "--resolution", "64", "--tokens", tokens, *options]


def latency(*options: str) -> list[str]:
    """The command on an ordinary picture."""
    return ["latency", PHOTO, "--resolution", "64", *options]


def _compare(*options: str) -> list[str]:
    return ["compare", PHOTO, "--resolution", "64", "--out", f"{OUT}.png", *options]


def _evaluate(*options: str) -> list[str]:
    return ["evaluate", "--coco", ROOT, "--resolution", "64", *options]


def _train(*options: str) -> list[str]:
    return ["train", TAR, "--model", "sima_nano_12_p16", "--out", OUT, *options]


def argument_lists() -> list[list[str]]:
    """All of them, each to be run once."""
    found: list[list[str]] = []
    for number in _NUMBERS:
        found += [_heatmap("--layer", number), _heatmap("--resolution", number)]
        # A budget that can be used is used: so the picture is one that is refused then.
        found.append(["latency", "no.png", "--seconds", number])
        found.append(["latency", "no.png", "--threads", number])
        found += [_flow(f"{number},1"), _flow(f"1,{number}"), _knockout(f"{number},1")]
        found += [_flow("1,1", "--head", number), _flow("class", "--layer", number)]
        found += [_flow("1,1", "--opacity", number), _knockout("1,1", "--layer", number)]
    for text in _TEXTS:
        found += [_heatmap("--checkpoint", text), _heatmap("--architecture", text)]
        found += [_compare("--models", text), _evaluate("--layers", text)]
        found += [_flow(text), _knockout(text), _heatmap("--map", text), _evaluate("--maps", text)]
        found.append(_train("--optimizer", text, "--epochs", "0.01", "--no-compile"))
        found += [["heatmap", text, "--out", OUT], ["evaluate", "--coco", text], [text]]
    found += [_knockout("1,1;" * 5000), _knockout("1-4096,1-4096"), _knockout("4-1,1"), _flow("1")]
    found += [_flow("1,1", "--out", where) for where in ("/dev/null", "/proc/x", "n" * 300)]
    found += [_flow("1,1", "--resolution", "4097"), _evaluate("--maps", "query," * 5000)]
    found += [latency("--seconds", "1e-9"), latency("--threads", "20000", "--seconds", "0.1")]
    found += [latency("--seconds", "1e-300"), latency("--device", "cuda\x1b[31m")]
    found += [latency("--dtype", "float128"), latency("--device", "n" * 5000)]
    found.append(["latency", "--sweep", "tokens", "--seconds", "1e-9", "--threads", "1", "--json"])
    found += [
        _compare("--models", "bundled@" + _DIGITS),
        _compare("--models", "bundled@1.x,bundled"),
    ]
    found += [
        _compare("--models", "bundled," * 5000),
        _compare("--models", "bundled@-99,bundled@0"),
    ]
    found += [_evaluate("--limit", number) for number in ("0", "-1", "nan", _DIGITS)]
    found += [_evaluate("--layers", "1," * 5000), _evaluate("--layers", _DIGITS)]
    found += [_evaluate("--json", "/proc/nothing/x"), _evaluate("--plot", "/dev/full.png")]
    for option in ("--epochs", "--learning-rate", "--batch-size", "--seed", "--mix", "--minutes"):
        found += [_train(option, number) for number in ("nan", "1e999", "-1", _DIGITS)]
    found += [["accuracy", TAR, "--resolutions", sizes] for sizes in ("0", "-1", _DIGITS, "1,,2")]
    found += [["coco", "download", "--coco", ROOT, "--ids", number] for number in ("-1", _DIGITS)]
    found += [
        ["coco", "download", "--coco", ROOT, "--ids", "1", "--base-url", url] for url in _URLS
    ]
    found += [["heatmap", PHOTO, "--out", where] for where in ("/dev/null", "/proc/x", "n" * 300)]
    found += [
        ["\x1b[31m" * 40],
        ["--" + "o" * 5000],
        ["heatmap"] + ["no.png"] * 3000 + ["--out", OUT],
    ]
    return found


#: Nobody listens at port 9 of this machine; nothing here leaves it.
_URLS = (
    "http://127.0.0.1:9",
    "file:///etc/passwd",
    "http://127.0.0.1:99999",
    "\x1b[31m",
    "gopher://x",
)
