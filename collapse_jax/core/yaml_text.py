"""YAML that cannot do harm: no tags, no loops, bounded depth and size, and the numbers of YAML 1.2."""

import re
from typing import Any, NoReturn

import yaml

MAX_DEPTH = 50  # of lists and mappings in each other
MAX_VALUES = 100_000  # each alias counts as all that it stands for
MAX_DIGITS = 400  # of a whole number; float64 ends at 309
_MERGE = "tag:yaml.org,2002:merge"

# Words that are no texts; a number has no underscores, no base 60, and no octal digits: 010 is 10 (YAML 1.2.2, 10.3.2).
_WORDS = {
    "tag:yaml.org,2002:null": (r"~|null|Null|NULL|", "~nN"),
    "tag:yaml.org,2002:bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "tag:yaml.org,2002:int": (r"[-+]?[0-9]+", "-+0123456789"),
    "tag:yaml.org,2002:float": (
        r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    _MERGE: (r"<<", "<"),
}


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses tags, keys given twice, loops of aliases, and more depth or size than a config has."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  # PyYAML's name

    def __init__(self, stream: str):
        super().__init__(stream)
        self._depth = 0
        self._extents: dict[int, tuple[int, int]] = {}  # of each whole node, by id: values in it, levels in it

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Return the next node, which is counted before anything is made of it."""
        event = self.peek_event()
        if getattr(event, "tag", None) not in (None, "!"):
            _refuse(f"the tag {event.tag} is not read; give a plain value", event)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            _refuse_depth(event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(event, yaml.AliasEvent) and id(node) not in self._extents:
            _refuse(f"the alias *{event.anchor} lies in what it stands for", event)
        if id(node) not in self._extents:
            self._extents[id(node)] = self._measure(node)
        values, levels = self._extents[id(node)]
        if values > MAX_VALUES:
            _refuse(f"more than {MAX_VALUES:,} values, each alias counted as what it stands for", event)
        if self._depth + levels > MAX_DEPTH:
            _refuse_depth(event)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Return the next mapping, whose keys are single values, each there once."""
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                _refuse("a key must be a single word", key)
            if key.value in seen:
                _refuse(f"{key.value!r} is there twice", key)
            merged = value.value if isinstance(value, yaml.SequenceNode) else [value]
            if key.tag == _MERGE and any(_merges(item) for item in merged):
                _refuse("<< of a mapping that has << itself is not read", key)  # PyYAML takes the wrong value there
            seen.add(key.value)
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Return a whole number in base 10, whatever it begins with."""
        text = self.construct_scalar(node)
        if len(text) > MAX_DIGITS:
            _refuse(f"a number of {len(text):,} digits is too large", node)
        return int(text)

    def _measure(self, node: yaml.Node | None) -> tuple[int, int]:
        if not isinstance(node, yaml.CollectionNode):
            return 1, 1
        inner = [part for item in node.value for part in (item if isinstance(item, tuple) else (item,))]
        extents = [self._extents[id(part)] for part in inner]
        return 1 + sum(values for values, _ in extents), 1 + max((levels for _, levels in extents), default=0)


class _Dumper(yaml.SafeDumper):
    """Writes texts in quotes wherever YAML 1.1 or 1.2 would take them for something else."""


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
for _tag, (_pattern, _first) in _WORDS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), [*_first] + [""] * _tag.endswith("null"))
    _Dumper.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), [*_first] + [""] * _tag.endswith("null"))


def parse_yaml(text: str) -> Any:
    """Return what a text of YAML says.

    Raises:
      yaml.YAMLError: the text is not YAML, or has what a config does not need: tags, keys given twice, loops, more than
        ``MAX_DEPTH`` levels or ``MAX_VALUES`` values.
    """
    return yaml.load(text, _Loader)  # a safe loader, and stricter


def write_yaml(value: Any, **options: Any) -> str:
    """Return plain values as YAML, keys in their order, that ``parse_yaml`` and readers of YAML 1.1 read alike."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, **options)


def _merges(node: yaml.Node) -> bool:
    return isinstance(node, yaml.MappingNode) and any(key.tag == _MERGE for key, _ in node.value)


def _refuse(problem: str, place: Any) -> NoReturn:
    raise yaml.constructor.ConstructorError(None, None, problem, place.start_mark)


def _refuse_depth(event: Any) -> NoReturn:
    _refuse(f"more than {MAX_DEPTH} lists and mappings in each other", event)
