"""Text as whole numbers: characters, bytes of UTF-8, or pieces learned by byte-pair encoding."""

import functools
import re
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np

from collapse_jax.core.errors import MissingExtraError, UsageError
from collapse_jax.core.validation import reject, require_choice, require_integer

Tokenizer = Literal["characters", "bytes", "bpe"]

_SECTION = 2**20  # number of characters that are encoded together
_CUT = re.compile(r"\S\n")


class Alphabet(NamedTuple):
    """The symbols of a text.

    Attributes:
      pieces: the bytes of UTF-8 that each of the V symbols stands for.
      encode: ``(str) -> [length]``, of the smallest unsigned type that holds V.
    """

    pieces: tuple[bytes, ...]
    encode: Callable[[str], np.ndarray]


def make_alphabet(
    where: str, text: str, tokenizer: Tokenizer, vocabulary: int | None = None, characters: str | None = None
) -> Alphabet:
    """Return the alphabet of a text.

    Args:
      where: names the text in errors.
      text: pieces are learned from it (give the part that is trained on).
      tokenizer: characters, bytes or pieces.
      vocabulary: for byte-pair encoding: number of pieces, the 256 bytes among them; default 512.
      characters: for tokenizer characters: those that may occur; default: those of `text`.

    Raises:
      UsageError: the vocabulary is too small, an argument is for another tokenizer, or ``tokenizers`` is not installed;
        when encoding, a character is not in the alphabet, with its position.
    """
    require_choice("tokenizer", tokenizer, ("characters", "bytes", "bpe"))
    for name, value, of in (("characters", characters, "characters"), ("vocabulary", vocabulary, "bpe")):
        if value is not None and tokenizer != of:
            raise UsageError(f"{where}: {name} is for tokenizer {of}, not for {tokenizer}; leave it out")
    if tokenizer == "bpe":
        vocabulary = 512 if vocabulary is None else vocabulary
        require_integer("vocabulary", vocabulary, 257, 2**16)
        return _learn_pieces(text, vocabulary)
    if tokenizer == "bytes":
        return Alphabet(tuple(bytes([i]) for i in range(256)), lambda text: np.frombuffer(text.encode(), np.uint8))
    if characters is not None and (not isinstance(characters, str) or not characters):
        reject(f"{where}: characters", characters, "the characters that may occur, one or more")
    return _make_character_alphabet(where, "".join(sorted(set(text if characters is None else characters))))


def _make_character_alphabet(where: str, letters: str) -> Alphabet:
    codes = np.array([ord(letter) for letter in letters], np.uint32)
    dtype = smallest_unsigned_type(len(letters))

    def encode(text: str) -> np.ndarray:
        symbols = np.empty(len(text), dtype)
        for begin in range(0, len(text), _SECTION):
            points = np.frombuffer(text[begin : begin + _SECTION].encode("utf-32-le"), np.uint32)
            place = np.minimum(np.searchsorted(codes, points), len(codes) - 1)
            if (unknown := codes[place] != points).any():
                at = begin + int(unknown.argmax())
                line = text.count("\n", 0, at) + 1
                raise UsageError(
                    f"{where}: character {at + 1} (line {line}), {text[at]!r}, is not one of the {len(letters)} of the "
                    "alphabet; add it, or use tokenizer: bytes"
                )
            symbols[begin : begin + _SECTION] = place
        return symbols

    return Alphabet(tuple(letter.encode() for letter in letters), encode)


def split_text(text: str, at_least: int) -> Iterator[str]:
    """Yield the text in sections of at least `at_least` characters, each cut before a line break that follows a word.

    No piece of byte-pair encoding spans such a place, so the sections have the pieces of the whole.
    """
    begin = 0
    while begin < len(text):
        match = _CUT.search(text, begin + at_least)
        end = len(text) if match is None else match.start() + 1
        yield text[begin:end]
        begin = end


@functools.lru_cache(maxsize=8)  # because a sweep makes its setting many times
def _learn_pieces(text: str, vocabulary: int) -> Alphabet:
    try:
        import tokenizers
    except ImportError as error:
        raise MissingExtraError("tokenizer bpe needs an optional package: pip install 'collapse-jax[text]'") from error
    learned = tokenizers.Tokenizer(tokenizers.models.BPE())
    learned.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    first = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=first, show_progress=False)
    learned.train_from_iterator(split_text(text, _SECTION), trainer)
    # A byte is written as its letter of Latin-1; invisible ones as the letters from U+0100 on.
    hidden = [i for i in range(256) if not chr(i).isprintable() or chr(i) == " "]
    byte_of = {chr(i): i for i in range(256) if i not in hidden} | {chr(256 + n): i for n, i in enumerate(hidden)}
    number_of = learned.get_vocab()
    pieces = tuple(bytes(byte_of[letter] for letter in name) for name in sorted(number_of, key=number_of.__getitem__))
    dtype = smallest_unsigned_type(len(pieces))

    def encode(text: str) -> np.ndarray:  # an encoding is a hundred times as large as its numbers
        sections = (np.asarray(learned.encode(section).ids, dtype) for section in split_text(text, _SECTION))
        return np.concatenate([np.zeros(0, dtype), *sections])

    return Alphabet(pieces, encode)


def smallest_unsigned_type(num_symbols: int) -> np.dtype:
    """Return the smallest unsigned type that holds so many symbols."""
    return np.min_scalar_type(max(num_symbols - 1, 0))
