"""docs/simulation.md: its program is that of the examples, its commands tell what it shows, its tables name all there is."""

from __future__ import annotations

import doctest
import re
import shlex
import subprocess
import sys
from typing import Any

import pytest

from perdure.runtime.__main__ import main
from perdure.runtime.simulation import laws
from perdure.runtime.simulation.faults import WHATS


@pytest.fixture(scope="module")
def text(root):
    return (root / "docs/simulation.md").read_text(encoding="utf-8")


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(text, tmp_path, monkeypatch):
    """A folder with the page's programs, the parts of one below each other."""
    for block in blocks(text, "python"):
        name = block.partition("\n")[0].removeprefix("# ")
        with (tmp_path / name).open("a") as file:
            file.write(block)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    sys.modules.pop("stock", None)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_command_tells_what_is_shown(text, folder, capsys):
    for block in blocks(text, "console"):
        line, _, shown = block.removeprefix("$ ").partition("\n")

        code = main(shlex.split(line)[1:])

        told = "".join(capsys.readouterr()) + (f"[exit code {code}]\n" if code else "")
        assert doctest.OutputChecker().check_output(shown, told, doctest.ELLIPSIS), f"$ {line}\n{told}"


def test_its_tests_pass(folder):
    (folder / "conftest.py").write_text('pytest_plugins = ["perdure.runtime.testing.plugin"]\n')

    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], cwd=folder, capture_output=True, text=True, check=False)

    assert "2 passed" in done.stdout, done.stdout


def test_its_program_is_that_of_the_examples(text, load):
    page: dict[str, Any] = {}
    example = load("examples/stock.py")
    for block in blocks(text, "python")[:3]:
        exec(block, page)  # noqa: S102 - it is the page's own program

    for name in ("work", "keep_levels", "check", "add", "change", "expected", "check_right"):
        assert page[name].__code__.co_names == getattr(example, name).__code__.co_names, name


def test_its_tables_name_every_law_and_every_fault(text):
    sentences = [value for name, value in vars(laws).items() if name.isupper() and isinstance(value, str)]

    assert [law for law in sentences if law not in text] == []
    assert [what for what in WHATS if f"| `{what}` |" not in text] == []
