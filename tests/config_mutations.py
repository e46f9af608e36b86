"""Wrong configs, made of right ones by seeded mutations: what a test of the parser feeds it by the thousand."""

import copy
import random
from collections.abc import Iterator
from typing import Any

import yaml

HOSTILE_VALUES = [
    *("null", "~", "true", "no", "'no'", "''", "' '", "[]", "{}", "[[]]", "[{}]", "{a: b}", "[1, 2]", "[a, [b]]"),
    *("0", "-1", "1", "2", "7", "3.5", "-0.0", "1e-320", "1e308", "1e400", "-1e400", ".nan", ".inf", "-.inf", "nan"),
    *("9" * 400, "-" + "9" * 400, "9" * 5000, "1" + "0" * 18, "4294967296", "2147483648", "1_000", "0x1F", "0b11"),
    *("010", "0o10", "08", "1:30", "190:20:30", "1:30.5", "+5", "1.", ".5", "1e5", "1E+5", "12e03", "0x" + "f" * 300),
    *("2026-01-01", "2026-13-01", "2001-12-14t21:59:43.10-05:00", "9999999-01-01", "=", "<<", "*missing", "&a [*a]"),
    *("&a {b: *a}", "&a [&b [*a, *b]]", "&a x", "!!binary aGVsbG8=", "!!binary '%%'", "!!set {a, b}", "!!omap [a: 1]"),
    *("!!int x", "!!float y", "!!int ''", "!!float ''", "!!bool maybe", "!!timestamp now"),
    *("!!pairs [a: 1]", "!!null 5"),
    *("!!python/object/apply:os.system ['false']", "!!python/name:os.system", "!!python/tuple [1]"),
    "!include /etc/passwd",
    *("!own 5", "! 5", "!!str 5", "!!str [a]", "!!map [a]", "!!seq {a: b}", "!<tag:yaml.org,2002:int> 0"),
    "'[bold]x[/]'",
    *("'[/]'", "'[link=file:///etc]x'", "'</script><script>'", "'<img src=x onerror=alert(1)>'", '"\\0"', '"\\uD800"'),
    *('"\\e[31m"', '"\\n\\n"', '"\\u202e"', "\U0001f4a9", "é", '"\\U0010FFFF"', "'" + "x" * 300 + "'"),
    "'" + "x/" * 3000 + "'",
    *("/etc/passwd", "/dev/zero", "/dev/stdin", "..", "/", "'\\0'", "file:///etc/passwd"),
    *("http://127.0.0.1:9/x", "s3://"),
    *("{kind: [x]}", "{kind: {a: b}}", "{kind: null}", "{kind: 5}", "{kind: true}", "{kind: .nan}", "{kind: ''}"),
    *("{kind: replace}", "{kind: gaussian}", "{kind: table}", "{kind: table, path: /dev/zero}"),
    *("{kind: window, k: 1e9}"),
    *("{kind: then}", "{kind: Spec}", "{__class__: x}", "{factory: x}", "{group: x, kind: replace}"),
    *("gaussian", "replace"),
    *("kde", "all", "[all]", "auto", "[replace]", "[replace, replace]", "{? [a] : b}", "{? {a: b} : c}", "{1: 2}"),
    *("{null: 1}", "{.nan: 1}", "{a: 1, a: 2}", "{1: 2, '1': 3}", "{<<: {kind: kde}}", "{<<: [{a: 1}]}", "{<<: 5}"),
    *("{kind: replace, <<: {kind: kde}}", "[" * 40 + "]" * 40, "[" * 1000 + "]" * 1000, "{a: " * 1000 + "}" * 1000),
    *("[" * 1000, "- " * 20, "a: b: c", "%TAG", "@", "`", "|", ">", "# x", "---", "...", "\t", "\x07"),
    *("\x85", "\ufeff"),
]  # fmt: skip
HOSTILE_KEYS = [
    *("kind", "sweep", "trace", "product", "zip", "source", "setting", "0", "policies.0", "setting.source.dim", "dim"),
    *("'[bold]'", "'[/]'", "''", "null", "5", ".nan", "true", "? [a]", "'<b>'", "__class__", "'a.b.c'", "'.'", "'..'"),
    *("'" + "k" * 300 + "'", "9" * 400, "<<", "&k key", "!!binary aGk=", "\U0001f4a9", "'a\\nb'", '"a\\nb"'),
    "2026-01-01",
]  # fmt: skip
PATHS = [
    *("setting.source.dim", "setting", "setting.source", "policies", "policies.0", "policies.9", "policies.0.share"),
    *("policies.share", "policies.x.y.z", "curator", "curator.k", "curator.0.k", "num_samples"),
    *("num_generations", "seed"),
    *("num_chains", "kind", "setting.kind", "policies.0.kind", "share", "dim", "a.b", "", ".", ".."),
    *("setting.", ".setting"),
    *("policies.", "policies..", "sweep", "trace", "metrics", "metrics.0", "setting.0", "policies.-1"),
    *("policies.1e3", "k"),
    *("policies." + "9" * 30, "policies.²", "mesh.data", "precision", "rng", "[bold]", "'", "setting.source.source"),
]  # fmt: skip
NOISE = "[]{}:,-?&*!|>'\"%@`#~ \n\t\r\0\x1b\x85\u2028\ufeff<=.0123456789eExyna_é\U0001f4a9"
_MARK = "placeholder of a mutation"


def make_bomb(levels: int, width: int) -> str:
    """Return lists of aliases of lists, ``width ** levels`` items in all, under keys of their own."""
    lines = [f"a0: &a0 [{', '.join('x' * width)}]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join(lines)


def make_mutations(configs: list[str], seed: int, count: int) -> Iterator[tuple[str, list[str]]]:
    """Yield `count` pairs of a config's text and the words of a command line, most of them wrong."""
    choose = random.Random(seed)
    trees = [yaml.safe_load(text) for text in configs]
    makers = [_put_value] * 8 + [_rename_key] * 2 + [_add_key, _sweep] * 3 + [_override] * 5 + [
        _drop, _swap, _noise, _noise, _cut, _alias_bomb, _nest,
    ]  # fmt: skip
    for _ in range(count):
        tree = copy.deepcopy(choose.choice(trees))
        yield choose.choice(makers)(tree, choose)


def _places(node: Any) -> list[tuple[Any, Any]]:
    """Return each place in a tree, as the node above it and its key there."""
    items = list(node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ())
    return [(node, key) for key, _ in items] + [place for _, inner in items for place in _places(inner)]


def _write(tree: Any, *snippets: str) -> str:
    text = yaml.safe_dump(tree, default_flow_style=True, width=10**6, sort_keys=False, allow_unicode=True)
    for snippet in snippets:
        text = text.replace(_MARK, snippet, 1)
    return text


def _put_value(tree, choose):
    node, key = choose.choice(_places(tree))
    value = choose.choice(HOSTILE_VALUES)
    node[key] = [_MARK] if choose.random() < 0.1 else _MARK
    return _write(tree, value), []


def _rename_key(tree, choose):
    node, key = choose.choice([place for place in _places(tree) if isinstance(place[0], dict)])
    node[_MARK] = node.pop(key)
    return _write(tree, choose.choice(HOSTILE_KEYS)), []


def _add_key(tree, choose):
    mappings = [tree, *(node[key] for node, key in _places(tree) if isinstance(node[key], dict))]
    known = [str(key) for node in mappings for key in node]
    choose.choice(mappings)[_MARK] = _MARK
    return _write(tree, choose.choice(HOSTILE_KEYS + known), choose.choice(HOSTILE_VALUES)), []


def _drop(tree, choose):
    node, key = choose.choice(_places(tree))
    del node[key]
    return _write(tree), []


def _swap(tree, choose):
    (one, a), (other, b) = choose.choices(_places(tree), k=2)
    value = copy.deepcopy(one[a])
    one[a] = copy.deepcopy(other[b])
    if isinstance(other, dict) or b < len(other):
        other[b] = value
    return _write(tree), []


def _sweep(tree, choose):
    names = [choose.choice(PATHS) for _ in range(choose.choice([1, 1, 2]))]
    values = [choose.choice(HOSTILE_VALUES) for _ in range(2)]
    lists = {name: choose.choice([[1, 2], [0.1, 0.2], [_MARK, _MARK], _MARK]) for name in names}
    section = {choose.choice(["product", "product", "zip", "trace", "x"]): choose.choice([lists, lists, names, _MARK])}
    tree["sweep"] = choose.choice([section, section, [section, section], _MARK])
    if choose.random() < 0.7:
        for name in names:
            tree.pop(name, None)
    return _write(tree, *values), []


def _override(tree, choose):
    words = []
    for _ in range(choose.choice([1, 1, 2])):
        path = choose.choice([*PATHS, *(str(key) for key in tree)])
        flag, value = f"--{path}", choose.choice(HOSTILE_VALUES)
        words += choose.choice([[f"{flag}={value}"], [flag, value], [flag, value], [path], [flag]])
    return _write(tree), words


def _noise(tree, choose):
    text = list(yaml.safe_dump(tree, sort_keys=False))
    for _ in range(choose.choice([1, 1, 2, 5])):
        place = choose.randrange(len(text))
        text[place : place + choose.choice([0, 1, 1, 3])] = [choose.choice(NOISE)]
    return "".join(text), []


def _cut(tree, choose):
    text = yaml.safe_dump(tree, sort_keys=False, default_flow_style=choose.choice([True, False]))
    place = choose.randrange(len(text))
    return choose.choice([text[:place], text[place:], text + text, text[:place] + text]), []


def _alias_bomb(tree, choose):
    node, key = choose.choice(_places(tree))
    levels = choose.choice([2, 10, 100, 300])
    node[key] = _MARK
    text = yaml.safe_dump(tree, sort_keys=False).replace(f"'{_MARK}'", _MARK)
    return make_bomb(levels, choose.choice([1, 2, 10])) + "\n" + text.replace(_MARK, f"*a{levels - 1}"), []


def _nest(tree, choose):
    node, key = choose.choice(_places(tree))
    node[key] = _MARK
    depth = choose.choice([10, 100, 1000, 10000])
    start, end = choose.choice([("[", "]"), ("{kind: ", "}"), ("{source: ", "}"), ("{kind: cycle, setting: ", "}")])
    return _write(tree, start * depth + "1" + end * depth), []
