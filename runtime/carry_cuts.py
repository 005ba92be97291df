"""Bringing cuts along with a store: what was cut stays cut, and who asks for it is told the same. None is made while a store is brought elsewhere."""

from __future__ import annotations

from typing import Final

import attrs

from perdure.backends.protocol import Backend, CutBound, StreamInfo

_STREAMS_A_STEP: Final = 1_000


@attrs.frozen
class CutAway:
    """What of a store was cut: the streams with their firsts, and who is told of it."""

    streams: list[StreamInfo]
    bounds: list[CutBound]

    def told(self) -> list[object]:
        """What must be the same at both places."""
        streams = sorted((info.name, info.first, info.cut, info.archive or "") for info in self.streams)
        return [*streams, *sorted((bound.category, bound.type or "", bound.position, bound.stream) for bound in self.bounds)]


async def cut_away(backend: Backend) -> CutAway:
    """What of *backend* was cut."""
    bounds = await backend.cuts()
    found: list[StreamInfo] = []
    after: str | None = None
    while bounds and (infos := await backend.streams(after=after, limit=_STREAMS_A_STEP)):
        found += [info for info in infos if info.cut]
        after = infos[-1].name
    return CutAway(found, bounds)


async def bring_cuts(source: Backend, target: Backend) -> bool:
    """See to it that of *target*, which is being loaded, the same was cut; whether anything was. What it holds goes, if something else was cut of that."""
    here, there = await cut_away(source), await cut_away(target)
    if here.told() != there.told():
        if there.bounds or await target.head():
            await target.begin_load(anew=True)
        await target.load_cuts(here.streams, here.bounds)
    return bool(here.bounds)
