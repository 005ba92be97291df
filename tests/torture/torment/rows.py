"""All rows of the table, in its order: each module in `faults/` names its own as `ROWS`."""

from __future__ import annotations

import importlib
import pkgutil

from torment import faults
from torment.row import Row


def all_rows() -> list[Row]:
    """Every row there is."""
    modules = [importlib.import_module(f"torment.faults.{found.name}") for found in pkgutil.iter_modules(faults.__path__)]
    rows: list[Row] = []
    for module in modules:
        rows += getattr(module, "ROWS", ())
    return rows
