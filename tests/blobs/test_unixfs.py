"""Addresses and trees: those of other implementations, read back whatever their shape."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.backends.blobs.cid import DAG_PB, RAW, Cid
from perdure.backends.blobs.unixfs import LINKS_MAX, Block, Builder, Link, Walk, leaf, pack_node, read_node
from perdure.backends.errors import Misuse

SMALL = {
    0: "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku",
    1: "bafkreidogqfzz75tpkmjzjke425xqcrmpcib2p5tg44hnbirumdbpl5adu",
    8: "bafkreido6rcdfwl6bjhgfkxpf2rlhn44mnyti7bm4chsn6hllzzvygfki4",
    9: "bafybeigl2w62nasneipi6pikjnf42zc6xwbpv35xpuuvpmctebefesxwm4",
    24: "bafybeie53g6toxx5m7llyjzocbfjxzyoljbqdbd2gmfuy7tpm5wzig3eey",
    25: "bafybeihzlbpmixcxcw4ruc42j7reud6n26c5kp4qcptrzxa4muwditv5zu",
    72: "bafybeid6ut2jm357btc4y4r2qwuxsqvtgz4n7dpamw7ou2y3aivhdncyu4",
    73: "bafybeiejszz64vg2rszeuiiwuh3qlpefoxok3j4bvuozhqm2jzr7osyaku",
    100: "bafybeibtj7zwheavdendkajyjizwktbhxhj3mgnlj6stcrcibuhwk6xtra",
    300: "bafybeicth3bsp2x54pta7p6bg7l4ipgsmnts2bli345epvvfdyckyisgyu",
    777: "bafybeifwvotwhh5pp6bbkz7w6jgez55ord2yasevulj6dhstpav4rhnz6y",
}
"""What ipfs-unixfs-importer 12.0.1 (balanced, raw leaves) calls so many bytes of `pattern`, in chunks of 8 with 3 links in a node."""
ZEROS_1025_MIB = "bafybeigt7wofv4vnxbg3titijasuw4ptg5kfztec4smsk7opdt7z6djoxq"
"""The same, of 1,025 MiB of zeros in chunks of 1 MiB with 1,024 links: the first blob with a node of one link."""


def pattern(size_bytes: int) -> bytes:
    return bytes((at * 31 + (at >> 8) * 7 + (at >> 16) * 13) & 255 for at in range(size_bytes))


def tree(data: bytes, chunk_bytes: int, links_max: int) -> tuple[Link, dict[Cid, bytes]]:
    """The root of *data*, and all blocks."""
    builder, blocks = Builder(links_max), {}

    def keep(block: Block) -> None:
        blocks[block.cid] = block.data

    for at in range(0, max(1, len(data)), chunk_bytes):
        chunk = data[at : at + chunk_bytes]
        link = leaf(sha256(chunk).digest(), len(chunk))
        keep(Block(link.cid, chunk))
        for block in builder.add(link):
            keep(block)
    root, rest = builder.finish()
    for block in rest:
        keep(block)
    return root, blocks


def walked(root: Link, blocks: dict[Cid, bytes], start: int, end: int | None, window: int = 4) -> bytes:
    """The bytes that a walk leads to."""
    walk, found = Walk(root, start, end), b""
    while True:
        if (part := walk.node()) is not None:
            walk.opened(read_node(blocks[part.link.cid]))
        elif parts := walk.leaves(window):
            found += b"".join(walk.wanted(one, blocks[one.link.cid]) for one in parts)
        else:
            return found


# -- other implementations -------------------------------------------------------------------


@pytest.mark.parametrize(("size", "cid"), SMALL.items())
def test_trees_are_those_of_other_implementations(size, cid):
    root, _ = tree(pattern(size), 8, 3)

    assert str(root.cid) == cid


def test_a_blob_of_more_than_one_full_node():
    builder, zeros = Builder(), leaf(sha256(bytes(1 << 20)).digest(), 1 << 20)
    for _ in range(LINKS_MAX + 1):
        list(builder.add(zeros))

    root, _ = builder.finish()

    assert str(root.cid) == ZEROS_1025_MIB
    assert root.size_bytes == 1025 << 20


# -- trees -----------------------------------------------------------------------------------


@given(st.binary(max_size=400), st.integers(1, 9), st.integers(2, 5), st.data())
def test_a_walk_gives_what_a_slice_gives(data, chunk_bytes, links_max, drawn):
    root, blocks = tree(data, chunk_bytes, links_max)
    start = drawn.draw(st.integers(0, len(data) + 3))
    end = drawn.draw(st.none() | st.integers(start, len(data) + 9))

    assert walked(root, blocks, start, end) == data[start:end]


@given(st.lists(st.tuples(st.binary(min_size=32, max_size=32), st.integers(0, 1 << 60)), min_size=1, max_size=20))
def test_a_node_is_read_as_it_was_written(parts):
    links = [leaf(digest, size) for digest, size in parts]

    assert read_node(pack_node(links)) == links


@given(st.binary(max_size=300))
def test_no_bytes_make_reading_a_node_fail_otherwise(data):
    try:
        links = read_node(data)
    except ValueError:
        return
    assert links


@given(st.integers(0, 3), st.data())
def test_no_changed_node_makes_reading_it_fail_otherwise(count, drawn):
    node = bytearray(pack_node([leaf(sha256(b"%d" % number).digest(), number) for number in range(count + 1)]))
    node[drawn.draw(st.integers(0, len(node) - 1))] = drawn.draw(st.integers(0, 255))
    try:
        links = read_node(bytes(node))
    except ValueError:
        return
    assert len(links) >= 1


@pytest.mark.parametrize(
    ("node", "why"),
    [
        (b"\x0a\x04\x08\x02\x18\x00", "do not fit its links"),
        (b"\x0a\x0b\x08\x02\x12\x05hello\x18\x05", "without raw leaves"),
        (b"\x0a\x02\x08\x01", "no file"),
        (b"\x12\x7f", "within a field"),
        (b"\x80", "within a number"),
    ],
)
def test_a_node_of_something_else_says_what_it_is(node, why):
    with pytest.raises(ValueError, match=why):
        read_node(node)


def test_a_tree_whose_sizes_do_not_add_up_is_refused():
    walk = Walk(Link(Cid(DAG_PB, bytes(32)), 10, 10), 0, None)
    assert walk.node() is not None

    with pytest.raises(ValueError, match="size"):
        walk.opened([leaf(bytes(32), 9)])


def test_a_tree_that_goes_on_for_ever_is_refused():
    node = Link(Cid(DAG_PB, bytes(32)), 10, 10)
    walk = Walk(node, 0, None)

    with pytest.raises(ValueError, match="deep"):
        while walk.node() is not None:
            walk.opened([node])


# -- addresses -------------------------------------------------------------------------------


@given(st.sampled_from([RAW, DAG_PB]), st.binary(min_size=32, max_size=32))
def test_an_address_is_read_as_it_was_written(codec, digest):
    cid = Cid(codec, digest)

    assert Cid.parse(str(cid)) == cid
    assert Cid.from_bytes(bytes(cid)) == cid


@given(st.binary(max_size=60))
def test_whatever_parses_is_written_the_same(data):
    text = str(Cid.of(RAW, data))
    changed = text[:-1] + "abcdefghijklmnopqrstuvwxyz234567"[len(data) % 32]
    try:
        cid = Cid.parse(changed)
    except Misuse:
        return
    assert str(cid) == changed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b",
        "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPBdG",
        "zb2rhjDUYBfX4HQSSJtsSdbEVacH3uYFUBjs9MJCH81FMBPVG",
        "BAFKREIHDWDCEFGH4DQKJV67UZCMW7OJEE6XEDZDETOJUZJEVTENXQUVYKU",
        "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyk1",
        "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvykx",
        "bafyreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku",
        "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyké",
        7,
    ],
)
def test_another_address_is_refused(text):
    with pytest.raises(Misuse, match="no CID of a blob"):
        Cid.parse(text)
