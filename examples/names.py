"""What the six consumers ask of a name before they store it: it becomes a key, a tag, a part of a stream's name.

An event that is stored stays, and a model that cannot keep its key would stand still before it for good; so names are checked first.
perdure takes 255 bytes for a stream's name, 400 for a key, 128 for a tag: each module leaves room for what it puts around a name.
"""

from __future__ import annotations

import attrs


@attrs.define(eq=False, slots=False)
class BadName(ValueError):
    """A name that cannot be kept; nothing was stored."""

    what: str
    name: str
    why: str

    def __str__(self) -> str:
        return f"{self.what} {self.name if len(self.name) <= 40 else f'{self.name[:40]}...'!r} {self.why}"


def check_names(bytes_max: int, /, **names: str) -> None:
    """Each, given by what it names, is text of 1 to *bytes_max* bytes in UTF-8 that can be printed.

    Raises:
      BadName: the first that is not.
    """
    for what, name in names.items():
        if not name:
            raise BadName(what, name, f"is empty: give it a name of 1 to {bytes_max} bytes")
        if not name.isprintable():
            raise BadName(what, name, "has control characters, or others that cannot be printed: leave them out")
        if (size := len(name.encode())) > bytes_max:
            raise BadName(what, name, f"has {size:,} bytes, the limit is {bytes_max}: use a shorter one, or its digest")
