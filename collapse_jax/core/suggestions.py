"""Messages about unknown words. This module imports nothing slow, so that the command line's help stays quick."""

import difflib
from collections.abc import Iterable
from typing import Any


def suggest_word(word: Any, known: Iterable[str]) -> str | None:
    """Return the known word that was probably meant, in a phrase, or None if no word is close."""
    close = difflib.get_close_matches(str(word), list(known), n=1)
    return f"perhaps you meant {close[0]!r}" if close else None


def describe_choices(word: Any, known: Iterable[str]) -> str:
    """Return a phrase that names the word that was probably meant, or all `known` words."""
    return suggest_word(word, known) or (f"one of {', '.join(known)}" if known else "it has none")
