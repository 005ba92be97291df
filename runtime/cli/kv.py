"""`kv get|put|delete|scan|watch`: current values by key, as plain data whatever the bucket's type is."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import App, Parameter

from perdure.backends.codec import Codec
from perdure.backends.commit import Committed, Delete, Put, Stored, check_name
from perdure.backends.errors import Conflict
from perdure.backends.limits import LIMITS
from perdure.backends.protocol import Entry
from perdure.runtime.cli import out
from perdure.runtime.cli.exits import Exit
from perdure.runtime.cli.log import BATCH, conflicted
from perdure.runtime.cli.options import AsJson, Believed, Bucket, Json, Key, Limit, Prefix, Url, at_least_0, check_limit, expected_of
from perdure.runtime.cli.run import run_async
from perdure.runtime.cli.stores import check_writes, given_json, reading, writing
from perdure.runtime.cli.values import as_json
from perdure.runtime.encode import to_key
from perdure.runtime.kv import Changed, Watch

app = App(name="kv", help="Read and write current values.")


@app.command
def get(url: Url, bucket: Bucket, key: Key, /, *, json: AsJson = False) -> int:
    """Print the value of a key.

    For example:

        perdure kv get lmdb:shop settings currency

    JSON: key, revision, value.
    """
    check_bucket(bucket)
    raw = to_key(key)

    async def command() -> int:
        async with reading(url) as backend:
            entry = await backend.get(bucket, raw)
        if entry is None:
            out.note(f"bucket {bucket!r} has no key {key!r}")
            return Exit.NO
        if json:
            out.document(_document(entry))
        else:
            out.line(as_json(_value(entry.value)))
        return Exit.DONE

    return run_async(command)


@app.command
def put(url: Url, bucket: Bucket, key: Key, value: Json, /, *, expected: Believed = None, json: AsJson = False) -> int:
    """Store a value.

    The store is made if there is none.

    For example:

        perdure kv put lmdb:shop settings currency '"EUR"' --expected 0

    JSON: key, revision; or conflict (what, subject, expected, actual).
    """
    write = Put(bucket, key, given_json(value, "the value"), expected_of(expected))
    check_writes(write)
    return run_async(lambda: _write(url, write, json, create=True))


@app.command
def delete(url: Url, bucket: Bucket, key: Key, /, *, expected: Believed = None, json: AsJson = False) -> int:
    """Delete a key.

    Of an absent one too it is a change, with a revision.

    For example:

        perdure kv delete lmdb:shop settings currency --expected exists

    JSON: key, revision; or conflict (what, subject, expected, actual).
    """
    write = Delete(bucket, key, expected_of(expected))
    check_bucket(bucket)
    return run_async(lambda: _write(url, write, json, create=False))


async def _write(url: str, write: Put[Any] | Delete, json: bool, *, create: bool) -> int:
    async with writing(url, create=create) as rt:
        match await rt.transact(write):
            case Committed(parts=(Stored(revision=number),)):
                revision = number
            case Conflict() as conflict:
                return conflicted(conflict, json)
            case other:
                raise AssertionError(other)
    if json:
        out.document({"key": write.key, "revision": revision})
    else:
        out.line(f"revision {revision}")
    return Exit.DONE


@app.command
def scan(
    url: Url,
    bucket: Bucket,
    /,
    *,
    prefix: Prefix = "",
    after: Annotated[str | None, Parameter(help="Only keys beyond this one.")] = None,
    limit: Limit = None,
    json: AsJson = False,
) -> int:
    """Print the entries of a bucket in order of their keys.

    For example:

        perdure kv scan lmdb:shop settings --prefix c

    JSON: key, revision, value.
    """
    check_bucket(bucket)
    check_limit(limit)

    async def command() -> int:
        columns, cursor, left = out.Columns("key", "revision>", "value"), None if after is None else to_key(after), limit
        async with reading(url) as backend:
            revision = await backend.revision()  # before the first page: who watches from here misses nothing
            while left is None or left > 0:
                asked = min(BATCH, left or BATCH)
                page = await backend.scan(bucket, prefix=prefix.encode(errors="surrogateescape"), after=cursor, limit=asked)
                if json:
                    for entry in page:
                        out.document(_document(entry))
                else:
                    columns.print([(_text(entry.key), entry.revision, as_json(_value(entry.value))) for entry in page])
                if len(page) < asked:
                    break
                cursor, left = page[-1].key, None if left is None else left - len(page)
        out.hint(f"what changes from here on: perdure kv watch {url} {bucket} --after {revision}")
        return Exit.DONE

    return run_async(command)


@app.command
def watch(
    url: Url,
    bucket: Bucket,
    /,
    *,
    prefix: Prefix = "",
    after: Annotated[int, Parameter(help="Only changes beyond this revision; 0 begins with every entry there is.")] = 0,
    limit: Annotated[int | None, Parameter(help="End after so many changes.")] = None,
    json: AsJson = False,
) -> int:
    """Print changes of a bucket as they come.

    Of several changes of a key at least the last, deletes included, in order of revision, until Ctrl-C.

    For example:

        perdure kv watch lmdb:shop settings --after 17 --json

    JSON: key, revision, deleted, value.
    """
    check_bucket(bucket)
    at_least_0("--after", after)
    check_limit(limit)

    async def command() -> int:
        columns, left = out.Columns("revision>", "key", "value"), limit
        async with reading(url) as backend:
            out.hint(f"watching {bucket} of {url} from revision {after}; Ctrl-C ends")
            changes = Watch(backend, bucket, prefix.encode(errors="surrogateescape"), after, _value, LIMITS.page_records)
            while left is None or left > 0:
                _print_change(await anext(changes), columns, json)
                left = None if left is None else left - 1
        return Exit.DONE

    return run_async(command)


def _print_change(change: Changed[Any], columns: out.Columns, json: bool) -> None:
    value = None if change.entry is None else change.entry.value
    if json:
        out.document({"key": change.key, "revision": change.revision, "deleted": change.entry is None, "value": value})
    else:
        columns.print([(change.revision, change.key, "(deleted)" if change.entry is None else as_json(value))])
    out.flush()


def check_bucket(bucket: str) -> None:
    """A user's bucket: perdure's own hold what is no plain data."""
    check_name("bucket name", bucket, LIMITS.bucket_bytes, own=False)


_CODEC = Codec()


def _value(raw: bytes) -> Any:
    return _CODEC.decode_plain(raw)


def _text(key: bytes) -> str:
    return key.decode(errors="backslashreplace")


def _document(entry: Entry) -> dict[str, Any]:
    return {"key": _text(entry.key), "revision": entry.revision, "value": _value(entry.value)}
