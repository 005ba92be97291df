"""What was acknowledged by all lives so far. Pure."""

from __future__ import annotations

import attrs


@attrs.define
class Told:
    """Taken from the lines of `work`; a check adds what it found beyond it, which must stay from then on."""

    streams: dict[str, int] = attrs.field(factory=dict)
    """Last seqs, of streams with one writer."""
    pairs: dict[str, int] = attrs.field(factory=dict)
    values: dict[str, int] = attrs.field(factory=dict)
    shared: dict[int, tuple[str, int]] = attrs.field(factory=dict)
    """By seq: who, and its number."""
    followed: list[int] = attrs.field(factory=list)
    """Positions that the subscription was given since a life began last."""
    reached: int = 0
    """How far it had got before."""
    kept: int = 0
    """Its place, as it was found kept last."""
    refused: list[str] = attrs.field(factory=list)
    opened: int = 0
    closed: int = 0
    acknowledged: int = 0
    ended: int = 1
    """So many lives of one writer have ended since the last check: each may have stored a commit that it did not live to tell of."""

    def take(self, line: str) -> None:
        """One line."""
        kind, *words = line.split()
        match kind, words:
            case "run" | "keyed", [stream, seq]:
                self.streams[stream] = int(seq)
            case "pair", [name, number]:
                self.pairs[name] = self.streams[f"pair-{name}"] = int(number)
            case "value", [key, number]:
                self.values[key] = int(number)
            case "shared", [seq, by, number]:
                self.shared[int(seq)] = (by, int(number))
            case "done", [position]:
                self.followed.append(int(position))
                return
            case "refused", [task, error, text]:
                self.refused.append(f"{task}: {error}: {text.replace('_', ' ')}")
                return
            case "open", []:
                self.reached = max([self.reached, *self.followed[-1:]])
                self.followed.clear()
                self.opened += 1
                return
            case "closed", []:
                self.closed += 1
                return
            case _:
                raise ValueError(f"no life tells {line!r}")
        self.acknowledged += 1
