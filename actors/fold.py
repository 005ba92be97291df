"""Folds and projections as values, and what identifies them. Pure.

A fold is `initial` and `step(state, event) -> state`. A step never changes the state it got; if it
raises, the state is the one from before the event.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import attrs

from perdure.backends.codec import Codec
from perdure.backends.commit import check_name
from perdure.backends.errors import Misuse, Unreadable
from perdure.backends.event import Event, Record
from perdure.backends.selector import EVERYTHING, Selector
from perdure.backends.shape import shape_of

S = TypeVar("S")
D = TypeVar("D")

NAME_BYTES = 48
"""A projection's name becomes part of a bucket's name."""


@attrs.frozen
class Fold(Generic[S, D]):
    """A pure pair: the state before any event, and the step from one state to the next."""

    initial: S
    step: Callable[[S, Event[D]], S]


def check_projection_name(_: object, __: object, name: str) -> None:
    check_name("projection name", name, NAME_BYTES, own=False)
    if name.startswith("subscription "):
        raise Misuse(f"projection {name!r} would share its checkpoint with a subscription: name it otherwise")


def check_version(_: object, __: object, version: int) -> None:
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise Misuse(f"a projection's version is a number from 1, not {version!r}")


@attrs.frozen
class Projection(Generic[S, D]):
    """A named, versioned fold over a selector, with one state.

    Raise *version* when the same events shall give another state. *type* is the class of the state
    where `type(initial)` does not say enough (`dict[str, Total]`).
    """

    name: str = attrs.field(validator=check_projection_name)
    version: int = attrs.field(kw_only=True, validator=check_version)
    initial: S = attrs.field(kw_only=True)
    step: Callable[[S, Event[D]], S] = attrs.field(kw_only=True)
    events: Selector[D] = attrs.field(kw_only=True, default=EVERYTHING)
    type: Any = attrs.field(kw_only=True, default=None)

    @property
    def state_type(self) -> Any:
        """What the state is encoded as."""
        return self.initial.__class__ if self.type is None else self.type


@attrs.frozen
class Keyed(Generic[S, D]):
    """A named, versioned fold with one state per key; `key(event)` gives a key, several, or None.

    A *step* that has three parameters is told the key as well: `step(state, event, key)`.
    """

    name: str = attrs.field(validator=check_projection_name)
    version: int = attrs.field(kw_only=True, validator=check_version)
    initial: S = attrs.field(kw_only=True)
    step: Callable[[S, Event[D]], S] | Callable[[S, Event[D], str], S] = attrs.field(kw_only=True)
    key: Callable[[Event[D]], str | Iterable[str] | None] = attrs.field(kw_only=True)
    events: Selector[D] = attrs.field(kw_only=True, default=EVERYTHING)
    type: Any = attrs.field(kw_only=True, default=None)

    @property
    def state_type(self) -> Any:
        """What a state is encoded as."""
        return self.initial.__class__ if self.type is None else self.type


AnyProjection = Projection[Any, Any] | Keyed[Any, Any]


class Definition(Protocol):
    """What every kind of projection says of itself."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def initial(self) -> Any: ...
    @property
    def step(self) -> Callable[..., Any]: ...
    @property
    def events(self) -> Selector[Any]: ...
    @property
    def state_type(self) -> Any: ...


def takes_key(step: Callable[..., Any]) -> bool:
    """Whether a keyed projection's *step* wants the key: it has three positional parameters that must be given."""
    try:
        parameters = inspect.signature(step).parameters.values()
    except (TypeError, ValueError):  # a callable of C that does not tell
        return False
    return sum(one.default is one.empty and one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD) for one in parameters) == 3


def stepper(projection: AnyProjection) -> Callable[[Any, Event[Any], str], Any]:
    """The projection's step as one that is told the key, whether it wants it or not."""
    step: Callable[..., Any] = projection.step
    return step if isinstance(projection, Keyed) and takes_key(step) else lambda state, event, key: step(state, event)


def keys_of(projection: Keyed[Any, Any], event: Event[Any]) -> tuple[str, ...]:
    """The keys whose states *event* changes, each once."""
    found = projection.key(event)
    if found is None:
        return ()
    if isinstance(found, str):
        return (found,)
    keys = tuple(dict.fromkeys(found))
    for key in keys:
        if not isinstance(key, str):
            raise Misuse(f"key(event) of {projection.name!r} gives texts, not {key!r}")
    return keys


def fingerprint(projection: Definition, codec: Codec) -> str:
    """What guards a stored state against reuse: name, version, encoded initial state, selector, state shape."""
    digest = hashlib.blake2b(digest_size=16, person=b"perdure-fold")
    initial = codec.encoder(projection.state_type)(projection.initial)
    items = repr([(item.types, item.streams, item.categories, item.tags) for item in projection.events.items])
    for part in (type(projection).__name__, projection.name, str(projection.version), initial.hex(), items, shape_of(projection.state_type)):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()


def step_print(projection: Definition) -> str:
    """A digest of the syntax tree of `step` (and `key`), without docstrings and places; '' where the source is not to be had."""
    functions: list[Callable[..., Any]] = [projection.step, *([projection.key] if isinstance(projection, Keyed) else [])]
    try:
        trees = [_tree(function) for function in functions]
    except (OSError, TypeError, SyntaxError):
        return ""
    return hashlib.blake2b("\0".join(trees).encode(), digest_size=8).hexdigest()


def _tree(function: Callable[..., Any]) -> str:
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)


@attrs.frozen
class Stopped:
    """A fold that could not go on at *record*, because of *error*."""

    record: Record
    error: Exception


def fold_page(codec: Codec, step: Callable[[Any, Event[Any]], Any], state: Any, records: Sequence[Record]) -> tuple[Any, Stopped | None]:
    """The state after *records*, or after those before one that cannot be read or folded."""
    for start in range(0, len(records), FEW):
        state, stopped = _fold_few(codec, step, state, records[start : start + FEW])
        if stopped is not None:
            return state, stopped
    return state, None


FEW = 256
"""So many events are alive at once: the cyclic garbage collector begins to look at what lives with 700 objects."""


def _fold_few(codec: Codec, step: Callable[[Any, Event[Any]], Any], state: Any, records: Sequence[Record]) -> tuple[Any, Stopped | None]:
    try:
        events: Sequence[Event[Any]] = codec.events(records)
    except Unreadable:
        return _fold_slowly(codec, step, state, records)
    event = None
    try:
        for event in events:
            state = step(state, event)
    except Exception as error:
        assert event is not None
        return state, Stopped(event.record, error)
    return state, None


def _fold_slowly(codec: Codec, step: Callable[[Any, Event[Any]], Any], state: Any, records: Sequence[Record]) -> tuple[Any, Stopped | None]:
    for record in records:
        try:
            state = step(state, codec.event(record))
        except Exception as error:
            return state, Stopped(record, error)
    return state, None


def bytes_of(records: Iterable[Record]) -> int:
    """Payload bytes of *records*."""
    return sum([len(record.payload) for record in records])
