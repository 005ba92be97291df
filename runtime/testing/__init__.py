"""The testing kit: see `kit` for events, folds and checks without a store, and `perdure.runtime.simulation` for runs on a store that fails."""

from perdure.runtime.simulation.faults import NO_FAULTS, Faults
from perdure.runtime.simulation.report import Report
from perdure.runtime.simulation.simulate import simulate
from perdure.runtime.simulation.workload import Workload
from perdure.runtime.testing.kit import (
    GIVEN_AT,
    PAGES,
    SEEDS,
    Checked,
    Crash,
    Differs,
    check_projection,
    crash,
    encoded,
    fold,
    given,
    selects,
)

__all__ = [
    "GIVEN_AT",
    "NO_FAULTS",
    "PAGES",
    "SEEDS",
    "Checked",
    "Crash",
    "Differs",
    "Faults",
    "Report",
    "Workload",
    "check_projection",
    "crash",
    "encoded",
    "fold",
    "given",
    "selects",
    "simulate",
]
