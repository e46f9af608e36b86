"""Parts of experiments by name: factories register themselves, and their products remember how they were called."""

import contextlib
import dis
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, ParamSpec, TypeVar

from collapse_jax.core.errors import UsageError

P = ParamSpec("P")
T = TypeVar("T")

# The package whose import registers the built-in factories of a group.
GROUPS = {
    "setting": "collapse_jax.settings",
    "policy": "collapse_jax.policies",
    "curator": "collapse_jax.curators",
    "source": "collapse_jax.data",
    "symbols": "collapse_jax.data.symbols",
    "text": "collapse_jax.data.texts",
    "objective": "collapse_jax.training.ssl_objectives",
}
ENTRY_POINTS = "collapse_jax.parts"


class Call(NamedTuple):
    """A call of a registered factory.

    Attributes:
      group: a key of ``GROUPS``.
      kind: the factory's name.
      arguments: all of them, defaults too, by name.
      factory: what was called.
      product: what the factory returned. A part that differs from it in a field was changed by hand.
      reads: what the factory read beside its arguments (see ``read_beside_arguments``).
    """

    group: str
    kind: str
    arguments: dict[str, Any]
    factory: Callable[..., Any]
    product: Any
    reads: Mapping[str, Any] = MappingProxyType({})


_factories: dict[str, dict[str, Callable[..., Any]]] = {group: {} for group in GROUPS}
_kinds: dict[Callable[..., Any], str] = {}  # of all factories that were ever registered, replaced ones too
_entry_points_loaded = False
_revision = 0


def register_setting(factory: Callable[P, T]) -> Callable[P, T]:
    """Register a factory of a ``Setting`` under its name, and record each call in what it returns."""
    return _register("setting", factory)


def register_policy(factory: Callable[P, T]) -> Callable[P, T]:
    """Register a factory of a ``Policy`` under its name, and record each call in what it returns."""
    return _register("policy", factory)


def register_curator(factory: Callable[P, T]) -> Callable[P, T]:
    """Register a factory of a ``Curator`` under its name, and record each call in what it returns."""
    return _register("curator", factory)


def register_source(factory: Callable[P, T]) -> Callable[P, T]:
    """Register a factory of a ``Source`` under its name, and record each call in what it returns."""
    return _register("source", factory)


def register_symbols(factory: Callable[P, T]) -> Callable[P, T]:
    """Register a factory of a law of ``Symbols`` under its name, and record each call in what it returns."""
    return _register("symbols", factory)


def register_text(factory: Callable[P, T]) -> Callable[P, T]:
    """Register a factory of a ``Text`` under its name, and record each call in what it returns."""
    return _register("text", factory)


def register_objective(factory: Callable[P, T]) -> Callable[P, T]:
    """Register a factory of a ``Pretext`` under its name, and record each call in what it returns."""
    return _register("objective", factory)


def factories(group: str) -> Mapping[str, Callable[..., Any]]:
    """Return the factories of a group by name: built-in ones, then those of installed packages and plugins.

    Args:
      group: a key of ``GROUPS``.
    """
    importlib.import_module(GROUPS[group])
    _load_entry_points()
    return MappingProxyType(_factories[group])


def kind_of(factory: Callable[..., Any]) -> str | None:
    """Return the name under which `factory` is registered; None where it is not."""
    return _kinds.get(factory)


def revision() -> int:
    """Return how often factories from outside this package were registered: what was derived from fewer is stale."""
    return _revision


def load_plugin(plugin: str | os.PathLike) -> None:
    """Import a module or a Python file that registers parts; one that is loaded already is not loaded again.

    Args:
      plugin: the dotted name of a module that can be imported from here, or the path of a ``.py`` file.

    Raises:
      UsageError: there is no such module or file.

    Example:
      >>> load_plugin("collapse_jax.policies")
    """
    name = os.fspath(plugin)
    if name.endswith(".py"):
        return _load_file(Path(name))
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())  # where a console script does not look
    try:
        importlib.import_module(name)
    except (ModuleNotFoundError, TypeError, ValueError) as error:
        if isinstance(error, ModuleNotFoundError) and not f"{name}.".startswith(f"{error.name}."):
            raise  # the plugin is there; a module that it imports is not
        raise UsageError(f"plugin {name}: no module of this name can be imported, and it is no .py file") from None
    return None


def is_loaded(plugin: str) -> bool:
    """Return whether a plugin, a module's name or a file's path, has been imported here."""
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    return plugin in sys.modules or (plugin.endswith(".py") and str(Path(plugin).resolve()) in files)


def plugin_of(factory: Callable[..., Any]) -> str | None:
    """Return what ``load_plugin`` must be given for `factory` to be registered; None where it always is."""
    module = _module_of(factory)
    if _is_builtin(factory) or module in {entry_point.module for entry_point in _entry_points()}:
        return None
    if module in sys.modules and module != "__main__" and not module.startswith(_FILE_PREFIX):
        return module
    file = Path(inspect.unwrap(factory).__code__.co_filename)
    return str(file.resolve()) if file.is_file() else module


def call_of(part: Any) -> Call | None:
    """Return the recorded call that made `part`; None where its factory is not registered."""
    call = getattr(part.info if hasattr(part, "info") else part, "call", None)
    return call if isinstance(call, Call) else None


def require_unchanged(part: Any) -> Call:
    """Return the call that made `part` just as it is, but perhaps for its name.

    Raises:
      UsageError: its factory is not registered, or a field was replaced since.
    """
    call = call_of(part)
    if call is None:
        raise UsageError(f"{getattr(part, 'name', type(part).__name__)} was not made by a registered factory")
    made = _fields_of(call.product)
    if any(value is not made[name] for name, value in _fields_of(part).items()):
        raise UsageError(f"fields of {call.kind} were replaced after it was made")
    return call


def _register(group: str, factory: Callable[P, T]) -> Callable[P, T]:
    if not callable(factory) or not getattr(factory, "__name__", "").isidentifier():
        raise UsageError(f"register_{group}: decorate a function with a name of its own, not {factory!r}")
    kind, signature = factory.__name__, inspect.signature(factory)
    if not _is_builtin(factory):
        importlib.import_module(GROUPS[group])  # so that a name which is taken is found taken, in any order of imports
    known = _factories[group].get(kind)
    if known is not None and _module_of(known) != _module_of(factory):
        where = plugin_of(known) or _module_of(known)
        raise UsageError(f"register_{group}: {kind!r} is registered by {where} already; choose another name")

    @functools.wraps(factory)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        args, kwargs = _snapshot(args), _snapshot(kwargs)  # what is recorded stays what the part was made of
        reads = _snapshot(read_beside_arguments(factory))
        product: Any = factory(*args, **kwargs)
        if not hasattr(product, "_replace"):
            raise UsageError(f"{kind} is registered as a {group} and returned a {type(product).__name__}")
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return _with_call(product, Call(group, kind, dict(bound.arguments), call, product, reads))

    _factories[group][kind] = call
    _kinds[call] = kind
    if not _is_builtin(factory):
        global _revision
        _revision += 1
    return call


def _snapshot(value: Any) -> Any:
    """Return a value with copies of the lists, mappings and arrays of NumPy in it, which their owner may change."""
    if type(value) in (list, tuple):
        return type(value)(map(_snapshot, value))
    if type(value) is dict:
        return {name: _snapshot(item) for name, item in value.items()}
    numpy = sys.modules.get("numpy")  # arrays exist only where it is imported, which --help need not wait for
    return value.copy() if numpy is not None and isinstance(value, numpy.ndarray) else value


def read_beside_arguments(factory: Callable[..., Any]) -> dict[str, Any]:
    """Return what a user's factory reads beside its arguments, by name: globals that its code loads, and its closure.

    What the functions that it calls read is not looked at. Factories of this package read constants alone.
    """
    found: dict[str, Any] = {}
    function: Any = None if _is_builtin(inspect.unwrap(factory)) else factory
    while function is not None:
        code, name = getattr(function, "__code__", None), getattr(function, "__name__", "")
        if code is not None and not _is_builtin(function):
            scope = function.__globals__
            found |= {f"{name}: {word}": scope[word] for word in _loaded_globals(code) if word in scope}
            for word, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
                with contextlib.suppress(ValueError):  # nothing is assigned to it yet
                    found[f"{name}: {word}"] = cell.cell_contents
        function = getattr(function, "__wrapped__", None)
    return found


@functools.lru_cache(maxsize=512)
def _loaded_globals(code: types.CodeType) -> tuple[str, ...]:
    inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    own = {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return tuple(sorted(own.union(*map(_loaded_globals, inner))))


_CLASSES = {"setting": "Setting", "policy": "Policy", "curator": "Curator", "source": "Source", "symbols": "Symbols",
            "text": "Text", "objective": "Pretext"}  # fmt: skip


def _with_call(product: Any, call: Call) -> Any:
    expected = getattr(importlib.import_module("collapse_jax.types"), _CLASSES[call.group])
    if not isinstance(product, expected):
        made = type(product).__name__
        raise UsageError(f"register_{call.group}: {call.kind} must return a {expected.__name__}, not a {made}")
    if hasattr(product, "info"):
        return product._replace(info=product.info._replace(call=call))
    return product._replace(call=call)


def _fields_of(part: Any) -> dict[str, Any]:
    """Return all fields of a part but its name and the call."""
    fields = part._asdict()
    if "info" in fields:
        fields |= fields.pop("info")._asdict()
    return {name: value for name, value in fields.items() if name not in ("name", "call")}


def _module_of(factory: Callable[..., Any]) -> str:
    return factory.__module__ or "__main__"  # code that is run in a namespace without a name has none


def _is_builtin(factory: Callable[..., Any]) -> bool:
    return _module_of(factory).partition(".")[0] == __name__.partition(".")[0]


_FILE_PREFIX = "collapse_jax_plugin_"  # of the names of modules that are loaded from files


def _load_file(path: Path) -> None:
    path = path.expanduser().resolve()
    if is_loaded(str(path)):
        return
    name = f"{_FILE_PREFIX}{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if not os.path.isfile(path) or spec is None or spec.loader is None:
        raise UsageError(f"plugin {path}: there is no such file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


@functools.cache
def _entry_points() -> tuple[importlib.metadata.EntryPoint, ...]:
    return tuple(importlib.metadata.entry_points(group=ENTRY_POINTS))


def _load_entry_points() -> None:
    global _entry_points_loaded
    if not _entry_points_loaded:
        _entry_points_loaded = True  # first, since what is loaded may ask for factories itself
        for entry_point in _entry_points():
            try:
                entry_point.load()
            except Exception as error:
                _entry_points_loaded = False  # the next command meets it again, rather than miss its parts
                where = f"{entry_point.name} = {entry_point.value}"
                raise UsageError(f"an installed package registers parts that cannot be imported: {where}") from error
