"""Full-text search over documents that change: ranked, and never a hit for a word that is no longer there.

    python examples/search_index.py demo                       a demonstration in memory
    python examples/search_index.py STORE write ID TITLE TEXT  (STORE: lmdb:index, for example; TEXT may be @FILE)
    python examples/search_index.py STORE delete ID
    python examples/search_index.py STORE search WORD ...      WORD, WOR* for all that begins so, -WORD for documents without it

Which facet: **streams** for the documents, each a short history, and a **`Keyed` projection** for the index: one state for each word,
its postings. The words that a write touches must be told by its event alone: so the event says which words it has, and which are *gone*
since the version before, as `execute` finds when it writes. A better `words_of` makes no other past of it: write the documents again.
The step is told its key, for one event means something else to each word. The index can be thrown away and folded again.

A word's postings are spread over `SHARDS` states by document, so that a common word is no state without bound, and a write rewrites
little. Ranking is BM25 (Robertson and Zaragoza, The Probabilistic Relevance Framework, 2009), a word in the title counting `TITLE` times.
"""

from __future__ import annotations

import heapq
import math
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import attrs

import by_hand
from names import check_names
from perdure.runtime import START, App, Event, Fold, Keyed, Position, Projection, Runtime, event, of, open_runtime

K1, B = 1.2, 0.75
"""BM25: how soon more of a word stops to count, and how much long documents are held back."""
TITLE = 3
SHARDS = 64
WORD_MAX = 64
"""Longer words are cut: they become keys."""
ID_BYTES_MAX = 250
"""Of a document, in the name of its stream."""
WIDE_MAX = 200
"""So many words `WOR*` stands for, at most."""


# -- words -----------------------------------------------------------------------------------


def words_of(text: str) -> list[str]:
    """The words of *text*, without accents and case."""
    plain = "".join(one for one in unicodedata.normalize("NFKD", text) if not unicodedata.combining(one))
    return [word[:WORD_MAX] for word in re.findall(r"[^\W_]+", plain.casefold())]


def counts_of(title: str, text: str) -> dict[str, int]:
    """How often a document has each word."""
    counts = Counter(words_of(text))
    for word in words_of(title):
        counts[word] += TITLE
    return dict(counts)


# -- what happens ----------------------------------------------------------------------------


@event("doc-written")
@attrs.frozen
class Written:
    """A document's new text and how often it has each word; *gone* are words of the version before, of *was* words together (None: it was new)."""

    id: str
    title: str
    text: str
    words: dict[str, int]
    gone: tuple[str, ...] = ()
    was: int | None = None


@event("doc-deleted")
@attrs.frozen
class Deleted:
    """The document is no more; *gone* are its words."""

    id: str
    gone: tuple[str, ...]
    was: int


Change = Written | Deleted


def newest(_: Written | None, event: Event[Change]) -> Written | None:
    """The document as it is; None where there is none."""
    return event.data if isinstance(event.data, Written) else None


DOCUMENT: Fold[Written | None, Change] = Fold(initial=None, step=newest)


async def write(rt: Runtime, id: str, title: str, text: str) -> Position | None:
    """Write or rewrite a document; its place in the log, None if it was just that already."""
    check_names(ID_BYTES_MAX, id=id)

    def decide(old: Written | None) -> Sequence[Change]:
        words = counts_of(title, text)
        if old is None:
            return [Written(id, title, text, words)]
        gone = tuple(sorted(old.words.keys() - words.keys()))
        return [] if (old.title, old.text, old.words) == (title, text, words) else [Written(id, title, text, words, gone, _total(old))]

    return (await rt.execute(f"doc-{id}", DOCUMENT, decide, attempts_max=20)).unwrap().position


async def delete(rt: Runtime, id: str) -> Position | None:
    """Delete a document; None if there was none."""
    check_names(ID_BYTES_MAX, id=id)

    def decide(old: Written | None) -> Sequence[Change]:
        return [] if old is None else [Deleted(id, tuple(sorted(old.words)), _total(old))]

    return (await rt.execute(f"doc-{id}", DOCUMENT, decide, attempts_max=20)).unwrap().position


def _total(document: Written) -> int:
    return sum(document.words.values())


# -- the index -------------------------------------------------------------------------------


Postings = dict[str, tuple[int, int]]
"""By document: how often it has the word, and how many words it has."""


def index_keys(event: Event[Change]) -> list[str]:
    """The states that a document's change touches."""
    words = event.data.words if isinstance(event.data, Written) else {}
    return [f"{word} {zlib.crc32(event.data.id.encode()) % SHARDS:02x}" for word in (*words, *event.data.gone)]


def index_step(postings: Postings, event: Event[Change], key: str) -> Postings:
    """The postings of the key's word, after a document's change."""
    id, word = event.data.id, key.partition(" ")[0]
    if isinstance(event.data, Written) and word in event.data.words:
        return {**postings, id: (event.data.words[word], _total(event.data))}
    return {one: posting for one, posting in postings.items() if one != id}


@attrs.frozen
class Collection:
    """How many documents there are, and how many words they have together."""

    documents: int = 0
    words: int = 0


def collection_step(collection: Collection, event: Event[Change]) -> Collection:
    """One more change."""
    match event.data:
        case Written(was=was) as written:
            return Collection(collection.documents + (was is None), collection.words + _total(written) - (was or 0))
        case Deleted(was=was):
            return Collection(collection.documents - 1, collection.words - was)


DOCUMENTS = of(Written, Deleted)
INDEX: Keyed[Postings, Change] = Keyed("index", version=1, initial={}, type=Postings, step=index_step, key=index_keys, events=DOCUMENTS)
COLLECTION = Projection("collection", version=1, initial=Collection(), step=collection_step, events=DOCUMENTS)
APP = App(projections=[INDEX, COLLECTION])


# -- searching -------------------------------------------------------------------------------


def score(found: Iterable[Postings], collection: Collection) -> dict[str, float]:
    """BM25 of each document that has one of the words whose postings are *found*."""
    scores: dict[str, float] = {}
    average = collection.words / max(collection.documents, 1) or 1.0
    for postings in found:
        rarity = math.log(1 + (max(collection.documents - len(postings), 0) + 0.5) / (len(postings) + 0.5))
        for id, (count, words) in postings.items():
            scores[id] = scores.get(id, 0.0) + rarity * count * (K1 + 1) / (count + K1 * (1 - B + B * words / average))
    return scores


async def search(rt: Runtime, *asked: str, limit: int = 10) -> list[tuple[str, float]]:
    """The best documents with any of the words *asked*, each with its score; equal ones in the order of their ids."""
    wanted: dict[str, Postings] = {}
    unwanted: dict[str, Postings] = {}
    for term in asked:
        into = unwanted if term.startswith("-") else wanted
        words = words_of(term)
        for number, word in enumerate(words, 1):
            into |= await _postings(rt, word, wide=term.endswith("*") and number == len(words))
    without = {id for postings in unwanted.values() for id in postings}
    found = [(id, points) for id, points in score(wanted.values(), rt.model(COLLECTION).state).items() if id not in without]
    return heapq.nsmallest(limit, found, key=lambda one: (-one[1], one[0]))


async def _postings(rt: Runtime, word: str, *, wide: bool) -> dict[str, Postings]:
    """By word; *wide*: of each that begins so."""
    found: dict[str, Postings] = {}
    async for entry in rt.model(INDEX).scan(word if wide else f"{word} "):
        one = entry.key.partition(" ")[0]
        if one not in found and len(found) == WIDE_MAX:
            break
        found.setdefault(one, {}).update(entry.state)
    return found


async def wait_found(rt: Runtime, position: Position | None) -> None:
    """Return when searches know what is at *position*."""
    for model in (rt.model(INDEX), rt.model(COLLECTION)):
        await model.wait_for(position or START)


# -- by hand ---------------------------------------------------------------------------------


async def show(rt: Runtime, *asked: str) -> None:
    """Print what is found."""
    print(f"{' '.join(asked)}:")
    for id, points in await search(rt, *asked):
        document, _ = await rt.fold(f"doc-{id}", DOCUMENT)
        print(f"  {points:5.2f}  {id:<8} {document.title if document else ''}")


def text_of(word: str) -> str:
    """The text itself, or what is in `@FILE`."""
    try:
        return Path(word[1:]).read_text("utf-8") if word.startswith("@") else word
    except (OSError, UnicodeError) as error:
        raise by_hand.Wrong(f"TEXT is text, or @ and the name of a file in UTF-8, not {word!r}: {error}") from error


async def main(store: str, *words: str) -> bool:
    """The command, or the demonstration; False for a no."""
    async with open_runtime(store, APP) as rt:
        match words:
            case ["write", id, title, text]:
                await wait_found(rt, await write(rt, id, title, text_of(text)))
            case ["delete", id]:
                await wait_found(rt, await delete(rt, id))
            case ["search", *asked] if asked:
                await wait_found(rt, await rt.head())
                await show(rt, *asked)
            case ["demo"]:
                await demonstrate(rt)
            case _:
                raise by_hand.Unknown
    return True


async def demonstrate(rt: Runtime) -> None:
    """Some recipes, one of which changes."""
    for id, title, text in (
        ("soup", "Onion soup", "Onions, butter, broth; onions need an hour, so have patience."),
        ("tarte", "Tarte flambée", "Dough, crème fraîche, onions and bacon. Very hot oven."),
        ("bread", "Bread", "Flour, water, salt, a night of patience, a hot oven."),
    ):
        await wait_found(rt, await write(rt, id, title, text))
    await show(rt, "onions")
    await show(rt, "creme", "oven", "-flour")
    await show(rt, "pat*")
    await wait_found(rt, await write(rt, "soup", "Leek soup", "Leeks, butter, broth."))
    print("the onions in the soup have become leeks")
    await show(rt, "onion*")


if __name__ == "__main__":
    by_hand.run(__doc__, main)
