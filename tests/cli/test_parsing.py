"""How what was typed becomes a call, and how a call's end becomes a status and one line."""

import io
import subprocess
import sys
from pathlib import Path

import pytest

from sima_core.cli.app import app, main
from sima_core.coco import download
from sima_core.coco.root import CocoError
from sima_core.errors import DiskError, InputError
from tests.support import ROOT


@pytest.mark.parametrize(
    ("arguments", "sentence", "see"),
    [
        ("", "the following arguments are required: COMMAND", ""),
        ("coco", "the following arguments are required: COMMAND", "coco"),
        ("nonsense", 'Unknown command "nonsense"', ""),
        (
            "nonsense",
            "latency, compare, flow, knockout, coco, evaluate, train, accuracy, twins, models.",
            "",
        ),
        ("coco nonsense", 'Unknown command "nonsense"', "coco"),
        ("heatmap", "requires an argument", "heatmap"),
        ("heatmap x.png", "--out requires an argument", "heatmap"),
        ("heatmap x.png --out", "--out requires an argument", "heatmap"),
        ("heatmap x.png --out o --layr 3", "Did you mean --layer?", "heatmap"),
        ("heatmap x.png --out o --no-layer", "Unknown option: --no-layer", "heatmap"),
        ("heatmap x.png --out o --layer twelve", "'twelve' is no whole", "heatmap"),
        ("heatmap x.png --out o --layer 12.0", "'12.0' is no whole", "heatmap"),
        ("latency x.png --seconds long", "'long' is no number", "latency"),
        ("latency x.png --no-json", "Unknown option: --no-json", "latency"),
        ("latency x.png y.png", "Unexpected: y.png.", "latency"),
        ("latency --sweep heads", 'Choose from: "dim", "tokens"', "latency"),
        ("evaluate --split test2017", 'Choose from: "val2017", "train2017"', "evaluate"),
        ("coco download --ids", "--ids requires at least 1", "coco download"),
        ("coco download --ids 1 two", "'two' is no whole", "coco download"),
        ("coco download --ids 1 --images 2", "Mutually exclusive", "coco download"),
    ],
)
def test_what_cannot_be_parsed_is_one_line(capsys, arguments, sentence, see):
    assert main(arguments.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.endswith(f" (see {' '.join(('python -m sima_core', *see.split()))} --help)\n")
    assert sentence in said.err
    assert said.err.count("\n") == 1


def parsed(arguments: str) -> dict[str, object]:
    _, bound, _ = app.parse_args(arguments.split(), print_error=False, exit_on_error=False)
    return bound.arguments


def test_values_are_taken_as_they_are_meant():
    found = parsed("heatmap [a].png b.png --out=none --layer -1 --resolution 64 --resolution 96")
    assert found["images"] == [Path("[a].png"), Path("b.png")]
    assert found["out"] == Path("none")
    assert (found["layer"], found["resolution"]) == (-1, 96)  # the last one counts
    assert parsed("heatmap --out o -- -a.png")["images"] == [Path("-a.png")]
    assert parsed("coco download --ids 9 1 25 --split train2017")["ids"] == [9, 1, 25]
    latency = parsed("latency x.png --seconds 1e-3 --device none --json")["bench"]
    assert (latency.seconds, latency.device, latency.json) == (1e-3, "none", True)
    assert parsed("evaluate --layers 1,6,-1 --checkpoint none")["layers"] == "1,6,-1"


def download_that_raises(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    def raise_it(*_: object) -> None:
        raise error

    monkeypatch.setattr(download, "download", raise_it)
    return main(["coco", "download", "--coco", "somewhere", "--ids", "1"])


@pytest.mark.parametrize("error", [InputError, CocoError, DiskError])
def test_what_is_said_to_people_is_one_line_and_status_2(monkeypatch, capsys, error):
    assert download_that_raises(monkeypatch, error("There is nothing: look elsewhere.")) == 2
    assert capsys.readouterr().err == "error: There is nothing: look elsewhere.\n"


def test_interruptions_are_said(monkeypatch, capsys):
    assert download_that_raises(monkeypatch, KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_reader_that_has_seen_enough_is_no_error(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert download_that_raises(monkeypatch, BrokenPipeError()) == 0


def test_a_strangers_error_is_not_shown_as_a_sentence(monkeypatch):
    with pytest.raises(ValueError, match="shapes"):
        download_that_raises(monkeypatch, ValueError("shapes (3,) and (4,) do not match"))


@pytest.mark.parametrize(
    ("typed", "asked"), [([], download.BASE_URL), (["--base-url", "http://a.b/"], "http://a.b/")]
)
def test_pictures_are_fetched_from_the_host_that_was_named_or_cocos(monkeypatch, typed, asked):
    hosts = []

    def fetch(*arguments: object) -> download.Report:
        hosts.append(arguments[-1])
        return download.Report(1, 0, {})

    monkeypatch.setattr(download, "download", fetch)
    assert main(["coco", "download", "--coco", "somewhere", "--ids", "1", *typed]) == 0
    assert hosts == [asked]


def test_failed_pictures_are_status_1(monkeypatch, capsys):
    report = download.Report(1, 0, {"2.jpg": "not in val2017"})
    monkeypatch.setattr(download, "download", lambda *_: report)
    assert main(["coco", "download", "--coco", "somewhere", "--ids", "1", "2"]) == 1
    said = capsys.readouterr()
    assert said.err == "'2.jpg': not in val2017\n"
    assert "1 picture(s) fetched, 0 already there, 1 failed" in said.out


def test_a_missing_extra_is_named(coco_root):
    """``evaluate`` where pycocotools, which only COCO needs, is not installed."""
    program = (
        "import sys; sys.modules['pycocotools'] = None; from sima_core.cli import main; "
        "sys.exit(main(['evaluate', '--coco', sys.argv[1]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(coco_root)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "sima-lens[coco]" in done.stderr
