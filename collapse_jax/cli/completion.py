"""Make the script with which a shell completes the command line; shtab writes it from the parser."""

import argparse
from collections.abc import Iterator
from typing import Any

from collapse_jax.config import schema
from collapse_jax.core.errors import MissingExtraError


def make_completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script for `shell`, bash, zsh or fish: commands, flags, files, folders, and the names of settings.

    Raises:
      MissingExtraError: the extra ``completion`` is missing.
    """
    try:
        import shtab
    except ImportError as error:
        message = "completion needs an optional package: pip install 'collapse-jax[completion]'"
        raise MissingExtraError(message) from error
    names = [spec.kind for spec in schema.spec_types("setting")]
    for action in _list_actions(parser):
        if action.metavar in ("CONFIG", "FILE", "OLD"):
            _set_completion(action, shtab.FILE)
        elif action.metavar == "DIR":
            _set_completion(action, shtab.DIRECTORY)
        elif action.metavar == "SETTING":
            action.choices = names
    return str(shtab.complete(parser, shell))


def _list_actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the actions of the parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in dict.fromkeys(action.choices.values()):
                yield from _list_actions(command)


def _set_completion(action: Any, completion: Any) -> None:
    action.complete = completion  # shtab reads this attribute
