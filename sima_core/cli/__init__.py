"""The command line, ``sima-lens`` or ``python -m sima_core``: a module for each group of commands.

A command is a function; its signature is what it takes. `app` lists all of them by name and imports
one when it is asked for. Inside the commands' modules, what is heavy (torch, timm, numpy, PIL) is
imported by the functions that need it, so that nobody waits for it to read a help.
"""

from sima_core.cli.app import main

__all__ = ["main"]
