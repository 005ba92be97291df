"""Bearer tokens: made, listed, revoked, and checked. They rest in the store, hashed, in the reserved bucket `$tokens`.

    perdure_IIIIIIIIIIIIIIII_SSSS...     16 hexadecimal digits that name it, 43 characters that are its secret (256 bits)

A secret of 256 random bits cannot be guessed, so a plain digest keeps it (a slow one is for passwords). Every daemon on the store
follows the bucket: what was revoked is refused at once on the same machine, elsewhere as soon as the store tells.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
from datetime import UTC, datetime
from typing import Final

import attrs
import msgspec
import trio

from perdure.backends.commit import EXISTS, Committed, Delete, Put
from perdure.backends.errors import Compacted, Conflict, Misuse, PerdureError
from perdure.backends.event import to_datetime, to_us
from perdure.backends.protocol import Backend
from perdure.runtime.runtime import Runtime
from perdure.runtime.serve.audit import audited
from perdure.runtime.serve.scopes import Scopes

log = logging.getLogger("perdure.serve")

BUCKET: Final = "$tokens"
PAGE: Final = 1_000
AGAIN_S: Final = 1.0
FORM: Final = re.compile(r"perdure_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")
SECRET: Final = re.compile(r"perdure_([0-9a-f]{16})_[A-Za-z0-9_-]+")
"""What must not be shown, wherever it stands; its name may."""

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode


@attrs.frozen
class Token:
    """A token as it is kept: never its secret."""

    id: str
    name: str
    scopes: Scopes
    digest: bytes = attrs.field(repr=False)
    created_us: int
    expires_us: int | None

    @property
    def created(self) -> datetime:
        return to_datetime(self.created_us)

    @property
    def expires(self) -> datetime | None:
        return None if self.expires_us is None else to_datetime(self.expires_us)


def digest_of(secret: str) -> bytes:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode()).digest()


def hidden(text: str) -> str:
    """*text* without the secrets of tokens, and without the passwords of URLs."""
    return _PASSWORD.sub(r"\1\2***", SECRET.sub(r"perdure_\1_***", text))


_PASSWORD: Final = re.compile(r"(://[^:/@\s]*:)[^@\s]+(?=@)|(password=)[^&\s'\"]+")


# -- for an operator -------------------------------------------------------------------------


async def new_token(rt: Runtime, name: str, scopes: Scopes, *, expires: datetime | None = None) -> str:
    """Make a token; the answer is its text, which nobody can see again.

    Raises:
      Misuse: a bad name, no scope, or an end that is over already.
    """
    if not name.isprintable() or not 0 < len(name) <= 128:
        raise Misuse(f"a token is named by printable text of 1 to 128 characters, not {name!r}")
    if not scopes.names:
        raise Misuse("a token without a scope permits nothing: give it one, as read or append:order")
    now = datetime.now(UTC)
    if expires is not None and expires <= now:
        raise Misuse(f"a token that expires at {expires.isoformat()} has expired already")
    id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    kept = {
        "name": name,
        "scopes": list(scopes.names),
        "digest": digest_of(secret),
        "created_us": to_us(now),
        "expires_us": None if expires is None else to_us(expires),
    }
    told = {"token": id, "name": name, "scopes": list(scopes.names), "expires": None if expires is None else expires.isoformat()}
    answer = await rt.commit_own([Put(BUCKET, id.encode(), _pack(kept), 0), audited("token-made", told)])
    answer.unwrap()
    return f"perdure_{id}_{secret}"


async def revoke_token(rt: Runtime, id: str) -> bool:
    """End a token; whether there was one."""
    if not re.fullmatch("[0-9a-f]{16}", id):
        raise Misuse(f"{id!r} names no token: `perdure token list` shows the names, 16 hexadecimal digits each")
    answer: Committed | Conflict = await rt.commit_own([Delete(BUCKET, id.encode(), EXISTS), audited("token-revoked", {"token": id})])
    return not isinstance(answer, Conflict)


async def list_tokens(backend: Backend) -> list[Token]:
    """All there are, in order of their ids."""
    found: list[Token] = []
    after: bytes | None = None
    while page := await backend.scan(BUCKET, after=after, limit=PAGE):
        found += [_read(entry.key, entry.value) for entry in page]
        after = page[-1].key
    return found


def _read(key: bytes, value: bytes) -> Token:
    kept = _unpack(value)
    return Token(key.decode(), kept["name"], Scopes(kept["scopes"]), kept["digest"], kept["created_us"], kept["expires_us"])


# -- for a daemon ----------------------------------------------------------------------------

_NOBODY: Final = digest_of(secrets.token_urlsafe(32))
"""What the secret of a token that there is not is compared with, so that it takes as long."""


@attrs.define
class Tokens:
    """The tokens of a store, in memory, followed."""

    known: dict[str, Token] = attrs.field(factory=dict)

    def check(self, text: str, now_us: int) -> Token | str:
        """The token that *text* is; else why not: `wrong` or `expired`."""
        form = FORM.fullmatch(text)
        id, secret = (form[1], form[2]) if form else ("", "")
        token = self.known.get(id)
        same = hmac.compare_digest(digest_of(secret), token.digest if token is not None else _NOBODY)
        if token is None or not same:
            return "wrong"
        if token.expires_us is not None and token.expires_us <= now_us:
            return "expired"
        return token

    async def follow_store(self, backend: Backend, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Know what the store knows, for ever. Where the store cannot be read, what was known counts."""
        revision = await self._read_all(backend)
        task_status.started()
        while True:
            try:
                await backend.wait_changed(revision)
                revision = await self._read_changes(backend, revision)
            except PerdureError as error:
                log.warning("tokens wait for the store: %s", hidden(str(error)))
                await trio.sleep(AGAIN_S)

    async def _read_all(self, backend: Backend) -> int:
        revision = await backend.revision()
        self.known = {token.id: token for token in await list_tokens(backend)}
        return revision

    async def _read_changes(self, backend: Backend, revision: int) -> int:
        try:
            found = await backend.read_changes(BUCKET, after=revision, limit=PAGE)
        except Compacted:
            return await self._read_all(backend)
        for change in found.changes:
            if change.value is None:
                self.known.pop(change.key.decode(), None)
            else:
                token = _read(change.key, change.value)
                self.known[token.id] = token
        return max(revision, found.examined)
