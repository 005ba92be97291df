"""The modules as they are imported: under one name each, alone, lazily, with examples that run."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import layers

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(source.name for layer in layers.LAYERS for source in layers.read_folder(ROOT / layer, f"perdure.{layer}"))

HEAVY = ("lmdb", "sqlite3", "perdure.backends.lmdb", "perdure.backends.memory", "httpx2", "cyclopts", "rich", "pytest", "hypothesis")
"""What `import perdure.runtime` must not load: concrete backends before one is opened, and what only an extra or a test brings."""

ALONE = """
import os, pickle, sys, traceback

def forked(does):
    # What *does* returned, in a process of its own; None where it failed.
    receive, send = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(send, pickle.dumps(does()))
        except BaseException:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(0)
    os.close(send)
    with open(receive, "rb") as said:
        answer = said.read()
    os.waitpid(child, 0)
    return pickle.loads(answer) if answer else None

def others():
    # What all of them import that is not ours.
    for name in sys.argv[1:]:
        __import__(name)
    ours = {name.partition(".")[0] for name in (*sys.argv[1:], "__main__", "__mp_main__")}
    return [name for name in sys.modules if name.partition(".")[0] not in ours]

def bad(name):
    # Which of *name* and the modules in it cannot be imported. A package is imported before any module in it: once for all of them.
    __import__(name)
    inside = [one for one in sys.argv[1:] if one.rpartition(".")[0] == name]
    return [fault for one in inside for fault in faults(one)]

def faults(name):
    found = forked(lambda: bad(name))
    return [name] if found is None else found

for name in forked(others) or ():
    try:
        __import__(name)  # once, so that each module below costs only itself
    except Exception:
        pass
found = [fault for name in sys.argv[1:] if name.count(".") == 1 for fault in faults(name)]
sys.exit(f"cannot be imported alone: {found}" if found else 0)
"""


def python(code: str, *args: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run *code* in a fresh interpreter that sees no more than what is installed."""
    command = [sys.executable, "-P", "-c", code, *args]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env={**os.environ, **environment})


def test_perdure_is_a_namespace():
    assert importlib.import_module("perdure").__file__ is None


@pytest.mark.parametrize("layer", layers.LAYERS)
def test_a_layer_comes_from_this_checkout(layer):
    assert importlib.import_module(f"perdure.{layer}").__file__ == str(ROOT / layer / "__init__.py")


@pytest.mark.parametrize("layer", layers.LAYERS)
def test_a_plain_folder_name_is_not_importable(layer):
    assert importlib.util.find_spec(layer) is None


def test_opening_nothing_loads_no_backend(tmp_path):
    code = f"import sys, perdure.runtime; print([name for name in {HEAVY!r} if name in sys.modules])"

    done = python(code, cwd=tmp_path)

    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_opening_nothing_would_show_a_backend(tmp_path):
    done = python(f"import sys, lmdb; print([name for name in {HEAVY!r} if name in sys.modules])", cwd=tmp_path)

    assert done.stdout.strip() == "['lmdb']"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_every_module_can_be_imported_first(tmp_path):
    done = python(ALONE, *MODULES, cwd=tmp_path)

    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_module_that_another_one_has_to_come_before_would_be_found(tmp_path):
    layer = tmp_path / "circle" / "layer"
    layer.mkdir(parents=True)
    (layer / "__init__.py").write_text("")
    (layer / "first.py").write_text("x = 1\nfrom circle.layer.second import y\n")
    (layer / "second.py").write_text("from circle.layer.first import x\ny = 2\n")

    done = python(ALONE, "circle.layer", "circle.layer.first", "circle.layer.second", cwd=tmp_path, PYTHONPATH=str(tmp_path))

    assert "cannot be imported alone: ['circle.layer.second']" in done.stderr
    assert done.returncode == 1


@pytest.mark.parametrize("name", MODULES)
def test_doctests(name):
    module = importlib.import_module(name)

    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("layer", layers.LAYERS)
def test_public_names_exist(layer):
    package = importlib.import_module(f"perdure.{layer}")

    assert [name for name in getattr(package, "__all__", ()) if not hasattr(package, name)] == []


def test_the_script_without_its_extra_says_what_to_install(tmp_path):
    code = (
        "import sys; sys.modules.update(cyclopts=None, rich=None); sys.argv[:] = ['perdure', 'stats', 'memory:'];"
        "from perdure.runtime.__main__ import main; sys.exit(main())"
    )

    done = python(code, cwd=tmp_path)

    assert done.returncode not in (0, None)
    assert "perdure[cli]" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_module_under_a_plain_name_would_be_seen():
    assert layers.loaded_plainly(["perdure.runtime", "runtime.open", "tests.actors"]) == ["runtime.open"]


@pytest.mark.last
def test_no_module_was_loaded_under_a_plain_name():
    assert layers.loaded_plainly(sys.modules) == []
