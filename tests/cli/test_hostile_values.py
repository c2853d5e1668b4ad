"""Whatever is typed: one line that names the option and its bounds, and nothing raw of it."""

from collections.abc import Iterator

import pytest

from sima_core.cli.app import app, main
from tests.cli.support import run_here

NUMBERS = ("9" * 400, "99999999999999999999", "nan", "-inf", "1e308", "1e999", "1e-9", "-1.5")
TEXTS = (
    "",
    "x" * 5000,
    "\x1b[31mred",
    "a\nb",
    "\udcff",
    "--",
    "=",
    "," * 3000,
    "{",
    "\u202e",
    "~x/",
)
#: What each command cannot do without.
NEEDED = {
    "heatmap": ["x.png", "--out", "o"],
    "latency": ["x.png"],
    "compare": ["x.png", "--models", "a,b", "--out", "c.png"],
    "flow": ["x.png", "--token", "1,1", "--out", "o"],
    "knockout": ["x.png", "--tokens", "1,1"],
    "coco download": [],
    "evaluate": [],
    "train": ["d", "--model", "sima_nano_12_p16", "--out", "o"],
    "accuracy": ["d"],
    "twins": ["d", "--out", "o"],
}
#: Every option that takes a number, or several.
NUMERIC = {
    "heatmap": ["--layer", "--resolution"],
    "latency": ["--layer", "--resolution", "--seconds", "--threads"],
    "compare": ["--layer", "--resolution", "--seconds"],
    "flow": ["--layer", "--head", "--resolution", "--opacity"],
    "knockout": ["--layer", "--resolution"],
    "coco download": ["--images", "--ids"],
    "evaluate": ["--resolution", "--limit"],
    "train": [
        "--seed", "--epochs", "--batch-size", "--learning-rate", "--mix", "--coarser",
        "--compressed", "--sharpest", "--minutes", "--resolutions",
    ],
    "accuracy": ["--resolutions"],
    "twins": ["--epochs", "--seeds", "--resolution"],
}  # fmt: skip

#: Those that take one billionth, too.
TINY = ("--opacity", "--learning-rate", "--mix", "--coarser", "--compressed")


def in_one_line(said: str) -> bool:
    return len(said) <= 200 and said.endswith("\n") and said[:-1].isprintable()


@pytest.mark.parametrize(
    ("command", "option"), [(name, option) for name in NUMERIC for option in NUMERIC[name]]
)
def test_numbers_out_of_bounds_are_refused_by_the_parser(capsys, command, option):
    for value in NUMBERS:
        if value == "1e-9" and option in TINY:
            continue
        assert main([*command.split(), *NEEDED[command], f"{option}={value}"]) == 2, value
        said = capsys.readouterr().err
        assert in_one_line(said), said
        assert f"Invalid value for {option}: " in said
        assert " number from " in said


def options() -> Iterator[tuple[str, str]]:
    for command in NEEDED:
        found = app
        for name in command.split():
            found = found[name]
        for argument in found.assemble_argument_collection():
            if argument.parse:
                yield from ((command, name) for name in argument.names if name.startswith("--"))


@pytest.mark.parametrize(("command", "option"), list(options()))
def test_whatever_is_typed_the_parser_takes_it_or_refuses_it_in_one_line(
    monkeypatch, capsys, command, option
):
    """What it takes is not run here."""
    monkeypatch.setattr("sima_core.cli.app.app", _Parsing())
    for value in (*NUMBERS, *TEXTS):
        status = main([*command.split(), *NEEDED[command], option, value])
        said = capsys.readouterr().err
        assert status == 0 or (status == 2 and in_one_line(said)), (value, said)


class _Parsing:
    """The app, whose commands do nothing."""

    help_print = None

    def parse_args(self, *args, **options):
        _, bound, _ = app.parse_args(*args, **options)
        return (lambda *_, **__: 0), bound, {}


@pytest.mark.parametrize("hostile", ["\x1b[2J", "x" * 10**5, "a\nb\rc", "\udcff\u202e"])
def test_words_that_mean_nothing_are_not_repeated_raw(capsys, hostile):
    for words in ([hostile], ["coco", hostile], ["models", hostile], ["models", f"--{hostile}"]):
        assert main(words) == 2
        assert in_one_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    "models",
    ["bundled@x", "@", "bundled@6.x", "a@1@2", "bundled,", ",,", "bundled", "\x1b[1m,bundled",
     "bundled," * 1000 + "bundled", "bundled@99999,bundled", "bundled@6.,bundled"],
)  # fmt: skip
def test_models_that_compare_cannot_make_out(models, photo_file, tmp_path):
    done = run_here("compare", photo_file, "--models", models, "--out", tmp_path / "c.png")
    assert done.returncode == 2
    assert in_one_line(done.stderr)
    assert not (tmp_path / "c.png").exists()
