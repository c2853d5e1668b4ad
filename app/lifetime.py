"""What the app does beside answering, from its start until it is told to end."""

import asyncio
import contextlib
import errno
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import gradio as gr
from gradio.processing_utils import save_file_to_cache
from gradio.routes import App

from app.connections import Watch
from app.messages import Mailboxes
from app.sessions import Sessions
from app.sweeping import EVERY, renew, sweep
from app.tabs.explore.samples import sample_photos
from app.uploads import forget_progress
from app.visitors import gradio_folder
from sima_core import environment
from sima_core.errors import InputError
from sima_core.files import is_full, reason
from sima_core.machine import give_back_freed_memory

T = TypeVar("T")

#: Seconds between two looks for what Gradio keeps for pages that do not come back for it, and for
#: freed memory.
CLEAN_EVERY = 20.0
#: Seconds that open connections get to end once the app was told to.
END_SECONDS = 3.0


def or_say_why(start: Callable[[], T]) -> T:
    """What a part of the start gives; where it cannot be, the program ends with a sentence."""
    try:
        return start()
    except InputError as error:
        sys.exit(str(error))
    except OSError as error:
        if not is_full(error) and error.errno not in (errno.EACCES, errno.EROFS):
            raise
        sys.exit(
            f"The app cannot write its files ({reason(error)}): make room, or name another folder "
            f"in {environment.GRADIO_TEMP_DIR.name}."
        )


def with_upkeep(app_kwargs: dict[str, Any]) -> dict[str, Any]:
    """Options of the server's app, with our stores and their upkeep around its life."""
    inner = app_kwargs.get("lifespan")

    @contextlib.asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        async with _upkeep(app), inner(app) if inner else contextlib.nullcontext():
            yield

    return {**app_kwargs, "lifespan": lifespan}


@contextlib.asynccontextmanager
async def _upkeep(app: App) -> AsyncIterator[None]:
    blocks = app.get_blocks()
    app.state_holder = Sessions()
    app.state_holder.set_blocks(blocks)
    boxes = Mailboxes.replace_in(blocks._queue)
    blocks._queue.ANALYTICS_MAX_EVENTS = 0  # nobody reads them, and each event sums them up
    upkeep = _sweep(blocks), _clean(blocks, boxes), Watch().keep(blocks)
    tasks = [asyncio.create_task(one) for one in upkeep]
    # What is here now stays. Were it looked through for garbage again and again, half a million
    # objects at a time, everybody would wait for that half a second each time.
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _sweep(blocks: gr.Blocks) -> None:
    while True:
        try:
            await asyncio.to_thread(_sweep_once, blocks)
        except OSError as error:
            print(f"old files were not deleted: {reason(error)}", file=sys.stderr)
        await asyncio.sleep(EVERY)


def _sweep_once(blocks: gr.Blocks) -> None:
    folder = gradio_folder()
    # Gradio's copies of the samples, which every page asks for, are as old as the samples.
    renew(save_file_to_cache(path, str(folder)) for path, _ in sample_photos())
    renew(path for part in blocks.blocks.values() for path in part.keep_in_cache)
    sweep(folder)
    for known in blocks.temp_file_sets:  # Gradio's lists of what it made, which only grow
        known.difference_update([path for path in list(known) if not Path(path).exists()])


async def _clean(blocks: gr.Blocks, boxes: Mailboxes) -> None:
    while True:
        await asyncio.sleep(CLEAN_EVERY)
        boxes.clean(blocks._queue)
        forget_progress()
        await asyncio.to_thread(give_back_freed_memory)


def end_when_told(demo: gr.Blocks) -> None:
    """On SIGTERM end the app that `demo` is or will be quietly within seconds, whatever it does.

    A forward pass and a measurement run in threads that nothing can stop, so they end with the
    process. Files are written whole or not at all (`sima_core.files`); uploads lie where the next
    start's sweep finds them.
    """

    def end(_signal: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if server := getattr(demo, "server", None):
            demo.server_app.stop_event.set()  # the streams to the pages end
            server.should_exit = True
            server.thread.join(END_SECONDS)
        sys.stdout.flush()
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
