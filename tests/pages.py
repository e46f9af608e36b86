"""The code of a page, run block by block, and what it prints beside what the page says it does."""

import contextlib
import io
import re
from collections.abc import Callable
from typing import NamedTuple

_BLOCK = re.compile(r"```python\n(.*?)```(?:\n+```text\n(.*?)```)?", re.DOTALL)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")


class Block(NamedTuple):
    """A block of Python, and the block of text that follows it: its output, or None."""

    code: str
    shown: str | None


def blocks(page: str) -> list[Block]:
    """Those of a page in Markdown, in order."""
    return [Block(code, shown or None) for code, shown in _BLOCK.findall(page)]


def run(page: str, names: dict, edit: Callable[[str], str] = lambda code: code) -> list[str]:
    """What each block prints; `names` is their common namespace, `edit` may make them cheaper."""
    printed = []
    for block in blocks(page):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(edit(block.code), names)
        printed.append(out.getvalue())
    return printed


def differences(shown: str, printed: str, rtol: float = 0.02) -> list[str]:
    """Words that differ, and numbers that do by more than `rtol` and one unit of their last digit."""
    words = [re.sub(r"[ ─-]+", " ", _NUMBER.sub("#", text)).split() for text in (shown, printed)]
    if words[0] != words[1]:
        return [f"the page says\n{shown}\nand the code prints\n{printed}"]
    pairs = zip(_NUMBER.findall(shown), _NUMBER.findall(printed), strict=True)
    return [f"{a} on the page, {b} printed" for a, b in pairs if not _alike(a, b, rtol)]


def _alike(a: str, b: str, rtol: float) -> bool:
    a, b = a.replace(",", ""), b.replace(",", "")
    mantissa, _, exponent = a.partition("e")
    unit = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    return abs(float(a) - float(b)) <= rtol * abs(float(a)) + 1.01 * unit * (mantissa.find(".") >= 0)
