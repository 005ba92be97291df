"""docs/cli.md is what the commands say of themselves: `python tools/cli_docs.py` writes it, `--print` shows it; a test holds that it is up to date."""

from __future__ import annotations

import sys
from pathlib import Path

from perdure.runtime.cli.app import app

DOC = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
FRONT = """<!-- Written by tools/cli_docs.py from the commands' own help: change it there. -->

*Worked examples with their output, and what holds for all commands: [cli-examples.md](cli-examples.md).*

"""


def text() -> str:
    """What the file should hold."""
    lines = app.generate_docs(heading_level=1, usage_name="perdure").splitlines()
    return FRONT + "\n".join(line.rstrip() for line in lines).strip() + "\n"


if __name__ == "__main__":
    if "--print" in sys.argv:
        print(text(), end="")
    else:
        DOC.write_text(text(), encoding="utf-8")
