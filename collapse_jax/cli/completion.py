"""What makes a shell complete the command line: a script that shtab writes from the parser itself."""

import argparse
from collections.abc import Iterator
from typing import Any

from collapse_jax.config import schema
from collapse_jax.core.errors import MissingExtraError


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for `shell`, bash, zsh or fish: commands, flags, files, folders, and the names of settings.

    Raises:
      MissingExtraError: the extra ``completion`` is missing.
    """
    try:
        import shtab
    except ImportError as error:
        words = "completion needs an optional package: pip install 'collapse-jax[completion]'"
        raise MissingExtraError(words) from error
    names = [spec.kind for spec in schema.spec_types("setting")]
    for action in _actions(parser):
        if action.metavar in ("CONFIG", "FILE", "OLD"):
            _complete(action, shtab.FILE)
        elif action.metavar == "DIR":
            _complete(action, shtab.DIRECTORY)
        elif action.metavar == "SETTING":
            action.choices = names
    return str(shtab.complete(parser, shell))


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Those of the parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in dict.fromkeys(action.choices.values()):
                yield from _actions(command)


def _complete(action: Any, how: Any) -> None:
    action.complete = how  # where shtab looks
