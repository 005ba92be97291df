"""What every test gets: the profiles of Hypothesis, a clean import path, and the way to what is no package."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings
from suite import ALONE

from postgres_server import Given, NoServer, Server, running

ROOT = Path(__file__).resolve().parent.parent
KILLS = ("test_migrate_kills.py", "test_moves.py")
"""Of what runs alone: they only kill, and time nothing, so that they run beside the soak."""

# `python -m pytest` puts the root on the path, and `import runtime` would load the layer a second time.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]

# No deadline: a flush takes what the disk takes. Examples are drawn anew each run; a failure is kept and printed.
settings.register_profile("dev", deadline=None, derandomize=False, print_blob=True)
settings.register_profile("ci", settings.get_profile("dev"), max_examples=50)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests marked `last` behind all others; those of a folder that needs a quiet machine run one after the other."""
    items.sort(key=lambda item: item.get_closest_marker("last") is not None)
    for item in items:
        folder = item.path.relative_to(ROOT).parts[1]
        if f"tests/{folder}" in ALONE:
            item.add_marker(pytest.mark.xdist_group("soak" if item.path.name in KILLS else folder))


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def load() -> Callable[[str], ModuleType]:
    """`load("examples/flights.py")` or `load("benchmarks")`: a script or folder outside the packages, as a module."""
    return load_module


@pytest.fixture(scope="session")
def postgres() -> Iterator[Given]:
    """A PostgreSQL server: that of the URL in PERDURE_TEST_POSTGRES, else one of our own, started for this run."""
    if given := os.environ.get("PERDURE_TEST_POSTGRES"):
        yield Given(given)
        return
    with _started() as server:
        yield server


@pytest.fixture
def database(postgres: Given) -> str:
    """The URL of an empty database."""
    return postgres.new_database()


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[Server]:
    """A server of our own for one module, to be stopped and killed."""
    with _started() as server:
        yield server


@contextmanager
def _started() -> Iterator[Server]:
    with ExitStack() as stack:
        try:
            server = stack.enter_context(running())
        except NoServer as error:
            pytest.skip(str(error))
        yield server


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
