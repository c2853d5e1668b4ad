"""Every command by name, and the one place where a command's end becomes an exit status."""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cyclopts import (
    App,
    CycloptsError,
    Parameter,
    UnknownCommandError,
    UnusedCliTokensError,
)

from sima_core.cli.options import INTERRUPTED, NOTHING_DONE, OK
from sima_core.cli.streams import discard, harmless_streams, settle, terminations_interrupt
from sima_core.errors import InputError, SimaLensError
from sima_core.files import reason
from sima_core.words import SENTENCE, plain

#: What this program was called by; only an installed package has the short name.
PROGRAM = "sima-lens" if Path(sys.argv[0]).stem == "sima-lens" else "python -m sima_core"

#: The commands in the order of the help: name, where its function (or group) is, what it does.
_COMMANDS = (
    ("heatmap", "pictures:heatmap", "write the Q̂ and K̂ heatmaps of pictures"),
    ("latency", "latency:latency", "time both orders of the product, side by side"),
    ("compare", "pictures:compare", "models, layers or heads on one picture"),
    ("flow", "flow:flow", "whom one token hears and who hears it, exactly"),
    ("knockout", "flow:knockout", "labels when some tokens take no part in attention"),
    ("coco", "coco:coco", "fetch pictures and annotations of COCO 2017"),
    ("evaluate", "coco:evaluate", "score heatmaps against COCO's object masks"),
    ("train", "training:train", "train an architecture on labelled pictures"),
    ("accuracy", "training:accuracy", "how often held-out pictures are named rightly"),
    ("twins", "training:twins", "train SimA and its rivals under one recipe, and compare them"),
    ("models", "pictures:models", "list the architectures"),
)


def _shown(default: Any) -> str | None:
    """How a default stands in the help: not at all for flags and for what need not be given."""
    return None if default is None or default is False else str(default)


app = App(
    name=PROGRAM,
    help="Which image tokens a softmax-free vision transformer (SimA) listens to.",
    help_format="plaintext",
    version_flags=(),
    # As everywhere: no --no-… for a flag, the last of two values counts, and [x].png is a file.
    default_parameter=Parameter(
        negative=(),
        allow_repeating=True,
        json_list=False,
        json_dict=False,
        show_default=_shown,
    ),
)
for _number, (_name, _function, _help) in enumerate(_COMMANDS):
    app.command(f"sima_core.cli.{_function}", name=_name, help=_help, sort_key=_number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status.

    That is 0, 1 if some of several inputs failed, 2 for what cannot be done, 130 if interrupted
    (by Ctrl-C, or asked to end by SIGTERM).

    Args:
        arguments: what stands behind the program's name; else the process's own.
    """
    tokens = sys.argv[1:] if arguments is None else list(arguments)
    harmless_streams()
    try:
        with terminations_interrupt():
            status = _run(tokens)
            sys.stdout.flush()  # here, where it can still be said why it fails
        return status
    except CycloptsError as error:
        return _refuse(_in_words(error, tokens), _see(error.command_chain or ()))
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        discard(sys.stdout)
        return OK
    except SimaLensError as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    except OSError as error:  # what nobody asked for by name: no room behind standard output, …
        return _refuse(f"the system refuses what this command needs: {reason(error)}")
    except SystemExit as stop:  # how rich, which prints the helps, ends in that case
        if isinstance(stop.__context__, BrokenPipeError):
            return OK
        raise


def _run(tokens: list[str]) -> int:
    command, bound, withheld = app.parse_args(tokens, print_error=False, exit_on_error=False)
    if command == app.help_print and not {"--help", "-h"}.intersection(tokens):
        # Nothing was named, or a group and no more.
        raise InputError(f"the following arguments are required: COMMAND {_see(tokens[:1])}")
    try:
        os.getcwd()  # noqa: PTH109
    except OSError:
        raise InputError("the folder that this runs in is gone: change to another one") from None
    for name in withheld:  # a command that tells how it was called
        bound.arguments[name] = tokens
    status: int | None = command(*bound.args, **bound.kwargs)
    return status or OK


def _see(command: Sequence[str]) -> str:
    return f"(see {' '.join((PROGRAM, *command))} --help)"


def _in_words(error: CycloptsError, tokens: Sequence[str]) -> str:
    """What cyclopts says, in one line; what was typed is repeated only as far as it is `plain`."""
    if isinstance(error, UnknownCommandError) and not error.command_chain and error.unused_tokens:
        names = ", ".join(name for name, *_ in _COMMANDS)
        return f'Unknown command "{plain(error.unused_tokens[0], 20)}". Choose from: {names}.'
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return f"Unexpected: {plain(' '.join(error.unused_tokens))}."
    said = str(error)
    typed = {part for token in tokens for part in (token, *token.split("=", 1))}
    for text in sorted(typed, key=len, reverse=True):
        if text != (harmless := plain(text, 40)):
            said = said.replace(text, harmless)
    return " ".join(said.split())


def _refuse(sentence: str, see: str = "") -> int:
    """Say in one line what cannot be done; the end of the line, which helps, is never cut off."""
    said = plain(" ".join(sentence.split()), SENTENCE - len("error:  ") - len(see))
    _say(f"error: {said} {see}".rstrip())
    return NOTHING_DONE


def _say(line: str) -> None:
    with suppress(OSError):  # nobody listens
        print(line, file=sys.stderr)
    settle(sys.stdout, sys.stderr)
