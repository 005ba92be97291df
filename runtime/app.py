"""An app: what a program projects, as a value. Code only; frozen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import attrs

from perdure.actors.fold import AnyProjection, Keyed, Projection
from perdure.actors.sql import SqlProjection
from perdure.backends.errors import Misuse
from perdure.backends.selector import Selector
from perdure.runtime.retention import Retention


def _projections(values: Iterable[AnyProjection]) -> tuple[AnyProjection, ...]:
    return tuple(values)


def _retentions(values: Iterable[Retention]) -> tuple[Retention, ...]:
    return tuple(values)


def _read_models(values: Iterable[SqlProjection[Any]]) -> tuple[SqlProjection[Any], ...]:
    return tuple(values)


@attrs.frozen(kw_only=True)
class App:
    """The projections that run while a runtime is open, those into SQL, events whose classes no projection names, and how long events are kept.

    Raises:
      Misuse: two projections of one name, or something that is none.
    """

    projections: tuple[AnyProjection, ...] = attrs.field(default=(), converter=_projections)
    sql: tuple[SqlProjection[Any], ...] = attrs.field(default=(), converter=_read_models)
    events: Selector[Any] | None = None
    retention: tuple[Retention, ...] = attrs.field(default=(), converter=_retentions)
    """Every hour, in one process, what these allow goes: see `Retention`."""

    def __attrs_post_init__(self) -> None:
        for projection in self.projections:
            if not isinstance(projection, Projection | Keyed):
                raise Misuse(f"{projection!r} is no Projection and no Keyed" + (": give it as sql=" if isinstance(projection, SqlProjection) else ""))
        for read_model in self.sql:
            if not isinstance(read_model, SqlProjection):
                raise Misuse(f"{read_model!r} is no SqlProjection")
        for policy in self.retention:
            if not isinstance(policy, Retention):
                raise Misuse(f"{policy!r} is no Retention")
        for name, count in Counter(projection.name for projection in (*self.projections, *self.sql)).items():
            if count > 1:
                raise Misuse(f"two projections are named {name!r}: rename one")

    def named(self, name: str) -> AnyProjection:
        """The projection of that name.

        Raises:
          Misuse: there is none, or it is one into SQL.
        """
        for read_model in self.sql:
            if read_model.name == name:
                raise Misuse(f"the model {name!r} is tables in {read_model.where}: ask there, in SQL")
        for projection in self.projections:
            if projection.name == name:
                return projection
        known = ", ".join(projection.name for projection in self.projections) or "none"
        raise Misuse(f"the app has no projection {name!r}; it has: {known}")

    def classes(self) -> tuple[type, ...]:
        """All event classes it names."""
        selectors = [projection.events for projection in (*self.projections, *self.sql)]
        if self.events is not None:
            selectors.append(self.events)
        return tuple(dict.fromkeys(cls for selector in selectors for cls in selector.classes))
