"""Searches find what a scan of all documents finds, with its scores, however the documents have changed and whatever is killed."""

from __future__ import annotations

import math
from random import Random

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

import search_index
from perdure.runtime import open_runtime
from perdure.runtime.testing import check_projection, simulate
from perdure.runtime.testing import given as events_of
from search_index import APP, COLLECTION, INDEX, K1, TITLE, B, Deleted, Written

IDS, WORDS = ("a", "b", "c", "d"), ("on", "onion", "onions", "one", "two", "Éclair")


class Plain:
    """The documents in a dictionary; a search looks at every word of every one."""

    def __init__(self):
        self.documents = {}

    def write(self, id, title, text):
        self.documents[id] = [*(title.lower().split() * TITLE), *text.lower().split()]

    def delete(self, id):
        self.documents.pop(id, None)

    def search(self, *asked):
        known = sorted({word for words in self.documents.values() for word in words})
        wide = {one: [word for word in known if word.startswith(one[:-1])] for one in asked if one.endswith("*")}
        wanted = sorted({word for one in asked if one[0] != "-" for word in wide.get(one, [one])})
        unwanted = {one[1:] for one in asked if one[0] == "-"}
        found = []
        for id, words in self.documents.items():
            if not unwanted.intersection(words) and set(wanted).intersection(words):
                found.append((id, sum(self._score(word, words) for word in wanted)))
        return sorted(found, key=lambda one: (-round(one[1], 9), one[0]))

    def _score(self, word, words):
        having = sum(word in other for other in self.documents.values())
        average = sum(map(len, self.documents.values())) / len(self.documents)
        rarity = math.log(1 + (len(self.documents) - having + 0.5) / (having + 0.5))
        count = words.count(word)
        return rarity * count * (K1 + 1) / (count + K1 * (1 - B + B * len(words) / average))


ids, texts = st.sampled_from(IDS), st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join)
terms = st.one_of(st.sampled_from(["on", "onion", "two", "none"]), st.sampled_from(["on*", "o*", "z*"]), st.sampled_from(["-one", "-onion"]))
doings = st.lists(
    st.one_of(
        st.tuples(st.just("write"), ids, texts, texts),
        st.tuples(st.just("write"), ids, texts, texts),
        st.tuples(st.just("delete"), ids),
        st.tuples(st.just("search"), st.lists(terms, min_size=1, max_size=3)),
        st.tuples(st.just("restart")),
    ),
    max_size=20,
)


async def same(rt, plain, asked):
    """Both find the same; scores are sums in another order, so the last bits may differ."""
    await search_index.wait_found(rt, await rt.head())
    found = sorted(await search_index.search(rt, *asked), key=lambda one: (-round(one[1], 9), one[0]))
    expected = plain.search(*asked)
    assert [id for id, _ in found] == [id for id, _ in expected], f"{asked} finds {found}, and should find {expected}"
    assert [score for _, score in found] == pytest.approx([score for _, score in expected])


async def play(store, doings):
    plain, todo = Plain(), list(doings)
    while todo:
        async with store.open(APP) as rt:
            while todo:
                match todo.pop(0):
                    case ("write", id, title, text):
                        plain.write(id, title, text)
                        await search_index.write(rt, id, title, text)
                    case ("delete", id):
                        plain.delete(id)
                        await search_index.delete(rt, id)
                    case ("search", asked):
                        await same(rt, plain, asked)
                    case _:
                        break
            await same(rt, plain, ["o*"])


def test_it_equals_a_scan_of_all_documents(stores):
    @settings(max_examples=stores.examples)
    @given(doings)
    def holds(doings):
        stores.run(lambda store: play(store, doings))

    holds()


def test_words_have_no_case_and_no_accents():
    assert search_index.words_of("Crème-Brûlée, 2/STRASSE straße_x ﬁn") == ["creme", "brulee", "2", "strasse", "strasse", "x", "fin"]


async def test_the_projections_are_what_they_must_be():
    events = events_of(
        Written("a", "one", "two two", {"one": 3, "two": 2}),
        Written("a", "", "two", {"two": 1}, ("one",), 5),
        Written("b", "", "two", {"two": 1}),
        Deleted("a", ("two",), 1),
        stream="doc-a",
    )

    for projection in (INDEX, COLLECTION):
        assert (await check_projection(projection, events)).events == 4


async def test_two_writers_of_one_document_leave_one_of_both(autojump_clock):
    async with open_runtime("memory:", APP) as rt:
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(search_index.write, rt, "a", "", f"version{number} text")
        await search_index.wait_found(rt, await rt.head())

        assert len([number for number in range(10) if await search_index.search(rt, f"version{number}")]) == 1


# -- killed ----------------------------------------------------------------------------------


async def work(rt, random: Random):
    """Documents written, rewritten and deleted."""
    for _ in range(6):
        text = " ".join(random.choices(WORDS, k=random.randrange(8)))
        if random.random() < 0.75:
            await search_index.write(rt, random.choice(IDS), random.choice(WORDS), text)
        else:
            await search_index.delete(rt, random.choice(IDS))


async def check(rt):
    """Searches find what a scan of the log's documents finds."""
    plain = Plain()
    async for one in rt.read_all(search_index.DOCUMENTS):
        if isinstance(one.data, Written):
            plain.write(one.data.id, one.data.title, one.data.text)
        else:
            plain.delete(one.data.id)
    for asked in (["onion"], ["on*"], ["two", "one", "-onions"]):
        await same(rt, plain, asked)


@pytest.mark.parametrize("url", ["file:", "lmdb:"])
def test_simulated_crashes_change_no_search(url):
    report = simulate(APP, work, check=check, seeds=10, url=url)

    assert report.ok, report


async def test_words_that_stay_when_they_are_gone_are_found(autojump_clock):
    """The check can fail: an event that does not say what is gone."""
    async with open_runtime("memory:", APP) as rt:
        await rt.append("doc-a", [Written("a", "", "onion", {"onion": 1}), Written("a", "", "two", {"two": 1}, (), 1)])

        with pytest.raises(AssertionError, match="and should find"):
            await check(rt)


def test_killed_processes_change_no_search(survives):
    survives(__file__)
