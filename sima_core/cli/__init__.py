"""The command line."""

from sima_core.cli.commands import main

__all__ = ["main"]
