"""What is shipped: the wheel holds the tree, all of it and nothing else, and works by itself."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import packages_distributions, requires, version
from pathlib import Path

import pytest

import layers

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ("pyproject.toml", "setup.py", "README.md", "LICENSE")

REQUIRED = {"attrs", "cattrs", "inotify_simple", "lmdb", "msgspec", "outcome", "sortedcontainers", "trio"}
CLI = {"cyclopts", "rich"}
EXTRAS = {
    "perdure.runtime.cli": CLI,
    "perdure.runtime.cli.looking": {"httpx2"},
    "perdure.runtime.__main__": CLI,
    "perdure.runtime.serve": {"starlette", "Hypercorn", "h11", "prometheus_client", "structlog"},
    "perdure.actors.spans": {"opentelemetry_api"},
    "perdure.runtime.tracing": {"opentelemetry_api"},
    "perdure.runtime.serve.tracing": {"opentelemetry_api"},
    "perdure.runtime.testing.plugin": {"pytest"},
    "perdure.backends.postgres": {"psycopg"},
    "perdure.backends.conformance.databases": {"psycopg"},
    "perdure.backends.http": {"httpx2"},
    "perdure.backends.conformance.remote": {"httpx2"},
    "perdure.backends.blobs.ipfs": {"httpx2"},
    "perdure.backends.blobs.rpc": {"httpx2"},
}
"""What a part may import beyond the required: it says what to install where that is not there, or is loaded only by who has it."""


def copy_of_the_tree(target: Path) -> Path:
    """The files a wheel is made of, without `build/`, whose leftovers setuptools would pack."""
    for layer in layers.LAYERS:
        shutil.copytree(ROOT / layer, target / layer, ignore=shutil.ignore_patterns("__pycache__"))
    for name in PROJECT:
        shutil.copy(ROOT / name, target / name)
    return target


def build(tree: Path, into: Path) -> zipfile.ZipFile:
    """Build *tree* with the tools of this environment, asking no registry."""
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *offline, "--wheel-dir", str(into), str(tree)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = into.glob("*.whl")
    return zipfile.ZipFile(wheel)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    tree = copy_of_the_tree(tmp_path_factory.mktemp("tree"))
    with build(tree, tmp_path_factory.mktemp("wheel")) as archive:
        yield archive


def packed(archive: zipfile.ZipFile) -> set[str]:
    """The names in the wheel, without its own records."""
    return {name for name in archive.namelist() if ".dist-info/" not in name}


def in_the_tree(root: Path) -> set[str]:
    """What the wheel should hold: every module and typing marker of the layers."""
    files = [file for layer in layers.LAYERS for file in (root / layer).rglob("*") if file.suffix == ".py" or file.name == "py.typed"]
    return {f"perdure/{file.relative_to(root).as_posix()}" for file in files}


def metadata(archive: zipfile.ZipFile, file: str) -> str:
    (name,) = (name for name in archive.namelist() if name.endswith(f".dist-info/{file}"))
    return archive.read(name).decode()


def test_the_wheel_holds_the_tree_and_nothing_else(wheel):
    assert packed(wheel) == in_the_tree(ROOT)


@pytest.mark.parametrize("layer", layers.LAYERS)
def test_every_layer_is_typed(wheel, layer):
    assert f"perdure/{layer}/py.typed" in wheel.namelist()


def test_a_forgotten_init_is_caught(tmp_path):
    tree = copy_of_the_tree(tmp_path / "tree")
    (tree / "backends" / "forgotten").mkdir()
    (tree / "backends" / "forgotten" / "module.py").write_text("")

    with build(tree, tmp_path / "wheel") as archive:
        missing = in_the_tree(tree) - packed(archive)

    assert missing == {"perdure/backends/forgotten/module.py"}


def test_the_wheel_works_by_itself(wheel, tmp_path):
    wheel.extractall(tmp_path)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import perdure.runtime as r; print(r.__file__)"

    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert (done.stdout.strip(), done.stderr) == (str(tmp_path / "perdure" / "runtime" / "__init__.py"), "")


def test_the_script_is_named(wheel):
    assert "perdure = perdure.runtime.__main__:main" in metadata(wheel, "entry_points.txt")


def test_it_requires_what_it_should(wheel):
    lines = [line.removeprefix("Requires-Dist: ") for line in metadata(wheel, "METADATA").splitlines() if line.startswith("Requires-Dist: ")]

    assert {line.partition(">")[0] for line in lines if "extra ==" not in line} == REQUIRED


# -- the layers import nothing that an install would not bring ---------------------------------


def undeclared(sources: list[layers.Source]) -> list[str]:
    """Imports of distributions that the importing part does not declare."""
    owners = packages_distributions()
    complaints = []
    for source in sources:
        allowed = REQUIRED.union(*(extra for part, extra in EXTRAS.items() if f"{source.name}.".startswith(f"{part}.")))
        for found in layers.imports_of(source):
            known = found.root in sys.stdlib_module_names or found.root in ("perdure", "__future__")
            if not known and allowed.isdisjoint(owner.replace("-", "_") for owner in owners.get(found.root, ())):
                complaints.append(f"{source.name}:{found.line} imports {found.root}")
    return complaints


def test_the_layers_import_only_what_is_declared():
    assert undeclared([source for layer in layers.LAYERS for source in layers.read_folder(ROOT / layer, f"perdure.{layer}")]) == []


def test_of_opentelemetry_the_layers_import_the_api_alone():
    """Both are one import root, so the rule above cannot tell."""
    found = [one.module for layer in layers.LAYERS for source in layers.read_folder(ROOT / layer, layer) for one in layers.imports_of(source)]

    assert {module for module in found if module.startswith("opentelemetry")} <= {
        "opentelemetry.context",
        "opentelemetry.trace",
        "opentelemetry.trace.propagation.tracecontext",
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [("perdure.backends.conformance.log", "import pytest"), ("perdure.runtime.open", "from rich import print"), ("perdure.actors.stream", "import idna")],
)
def test_an_undeclared_import_is_caught(name, text):
    assert len(undeclared([layers.parse(name, text)])) == 1


def test_what_is_installed_is_what_is_pinned():
    """Two set-ups are equal: each dependency, of every extra, is here in the version `constraints.txt` names."""
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    named = [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in requires("perdure") or ()]

    assert {name: version(name) for name in named} == {name: pins.get(name) for name in named}
