"""The parameters that several commands share, so that they mean and say the same everywhere."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from cyclopts import Parameter

from perdure.backends.commit import ANY, EXISTS, Expected
from perdure.backends.errors import Misuse
from perdure.runtime import moments

Url = Annotated[str, Parameter(help="The store: lmdb:DIR, file:DIR, postgresql://... (or memory:, which is empty each time).")]
Stream = Annotated[str, Parameter(help="The stream's name.", allow_leading_hyphen=True)]
Bucket = Annotated[str, Parameter(help="The bucket's name.", allow_leading_hyphen=True)]
Key = Annotated[str, Parameter(help="The key.", allow_leading_hyphen=True)]
Json = Annotated[str, Parameter(help="The data as JSON; - reads it from standard input.", allow_leading_hyphen=True)]
WithArchive = Annotated[str | None, Parameter(help="A blob store, directory:DIR or ipfs://HOST:PORT: what was cut is read from its archives.")]
AsJson = Annotated[bool, Parameter(name="--json", negative=(), show_default=False, help="Print one JSON document per line.")]
Prefix = Annotated[str, Parameter(show_default=False, help="Only names that begin so.")]
Limit = Annotated[int | None, Parameter(help="At most so many.")]
Believed = Annotated[
    str | None, Parameter(name="--expected", help="What you believe: a number (0: nothing yet), any, or exists. If it does not hold: exit code 1.")
]
AppName = Annotated[str, Parameter(name="--app", help="Where the App is: module:name, the current folder first.")]


def expected_of(text: str | None) -> Expected:
    """What `--expected` says."""
    match text:
        case None | "any":
            return ANY
        case "exists":
            return EXISTS
        case _ if text.isascii() and text.isdecimal():
            return int(text)
        case _:
            raise Misuse(f"--expected is a number from 0, any, or exists, not {text!r}")


def at_least_0(name: str, number: int | None) -> int:
    """*number* (none: 0), which must not be negative."""
    if number is not None and number < 0:
        raise Misuse(f"{name} is a number from 0, not {number}")
    return number or 0


def check_limit(limit: int | None) -> int | None:
    """`--limit`, which must not be negative."""
    at_least_0("--limit", limit)
    return limit


def moment_of(text: str) -> datetime:
    """What `--time` says."""
    return moments.moment_of(text, "--time")
