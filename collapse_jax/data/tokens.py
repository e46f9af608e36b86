"""Text as whole numbers: characters, bytes of UTF-8, or pieces learned by byte-pair encoding."""

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from collapse_jax.check import MissingExtraError, check_at_least, check_choice

Tokenizer = Literal["characters", "bytes", "bpe"]


class Alphabet(NamedTuple):
    """The symbols of a text.

    Attributes:
      pieces: the bytes of UTF-8 that each of the V symbols stands for.
      encode: ``(str) -> [length]``, of the smallest unsigned type that holds V.
    """

    pieces: tuple[bytes, ...]
    encode: Callable[[str], np.ndarray]


def alphabet_of(
    where: str, text: str, tokenizer: Tokenizer, vocabulary: int = 512, characters: str | None = None
) -> Alphabet:
    """The alphabet of a text.

    Args:
      where: names the text in errors.
      text: pieces are learned from it (give the part that is trained on).
      tokenizer: characters, bytes or pieces.
      vocabulary: of byte-pair encoding: pieces in all, the 256 bytes among them.
      characters: those that may occur; default: those of `text`.

    Raises:
      ValueError: too small a vocabulary; ``tokenizers`` is not installed; and, when encoding, a character that is not
        in the alphabet, with its position.
    """
    check_choice("tokenizer", tokenizer, ("characters", "bytes", "bpe"))
    if tokenizer == "bpe":
        check_at_least("vocabulary", vocabulary, 257, 2**16)
        return _pieces(text, vocabulary)
    if tokenizer == "bytes":
        return Alphabet(tuple(bytes([i]) for i in range(256)), lambda text: np.frombuffer(text.encode(), np.uint8))
    return _characters(where, "".join(sorted(set(text if characters is None else characters))))


def _characters(where: str, letters: str) -> Alphabet:
    codes = np.array([ord(letter) for letter in letters])
    dtype = smallest(len(letters))

    def encode(text: str) -> np.ndarray:
        points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        place = np.minimum(np.searchsorted(codes, points), len(codes) - 1)
        if (wrong := codes[place] != points).any():
            at = int(wrong.argmax())
            line = text.count("\n", 0, at) + 1
            raise ValueError(
                f"{where}: character {at + 1} (line {line}), {text[at]!r}, is not one of the {len(letters)} of the "
                "alphabet; add it, or use tokenizer: bytes"
            )
        return place.astype(dtype)

    return Alphabet(tuple(letter.encode() for letter in letters), encode)


@functools.lru_cache(maxsize=8)  # a sweep makes its setting many times
def _pieces(text: str, vocabulary: int) -> Alphabet:
    try:
        import tokenizers
    except ImportError as error:
        raise MissingExtraError("tokenizer bpe needs an optional package: pip install 'collapse-jax[text]'") from error
    learned = tokenizers.Tokenizer(tokenizers.models.BPE())
    learned.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    first = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=first, show_progress=False)
    learned.train_from_iterator([text], trainer)
    # A byte is written as its letter of Latin-1, those that cannot be seen as the letters from U+0100 on.
    hidden = [i for i in range(256) if not chr(i).isprintable() or chr(i) == " "]
    byte_of = {chr(i): i for i in range(256) if i not in hidden} | {chr(256 + n): i for n, i in enumerate(hidden)}
    number_of = learned.get_vocab()
    pieces = tuple(bytes(byte_of[letter] for letter in name) for name in sorted(number_of, key=number_of.__getitem__))
    return Alphabet(pieces, lambda text: np.asarray(learned.encode(text).ids, smallest(len(pieces))))


def smallest(num_symbols: int) -> np.dtype:
    """The smallest unsigned type that holds so many symbols."""
    return np.min_scalar_type(max(num_symbols - 1, 0))
