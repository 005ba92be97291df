"""`conformance`: a backend held against the laws."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from typing import Annotated

from cyclopts import Parameter

from perdure.backends import conformance as backend_laws
from perdure.backends.conformance.board import Score, Scoreboard
from perdure.backends.conformance.law import Law
from perdure.backends.conformance.stores import stores_of
from perdure.backends.errors import Misuse
from perdure.runtime.cli import out
from perdure.runtime.cli.exits import Exit
from perdure.runtime.cli.options import AsJson, Url
from perdure.runtime.cli.run import run_async


def conformance(
    url: Url,
    /,
    *,
    only: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False, help="Only this law or part; repeat it for more.")] = (),
    json: AsJson = False,
) -> int:
    """Hold a backend against every law.

    In stores of its own below the URL's folder, which are removed afterwards. The scoreboard is printed.

    For example:

        perdure conformance lmdb:laws --only snapshots

    JSON: part, law, sentence, passed, broken, missing, took_s; or passed, failed, undeclared.
    """
    laws = [law for law in all_laws() if not only or law.name in only or law.part in only]
    unknown = [name for name in only if not any(name in (law.name, law.part) for law in laws)]
    if unknown:
        parts = dict.fromkeys(law.part for law in all_laws())
        raise Misuse(f"there is no law and no part {unknown[0]!r}; the parts are: {', '.join(parts)}")

    async def command() -> int:
        with stores_of(url) as stores, out.bar("laws", len(laws)) as step:
            board = await backend_laws.run_checks(stores, laws, progress=_telling(step, laws))
        if json:
            _print_documents(board)
        else:
            out.line(board.render())
        return Exit.NO if board.failed else Exit.DONE

    return run_async(command)


def all_laws() -> tuple[Law, ...]:
    """The laws of the store, and those of the runtime over it."""
    laws: tuple[Law, ...] = backend_laws.CHECKS
    if importlib.util.find_spec("perdure.runtime.conformance") is not None:
        laws += importlib.import_module("perdure.runtime.conformance").CHECKS
    return laws


def _telling(step: Callable[..., None], laws: Sequence[Law]) -> Callable[[Score], None]:
    names = iter([*(law.name for law in laws[1:]), "done"])
    return lambda score: step(text=next(names))


def _print_documents(board: Scoreboard) -> None:
    for score in board.scores:
        law = score.law
        out.document(
            {
                "part": law.part,
                "law": law.name,
                "sentence": law.sentence,
                "passed": score.passed,
                "broken": score.broken,
                "missing": score.missing,
                "took_s": round(score.took_s, 4),
            }
        )
    passed = sum(score.passed for score in board.scores)
    out.document({"passed": passed, "failed": len(board.failed), "undeclared": board.undeclared})
