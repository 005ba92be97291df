"""Who is signed in: sessions that end by themselves, are renewed by use, and can be revoked at once.

    python examples/sessions.py demo                             a demonstration in memory
    python examples/sessions.py STORE open USER [DEVICE]         gives a token (STORE: lmdb:sessions, for example)
    python examples/sessions.py STORE check TOKEN
    python examples/sessions.py STORE list USER
    python examples/sessions.py STORE revoke USER [ID]           one session, or all of them
    python examples/sessions.py STORE sweep                      forget what has ended

Which facet: **kv**. A session is a current value; that it was renewed a hundred times is nobody's business, so there is no history.
Its key is `USER/ID`: all sessions of a user are one **scan**, and signing out everywhere is that scan and one commit of deletes.
A renewal is put with the **expected** revision that was read. So of a renewal and a revocation at the same time the revocation stays:
the renewal is a conflict, and a session that was revoked never comes back.

What is stored opens no door: of the token's secret only a digest is kept. Names are quoted in keys, else the user `a` could list the
sessions of the user `a/b`. `now` is an argument: whether a session holds is a question of the value and the time, and no timer is kept.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import AsyncIterator, Callable
from urllib.parse import quote

import attrs

import by_hand
from names import check_names
from perdure.runtime import LIMITS, Bucket, Conflict, Delete, KvEntry, Runtime, Stored, open_runtime

IDLE_S = 30 * 60.0
"""A session that is not used ends after so long,"""
LIFE_S = 30 * 86_400.0
"""and after so long whatever its use."""
RENEW_SHARE = 0.5
"""It is renewed when so much of the idle time has passed: not each request is a write."""
PAGE = 500
REVOKED_MAX = 1_000
"""So many deletes are one commit."""
USER_BYTES_MAX, ID_BYTES = 120, 16
"""A user, quoted, and an id are a key."""


@attrs.frozen
class Session:
    """A user on a device; times are seconds since the epoch."""

    user: str
    device: str
    secret: bytes
    opened: float
    ends: float
    renewed: int = 0

    def holds(self, now: float) -> bool:
        """Whether it has not ended."""
        return now < self.ends

    def renewal(self, now: float) -> Session | None:
        """The session as it is after use; None if that need not be written."""
        ends = min(now + IDLE_S, self.opened + LIFE_S)
        due = self.ends - now <= IDLE_S * (1 - RENEW_SHARE) and ends > self.ends
        return attrs.evolve(self, ends=ends, renewed=self.renewed + 1) if due else None


class Sessions:
    """The sessions of a store; *now* gives seconds since the epoch, *draw* so many random bytes."""

    def __init__(self, rt: Runtime, now: Callable[[], float] = time.time, draw: Callable[[int], bytes] = secrets.token_bytes) -> None:
        self._rt = rt
        self._now = now
        self._draw = draw
        self.bucket: Bucket[Session] = rt.kv("sessions", Session)

    async def open(self, user: str, device: str = "") -> str:
        """Sign *user* in; the token is told once and is nowhere kept."""
        check_names(USER_BYTES_MAX, user=user)
        id, secret, now = self._draw(ID_BYTES // 2).hex(), self._draw(24).hex(), self._now()
        session = Session(user, device, _digest(secret), opened=now, ends=now + IDLE_S)
        (await self.bucket.put(_key(user, id), session, expected=0)).unwrap()
        return f"{quote(user, safe='')}/{id}/{secret}"

    async def check(self, token: str) -> Session | None:
        """The session that *token* opens, renewed if that is due; None if there is none, or not any more."""
        key, _, secret = token.rpartition("/")
        if not token.isascii() or len(key) > LIMITS.key_bytes:
            return None  # none was ever told so
        while key and (entry := await self.bucket.get(key)) is not None:
            now = self._now()
            if not (hmac.compare_digest(entry.value.secret, _digest(secret)) and entry.value.holds(now)):
                return None
            renewed = entry.value.renewal(now)
            if renewed is None:
                return entry.value
            match await self.bucket.put(key, renewed, expected=entry.revision):
                case Stored():
                    return renewed
                case Conflict():
                    continue  # it was revoked, or renewed by another request: look again
        return None

    async def of(self, user: str) -> list[tuple[str, Session]]:
        """The sessions of *user* that hold, by id."""
        check_names(USER_BYTES_MAX, user=user)
        now = self._now()
        return [(_id(entry), entry.value) async for entry in self._scan(_key(user)) if entry.value.holds(now)]

    async def revoke(self, user: str, id: str) -> None:
        """End one session, whether or not it is there. On return no check says yes."""
        check_names(USER_BYTES_MAX, user=user)
        check_names(ID_BYTES, id=id)
        (await self.bucket.delete(_key(user, id))).unwrap()

    async def revoke_all(self, user: str) -> int:
        """Sign *user* out everywhere: every session that was open when it was asked for; how many."""
        check_names(USER_BYTES_MAX, user=user)
        keys = [entry.key async for entry in self._scan(_key(user))]
        for start in range(0, len(keys), REVOKED_MAX):
            (await self._rt.transact(*(Delete("sessions", key) for key in keys[start : start + REVOKED_MAX]))).unwrap()
        return len(keys)

    async def sweep(self) -> int:
        """Forget sessions that have ended; how many. One that is renewed meanwhile stays: it is another revision."""
        swept, now = 0, self._now()
        async for entry in self._scan(""):
            if not entry.value.holds(now):
                swept += isinstance(await self.bucket.delete(entry.key, expected=entry.revision), Stored)
        return swept

    async def _scan(self, prefix: str) -> AsyncIterator[KvEntry[Session]]:
        """All of them, a page at a time."""
        after: str | None = None
        while True:
            entries = (await self.bucket.scan(prefix, after=after, limit=PAGE)).entries
            for entry in entries:
                yield entry
            if len(entries) < PAGE:
                return
            after = entries[-1].key


def _key(user: str, id: str = "") -> str:
    return f"{quote(user, safe='')}/{id}"


def _id(entry: KvEntry[Session]) -> str:
    return entry.key.rpartition("/")[2]


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


# -- by hand ---------------------------------------------------------------------------------


def told(session: Session | None, now: float) -> str:
    """A session in a line."""
    if session is None:
        return "nobody: sign in"
    return f"{session.user} on {session.device or 'a device'}, {(session.ends - now) / 60:.0f} minutes left, renewed {session.renewed} times"


async def main(store: str, *words: str) -> bool:
    """The command, or the demonstration; False for a no."""
    async with open_runtime(store) as rt:
        sessions = Sessions(rt)
        match words:
            case ["open", user, *device]:
                print(await sessions.open(user, " ".join(device)))
            case ["check", token]:
                session = await sessions.check(token)
                print(told(session, time.time()))
                return session is not None
            case ["list", user]:
                for id, session in await sessions.of(user):
                    print(id, told(session, time.time()))
            case ["revoke", user]:
                print(f"{await sessions.revoke_all(user)} sessions revoked")
            case ["revoke", user, id]:
                await sessions.revoke(user, id)
            case ["sweep"]:
                print(f"{await sessions.sweep()} sessions forgotten")
            case ["demo"]:
                await demonstrate(rt)
            case _:
                raise by_hand.Unknown
    return True


async def demonstrate(rt: Runtime) -> None:
    """A day in a few lines."""
    clock: list[float] = [time.time()]
    sessions = Sessions(rt, now=lambda: clock[0])

    async def show(what: str, token: str, minutes: int) -> None:
        clock[0] += minutes * 60
        print(f"{what:<34}{told(await sessions.check(token), clock[0])}")

    phone, laptop = await sessions.open("ada", "phone"), await sessions.open("ada", "laptop")
    await show("ada on the phone", phone, 0)
    await show("20 minutes later, in use", phone, 20)
    await show("the laptop, 15 minutes later", laptop, 15)
    await show("the phone", phone, 0)
    print(f"{'signed out everywhere':<34}{await sessions.revoke_all('ada')} sessions revoked")
    await show("the phone", phone, 0)


if __name__ == "__main__":
    by_hand.run(__doc__, main)
