"""The commands that train: options become settings, and what cannot be done is said."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from cyclopts import App, CycloptsError, Parameter

from sima_core.cli import main
from sima_core.errors import SimaLensError
from sima_core.training.recipe import CARD_RESOLUTIONS, PHASES, Phase, Settings

pytestmark = pytest.mark.usefixtures("one_thread")

MODEL = "sima_nano_12_p16"
OPTIONS = {
    "--model", "--epochs", "--minutes", "--resume", "--seed", "--init", "--batch-size",
    "--learning-rate", "--optimizer", "--resolutions", "--mix", "--coarser", "--compressed",
    "--sharpest", "--device", "--no-compile", "--out",
}  # fmt: skip


@pytest.fixture
def app() -> App:
    """The three commands alone."""
    app = App(name="sima", default_parameter=Parameter(allow_repeating=True))
    for name in ("train", "accuracy", "twins"):
        app.command(f"sima_core.cli.training:{name}", name=name)
    return app


def bound(app: App, *tokens: str) -> dict[str, Any]:
    """What a command would be called with."""
    _, found, _ = app.parse_args(tokens, print_error=False, exit_on_error=False)
    return {**found.arguments}


def test_the_options_of_train_are_its_settings(app: App) -> None:
    found = bound(app, "train", "a", "b.tar", "--model", MODEL, "--out", "there")
    assert found["settings"] == Settings(MODEL)
    assert (found["data"], found["out"]) == ([Path("a"), Path("b.tar")], Path("there"))
    assert found.keys() == {"data", "settings", "out"}
    given = (
        "--epochs 3.5 --seed 4 --batch-size 16 --learning-rate 1e-3 --optimizer adamw --mix 0.1 "
        "--coarser 0.2 --compressed 0.3 --sharpest 200 --resolutions 96,128 --resume --init w.bin "
        "--device cpu --no-compile --model sima_tiny_12_p16 --out there"
    )
    found = bound(app, "train", *given.split(), "a")
    assert found["settings"] == Settings(
        "sima_tiny_12_p16",
        seed=4,
        epochs=3.5,
        batch_size=16,
        optimizer="adamw",
        learning_rate=1e-3,
        mix_probability=0.1,
        coarser_probability=0.2,
        compressed_probability=0.3,
        sharpest_side=200,
        phases=(Phase(1.0, (96, 128)),),
    )
    assert (found["resume"], found["no_compile"], found["device"]) == (True, True, "cpu")
    assert (found["init"], found["data"]) == (Path("w.bin"), [Path("a")])
    minutes = bound(app, "train", "a", "--model", MODEL, "--out", "o", "--minutes", "7")
    assert (minutes["minutes"], minutes["settings"]) == (7.0, Settings(MODEL))


def test_train_has_these_options_and_no_others(app: App) -> None:
    arguments = app["train"].assemble_argument_collection()
    names = {name for argument in arguments if argument.parse for name in argument.names}
    assert {name for name in names if name.startswith("-")} == OPTIONS
    options = {field.name: field.default for field in dataclasses.fields(Settings)}
    assert options["phases"] == PHASES


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("--epochs 1 --minutes 2", r"--epochs.*--minutes"),
        ("--resolutions 100", "multiples of 32"),
        ("--resolutions x", "no whole number"),
        ("--batch-size 12.5", "no whole number"),
        ("--seed -1", "from 0 to"),
        ("--weight-decay 1", "weight-decay"),
        ("--device tpu", "tpu"),
        ("--model none", "no architecture 'none'"),
    ],
)
def test_values_that_train_does_not_take_are_refused(app: App, wrong: str, says: str) -> None:
    options = ["--model", MODEL, "--out", "o", *wrong.split()]
    with pytest.raises((CycloptsError, SimaLensError), match=says):
        bound(app, "train", "a", *options)


def test_lists_of_the_other_commands_are_read(app: App) -> None:
    found = bound(app, "accuracy", "a", "--resolutions", "64,96", "--checkpoint", "w.bin")
    assert (found["resolutions"], found["model"].checkpoint) == ((64, 96), "w.bin")
    found = bound(
        app, "twins", "--out", "o", "--models", "x,y", "--seeds", "3,4", "--resolution", "64", "a"
    )
    assert (found["models"], found["seeds"], found["resolution"]) == (("x", "y"), (3, 4), 64)
    for wrong in (("--seeds", "a"), ("--resolution", "100"), ("--resolution", "64,96")):
        with pytest.raises(CycloptsError, match=wrong[0]):
            bound(app, "twins", "a", "--out", "o", *wrong)


def test_the_command_functions_train_and_measure(
    app: App, flowers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*tokens: str) -> int:
        status: int = app(
            tokens, print_error=False, exit_on_error=False, result_action="return_value"
        )
        return status

    train = ("train", str(flowers), "--model", "deit_nano_patch16_224", "--out", str(tmp_path))
    short = "--batch-size 8 --resolutions 32 --epochs 1 --no-compile"
    assert run(*train, *short.split()) == 0
    told = capsys.readouterr().out
    assert all(f"held out, at {side} px" in told for side in CARD_RESOLUTIONS)
    assert "written: deit_nano_patch16_224.safetensors, CARD.md, log.jsonl, log.png" in told
    weights = str(tmp_path / "deit_nano_patch16_224.safetensors")
    assert run("accuracy", str(flowers), "--checkpoint", weights, "--resolutions", "64") == 0
    assert "at 64 px: " in capsys.readouterr().out
    with pytest.raises(CycloptsError, match=r"from 0\.01 to 100,000"):
        run(*train, "--minutes", "0")
    with pytest.raises(SimaLensError, match="no architecture 'none'"):
        run("twins", str(flowers), "--out", str(tmp_path), "--models", "none")


def test_the_command_trains_measures_and_refuses(
    flowers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    arguments = ["train", str(flowers), "--model", "deit_nano_patch16_224", "--out", out]
    arguments += ["--batch-size", "8", "--resolutions", "32", "--no-compile"]
    assert main([*arguments, "--epochs", "1"]) == 0
    assert "held out, at 224 px" in capsys.readouterr().out
    weights = str(tmp_path / "run" / "deit_nano_patch16_224.safetensors")
    assert main(["accuracy", str(flowers), "--checkpoint", weights, "--resolutions", "64"]) == 0
    assert "at 64 px: " in capsys.readouterr().out
    for wrong, says in (
        (["--epochs", "1"], "already holds a run"),
        (["--epochs", "0"], "from 0.001 to 10,000"),
        (["--epochs", "nan"], "from 0.001 to 10,000"),
        (["--minutes", "0"], "from 0.01 to 100,000"),
        (["--seed", "-1"], "from 0 to 4,294,967,295"),
        (["--optimizer", "none"], "no optimiser 'none'"),
        (["--resolutions", "100"], "multiples of 32"),
        (["--batch-size", "7"], "even"),
        (["--mix", "1.5"], "--mix: expected a number from 0 to 1"),
        (["--sharpest", "0"], "from 32 to 4,096"),
        (["--coarser", "-1"], "--coarser: expected a number from 0 to 1"),
        (["--compressed", "nan"], "--compressed: expected a number from 0 to 1"),
        (["--resume", "--epochs", "2"], "another epochs"),
        (["--resume", "--epochs", "1", "--mix", "0"], "another mix_probability"),
    ):
        assert main([*arguments, *wrong]) == 2
        said = capsys.readouterr().err
        assert says in said
        assert str(tmp_path) not in said
