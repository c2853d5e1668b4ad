"""The README and docs/ say what is so: tables, commands, snippets, links, versions."""

import contextlib
import functools
import io
import json
import pkgutil
import re
import shlex
import tomllib
from collections.abc import Iterator
from itertools import takewhile
from types import SimpleNamespace

import pytest
import yaml

import sima_core
from sima_core.bench.timing import Ratio
from sima_core.cli import main
from sima_core.environment import VARIABLES
from sima_core.experiments import targets
from sima_core.experiments.twins import TWINS, twins_table
from sima_core.lens.maps import MAPS
from sima_core.scoring.metrics import METRICS
from sima_core.scoring.standing import Distribution
from sima_core.scoring.summary import CHECK_NAMES, METRIC_NAMES, skipped_in_words
from tests.support import ROOT, attention_layers

#: What is said of the program as it is now; the changelog tells of what was, too.
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "assets").rglob("*.md"),
    ]
    if path.name != "CHANGELOG.md"
)
#: How the tables of docs/evidence.md call the maps.
MAP_NAMES = {
    **{name: of.title for name, of in MAPS.items()},
    "query": "Q̂ (query)",
    "key": "K̂ (key)",
    "centre": "centre Gaussian",
    "random": "random map",
    "uniform": "uniform map",
}
MAP_NAMES |= {f"untrained_{name}": f"{MAP_NAMES[name]}, random weights" for name in MAPS}
#: Programs of other people that our pages name.
OTHER_PROGRAMS = {"pip", "git", "mkdir", "cp"}


def text(document: str) -> str:
    return (ROOT / document).read_text("utf-8")


def one_line(document: str) -> str:
    return " ".join(text(document).split())


def tables(document: str) -> list[list[list[str]]]:
    """The cells of each table of a document; the rule under the heading is left out."""
    found = re.findall(r"(?:^\|.*\|$\n?)+", text(document), re.M)
    rows = ([[c.strip() for c in r[1:-1].split("|")] for r in t.splitlines()] for t in found)
    return [[row for row in table if set(row[0]) != set("-")] for table in rows]


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text(document), re.M | re.S)


# Tables beside what prints them; that of docs/models.md is in cli/test_commands.py.


@pytest.mark.parametrize(("number", "split"), [(0, "val2017"), (1, "train2017")])
def test_evidence_tables_are_the_evidence(number, split):
    found = json.loads(text(f"assets/evidence_{split}.json"))
    heading, *rows = tables("docs/evidence.md")[number]
    assert heading == ["map", *METRIC_NAMES.values()]
    expected = [
        [MAP_NAMES[name], *(f"{of[m]:.3f} ({ci(of, m)})" for m in METRICS)]
        for name, of in found["maps"].items()
    ]
    assert rows == expected
    said = f"{found['images']} pictures; left out: {skipped_in_words(found['skipped'])}."
    command = f"`python -m sima_core evaluate --split {split} --maps all`"
    assert f"{command}: {said}" in one_line("docs/evidence.md")


def test_table_of_the_checks_is_the_evidence():
    ours, twin = (
        json.loads(text(f"assets/{folder}sanity_val2017.json"))["sanity"]
        for folder in ("", "twins/")
    )
    found = [*ours.values(), twin["query"], twin["key"]]
    heading, *rows = tables("docs/evidence.md")[2]
    assert heading == ["map", *(name.replace("/", "÷") for name in CHECK_NAMES.values())]
    assert [row[1:] for row in rows] == [
        [str(Distribution(tuple(of[c]))) if c in of else "–" for c in CHECK_NAMES] for of in found
    ]


def ci(of: dict[str, list[float]], metric: str) -> str:
    low, high = of[f"{metric}_ci"]
    return f"{low:.3f} to {high:.3f}"


def test_environment_table_is_the_list_of_variables():
    [[heading, *rows]] = tables("docs/environment.md")
    assert heading == ["variable", "default", "meaning"]
    assert rows == [[f"`{v.name}`", v.default or "–", v.meaning] for v in VARIABLES]


def test_figures_in_the_readme_and_the_guide_are_those_measured():
    maps = json.loads(text("assets/evidence_val2017.json"))["maps"]
    sanity = json.loads(text("assets/sanity_val2017.json"))["sanity"]
    best, query = (maps[name]["energy_lift"] for name in ("class_contribution", "query"))
    for document in ("README.md", "app/tabs/explore/tab.py"):
        said = one_line(document)
        assert f"energy lift {best:.2f} on COCO" in said
        assert f"{query:.2f} for Q̂" in said
        assert f"rank correlation {sanity['key']['sent'][5]:.2f}" in said
        assert f"what arrives ({sanity['query']['received'][5]:.2f})" in said


def test_how_much_is_negative_is_what_was_measured():
    deciles = json.loads(text("assets/sanity_val2017.json"))["sanity"]["query"]["negative"]
    low, median, high = (f"{100 * deciles[i]:.0f}" for i in (1, 5, 9))
    assert f"{median} % ({low} to {high}) of its weight" in one_line("docs/evidence.md")


def test_maps_table_is_the_registry():
    heading, *rows = tables("docs/flow.md")[-1]
    assert heading == ["name", "formula", "what it says, and cannot say"]
    assert rows == [[f"`{m.name}`", m.formula, m.says] for m in MAPS.values()]


def test_weights_table_is_the_cards(model):
    [[title, *rows]] = tables("docs/weights.md")
    said = dict(map(tuple, rows))
    card = {row[0]: row[1] for row in tables("assets/CARD.md")[0]}
    figures = {row[0]: row[1:] for row in tables("assets/CARD.md")[2]}
    first = [figures[name][0] for name in ("top-1 at 160 px", "at 224 px", "at 320 px")]
    megabytes = (ROOT / title[0].strip("`")).stat().st_size / 1e6
    depth = len(attention_layers(model))

    assert said["size"] == (
        f"width {model.embed_dim}, {depth} layers + {len(model.cls_attn_blocks)} class-attention "
        f"layers, {model.blocks[0].attn.num_heads} heads, patch 16; 2.95 M parameters, "
        f"{megabytes:.1f} MB in float16"
    )
    assert "2.95 M parameters in float16 (6.0 MB)" in card["architecture"]
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(2.95, abs=0.005)
    assert said["classes"].startswith(f"{len(json.loads(text('assets/labels.json')))}: ")
    photographs = re.findall(r"\d+,\d+", said["data"])
    assert set(photographs) <= set(re.findall(r"\d+,\d+", card["data"]))
    held_out = "; ".join(card[f"held-out at {side} px"] for side in (160, 224, 320))
    top1 = [share.replace("%", " %") for share in re.findall(r"(\d+\.\d%) top-1", held_out)]
    assert re.findall(r"\d+\.\d %", said["top-1 of 4,199 held-out pictures, centre crop"]) == top1
    assert held_out.count("of 4,199 (") == 3
    assert said["the first checkpoint, on the same pictures"].split(", ") == first


def test_twins_table_has_the_twins():
    [[heading, *rows]] = tables("docs/training.md")
    assert [heading] == [[c.strip() for c in twins_table([]).splitlines()[0][1:-1].split("|")]]
    assert [row[0] for row in rows] == [f"`{name}`" for name in TWINS]


def test_targets_table_has_the_targets(monkeypatch):
    """Names and what is asked, in order; times are made up, and few tokens take the memory."""
    same = Ratio(1.0, 1.0, 1.0, 5)
    timings = SimpleNamespace(ratio=lambda name, to: same)
    monkeypatch.setattr(targets, "measure", lambda *args, **options: timings)
    in_full = targets._MEMORY_PROGRAM
    monkeypatch.setattr(targets, "_MEMORY_PROGRAM", in_full.replace(str(targets.MANY_TOKENS), "49"))
    found = [(target.name, target.asked) for target in targets.measure_targets()]

    [printed] = blocks("docs/speed.md", "")
    rows = (re.split(r"\s{2,}", line.strip()) for line in printed.splitlines()[1:])
    assert [(row[0], row[1]) for row in rows] == found


# Commands


def commands(document: str) -> Iterator[list[str]]:
    """Every command line that a document names, in its blocks or within a sentence."""
    for block in blocks(document, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words
    prose = " ".join(re.sub(r"^```.*?^```$", "", text(document), flags=re.M | re.S).split())
    for command in re.findall(r"`((?:python -m sima_core|sima-lens|make) [^`]+)`", prose):
        yield shlex.split(command)


@functools.cache
def help_of(*command: str) -> str:
    """What `COMMAND --help` prints, with room for every word."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setenv("COLUMNS", "200")
        try:
            status = main([*command, "--help"])
        except SystemExit as left:
            status = left.code
    assert not status, f"there is no command {' '.join(command)}"
    return printed.getvalue()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_exist(document):
    targets_of_make = re.findall(r"^([a-z]+):", text("Makefile"), re.M)
    for words in commands(document):
        if words[:3] == ["python", "-m", "sima_core"]:
            arguments = words[3:]
        elif words[0] == "sima-lens":
            arguments = words[1:]
        elif words[:2] == ["python", "-m"] and words[2].startswith("tests."):
            program = text(words[2].replace(".", "/") + ".py")
            missing = [w for w in words if w.startswith("--") and f'"{w}"' not in program]
            assert not missing, words
            continue
        elif words[0] == "make":
            assert set(words[1:]) <= set(targets_of_make), words
            continue
        else:
            assert words[0] in OTHER_PROGRAMS, words
            continue
        command = arguments[: 2 if arguments[0] == "coco" else 1]
        assert re.search(rf"\b{command[0]}\b", help_of()), words
        for option in takewhile(lambda word: word != "--", arguments):
            if option.startswith("--"):
                offered = help_of(*command)
                assert re.search(rf"{option}\b", offered), f"{' '.join(words)}: no {option}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_options_in_sentences_exist(document):
    every = [help_of(*command) for command in every_command(help_of())]
    for option in re.findall(r"`(--[a-z-]+)[^`]*`", text(document)):
        assert any(re.search(rf"{option}\b", offered) for offered in every), option


def every_command(listed: str) -> list[tuple[str, ...]]:
    names = ["heatmap", "latency", "compare", "flow", "knockout", "evaluate", "train", "accuracy"]
    names += ["twins", "models"]
    assert all(re.search(rf"\b{name}\b", listed) for name in names)
    return [(), ("coco", "download"), *((name,) for name in names)]


def test_every_command_and_option_is_documented():
    """The other way round: docs/command-line.md and the pages it names leave nothing out."""
    said = "\n".join(text(document) for document in DOCUMENTS)
    for command in every_command(help_of()):
        for option in set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", help_of(*command))):
            if option not in ("--help", "--version"):
                assert re.search(rf"{option}\b", said), f"{' '.join(command)} {option}"


# Snippets, links and names


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if blocks(name, "python")])
def test_snippets_run(document, photo, tmp_path, monkeypatch):
    """From top to bottom, in a folder with a photo; those that call a server are app/'s tests'."""
    photo.save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    for block in blocks(document, "python"):
        if "gradio_client" not in block:
            exec(compile(block, document, "exec"), namespace)
    if "query.png" in text(document):
        assert (tmp_path / "query.png").exists()


@pytest.mark.parametrize("document", [*DOCUMENTS, "CHANGELOG.md"])
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text(document)):
        if not re.match(r"https?://", target):
            assert ((ROOT / document).parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_and_names_exist(document):
    for path in re.findall(r"`((?:sima_core|app|tests|assets|docs)/[\w./]*)`", text(document)):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"`(sima_core(?:\.\w+)+)", text(document)):
        with contextlib.suppress(AttributeError, ImportError):
            pkgutil.resolve_name(name)
            continue
        raise AssertionError(name)


def test_readme_is_one_page():
    assert len(text("README.md").splitlines()) <= 120


# What is said in several files


def test_linters_before_a_commit_are_those_of_the_tests():
    pins = dict(re.findall(r"^([\w-]+)==(.+)$", text("requirements-dev.txt"), re.M))
    repositories = yaml.safe_load(text(".pre-commit-config.yaml"))["repos"]
    [ruff] = (r for r in repositories if r["repo"].endswith("/ruff-pre-commit"))
    assert ruff["rev"] == f"v{pins['ruff']}"
    assert [hook["id"] for hook in ruff["hooks"]] == ["ruff-check", "ruff-format"]
    [mypy] = (hook for r in repositories for hook in r["hooks"] if hook["id"] == "mypy")
    assert (mypy["entry"], mypy["language"]) == (".venv/bin/mypy", "system")  # the pinned one


def test_pythons_tested_are_those_supported():
    project = tomllib.loads(text("pyproject.toml"))["project"]
    workflow = yaml.safe_load(text(".github/workflows/ci.yml"))
    tested = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    named = [c.rpartition(" ")[2] for c in project["classifiers"] if "Python ::" in c]
    assert tested == named
    assert project["requires-python"] == f">={tested[0]}"


def test_citation_names_the_paper():
    citation = yaml.safe_load(text("CITATION.cff"))
    [paper] = citation["references"]
    assert citation["license"] == tomllib.loads(text("pyproject.toml"))["project"]["license"]
    assert paper["title"] == "SimA: Simple Softmax-free Attention for Vision Transformers"
    assert "2206.08898" in paper["url"]


def test_changelog_knows_this_version():
    assert f"## [{sima_core.__version__}]" in text("CHANGELOG.md")
