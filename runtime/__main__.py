"""`perdure`, also as `python -m perdure.runtime`. Nothing of the extra `cli` is imported before it is known to be there."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from perdure.backends.errors import MissingExtra

EXTRA = ("cyclopts", "rich")
NOT_INSTALLED = 7


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; the answer is the exit code (see `perdure --help`)."""
    try:
        from perdure.runtime.cli.run import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise
        print(f"perdure: {MissingExtra('the command line', 'cli')}", file=sys.stderr)
        return NOT_INSTALLED
    except KeyboardInterrupt:
        return 130
    return run(sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    sys.exit(main())
