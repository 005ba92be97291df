"""Simulation: see `simulate`."""

from perdure.runtime.simulation.faults import NO_FAULTS, Faults, Injection
from perdure.runtime.simulation.report import Report
from perdure.runtime.simulation.run import Plan, Run
from perdure.runtime.simulation.simulate import simulate
from perdure.runtime.simulation.workload import Workload
from perdure.runtime.simulation.world import Violation

__all__ = ["NO_FAULTS", "Faults", "Injection", "Plan", "Report", "Run", "Violation", "Workload", "simulate"]
