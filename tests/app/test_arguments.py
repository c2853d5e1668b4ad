"""What a handler is given is checked, whoever calls it and whatever it is."""

import itertools
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import pytest
from gradio.state_holder import SessionState
from PIL import Image

from app import page
from app.arguments import argument_name, read
from app.tabs.explore.samples import sample_photos
from tests.app.asking import call, upload
from tests.app.client import Visitor
from tests.support import ROOT, awaited

GOOD = {"_type": "gradio.FileData"}
#: What stands under ``meta``; the first means that nothing does.
METAS = (
    *("nothing", GOOD, {}, None, [], 7, "gradio.FileData"),
    *({"_type": "FileData"}, {"_type": None}, {**GOOD, "more": 1}),
)


@pytest.fixture(scope="module")
def blocks() -> page.Page:
    return page.build()


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Gradio's folder for uploads, for this process."""
    folder = tmp_path / "uploads"
    folder.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    return folder


@pytest.fixture
def outside(tmp_path: Path, photo_file: Path, uploads: Path) -> Iterator[Path]:
    """A folder of the server's, with a picture that no visitor may see, and links to it."""
    folder = tmp_path / "private"
    yield prepared(folder, uploads, photo_file)
    for pipe in (folder / "pipe", uploads / "ab/inner/pipe.png"):
        os.close(os.open(pipe, os.O_RDWR | os.O_NONBLOCK))  # whoever waits there goes on


def prepared(folder: Path, uploads: Path, photo: Path) -> Path:
    folder.mkdir()
    Image.new("RGB", (64, 48), "red").save(folder / "canary.png")
    (folder / "words.txt").write_text("not for you")
    os.mkfifo(folder / "pipe")
    inside = uploads / "ab"
    inside.mkdir()
    shutil.copy(photo, uploads / "half-written")
    (inside / "inner").mkdir()
    os.mkfifo(inside / "inner/pipe.png")
    (inside / "link.png").symlink_to(folder / "canary.png")
    (inside / "folder").symlink_to(folder)
    (inside / "loop.png").symlink_to(inside / "loop.png")
    (inside / "pipe.png").symlink_to(folder / "pipe")
    (inside / "device.png").symlink_to("/dev/zero")
    return folder


def paths(outside: Path, uploads: Path) -> list[object]:
    """Paths that name no uploaded file."""
    canary, inside = outside / "canary.png", uploads / "ab"
    files = [
        *(canary, outside / "words.txt", outside / "missing.png", outside / "pipe", outside),
        *(inside / "link.png", inside / "folder/canary.png", inside / "loop.png", inside),
        *(
            inside / "pipe.png",
            inside / "device.png",
            inside / "missing.png",
            inside / "link.png/x",
            inside / "inner",
            inside / "inner/pipe.png",
        ),
        *(uploads, uploads / "half-written", uploads / ".." / "private/canary.png"),
        *(inside / "../../private/canary.png", ROOT / "app.py", sample_photos()[0][0]),
        *("/dev/ptmx", "/dev/zero", "/dev/stdin", "/dev/fd/0", "/proc/self/environ", "/etc/passwd"),
    ]
    texts = [
        *("", " ", "/", ".", "..", "~", "app.py", "./app.py", "~/canary.png", "canary.png"),
        *(os.path.relpath(canary), os.path.relpath(canary, uploads), f"./{canary}", f"/{canary}"),
        *(f"file://{canary}", f"file={canary}", f"/gradio_api/file={canary}", f"{canary}\0"),
        *(f"{canary}\n", f"{canary}/", f"{inside}/\0/../../private/canary.png", f" {canary}"),
        *("http://127.0.0.1:1/a.png", "https://example.org/a.png", "ftp://example.org/a.png"),
        *(
            "data:image/png;base64,AAAA",
            "C:\\canary.png",
            "\\\\host\\canary.png",
            "%2Fetc%2Fpasswd",
        ),
        *("/" + "a/" * 3000, "\ud800", str(canary) + "\ud800", "\x1b[31m", "a" * 100_000),
    ]
    others = [0, 1, -1, 2**70, 1.5, True, None, [], {}, [str(canary)], {"path": str(canary)}]
    return [*map(str, files), *texts, *others]


def ways(outside: Path, uploads: Path) -> Iterator[object]:
    """Every way of naming a file that was not uploaded."""
    canary = str(outside / "canary.png")
    for path, meta in itertools.product(paths(outside, uploads), METAS):
        yield {"path": path} | ({} if meta == "nothing" else {"meta": meta})
    for path, meta in itertools.product((canary, "/dev/ptmx"), ({}, {"meta": GOOD})):
        whole = {"path": path, **meta}
        yield from (
            [whole],
            {"image": whole},
            {"path": whole},
            {"file": whole, **meta},
            {**whole, "is_stream": True},
            {**whole, "url": canary},
            {**whole, "url": "http://127.0.0.1:1/a.png"},
            {**whole, "orig_name": "harmless.png", "mime_type": "image/png", "size": 10},
            {"url": path, **meta},
            {"url": f"/gradio_api/file={path}", **meta},
            {"path": None, "url": path, **meta},
            {"PATH": path, **meta},
        )
    yield from (
        *(canary, "", "x", 0, 7, 1.5, True, False, [], [canary], [None], {}, {"meta": GOOD}),
        *("http://127.0.0.1:1/a.png", "data:image/png;base64,AAAA", {"a": [{"path": canary}]}),
        *(float("nan"), float("inf"), 10**400),
    )


def with_a_file(blocks: gr.Blocks) -> list[tuple[gr.block_function.BlockFunction, int]]:
    """The handlers that take a file, and where."""
    return [
        (fn, i)
        for fn in blocks.fns.values()
        for i, component in enumerate(fn.inputs)
        if isinstance(component, gr.Image | gr.File)
    ]


def refused(blocks: gr.Blocks, fn: gr.block_function.BlockFunction, data: list[object]) -> str:
    """The sentence with which a handler of the page answers."""
    with pytest.raises(gr.Error) as caught:
        awaited(blocks.process_api(fn, data))
    assert not caught.value.print_exception
    return str(caught.value.message)


def defaults(fn: gr.block_function.BlockFunction) -> list[object]:
    return [getattr(component, "value", None) for component in fn.inputs]


def test_every_way_of_naming_a_file_of_the_server_gets_the_same_sentence(blocks, outside, uploads):
    handlers = with_a_file(blocks)
    assert {fn.api_name for fn, _ in handlers} >= {"heatmap", "latency", "explore", "use_model"}

    async def ask_all() -> None:
        state = SessionState(blocks)
        for fn, at in handlers:
            name = argument_name(fn, at)
            kind = "file" if isinstance(fn.inputs[at], gr.File) else "picture"
            for way in ways(outside, uploads):
                data = defaults(fn)
                data[at] = way
                with pytest.raises(gr.Error) as caught:
                    await blocks.process_api(fn, data, state)
                wanted = f"{name}: upload a {kind} first, then name the uploaded file."
                assert caught.value.message == wanted, way

    awaited(ask_all())


def test_the_check_opens_nothing(outside, uploads, monkeypatch):
    """A pipe would never answer, a device might do anything."""
    opened = []
    for module, name in ((os, "open"), (os, "listdir"), (os, "scandir")):
        monkeypatch.setattr(module, name, lambda *args, **kwargs: opened.append(args))
    monkeypatch.setattr("builtins.open", lambda *args, **kwargs: opened.append(args))
    for way in ways(outside, uploads):
        with pytest.raises(gr.Error):
            read(gr.Image(render=False), way, "image")
    monkeypatch.undo()
    assert not opened


@pytest.mark.parametrize("meta", METAS, ids=str)
def test_an_uploaded_file_is_taken_whatever_stands_beside_it(photo_file, uploads, meta):
    (uploads / "ab").mkdir()
    path = shutil.copy(photo_file, uploads / "ab/photo.png")
    sent = {"path": str(path), "url": "http://127.0.0.1:1/other.png", "is_stream": True}
    sent |= {} if meta == "nothing" else {"meta": meta}
    for component in (gr.Image(render=False), gr.File(render=False)):
        assert read(component, sent, "image") == str(path)
        assert read(component, None, "image") is None


def test_a_running_app_shows_no_file_of_the_server(app, photo_file, tmp_path):
    """The same from outside, as a stranger would; what was uploaded is shown."""
    [stored] = upload(app, photo_file)
    uploads = tmp_path / "elsewhere"
    uploads.mkdir()
    outside = prepared(tmp_path / "private", uploads, photo_file)
    link = Path(stored).parent / "link.png"
    link.symlink_to(outside / "canary.png")
    try:
        assert isinstance(call(app, "heatmap", [{"path": stored}, 12, 0, 64, "viridis", 0]), list)
        named = [*paths(outside, uploads)[:32], str(link)]
        for path in named:
            for meta in ({}, {"meta": GOOD}):
                sent = {"path": path, **meta}
                found = call(app, "heatmap", [sent, 12, 0, 64, "viridis", 0])
                wanted = "image: upload a picture first, then name the uploaded file."
                assert found["error"] == wanted, (sent, found)
    finally:
        link.unlink()
        os.close(os.open(outside / "pipe", os.O_RDWR | os.O_NONBLOCK))


NUMBERS = ["12", "", "x" * 10_000, [], [12], {}, {"a": 1}, True, 1.5, -1, 10**30, 10**400]
NUMBERS += [float("nan"), float("inf"), -float("inf")]
WRONG = [
    *(("heatmap", "layer", value) for value in [*NUMBERS, 0, 13]),
    *(("heatmap", "head", value) for value in [*NUMBERS, 99]),
    *(("heatmap", "resolution", value) for value in [*NUMBERS, 0, 1e308]),
    *(("heatmap", "opacity", value) for value in [*NUMBERS, 1.0001, "x"] if value != 1.5),
    *(("heatmap", "colormap", value) for value in (5, [], {}, True, "x" * 500, "\ud800", "hot")),
    *(("latency", "layer", value) for value in (None, "1", 99) if value is not None),
    *(("latency", "seconds", value) for value in ("3", [], 0, 21, 1e308, float("nan"), True)),
    ("latency", "resolution", "64"),
]


@pytest.mark.parametrize(("endpoint", "argument", "value"), WRONG, ids=lambda v: ascii(v)[:20])
def test_what_is_wrong_with_which_argument(blocks, uploads, photo_file, endpoint, argument, value):
    (uploads / "ab").mkdir()
    path = shutil.copy(photo_file, uploads / "ab/photo.png")
    [fn] = [fn for fn in blocks.fns.values() if fn.api_name == endpoint]
    data = [{"path": str(path)}, *defaults(fn)[1:]]
    data[list(fn.input_parameter_names).index(argument)] = value
    sentence = refused(blocks, fn, data)
    assert argument in sentence.lower()
    assert len(sentence) <= 200
    assert sentence.isprintable()
    json.dumps(sentence).encode()


def test_the_kind_of_every_input_is_known_and_none_takes_an_object(blocks):
    for fn in blocks.fns.values():
        if fn.fn is None:
            continue
        for i, component in enumerate(fn.inputs):
            if component.stateful:
                continue
            data = defaults(fn)
            data[i] = {"value": 3}
            if isinstance(component, gr.Image | gr.File):
                continue  # above
            assert argument_name(fn, i) in refused(blocks, fn, data)


@pytest.mark.parametrize("given", [[], [1] * 50, None, "text", {}])
def test_the_number_of_arguments(blocks, given):
    [fn] = [fn for fn in blocks.fns.values() if fn.api_name == "heatmap"]
    assert "7 arguments" in refused(blocks, fn, given)


def test_choices_are_not_listed_where_one_is_refused():
    choice = gr.Dropdown([("All heads", 0), ("Head 1", 1)], render=False)
    for wrong in ("x", 7, True, 0.5, [0], "0", "All heads"):
        with pytest.raises(gr.Error) as caught:
            read(choice, wrong, "Head")
        assert "Head 1" not in caught.value.message
    assert read(choice, 1, "Head") == 1
    assert read(choice, 0.0, "Head") == 0


def test_several_choices():
    several = gr.Dropdown([1, 2, 3], multiselect=True, max_choices=2, render=False)
    assert read(several, [2, 2], "Layers") == [2]
    assert read(several, None, "Layers") == []
    for wrong in (2, "2", [4], [True], ["2"], [1, 2, 3], [[1]], [1] * 10_000):
        with pytest.raises(gr.Error, match="Layers must"):
            read(several, wrong, "Layers")


def test_choices_of_one_visitor_are_left_to_the_handler_once_the_visit_is_forgotten():
    head = gr.Dropdown([("All heads", 0)], render=False)
    assert read(head, 5, "Head", open_ended=True) == 5
    for wrong in ("5", [5], True, {}, 2**40):
        with pytest.raises(gr.Error, match="Head must"):
            read(head, wrong, "Head", open_ended=True)


def test_nothing_is_rounded_or_moved_into_bounds():
    slider = gr.Slider(1, 12, step=1, precision=0, render=False)
    assert read(slider, 12.0, "Layer") == 12
    assert read(slider, None, "Layer") is None
    for wrong in (2.5, -1, 13, 12.0001, 1e308):
        with pytest.raises(gr.Error, match="Layer must be a whole number from 1 to 12; got"):
            read(slider, wrong, "Layer")


def test_a_store_is_never_taken_from_the_caller():
    given = []
    with page.Page(analytics_enabled=False) as demo:
        gr.Button().click(given.append, gr.State("ours"), None)
    [fn] = demo.fns.values()
    awaited(demo.process_api(fn, ["theirs"], SessionState(demo)))
    assert given == ["ours"]


def test_a_bug_of_ours_is_a_sentence_and_a_short_note(capfd):
    def handler(text: str) -> None:
        raise ValueError(text * 1000)

    with page.Page(analytics_enabled=False) as demo:
        gr.Button().click(handler, gr.Textbox(), None)
    [fn] = demo.fns.values()
    assert "went wrong" in refused(demo, fn, ["\x1b[31m of a stranger " * 40])
    noted = capfd.readouterr().err
    assert "ValueError" in noted
    assert len(noted) < 10_000
    assert "\x1b" not in noted


@pytest.mark.parametrize(
    "sent", [None, [], 5, "x", {}, {"index": "1"}, {"index": 10**9}, {"picture": "x"}]
)
def test_events_that_the_page_never_sends(app, sent):
    """A click that says too little about what was clicked."""
    with Visitor(app) as visitor:
        for handler in map(visitor.handler, ("pick_sample", "clicked")):
            answer = visitor.call(handler.index, handler.defaults, event_data=sent)
            assert answer.content.startswith("Choose "), answer
