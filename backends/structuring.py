"""The cattrs path: a converter that is as strict as msgspec and agrees with it, below the user's own hooks.

What the closed list holds and has no class inside goes through `msgspec.convert`, so that there is one
opinion about numbers in texts; cattrs does classes, sets, and everything that is not on the list.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, MutableSequence, MutableSet, Sequence, Set
from typing import Any, Final, get_args, get_origin

import attrs
import cattrs
import msgspec
from cattrs.cols import iterable_unstructure_factory
from cattrs.errors import AttributeValidationNote, BaseValidationError, IterableValidationNote

from perdure.backends.plain import LEAVES, Hooked, fields_of, is_enum, stored_order, told, why_not_plain
from perdure.backends.tree import Unfit, in_order, normal

Structure = Callable[[Any, Any], Any]
Unstructure = Callable[[Any], Any]

_SEQUENCES: Final = {list: list, Sequence: list, MutableSequence: list, deque: deque, tuple: tuple}
_SETS: Final = {set: set, frozenset: frozenset, Set: frozenset, MutableSet: set}
_NATIVE: Final = (bytes, bytearray)  # msgpack has them: a text in their place is an error, not base64


def from_plain(value: Any, cls: Any) -> Any:
    """Plain data as a type of the closed list, by msgspec's strict rules."""
    return msgspec.convert(value, cls, builtin_types=_NATIVE)


def strict(given: cattrs.Converter | None, hooked: Hooked, *, detailed: bool = False) -> cattrs.Converter:
    """A converter with perdure's rules, and above them the hooks of *given*.

    *detailed* errors name the place and cost time: use such a converter to explain a failure.
    """
    converter = given.copy(detailed_validation=detailed) if given else cattrs.Converter(detailed_validation=detailed)
    _leaves(converter, hooked)
    _collections(converter)
    _classes(converter)
    if given is not None:
        _again(given, converter)
    return converter


# -- perdure's rules -------------------------------------------------------------------------


def _leaves(converter: cattrs.Converter, hooked: Hooked) -> None:
    def leafy(cls: Any) -> bool:
        return cls is not None and not _holds_class(cls) and why_not_plain(cls, hooked) is None

    converter.register_structure_hook_func(leafy, from_plain)
    converter.register_unstructure_hook_func(lambda cls: cls in LEAVES, lambda value: value)
    converter.register_structure_hook_func(lambda cls: cls is object, lambda value, _: value)
    converter.register_unstructure_hook_func(lambda cls: cls is object, converter.unstructure)
    converter.register_structure_hook(bytearray, lambda value, _: bytearray(from_plain(value, bytes)))
    converter.register_unstructure_hook(bytearray, bytes)
    for cls in (int, float, str, bytes):  # where cattrs has hooks of a kind that comes first
        if not hooked(cls):
            converter.register_structure_hook(cls, from_plain)


def _holds_class(cls: Any) -> bool:
    if isinstance(cls, type) and get_origin(cls) is None and not is_enum(cls) and cls not in LEAVES:
        return True
    return any(_holds_class(arg) for arg in get_args(cls) if not isinstance(arg, (str, int)))


def _collections(converter: cattrs.Converter) -> None:
    converter.register_structure_hook_factory(_is_sequence, lambda cls, conv: _each(cls, conv, _SEQUENCES[_origin(cls)]))
    converter.register_structure_hook_factory(_is_set, lambda cls, conv: _each(cls, conv, _SETS[_origin(cls)]))
    converter.register_structure_hook_factory(_is_hetero, lambda cls, conv: _only(list, conv.gen_structure_hetero_tuple(cls)))
    converter.register_unstructure_hook_factory(_is_set, _sorted_set)


def _origin(cls: Any) -> Any:
    return get_origin(cls) or cls


def _is_sequence(cls: Any) -> bool:
    return _origin(cls) in _SEQUENCES and not _is_hetero(cls)


def _is_set(cls: Any) -> bool:
    return _origin(cls) in _SETS


def _is_hetero(cls: Any) -> bool:
    return get_origin(cls) is tuple and get_args(cls)[1:] != (Ellipsis,)


def _each(cls: Any, converter: cattrs.Converter, build: Callable[[Iterator[Any]], Any]) -> Structure:
    """A collection from a list and from nothing else: a text is iterable too."""
    part = next(iter(get_args(cls)), Any)
    hook = converter.get_structure_hook(part)

    def items(values: list[Any]) -> Iterator[Any]:
        for index, value in enumerate(values):
            try:
                yield hook(value, part)
            except Exception as error:
                error.add_note(IterableValidationNote(f"at [{index}]", index, part))
                raise

    return _only(list, lambda values, _: build(items(values)))


def _only(kind: type, hook: Structure) -> Structure:
    def structure(value: Any, cls: Any) -> Any:
        if type(value) is not kind and not (kind is list and type(value) is tuple):  # a tuple: the key of a map
            raise TypeError(f"Expected `{'array' if kind is list else 'object'}`, got `{type(value).__name__}`")
        return hook(value, cls)

    return structure


def _sorted_set(cls: Any, converter: Any) -> Unstructure:
    return iterable_unstructure_factory(cls, converter, unstructure_to=lambda values: in_order(map(normal, values)))


def _classes(converter: cattrs.Converter) -> None:
    converter.register_structure_hook_factory(_is_class, _class_structure)
    converter.register_unstructure_hook_factory(_is_class, _class_unstructure)


def _is_class(cls: Any) -> bool:
    origin = _origin(cls)
    return isinstance(origin, type) and (attrs.has(origin) or dataclasses.is_dataclass(origin))


def _class_structure(cls: Any, converter: cattrs.Converter) -> Structure:
    if attrs.has(_origin(cls)):
        fields_of(_origin(cls))
    return _only(dict, converter.gen_structure_attrs_fromdict(cls))


def _class_unstructure(cls: Any, converter: cattrs.Converter) -> Unstructure:
    """By the fields, in the order in which msgspec writes slots."""
    if attrs.has(_origin(cls)):
        fields_of(_origin(cls))
    to_dict = converter.gen_unstructure_attrs_fromdict(cls)
    ranks = stored_order(_origin(cls))

    def unstructure(value: Any) -> dict[str, Any]:
        if not isinstance(value, _origin(cls)):
            raise TypeError(f"a {type(value).__qualname__} in place of a {told(cls)}")
        return dict(sorted(to_dict(value).items(), key=lambda item: ranks.get(item[0], len(ranks))))

    return unstructure


# -- the user's hooks ------------------------------------------------------------------------
#
# cattrs has no public way to list what was registered on a converter. These few lines read its dispatch
# tables (as its own `Converter.copy` does); the tests hold that hooks are seen, should a release change them.


def hooks_of(given: cattrs.Converter | None) -> Hooked:
    """Whether a type is handled by a hook that was registered on *given* (or changed by its options)."""
    if given is None:
        return lambda _: False
    optioned = bool(given.omit_if_default or given.forbid_extra_keys or getattr(given, "use_alias", False) or given.type_overrides)
    predicates = [pair[0] for dispatch, skip in _dispatches(given) for pair in _added(dispatch, skip)]
    classes = {cls for dispatch, _ in _dispatches(given) for cls in _singles(dispatch)} | set(given._union_struct_registry)

    def hooked(cls: Any) -> bool:
        if optioned and _is_class(cls):
            return True
        if any(base in classes for base in getattr(cls, "__mro__", (cls,))):
            return True
        return any(_holds(predicate, cls) for predicate in predicates)

    return hooked


def _holds(predicate: Callable[[Any], Any], cls: Any) -> bool:
    try:
        return bool(predicate(cls))
    except Exception:  # cattrs, too, takes a predicate that raises for one that says no
        return False


def _again(given: cattrs.Converter, converter: cattrs.Converter) -> None:
    """Put the predicate hooks of *given* on top once more; `copy` has left them below ours."""
    for (source, skip), (target, _) in zip(_dispatches(given), _dispatches(converter), strict=True):
        for predicate, hook, is_factory, takes_converter in reversed(_added(source, skip)):
            target.register_func_list([(predicate, hook, "extended" if takes_converter else is_factory)])
    for union, hook in given._union_struct_registry.items():
        converter.register_structure_hook(union, hook)


def _dispatches(converter: Any) -> list[tuple[Any, int]]:
    return [
        (converter._structure_func, converter._struct_copy_skip),
        (converter._unstructure_func, converter._unstruct_copy_skip),
    ]


def _added(dispatch: Any, skip: int) -> list[Any]:
    pairs = dispatch._function_dispatch._handler_pairs
    return list(pairs[: len(pairs) - skip])


def _singles(dispatch: Any) -> Iterator[type]:
    pristine = {cls: hook for other, _ in _dispatches(cattrs.Converter()) for cls, hook in other._single_dispatch.registry.items()}
    ours = [other._single_dispatch.registry for other, _ in _dispatches(cattrs.Converter())]
    for cls, hook in dispatch._single_dispatch.registry.items():
        if cls is not object and cls in pristine and any(table.get(cls) is hook for table in ours):
            continue
        if cls is not object:
            yield cls


# -- the place of a failure ------------------------------------------------------------------


def fault(error: BaseException, path: str = "$") -> Unfit:
    """Where and why a detailed converter, or msgspec, failed."""
    path += "".join(_step(note) for note in reversed(getattr(error, "__notes__", ())))
    if isinstance(error, BaseValidationError):
        return fault(error.exceptions[0], path)
    if isinstance(error, Unfit):
        return Unfit(path + error.path.removeprefix("$"), error.why)
    if isinstance(error, KeyError):
        return Unfit(path, f"Object missing required field `{error.args[0]}`")
    if isinstance(error, RecursionError):
        return Unfit(path, "it is nested too deeply")
    why, _, inner = str(error).partition(" - at `")
    if inner.startswith("key` in `"):
        why, inner = f"a key: {why}", inner.removeprefix("key` in `")
    return Unfit(path + inner.rstrip("`").removeprefix("$"), why or type(error).__name__)


def stumbled(unstructure: Callable[[Any, Any], Any], value: Any, cls: Any, path: str = "$") -> str:
    """Where in *value*, of type *cls*, cattrs failed to write it: as deep as classes and sequences lead."""
    if type(value) is cls and attrs.has(cls):
        parts = [(getattr(value, field.name, None), field.type, f"{path}.{field.name}") for field in fields_of(cls)]
    elif _origin(cls) in _SEQUENCES and isinstance(value, (list, tuple, deque)) and get_args(cls):
        parts = [(item, get_args(cls)[0], f"{path}[{index}]") for index, item in enumerate(value)]
    else:
        return path
    for part, kind, at in parts:
        try:
            unstructure(part, kind)
        except Exception:  # the failure is what is looked for
            return stumbled(unstructure, part, kind, at)
    return path


def _step(note: str) -> str:
    if isinstance(note, AttributeValidationNote):
        return f".{note.name}"
    return f"[{note.index!r}]" if isinstance(note, IterableValidationNote) else ""


def supported(converter: cattrs.Converter, cls: Any) -> str | None:
    """Why the converter cannot structure *cls*, if it cannot."""
    try:
        converter.get_structure_hook(cls)
        converter.get_unstructure_hook(cls)
    except cattrs.errors.StructureHandlerNotFoundError as error:
        return f"there is no way to read a {told(error.type_)}: register a converter hook for it"
    except TypeError as error:
        return str(error)
    return None
