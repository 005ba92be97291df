"""What reads the source without running it, as commands: `make lint`, `make types` and tests/house run these.

Usage: `python tools/checks.py [links|mypy|ruff|flake8-async] ...`
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("runtime", "actors", "backends")
ASYNCHRONOUS = re.compile(r"\b(async|await|trio|anyio|asyncio)\b")

FLAKE8_ASYNC_OFF = {
    "ASYNC910": "an answer that is already there may come without a Trio checkpoint: a read from the ring costs no round of the loop",
    "ASYNC911": "the same, for async iterators: a page in hand is handed out event by event",
    "ASYNC912": "the same, for a cancel scope around such a call",
    "ASYNC913": "an actor's `while True` waits at its mailbox, in a helper that the rule does not look into",
}


STARTABLE = (
    "run,project,serve,daemon,tokens,here,others,health,http,watchdog,look_out,follow_store,_heed,_run_retention,_run_scrub,_run_upkeep,_shielded,scratch,_keep"
)
"""Functions that say when they have started, and are waited for until then."""


def command(name: str, *paths: str) -> list[str]:
    """The arguments that run check *name* over *paths* (over all it is for, if none are given)."""
    program = str(Path(sys.executable).parent / name)
    match name:
        case "mypy":
            return [program, "--config-file", str(ROOT / "pyproject.toml"), *paths]
        case "ruff":
            return [program, "check", "--config", str(ROOT / "pyproject.toml"), *(paths or ["."])]
        case "flake8-async":
            # As a plugin: flake8 spreads the files over the cores. A prefix selects the optional rules too.
            flake8 = str(Path(program).with_name("flake8"))
            off = ",".join(FLAKE8_ASYNC_OFF)
            return [flake8, "--isolated", "--select", "ASYNC", "--ignore", off, f"--startable-in-context-manager={STARTABLE}", *(paths or asynchronous())]
    raise ValueError(f"no check is called {name!r}: links, mypy, ruff, flake8-async")


def asynchronous() -> list[str]:
    """The sources that flake8-async can have anything to say of: it takes a second for 400 lines, whatever is in them."""
    sources = (source for layer in LAYERS for source in sorted((ROOT / layer).rglob("*.py")))
    return [str(source.relative_to(ROOT)) for source in sources if ASYNCHRONOUS.search(source.read_text())]


def run(name: str, *paths: str) -> subprocess.CompletedProcess[str]:
    """Run check *name* from the root; its complaints are in `stdout` and `stderr`."""
    make_links(ROOT)
    return subprocess.run(command(name, *paths), cwd=ROOT, capture_output=True, text=True, check=False)


def make_links(root: Path) -> None:
    """Make `.typing/perdure/<layer>`, by which type checkers and editors find the layers under their import names."""
    (root / ".typing" / "perdure").mkdir(parents=True, exist_ok=True)
    for layer in LAYERS:
        link = root / ".typing" / "perdure" / layer
        if not link.is_symlink():
            link.symlink_to(Path("..", "..", layer), target_is_directory=True)


def main(names: list[str]) -> int:
    """Run the checks in turn and return 1 if any complains."""
    make_links(ROOT)
    done = [run(name) for name in names if name != "links"]
    for one in done:
        print(one.stdout, one.stderr, sep="", end="")
    return int(any(one.returncode for one in done))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
