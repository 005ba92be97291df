"""The house's rules about imports, files and comments hold, and each of them can fail."""

from __future__ import annotations

from pathlib import Path

import pytest

import layers

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = [source for layer in layers.LAYERS for source in layers.read_folder(ROOT / layer, f"perdure.{layer}")]
AROUND = [source for folder in ("tests", "examples", "benchmarks", "tools") for source in layers.read_folder(ROOT / folder, folder)]

RULES = [
    (layers.backward_imports, PRODUCT),
    (layers.indirect_imports, PRODUCT),
    (layers.impure_halves, PRODUCT),
    (layers.long_files, PRODUCT),
    (layers.plain_names, PRODUCT + AROUND),
    (layers.bare_events, PRODUCT + AROUND),
    (layers.bare_ignores, PRODUCT + AROUND),
]


@pytest.mark.parametrize(("rule", "sources"), RULES, ids=[rule.__name__ for rule, _ in RULES])
def test_the_tree_keeps(rule, sources):
    assert rule(sources) == []


def test_every_layer_was_read():
    assert {source.layer for source in PRODUCT} == set(layers.LAYERS)


# -- each rule can fail: (rule, module, source) ------------------------------------------------

BROKEN = [
    (layers.backward_imports, "perdure.backends.memory", "from perdure.actors.journal import Journal"),
    (layers.backward_imports, "perdure.actors.stream", "import perdure.runtime"),
    (layers.backward_imports, "perdure.backends.urls", "from perdure import actors"),
    (layers.backward_imports, "perdure.backends.lmdb.store", "from ...actors import journal"),
    (layers.backward_imports, "perdure.backends.urls", "def f():\n    import importlib\n    importlib.import_module('perdure.runtime.open')"),
    (layers.backward_imports, "perdure.actors.stream", "if TYPE_CHECKING:\n    from perdure.runtime.app import App"),
    (layers.plain_names, "tests.test_x", "import runtime"),
    (layers.plain_names, "perdure.actors.stream", "from backends.event import Event"),
    (layers.indirect_imports, "perdure.actors.stream", "from perdure.backends import Event"),
    (layers.indirect_imports, "perdure.backends.memory", "from . import Event"),
    (layers.impure_halves, "perdure.actors.batch", "import trio"),
    (layers.impure_halves, "perdure.actors.restart", "from time import monotonic"),
    (layers.impure_halves, "perdure.backends.engine", "def f():\n    import os.path"),
    (layers.impure_halves, "perdure.backends.keys", "import lmdb"),
    (layers.impure_halves, "perdure.backends.codec", "async def decode(raw): ..."),
    (layers.impure_halves, "perdure.backends.commit", "from datetime import datetime, UTC\nat = datetime.now(UTC)"),
    (layers.bare_events, "examples.flights", "from trio import Event"),
    (layers.long_files, "perdure.backends.engine", "\n" * 600),
    (layers.bare_ignores, "perdure.backends.engine", "x: int = None  # type: ignore[assignment]"),
    (layers.bare_ignores, "perdure.backends.engine", "x: int = None  # type: ignore  # whatever it is"),
    (layers.bare_ignores, "tests.test_x", "import os  # noqa: F401"),
    (layers.bare_ignores, "tests.test_x", "x: int = y  # type: ignore[name-defined]  # noqa: F821"),
    (layers.bare_ignores, "tests.test_x", "# ruff: noqa"),
]


@pytest.mark.parametrize(("rule", "name", "text"), BROKEN)
def test_a_broken_module_is_caught(rule, name, text):
    assert len(rule([layers.parse(name, text)])) == 1


def test_a_pure_half_is_caught_through_a_module_between():
    pure = layers.parse("perdure.actors.ring", "from perdure.backends.lmdb import store")
    between = layers.parse("perdure.backends.lmdb.store", "import lmdb")

    complaints = layers.impure_halves([pure, between])

    assert complaints == ["perdure.actors.ring: perdure.actors.ring -> perdure.backends.lmdb.store -> lmdb"]


@pytest.mark.parametrize(
    ("rule", "name", "text"),
    [
        (layers.backward_imports, "perdure.runtime.open", "from perdure.actors.journal import Journal"),
        (layers.backward_imports, "perdure.actors.stream", "from perdure.backends.event import Event"),
        (layers.impure_halves, "perdure.actors.fold", "if TYPE_CHECKING:\n    import trio"),
        (layers.impure_halves, "perdure.actors.journal", "import trio"),
        (layers.impure_halves, "perdure.backends.codec", "from datetime import datetime, time"),
        (layers.bare_events, "perdure.actors.journal", "import trio\nready = trio.Event()"),
        (layers.bare_ignores, "perdure.backends.engine", "x: int = None  # type: ignore[assignment]  # set below"),
        (layers.bare_ignores, "tests.test_x", "import os  # noqa: F401 - so that it is loaded"),
        (layers.bare_ignores, "tests.test_x", "x: int = y  # type: ignore[name-defined]  # noqa: F821 - that is the point"),
        (layers.bare_ignores, "tests.test_x", "TEXT = 'import os  # noqa: F401'"),
    ],
)
def test_what_is_allowed_is_not_caught(rule, name, text):
    assert rule([layers.parse(name, text)]) == []
