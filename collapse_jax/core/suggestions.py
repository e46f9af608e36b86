"""What to say of a word that is not known. Imports nothing slow: the command line's help must be quick."""

import difflib
from collections.abc import Iterable
from typing import Any


def suggest_word(word: Any, known: Iterable[str]) -> str | None:
    """The word that may have been meant, if any is close."""
    close = difflib.get_close_matches(str(word), list(known), n=1)
    return f"perhaps you meant {close[0]!r}" if close else None


def describe_choices(word: Any, known: Iterable[str]) -> str:
    """What to say of a word that is not among the `known` ones."""
    return suggest_word(word, known) or (f"one of {', '.join(known)}" if known else "it has none")
