"""Damage to a file as a value: bits flipped, sectors zeroed, pages gone stale, and so on.

damage = draw_damage(Random(7), size_bytes)
damage_file("store/000001.segment", damage)        # a real file
disk.damage("store/000001.segment", damage)        # one on a `SimulatedDisk`
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final, Literal, get_args

import attrs

from perdure.backends.pages import PAGE, SECTOR

DamageKind = Literal["bit", "byte", "zeros", "stale", "truncate", "append"]
DAMAGES: Final[tuple[DamageKind, ...]] = get_args(DamageKind)


@attrs.frozen
class Damage:
    """What is wrong with the bytes of a file.

    - `bit`: bit *value* (0 to 7) of the byte at *offset* is flipped.
    - `byte`: the byte at *offset* is XORed with *value* (1 to 255).
    - `zeros`: *size_bytes* from *offset* are zeros (a sector, a page).
    - `stale`: *size_bytes* from *offset* are as they were before.
    - `truncate`: the file ends at *offset*.
    - `append`: *garbage* stands behind it.
    """

    kind: DamageKind
    offset: int = 0
    size_bytes: int = PAGE
    value: int = 1
    garbage: bytes = b""

    def done_to(self, data: bytes, before: bytes = b"") -> bytes:
        """*data* with this damage; *before* is what a stale page is taken from. What lies beyond the end changes nothing."""
        damaged = bytearray(data)
        part = slice(self.offset, min(self.offset + self.size_bytes, len(data)))
        match self.kind:
            case "bit" | "byte" if self.offset < len(data):
                damaged[self.offset] ^= 1 << self.value if self.kind == "bit" else self.value
            case "zeros" if self.offset < len(data):
                damaged[part] = bytes(part.stop - part.start)
            case "stale" if self.offset < len(data):
                damaged[part] = before[part].ljust(part.stop - part.start, b"\0")
            case "truncate":
                del damaged[self.offset :]
            case "append":
                damaged += self.garbage
        return bytes(damaged)


def draw_damage(draw: Random, size_bytes: int, kinds: Sequence[DamageKind] = DAMAGES) -> Damage:
    """Some damage to a file of *size_bytes*."""
    kind = draw.choice(kinds)
    at = draw.randrange(size_bytes) if size_bytes else 0
    match kind:
        case "bit":
            return Damage(kind, at, value=draw.randrange(8))
        case "byte":
            return Damage(kind, at, value=draw.randrange(1, 256))
        case "zeros":
            unit = draw.choice((SECTOR, PAGE))
            return Damage(kind, at // unit * unit, unit)
        case "stale":
            return Damage(kind, at // PAGE * PAGE, PAGE)
        case "truncate":
            return Damage(kind, at)
        case "append":
            return Damage(kind, garbage=draw.randbytes(draw.choice((1, 7, SECTOR, PAGE + 1))))


def damage_file(path: str, damage: Damage, before: bytes = b"") -> None:
    """Do *damage* to a real file."""
    with open(path, "r+b") as file:
        damaged = damage.done_to(file.read(), before)
        file.seek(0)
        file.truncate()
        file.write(damaged)
