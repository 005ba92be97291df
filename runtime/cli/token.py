"""`token new`, `token list`, `token revoke`: who may use a daemon."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

from cyclopts import App, Parameter

from perdure.backends.errors import Misuse
from perdure.runtime.cli import out
from perdure.runtime.cli.exits import Exit
from perdure.runtime.cli.options import AsJson, Url, moment_of
from perdure.runtime.cli.run import run_async
from perdure.runtime.cli.stores import reading, writing
from perdure.runtime.serve.scopes import Scopes
from perdure.runtime.serve.tokens import Token, list_tokens, new_token, revoke_token

commands = App(name="token", help="Tokens: who may use a daemon on the store, and for what.")
UNITS: Final = {"m": "minutes", "h": "hours", "d": "days"}


@commands.command
def new(
    url: Url,
    name: Annotated[str, Parameter(help="What it is for: shown by `token list`.")],
    /,
    *,
    scope: Annotated[
        tuple[str, ...],
        Parameter(negative=(), show_default=False, help="read, append:CATEGORY, append:*, kv:BUCKET, kv:*, blob, operate, run or scratch; repeat it for more."),
    ],
    expires: Annotated[str | None, Parameter(help="When it ends: 30m, 12h, 90d, or a time as 2026-03-01T12:00Z. Without it never.")] = None,
    json: AsJson = False,
) -> int:
    """Make a token, and print it.

    It cannot be shown again: the store keeps a digest of it. Daemons know it at once.

    For example:

        perdure token new lmdb:shop till --scope append:order --expires 90d

    JSON: token, id, name, scopes, expires.
    """
    scopes, end = Scopes(scope), None if expires is None else _end_of(expires)

    async def command() -> int:
        async with writing(url, create=True) as rt:
            token = await new_token(rt, name, scopes, expires=end)
        if json:
            out.document({"token": token, "id": token.split("_")[1], "name": name, "scopes": scopes.names, "expires": end})
        else:
            out.line(token)
        return Exit.DONE

    return run_async(command)


def _end_of(text: str) -> datetime:
    number, unit = text[:-1], text[-1:]
    if number.isascii() and number.isdecimal() and unit in UNITS and len(number) < 6:
        return datetime.now(UTC) + timedelta(**{UNITS[unit]: int(number)})
    try:
        return moment_of(text)
    except Misuse as error:
        raise Misuse(f"--expires {text!r} is no time: write 30m, 12h, 90d, or 2026-03-01T12:00Z") from error


@commands.command(name="list")
def list_(url: Url, /, *, json: AsJson = False) -> int:
    """List the tokens: never their secrets.

    For example:

        perdure token list lmdb:shop

    JSON: id, name, scopes, created, expires.
    """

    async def command() -> int:
        async with reading(url) as backend:
            found = await list_tokens(backend)
        now = datetime.now(UTC)
        if json:
            for token in found:
                out.document(
                    {"id": token.id, "name": token.name, "scopes": token.scopes.names, "created": token.created, "expires": token.expires}
                )
        else:
            out.Columns("id", "name", "created", "expires", "scopes").print([_row(token, now) for token in found])
        return Exit.DONE

    return run_async(command)


def _row(token: Token, now: datetime) -> tuple[str, ...]:
    end = token.expires
    told = "never" if end is None else f"{end:%Y-%m-%d %H:%M}Z" + (" (over)" if end <= now else "")
    return (token.id, token.name, f"{token.created:%Y-%m-%d %H:%M}Z", told, " ".join(token.scopes.names))


@commands.command
def revoke(url: Url, id: Annotated[str, Parameter(help="Its id, as `token list` shows it.")], /, *, json: AsJson = False) -> int:
    """End a token. Daemons refuse it from then on.

    For example:

        perdure token revoke lmdb:shop 0123456789abcdef

    JSON: id, revoked.
    """

    async def command() -> int:
        async with writing(url, create=False) as rt:
            was = await revoke_token(rt, id)
        if json:
            out.document({"id": id, "revoked": was})
        elif not was:
            out.note(f"there is no token {id!r}: `perdure token list {url}` shows those there are")
        return Exit.DONE if was else Exit.NO

    return run_async(command)
