"""What a projection into SQL does with the tables it finds, judged by their rows (`Mark`). Pure."""

from __future__ import annotations

import enum

import attrs

from perdure.backends.errors import ModelFaulted, WrongStore
from perdure.backends.sql import Mark


class Step(enum.Enum):
    """How it begins."""

    GO_ON = "go on"
    MAKE = "make"
    """There is nothing that people could read: the tables are made in their place."""
    GO_ON_BESIDE = "go on beside"
    """Tables of this version are being built beside those of another one, which people read until then."""
    MAKE_BESIDE = "make beside"


@attrs.frozen
class Start:
    """Where it begins: at *mark*, as is to be made or as was found; *stray*: what stands beside is nothing to it."""

    step: Step
    mark: Mark
    stray: bool = False

    @property
    def beside(self) -> bool:
        """Whether people read other tables until these have caught up."""
        return self.step in (Step.GO_ON_BESIDE, Step.MAKE_BESIDE)


def start(live: Mark | None, building: Mark | None, new: Mark, *, rebuild: bool) -> Start:
    """Judge what is read (*live*) and what is *building* beside it, by what the program would make (*new*).

    Raises:
      WrongStore: the tables hold events of another store.
      ModelFaulted: a newer version made them; or another definition under the same version, unless *rebuild*.
    """
    if live is None:
        return Start(Step.MAKE, new, stray=building is not None)
    if live.store != new.store:
        raise WrongStore(live.store, new.store)
    if live.fingerprint == new.fingerprint:
        return Start(Step.GO_ON, live, stray=building is not None)
    if live.version > new.version:
        known = f"version {live.version} made its tables, and this is version {new.version}"
        raise ModelFaulted(new.projection, f"{known}: raise it above that, or run the newer program")
    if live.version == new.version and not rebuild:
        raise ModelFaulted(
            new.projection,
            f"its tables were made by another definition of version {live.version} (at position {live.position}): raise its version, "
            'open with changed="rebuild", or undo the change',
        )
    if building is not None and (building.fingerprint, building.store) == (new.fingerprint, new.store):
        return Start(Step.GO_ON_BESIDE, building)
    return Start(Step.MAKE_BESIDE, new, stray=building is not None)

