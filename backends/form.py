"""How one type is stored, decided once per type: by msgspec itself if the closed list allows it, else by cattrs.

Both ways write the same bytes and read equal values. On either, what is written can be read: a value
that would not come back equal is refused while it can still be corrected.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import cattrs
import msgspec

from perdure.backends.errors import Misuse
from perdure.backends.guard import Surely, surely
from perdure.backends.plain import told
from perdure.backends.structuring import fault, from_plain, stumbled, supported
from perdure.backends.tree import Unfit, blame, difference, normal, read, write


@attrs.frozen
class Form:
    """The functions of one type.

    *write* refuses what has no bytes and, if *looks*, times without a zone; *surely* knows the values that
    need no further check.
    *read* (from bytes) and *build* (from plain data) raise whatever their libraries raise, *explain*
    makes an `Unfit` of that. *blame* finds the part of a value that cannot be written.
    """

    name: str
    looks: bool
    write: Callable[[Any], bytes]
    surely: Surely
    read: Callable[[bytes], Any]
    build: Callable[[Any], Any]
    blame: Callable[[Any], Unfit | None]
    explain: Callable[[Any, Exception], Unfit]

    def encode(self, value: Any) -> bytes:
        """The bytes of *value*.

        Raises:
          Misuse: it cannot be stored, or would not come back equal; the message names the field.
        """
        try:
            if self.surely(value):
                return self.write(value)
        except Exception:  # noqa: S110 - the careful way finds out where
            pass
        return self._carefully(value)

    def _carefully(self, value: Any) -> bytes:
        raw = self.attempt(value)
        try:
            back = self.read(raw)
        except Exception as error:
            found = self.explain_bytes(raw, error)
            raise self._misuse(found.path, f"it could not be read back: {found.why}") from error
        if (path := difference(value, back)) is not None:
            raise self._misuse(path, "it would come back as another value: use exactly the type that the field declares")
        return raw

    def attempt(self, value: Any) -> bytes:
        """The bytes of *value*, whether or not they can be read back.

        Raises:
          Misuse: it cannot be stored.
        """
        raw, error = b"", None
        try:
            raw = self.write(value)
            if self.looks or self.surely(value):
                return raw
        except Exception as failed:
            error = failed
        found = self.blame(value) or (fault(error) if error is not None else None)
        if found is not None:
            raise self._misuse(found.path, found.why) from error
        return raw

    def explain_bytes(self, raw: bytes, error: Exception) -> Unfit:
        """Why *read* failed with *error*."""
        try:
            tree = read(raw)
        except Exception as broken:
            return fault(broken)
        return self.explain(tree, error)

    def _misuse(self, path: str, why: str) -> Misuse:
        return Misuse(f"{self.name}{path.removeprefix('$')}: {why}")


def direct(cls: Any) -> Form:
    """A type of the closed list: msgspec alone."""
    return Form(
        name=told(cls),
        looks=False,
        write=write,
        surely=surely(cls),
        read=msgspec.msgpack.Decoder(cls).decode,
        build=lambda tree: from_plain(tree, cls),
        blame=blame,
        explain=lambda _, error: fault(error),
    )


def structured(cls: Any, converter: cattrs.Converter, detailed: cattrs.Converter) -> Form:
    """Any other type: cattrs, then msgspec. *detailed* is asked again after a failure, for the place.

    Raises:
      Misuse: cattrs has no way to read it.
    """
    unstructure, structure = converter.unstructure, converter.structure
    if (why := supported(converter, cls)) is not None:
        raise Misuse(f"{told(cls)} cannot be stored: {why}")

    def blame_tree(value: Any) -> Unfit | None:
        own = blame(value)
        try:
            found = blame(unstructure(value, cls))
        except Exception as error:
            return own or Unfit(stumbled(unstructure, value, cls), str(error))
        # A hook may write what is not plain: so the tree decides, but the value has the better paths.
        return own if own is not None and found is not None and own.why == found.why else found

    def explain(tree: Any, error: Exception) -> Unfit:
        try:
            detailed.structure(tree, cls)
        except Exception as again:
            return fault(again)
        return fault(error)

    return Form(
        name=told(cls),
        looks=True,
        write=lambda value: write(normal(unstructure(value, cls))),
        surely=lambda _: False,
        read=lambda raw: structure(read(raw), cls),
        build=lambda tree: structure(tree, cls),
        blame=blame_tree,
        explain=explain,
    )
