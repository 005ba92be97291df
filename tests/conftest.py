"""What every test gets: the profiles of Hypothesis, a clean import path, and the way to what is no package."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

# `python -m pytest` puts the root on the path, and `import runtime` would load the layer a second time.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]

# No deadline: a flush takes what the disk takes. Examples are drawn anew each run; a failure is kept and printed.
settings.register_profile("dev", deadline=None, derandomize=False, print_blob=True)
settings.register_profile("ci", settings.get_profile("dev"), max_examples=50)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests marked `last` behind all others."""
    items.sort(key=lambda item: item.get_closest_marker("last") is not None)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def load() -> Callable[[str], ModuleType]:
    """`load("examples/flights.py")` or `load("benchmarks")`: a script or folder outside the packages, as a module."""
    return load_module


def load_module(path: str) -> ModuleType:
    """The file or package folder at *path* under the root, loaded once under its own name (`flights`, `benchmarks`)."""
    target = ROOT / path
    file = target / "__init__.py" if target.is_dir() else target
    if target.stem not in sys.modules:
        folders = [str(target)] if target.is_dir() else None
        spec = importlib.util.spec_from_file_location(target.stem, file, submodule_search_locations=folders)
        assert spec, f"{file} is no Python file"
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[target.stem] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[target.stem]
            raise
    module = sys.modules[target.stem]
    assert module.__file__ == str(file), f"{target.stem} is loaded from {module.__file__}"
    return module
