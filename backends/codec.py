"""The codec: payloads to drafts, records to events, values of any type to bytes and back.

The stored form is msgpack. Each type is written and read by its `Form`; here is what surrounds
it: which class a type name means, upcasting, the envelope, and the translation into our errors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import cattrs
import msgspec

from perdure.backends.commit import Alike, Draft
from perdure.backends.errors import Misuse, Unreadable, UnstableState
from perdure.backends.event import Event, Extra, Record, Unknown, pack_extra, to_us
from perdure.backends.form import Form, direct, structured
from perdure.backends.plain import told, why_not_plain
from perdure.backends.schema import EventType, NewEvent, Registry, check_tags, event_type
from perdure.backends.structuring import fault, hooks_of, strict
from perdure.backends.tree import Unfit, blame, difference, normal, read, write

Encode = Callable[[Any], bytes]
Decode = Callable[[bytes], Any]


class Codec:
    """Values to bytes and back, for one registry of event classes.

    A *converter* brings the user's own hooks: it is copied, its hooks stay above perdure's strict rules.

    Raises:
      Misuse: from every method, for a type that cannot be stored.
    """

    def __init__(self, registry: Registry | None = None, converter: cattrs.Converter | None = None) -> None:
        self.registry = registry if registry is not None else Registry()
        self._hooked = hooks_of(converter)
        self._converter = strict(converter, self._hooked)
        self._detailed = strict(converter, self._hooked, detailed=True)
        self._forms: dict[Any, Form] = {}
        self._readers: dict[tuple[str, int], Decode] = {}
        self._known = 0

    # -- any type ----------------------------------------------------------------------------

    def form(self, cls: Any) -> Form:
        """How *cls* is stored; made once per type."""
        if (form := self._forms.get(cls)) is None:
            why = why_not_plain(cls, self._hooked)
            form = self._forms[cls] = direct(cls) if why is None else structured(cls, self._converter, self._detailed)
        return form

    def encoder(self, cls: Any) -> Encode:
        """The function that writes values of *cls* (see `Form.encode`)."""
        return self.form(cls).encode

    def decoder(self, cls: Any) -> Decode:
        """The function that reads values of *cls*; it raises `Unreadable`, with the path."""
        form = self.form(cls)

        def decode(raw: bytes) -> Any:
            try:
                return form.read(raw)
            except Exception as error:
                raise _unreadable(form.name, 0, 0, form.explain_bytes(raw, error)) from error

        return decode

    def encode_plain(self, value: object) -> bytes:
        """The bytes of plain data: sets sorted, tuples as lists.

        Raises:
          Misuse: something in it is not plain data.
        """
        return _plain(value, "the value")

    def decode_plain(self, raw: bytes) -> Any:
        """Bytes as plain data.

        Raises:
          Unreadable: they are not msgpack.
        """
        try:
            return read(raw)
        except Exception as error:
            raise _unreadable("plain data", 0, 0, fault(error)) from error

    # -- events out --------------------------------------------------------------------------

    def draft(self, item: object, *, traceparent: str | None = None) -> Draft:
        """An item of an append, encoded: a payload of an event class, or `NewEvent`.

        Raises:
          Misuse: it is neither, or cannot be stored; the message names the field.
        """
        new = item if isinstance(item, NewEvent) else None
        data = item if new is None else new.data
        mark = self._mark(type(data))
        if mark is None:
            return self._plain_draft(data, new, traceparent)
        if new is not None and new.type not in (None, mark.name):
            raise Misuse(f"{told(mark.cls)} is event {mark.name!r}, it cannot be appended as {new.type!r}: leave type= out")
        payload = self.form(mark.cls).encode(data)
        tags = check_tags(mark.tags(data)) if mark.tags is not None else ()
        if new is not None:
            tags = check_tags((*tags, *new.tags))
        return Draft(mark.name, mark.version, payload, _extra(new, tags, traceparent), tags)

    def drafts(self, items: Sequence[object], *, traceparent: str | None = None) -> list[Draft]:
        """Several at once; many payloads of one class cost little more than their bytes.

        Raises:
          Misuse: as `draft`.
        """
        kinds = set(map(type, items))
        mark = self._mark(kinds.pop()) if len(kinds) == 1 else None
        if mark is not None and mark.tags is None:
            form = self.form(mark.cls)
            encode, name, version = form.write, mark.name, mark.version
            extra = _extra(None, (), traceparent)
            try:
                if all(map(form.surely, items)):
                    made = [Draft(name, version, encode(item), extra) for item in items]
                    return made if extra else Alike(made)
            except Exception:  # noqa: S110 - one by one finds out which, and where
                pass
        return [self.draft(item, traceparent=traceparent) for item in items]

    def _mark(self, cls: type) -> EventType | None:
        mark = self.registry.of_class(cls)
        if mark is None and event_type(cls) is not None:
            mark = self.registry.register(cls)
        return mark

    def _plain_draft(self, data: object, new: NewEvent | None, traceparent: str | None) -> Draft:
        if isinstance(data, Event):
            raise Misuse("an Event is what was read, not what is appended: append its data, or NewEvent(event.data, ...)")
        if new is None or new.type is None:
            raise Misuse(
                f"a {type(data).__qualname__} is not an event: append an instance of an attrs class marked @event(name), "
                "or plain data as NewEvent(data, type=name)"
            )
        payload = _plain(data, new.type)
        mark = self.registry.of_name(new.type)
        if mark is not None:
            self._check_fits(mark, payload)
        return Draft(new.type, mark.version if mark is not None else 1, payload, _extra(new, new.tags, traceparent), new.tags)

    def _check_fits(self, mark: EventType, payload: bytes) -> None:
        form = self.form(mark.cls)
        try:
            form.read(payload)
        except Exception as error:
            found = form.explain_bytes(payload, error)
            raise Misuse(f"event {mark.name!r} is of class {told(mark.cls)}, the data does not fit it at {found.path}: {found.why}") from error

    # -- events in ---------------------------------------------------------------------------

    def event(self, record: Record) -> Event[Any]:
        """*record* with its payload decoded, by the newest class of its type; without a class as `Unknown`.

        Raises:
          Unreadable: the payload does not fit its class, or is of a newer version.
        """
        try:
            return Event(record, self.decoder_of(record.type, record.version)(record.payload))
        except Exception as error:
            raise _unreadable(record.type, record.version, record.position, self._explained(record, error)) from error

    def events(self, records: Sequence[Record]) -> list[Event[Any]]:
        """Several at once.

        Raises:
          Unreadable: for the first that is.
        """
        readers = self._current()
        try:
            kinds = set(map(_kind, records))
            if len(kinds) == 1:  # column by column
                return list(map(Event, records, map(readers[kinds.pop()], map(_payload, records))))
            return [Event(record, readers[record.type, record.version](record.payload)) for record in records]
        except Exception:  # a type not met before, or an unreadable payload: one by one finds out which
            return [self.event(record) for record in records]

    def decoder_of(self, type: str, version: int) -> Decode:
        """The bare reader of such payloads; it raises whatever its library raises (`event` translates)."""
        readers = self._current()
        if (reader := readers.get((type, version))) is None:
            reader = readers[type, version] = self._reader(type, version)
        return reader

    def _current(self) -> dict[tuple[str, int], Decode]:
        if self._known != self.registry.revision:  # a newer class of a type may have come
            self._readers.clear()
            self._known = self.registry.revision
        return self._readers

    def _reader(self, type: str, version: int) -> Decode:
        mark = self.registry.of_name(type)
        if mark is None:
            return lambda raw: Unknown(type, version, read(raw))
        form = self.form(mark.cls)
        if version == mark.version:
            return form.read
        return lambda raw: form.build(_upcast(mark, version, read(raw)))

    def _explained(self, record: Record, error: Exception) -> Unfit:
        mark = self.registry.of_name(record.type)
        if isinstance(error, Unfit):
            return error
        if mark is None or isinstance(error, Misuse):
            return fault(error)
        try:
            tree = _upcast(mark, record.version, read(record.payload))
        except Exception as broken:
            return fault(broken)
        return self.form(mark.cls).explain(tree, error)


_kind = attrgetter("type", "version")
_payload = attrgetter("payload")


# -- parts of it -----------------------------------------------------------------------------


def _unreadable(type: str, version: int, position: int, found: Unfit) -> Unreadable:
    return Unreadable(type, version, position, found.path, found.why)


def _plain(value: object, name: str) -> bytes:
    try:
        return write(normal(value))
    except Exception as error:
        found = blame(value) or fault(error)
        raise Misuse(f"{name}, at {found.path}: {found.why}") from error


def _upcast(mark: EventType, version: int, tree: Any) -> Any:
    if version > mark.version:
        raise Unfit("", f"it is newer than {told(mark.cls)}, which has version {mark.version}")
    for old in range(version, mark.version):
        if (step := mark.upcasters.get(old)) is None:
            raise Unfit("", f"{told(mark.cls)} has no upcaster from version {old}")
        try:
            tree = step(tree)
        except Exception as error:
            raise Unfit("", f"the upcaster from version {old} failed: {error!r}") from error
    return tree


def _extra(new: NewEvent | None, tags: tuple[str, ...], traceparent: str | None) -> bytes:
    """The packed rest of an envelope; an event without one costs nothing."""
    if new is None:
        if not tags and traceparent is None:
            return b""
        extra = Extra(tags=tags, traceparent=traceparent)
    else:
        occurred_us = to_us(new.occurred) if new.occurred is not None else None
        extra = Extra(tags=tags, occurred_us=occurred_us, id=new.id, meta=_meta(new.meta or {}), traceparent=traceparent)
    try:
        return pack_extra(extra)
    except UnicodeEncodeError as error:
        raise Misuse("a tag or id has half of a surrogate pair, which is no text in UTF-8: leave it out") from error


def _meta(meta: Any) -> msgspec.Raw:
    for key in meta:
        if not isinstance(key, str):
            raise Misuse(f"the keys of meta are texts, not {key!r}")
    return msgspec.Raw(_plain(meta, "meta"))


# -- states ----------------------------------------------------------------------------------


def check_stable(codec: Codec, cls: Any, state: object, *, name: str) -> bytes:
    """The bytes of a state that comes back from them as it went, byte for byte.

    Raises:
      UnstableState: it does not; the path names the field.
      Misuse: it cannot be stored at all.
    """
    form = codec.form(cls)
    raw = form.attempt(state)
    try:
        back = form.read(raw)
    except Exception as error:
        found = form.explain_bytes(raw, error)
        raise UnstableState(name, found.path, f"it cannot be read back ({found.why}): write the field with the type it declares") from error
    again = form.write(back)
    if again != raw:
        raise UnstableState(name, difference(state, back, exact=True) or "$")
    if (path := difference(state, back)) is not None:
        raise UnstableState(name, path)
    return raw
