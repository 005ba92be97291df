"""The stores that a run can stand on, by their URL's scheme."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import attrs
import trio

from perdure.backends import file
from perdure.backends.commit_log import CommitLog
from perdure.backends.environment import Environment
from perdure.backends.errors import Misuse, Unavailable
from perdure.backends.identity import make_identity, prepare, read_identity, take_lock
from perdure.backends.limits import Limits
from perdure.backends.ordered import OrderedBackend
from perdure.backends.ordered_map import MapDoubtful
from perdure.runtime.simulation.faults import WHATS, What
from perdure.runtime.simulation.world import FOLDER, Life, World


@attrs.frozen
class Kind:
    """A kind of store: how it is opened, and what may go wrong with it."""

    open: Callable[[World, Life, Limits], Awaitable[OrderedBackend]]
    faults: tuple[What, ...]
    on_disk: bool
    """Whether it stands on the simulated disk: then its calls are the points."""


async def open_file(world: World, life: Life, limits: Limits) -> OrderedBackend:
    """`file:`, on the simulated disk."""
    options = file.Options(segment=world.segment_bytes, flush="inline")
    return await file.open_file(FOLDER, options, url=f"file:{FOLDER}", environment=life.environment, limits=limits)


KINDS: Final[dict[str, Kind]] = {
    "file": Kind(open_file, WHATS, on_disk=True),
}


def kind_of(url: str) -> Kind:
    """The kind of store that *url* names.

    Raises:
      Misuse: there is none to simulate.
    """
    scheme = url.partition(":")[0]
    if scheme not in KINDS:
        raise Misuse(f"{url!r} cannot be simulated: {', '.join(f'{name}:' for name in KINDS)} can")
    return KINDS[scheme]
