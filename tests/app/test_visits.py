"""Which visits the app remembers, and what is said to those that it does not."""

import asyncio
import functools
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
import torch
from gradio.server_messages import HeartbeatMessage, ProcessCompletedMessage
from playwright.sync_api import expect
from safetensors.torch import save_model

from app import page as the_page
from app import visitors
from app.messages import Mailboxes
from app.own_checkpoint import begin_again
from app.sessions import CLOSED_SECONDS, FORGET_SECONDS, Sessions
from app.tabs import compare, latency
from app.tabs.coco import picture as coco
from app.tabs.explore.look import download, explore
from app.viewer import Photo
from app.visit import Look, Visit
from app.visitors import FORGOTTEN
from sima_core.errors import InputError
from sima_core.models.architectures import create_model
from sima_core.weights.cache import ModelGoneError
from tests.app.client import Visitor, file_data
from tests.app.driving import look, norms
from tests.support import awaited


class Sized(SimpleNamespace):
    """Something in a store that takes `num_bytes`."""


@pytest.fixture
def stores():
    """A page of one button and two stores, and what was said to be dropped."""
    dropped: list[object] = []
    with gr.Blocks(analytics_enabled=False) as demo:
        held, key = gr.State(), gr.State(FORGOTTEN, delete_callback=dropped.append)
        gr.Button()

    def sessions(**limits: int) -> Sessions:
        made = Sessions(**limits)
        made.set_blocks(demo)
        return made

    return SimpleNamespace(sessions=sessions, held=held._id, key=key._id, dropped=dropped)


def test_strangers_push_out_no_visit(stores):
    sessions = stores.sessions()
    sessions["visitor"][stores.key] = "mine"
    for _ in range(2000):
        sessions[uuid.uuid4().hex]
    assert sessions["visitor"][stores.key] == "mine"
    assert len(sessions.session_data) <= sessions.max_passing + 1
    assert not stores.dropped


def test_visits_that_lose_least_go_first(stores):
    sessions = stores.sessions(max_visits=4)
    for name, value in (("has", 9), ("closed", 9), ("plain", 0), ("newer", 9)):
        sessions[name][stores.held] = Sized(num_bytes=value)
        sessions[name][stores.key] = name if value else None
    sessions["closed"].is_closed = True
    sessions.session_data["closed"].last_used -= CLOSED_SECONDS + 1
    left = []
    for i in range(4):
        sessions[f"next{i}"][stores.held] = Sized(num_bytes=9)
        left.append({n for n in ("has", "closed", "plain", "newer") if n in sessions.session_data})
    assert left == [{"has", "plain", "newer"}, {"has", "newer"}, {"newer"}, set()]
    assert stores.dropped == ["closed", None, "has", "newer"]  # their models may go


def test_a_page_that_comes_back_is_open_again(stores):
    sessions = stores.sessions()
    sessions["phone"][stores.held] = Sized(num_bytes=9)
    sessions.session_data["phone"].is_closed = True
    assert not sessions["phone"].is_closed  # asked for again


def test_what_all_visits_keep_is_bounded(stores):
    sessions = stores.sessions(max_bytes=100)
    sessions["empty"][stores.held] = Sized(num_bytes=0)
    for i in range(5):
        sessions[f"v{i}"][stores.held] = Sized(num_bytes=40)
    assert set(sessions.session_data) == {"empty", "v3", "v4"}
    sessions["v3"][stores.held] = Sized(num_bytes=70)  # it grew: another goes, never itself
    assert set(sessions.session_data) == {"empty", "v3"}
    assert sessions["v4"][stores.key] == FORGOTTEN


def test_a_closed_visit_is_forgotten_after_an_hour_without_use(stores):
    sessions = stores.sessions()
    for name in ("closed", "back", "open"):
        sessions[name][stores.key] = name
        sessions[name].is_closed = name != "open"
        sessions.session_data[name].last_used -= FORGET_SECONDS + 1
    assert sessions["back"]  # its connection broke, and it goes on
    sessions.delete_all_expired_state()
    assert set(sessions.session_data) == {"open", "back"}
    assert stores.dropped == ["closed"]


def test_a_run_that_outlives_its_session_neither_loses_nor_reverts_anything(stores):
    sessions = stores.sessions()
    running = sessions["a"]
    running[stores.key] = "old"
    sessions._forget("a")
    running[stores.held] = Sized(num_bytes=1)
    assert sessions["a"] is running
    sessions._forget("a")
    sessions["a"][stores.key] = "new"
    running[stores.held] = Sized(num_bytes=2)
    assert sessions["a"][stores.key] == "new"


def test_a_session_takes_little_time_and_memory(stores):
    """Gradio's own keeps the configuration of every component."""
    session = stores.sessions()["a"]
    session[stores.held] = Sized(num_bytes=1)
    session._update_value_in_config(stores.held, "x" * 1000)
    assert not session.config_values
    assert not list(session.components)


def test_opening_a_page_copies_no_visitors_model():
    """Gradio copies the configuration of all components for it."""
    copied = []

    class Watched(SimpleNamespace):
        def __deepcopy__(self, memo):
            copied.append(self)

    key = visitors.MODELS.add(Watched(model=torch.nn.Linear(1, 1)))
    with gr.Blocks(analytics_enabled=False) as demo:
        visit = Visit.begin()
        visit.layer.render()
    gr.utils.safe_deepcopy(demo.get_config_file())
    assert not copied
    visit.model_key.delete_callback(key)
    with pytest.raises(ModelGoneError):
        visitors.MODELS.get(key)


def test_what_a_look_keeps_is_counted(tmp_path, photo_file):
    seen = look(str(photo_file), None, 64)
    norms = [t for n in seen.analysis.norms.values() for t in (n.query, n.key)]
    assert seen.num_bytes == len(seen.photo.uri) + sum(t.numel() * 4 for t in norms)


def test_what_is_downloaded_has_the_photo_itself(photo_file):
    exact = visitors.load_image(photo_file)
    found = visitors.bundled().analyze(exact, 64)
    again = Look.of(str(photo_file), Photo.of(exact), found).with_photo()
    assert np.array_equal(np.asarray(exact), np.asarray(again.image))
    assert again.norms is found.norms


FORGETTING = "visit was forgotten.*choose the photo again.*load your checkpoint again"


def test_a_forgotten_visit_is_told_so_everywhere(photo_file):
    path, key = str(photo_file), FORGOTTEN
    for handler in (
        lambda: explore(path, None, key, 64),
        lambda: download(None, 12, 0, "gray", 0.5),
        lambda: list(latency.measure_orders(None, key, 12, 64, 1)),
        lambda: list(latency.measure_orders(look(path, None, 64), key, 12, 64, 1)),
        lambda: list(latency.curve(None, key, 12, 64)),
        lambda: compare.run(
            None, key, compare.OF_LAYERS, [compare.MINE], [1, 2], [], 12, "Token norms", 64
        ),
        lambda: compare.draw(None, "gray", key),
        lambda: coco.draw(None, 12, coco.ALL_OBJECTS, key),
    ):
        with pytest.raises(InputError, match=FORGETTING) as caught:
            handler()
        assert len(str(caught.value)) <= 200


def test_a_visit_begins_again_in_plain_sight():
    key, note, *_ = begin_again(FORGOTTEN)
    assert key is None
    assert "sima_nano_12_p16" in note
    for known in (None, "a model's key"):
        assert begin_again(known) == (gr.skip(),) * 4


@contextmanager
def mailboxes(max_bytes: int = 10_000):
    """Mailboxes inside a stand-in for Gradio's queue."""
    queue = SimpleNamespace(pending_event_ids_session={}, event_ids_to_events={})
    boxes = Mailboxes.replace_in(queue)
    boxes.max_bytes = max_bytes
    yield boxes, queue


def done(size: int) -> ProcessCompletedMessage:
    """A result of so many letters."""
    return ProcessCompletedMessage(output={"data": ["x" * size]}, success=True)


def test_unread_messages_are_bounded():
    async def fill() -> list[int]:
        with mailboxes() as (boxes, _):
            for name in ("a", "b"):
                boxes[name] = asyncio.Queue()
            boxes["a"].put_nowait(done(500))
            for _ in range(20):
                boxes["b"].put_nowait(done(2000))
                assert boxes.num_bytes <= 10_000
            read = [await boxes["a"].get()]
            assert len(read[0].output["data"][0]) == 500  # the greedy one paid
            boxes["b"].discard()
            return [boxes.num_bytes, boxes["b"].qsize()]

    assert awaited(fill()) == [0, 0]


def test_messages_that_nobody_fetches_are_forgotten():
    async def leave() -> tuple[set[str], set[str]]:
        with mailboxes() as (boxes, queue):
            for name in ("gone", "waiting", "reading"):
                boxes[name] = asyncio.Queue()
                boxes[name].put_nowait(HeartbeatMessage())
                queue.pending_event_ids_session[name] = {f"event of {name}"}
                boxes[name].last_used -= 100
            queue.event_ids_to_events["event of waiting"] = object()
            await boxes["reading"].get()
            boxes.clean(queue)
            return set(boxes), set(queue.pending_event_ids_session)

    kept, events = awaited(leave())
    assert kept == events == {"waiting", "reading"}


@pytest.fixture(scope="module")
def demo() -> Iterator[gr.Blocks]:
    """The page, served by this process."""
    demo = the_page.build()
    with pytest.MonkeyPatch.context() as patch:
        in_background = functools.partialmethod(
            gr.Blocks.launch, prevent_thread_lock=True, quiet=True
        )
        patch.setattr(gr.Blocks, "launch", in_background)
        the_page.launch(demo)
    yield demo
    demo.close(verbose=False)


def test_a_visitors_checkpoint_is_never_swapped(demo, tmp_path, photo_file):
    checkpoint = tmp_path / "mine.safetensors"
    save_model(create_model("sima_tiny_12_p16"), checkpoint)
    visitor = Visitor(demo.local_url)
    visitor.begin()
    loading, looking = visitor.handler("use_model"), visitor.handler("explore")
    own = file_data(visitor.upload(checkpoint))
    assert visitor.call(loading.index, loading.given(checkpoint=own)).done
    photo = file_data(visitor.upload(photo_file))

    def model_of_a_look() -> str:
        answer = visitor.call(looking.index, looking.given(photo=photo, resolution=112))
        if not answer.done:
            return answer.content
        [look] = [
            value
            for value in demo.state_holder[visitor.session].state_data.values()
            if isinstance(value, Look)
        ]
        return look.analysis.name

    assert model_of_a_look() == "sima_tiny_12_p16"
    stranger = Visitor(demo.local_url)
    drawing = stranger.handler("draw")
    for _ in range(205):
        stranger.session = uuid.uuid4().hex
        stranger.join(drawing.index, drawing.defaults)
    assert model_of_a_look() == "sima_tiny_12_p16"
    models = len(visitors.MODELS)

    demo.state_holder._forget(visitor.session)
    assert len(visitors.MODELS) == models - 1
    for _ in range(2):
        assert re.search(FORGETTING, model_of_a_look())
    assert visitor.call(
        visitor.handler("begin_again").index, [None]
    ).done  # which the page asks for by itself
    assert model_of_a_look() == "sima_nano_12_p16"


@pytest.mark.browser
def test_the_page_of_a_forgotten_visit_says_so_and_goes_on(demo, page, tmp_path):
    checkpoint = tmp_path / "mine.safetensors"
    save_model(create_model("sima_tiny_12_p16"), checkpoint)
    page.goto(demo.local_url)
    page.get_by_role("button", name="Use your own checkpoint").click()
    page.locator("#explore-settings input[type=file]").set_input_files(checkpoint)
    summary = page.locator("#explore .sl-summary")
    expect(summary).to_contain_text("sima_tiny_12_p16", timeout=30_000)
    before = norms(page)

    for name in list(demo.state_holder.session_data):
        demo.state_holder._forget(name)
    page.locator("#samples button").nth(1).click()
    expect(page.locator(".toast-body")).to_contain_text("load your checkpoint again")
    assert norms(page) == before
    expect(page.locator("#explore-settings")).to_contain_text("In use: sima_nano_12_p16")
    page.locator("#samples button").nth(2).click()
    expect(summary).to_contain_text("sima_nano_12_p16", timeout=30_000)
