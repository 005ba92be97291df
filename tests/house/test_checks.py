"""mypy, ruff and flake8-async have no complaint, and each of them can have one."""

from __future__ import annotations

import pytest

import checks

LIARS = {
    "mypy": "def first(items):\n    return items[0]\n",
    "ruff": "import os\n",
    "flake8-async": "import trio\n\nasync def wait(timeout):\n    await trio.sleep(timeout)\n",
}


@pytest.mark.timeout(600)  # mypy without its cache, beside other work
@pytest.mark.parametrize("name", LIARS)
def test_no_complaints(name):
    done = checks.run(name)

    assert done.returncode == 0, f"{name} says:\n{done.stdout}{done.stderr}"


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "text"), LIARS.items())
def test_a_broken_file_is_caught(name, text, tmp_path):
    file = tmp_path / "broken.py"
    file.write_text(text)

    done = checks.run(name, str(file))

    assert done.returncode != 0
    assert "broken.py" in done.stdout
