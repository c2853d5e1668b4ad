"""The shape of the house: which room may import which, and what has only one place."""

import ast
import subprocess
import sys
from collections.abc import Iterable
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest
from importlinter.application.use_cases import lint_imports
from importlinter.configuration import configure

import sima_core
from tests.support import ROOT

MOST_LINES = 400
#: Longer files that are one table each.
TABLES: set[str] = set()
#: The kinds of attention, by the names of their classes: ours and timm's.
ATTENTION_CLASSES = {
    "Attention",
    "ClassAttn",
    "ConvAttention",
    "PlainAttention",
    "SimAClassAttention",
    "SimAConvAttention",
    "SimAttention",
    "XCA",
}
#: Where those may be named; everyone else asks a `Lens`.
KNOW_ATTENTION = ("sima_core/attention/", "sima_core/models/", "sima_core/lens/kinds.py")


def sources() -> list[str]:
    """Every module of the program, by its path in the checkout."""
    found = [path for folder in ("sima_core", "app") for path in (ROOT / folder).rglob("*.py")]
    return [path.relative_to(ROOT).as_posix() for path in sorted(found)] + ["app.py"]


def uses(wanted: set[str], paths: Iterable[str]) -> list[str]:
    """Where code uses or imports one of the names; words in texts do not count."""
    found = []
    for path in paths:
        for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8"))):
            match node:
                case ast.Name(id=name) | ast.Attribute(attr=name):
                    pass
                case ast.alias(name=full):
                    name = full.rpartition(".")[2]
                case _:
                    continue
            if name in wanted:
                found.append(f"{path}:{node.lineno}: {name}")
    return found


def test_rooms_import_only_what_lies_below_them(monkeypatch, capsys):
    """The contracts are in pyproject.toml; see ARCHITECTURE.md for the reasons."""
    monkeypatch.syspath_prepend(ROOT)
    configure()
    kept = lint_imports(str(ROOT / "pyproject.toml"), cache_dir=None, no_logo=True)
    assert kept, capsys.readouterr().out


@pytest.mark.parametrize("package", ["sima_core", "app"])
def test_no_module_imports_itself_on_a_way_round(package):
    graph = grimp.build_graph(package, exclude_type_checking_imports=True, cache_dir=None)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    TopologicalSorter(imports).prepare()  # a CycleError names the circle


def modules_after(program: str) -> set[str]:
    """The modules that a fresh Python has loaded after it ran a program."""
    program += "\nimport sys; print('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(done.stdout.split())


def test_importing_sima_core_imports_nothing_heavy():
    heavy = {"torch", "timm", "torchvision", "gradio", "matplotlib", "numpy", "PIL", "cv2"}
    assert not heavy & modules_after("import sima_core")


def test_public_names_need_no_page_and_no_plots():
    loaded = modules_after("from sima_core import *")
    assert "sima_core.lens" in loaded
    assert not {"gradio", "matplotlib", "jinja2"} & loaded


def test_public_names_can_be_had():
    for name in sima_core.__all__:
        assert getattr(sima_core, name).__doc__, f"{name} has no description"


def test_no_module_is_too_long():
    lengths = {path: len((ROOT / path).read_text("utf-8").splitlines()) for path in sources()}
    too_long = {path: n for path, n in lengths.items() if n > MOST_LINES and path not in TABLES}
    assert not too_long, "which two ideas are these?"


def test_environment_is_touched_in_one_place():
    touched = {"environ", "environb", "getenv", "putenv", "unsetenv"}
    found = uses(touched, [path for path in sources() if path != "sima_core/environment.py"])
    assert not found, "environment variables are listed in sima_core/environment.py"


def test_kinds_of_attention_are_known_in_one_place():
    found = uses(ATTENTION_CLASSES, [p for p in sources() if not p.startswith(KNOW_ATTENTION)])
    assert not found, "a new kind of attention is a new row of sima_core/lens/kinds.py"


def test_what_tests_know_about_files_is_true():
    """No exception outlives its file."""
    assert all((ROOT / path).exists() for path in [*KNOW_ATTENTION, *TABLES])
    assert Path(sima_core.__file__).with_suffix(".pyi").exists()
