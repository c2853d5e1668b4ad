"""The helps: there for every command, fast, and in line with what they describe."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import get_args

import pytest
from cyclopts import App

from sima_core import comparison
from sima_core.bench.sweeps import DTYPES, SWEEP_SIZES
from sima_core.cli import options
from sima_core.cli.app import app, main
from sima_core.lens import maps
from tests.cli.support import run
from tests.support import ROOT


def all_commands(group: App = app, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name in group:
        if name.startswith("-"):
            continue
        if group[name].default_command:
            yield (*before, name)
        else:
            yield from all_commands(group[name], (*before, name))


COMMANDS = list(all_commands())

#: What takes long to import, and what a help does without.
HEAVY = "torch torchvision timm numpy matplotlib PIL cv2 safetensors tqdm httpx2 pycocotools gradio"
ASK_FOR_EVERY_HELP = f"""
import contextlib, io, json, sys
from sima_core.cli import main

heavy = {{}}
for command in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()):
        assert main([*command, "--help"]) == 0
    heavy[" ".join(command)] = [name for name in {HEAVY.split()!r} if name in sys.modules]
print(json.dumps(heavy))
"""


def test_helps_import_nothing_heavy():
    asked = [[], ["coco"], *map(list, COMMANDS)]
    command = [sys.executable, "-c", ASK_FOR_EVERY_HELP, json.dumps(asked)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {" ".join(names): [] for names in asked}


def test_the_help_names_every_command():
    done = run("--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: python -m sima_core COMMAND")
    for name, *_ in COMMANDS:
        assert f" {name} " in done.stdout


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_a_help_and_stands_in_the_readme(command, capsys):
    assert main([*command, "-h"]) == 0
    called = " ".join(("python -m sima_core", *command))
    said = capsys.readouterr().out
    assert said.startswith(f"Usage: {called}")
    assert "[default: False]" not in said
    readme = (ROOT / "README.md").read_text("utf-8")
    assert called in readme


def test_a_reader_that_has_seen_enough_of_a_help_is_no_error():
    command = [sys.executable, "-m", "sima_core", "--help"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_the_choices_that_options_name_are_those_of_the_rooms():
    assert get_args(options.Dtype) == tuple(sorted(DTYPES))
    assert get_args(options.SweepOver) == tuple(sorted(SWEEP_SIZES))
    assert get_args(options.MapName) == get_args(maps.MapName) == tuple(maps.MAPS)
    assert get_args(options.MapKind) == get_args(comparison.MapKind)
