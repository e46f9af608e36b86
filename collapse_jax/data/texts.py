"""Texts to learn from: one factory for each, which returns a ``Text``. ``known_texts`` has laws of known entropy."""

import numpy as np

from collapse_jax.core.errors import UsageError
from collapse_jax.core.registry import register_text
from collapse_jax.core.validation import require_integer
from collapse_jax.data import bundled, readers, text_files
from collapse_jax.data.known_texts import brackets, hidden_markov, markov_chain
from collapse_jax.data.markov_texts import HELD_OUT, draw_windows, held_out_start
from collapse_jax.data.tokens import Tokenizer, make_alphabet
from collapse_jax.types import Text


@register_text
def shakespeare(tokenizer: Tokenizer = "characters", vocabulary: int | None = None) -> Text:
    """Learn from the embedded plays of Shakespeare: 1.1 MB, 69 characters.

    Args:
      tokenizer: symbols are characters, bytes, or pieces learned by byte-pair encoding (extra ``text``).
      vocabulary: number of pieces of byte-pair encoding; default 512.

    Raises:
      UsageError: the tokenizer is unknown, or the vocabulary is too small.

    Example:
      >>> from collapse_jax.data import texts
      >>> len(texts.shakespeare().pieces)
      69
    """
    return text_from_string("shakespeare", bundled.read_shakespeare(), tokenizer, vocabulary)


@register_text
def austen(tokenizer: Tokenizer = "characters", vocabulary: int | None = None) -> Text:
    """Learn from the embedded novels of Jane Austen: 1.1 MB.

    Args:
      tokenizer: symbols are characters, bytes, or pieces learned by byte-pair encoding (extra ``text``).
      vocabulary: number of pieces of byte-pair encoding; default 512.

    Raises:
      UsageError: the tokenizer is unknown, or the vocabulary is too small.

    Example:
      >>> from collapse_jax.data import texts
      >>> len(texts.austen(tokenizer="bytes").pieces)
      256
    """
    return text_from_string("austen", bundled.read_austen(), tokenizer, vocabulary)


@register_text
def text_file(
    path: str, tokenizer: Tokenizer = "characters", vocabulary: int | None = None, characters: str | None = None
) -> Text:
    """Learn from your own file, in UTF-8; its last tenth is held out.

    Args:
      path: the path of the file.
      tokenizer: symbols are characters, bytes, or pieces learned by byte-pair encoding (extra ``text``).
      vocabulary: number of pieces of byte-pair encoding; default 512.
      characters: the characters that may occur, for tokenizer characters; default: those that do.

    Raises:
      UsageError: the file cannot be read as text in UTF-8, is too short, or has a character outside the alphabet.

    Example:
      >>> import pathlib, tempfile
      >>> from collapse_jax.data import texts
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder) / "mine.txt"
      ...     _ = path.write_text("to be or not to be " * 20)
      ...     text = texts.text_file(path)
      >>> b"".join(text.pieces)
      b' benort'
    """
    file, text = text_files.read_text("text_file", path, "a text file")
    return text_from_string(str(file), text, tokenizer, vocabulary, characters)


@register_text
def tfds_text(
    name: str,
    field: str = "text",
    split: str = "train",
    documents: int = 10_000,
    tokenizer: Tokenizer = "characters",
    vocabulary: int | None = None,
) -> Text:
    """Learn from a text dataset that TensorFlow Datasets has prepared as ``array_record``.

    Documents are joined by empty lines. Nothing is downloaded: the error for a dataset that is not there says how to
    prepare it.

    Args:
      name: name of the dataset, with its config where it has several (``"ai2_dolma/..."``).
      field: the feature that holds the text.
      split: name of the split in tfds.
      documents: the largest number of documents that are read.
      tokenizer: symbols are characters, bytes, or pieces learned by byte-pair encoding (extra ``text``).
      vocabulary: number of pieces of byte-pair encoding; default 512.

    Raises:
      UsageError: the dataset is not prepared, or has no such split or feature.

    Example:
      >>> from collapse_jax.data import texts
      >>> texts.tfds_text("imdb_reviews/plain_text").size > 1000  # doctest: +SKIP
      True
    """
    documents = require_integer("tfds_text: documents", documents, 1)
    builder = readers.open_prepared_dataset("tfds_text", name)
    if split not in builder.info.splits or field not in builder.info.features:
        have = f"splits {', '.join(builder.info.splits)}; features {', '.join(builder.info.features)}"
        raise UsageError(f"tfds_text: {name!r} has no split {split!r} with a feature {field!r}; it has {have}")
    source = builder.as_data_source(split)
    texts = (source[i][field] for i in range(min(documents, len(source))))
    try:
        joined = "\n\n".join(t.decode() if isinstance(t, bytes) else str(t) for t in texts)
    except UnicodeDecodeError as error:
        raise UsageError(f"tfds_text: a document of {name!r} is not UTF-8 ({error.reason}); convert them") from None
    return text_from_string(name, joined, tokenizer, vocabulary)


def text_from_string(
    name: str,
    text: str,
    tokenizer: Tokenizer = "characters",
    vocabulary: int | None = None,
    characters: str | None = None,
) -> Text:
    """Return a text in memory; its law is a window of its first nine tenths, uniform over places.

    The rest is held out.

    Args:
      name: names the text in errors.
      text: the text.
      tokenizer: symbols are characters, bytes, or pieces learned by byte-pair encoding (extra ``text``).
      vocabulary: number of pieces of byte-pair encoding; default 512.
      characters: the characters that may occur, for tokenizer characters; default: those that do.

    Raises:
      UsageError: the text has fewer than 20 characters, or one outside the alphabet; or an argument is for another
        tokenizer.

    Example:
      >>> from collapse_jax.data import texts
      >>> texts.text_from_string("mine", "abc" * 20).pieces
      (b'a', b'b', b'c')
    """
    if len(text) < 2 * HELD_OUT:
        raise UsageError(f"{name}: {len(text)} characters; a text needs at least {2 * HELD_OUT}")
    cut = held_out_start(len(text))
    learned_from = text[:cut] if tokenizer == "bpe" else text
    alphabet = make_alphabet(name, learned_from, tokenizer, vocabulary, characters)
    if tokenizer == "characters":  # in one piece, so that errors count from the text's beginning
        train, test = np.split(alphabet.encode(text), [cut])
    else:
        train, test = alphabet.encode(text[:cut]), alphabet.encode(text[cut:])

    def held_out(num: int, length: int) -> np.ndarray:
        if num * length > len(test):
            raise UsageError(
                f"{name}: {num} test rows of {length} symbols asked for, {len(test)} symbols are held out; "
                f"ask for at most {len(test) // length} (num_test)"
            )
        begin = np.arange(num) * (len(test) // num)
        return test[begin[:, None] + np.arange(length)]

    return Text(
        name,
        alphabet.pieces,
        train,
        draw_windows,
        held_out,
        lambda length: np.concatenate([train, test])[None],
        size=len(train),
        bytes_per_symbol=len(text[cut:].encode()) / len(test),
    )


__all__ = [
    "austen",
    "brackets",
    "hidden_markov",
    "markov_chain",
    "shakespeare",
    "text_file",
    "text_from_string",
    "tfds_text",
]
