"""Who is refused, and that nothing secret is told to anybody."""

from __future__ import annotations

import socket
from datetime import UTC, datetime, timedelta

import pytest
import trio

from daemons import perdure, process, running, sse
from perdure.runtime.serve.config import load
from perdure.runtime.serve.scopes import Scopes
from perdure.runtime.serve.tokens import hidden, list_tokens, revoke_token

PLACED = {"events": [{"type": "placed", "data": {"customer": "ada", "cents": 5}}]}
READS = ["/v1/log", "/v1/streams", "/v1/streams/order-1", "/v1/models", "/v1/models/revenue", "/v1/follow/log", "/v1/head", "/v1/kv/stock", "/v1/status"]


def problem(answer):
    return answer.status_code, answer.json()["type"].rpartition(":")[2]


# -- tokens ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", READS)
async def test_without_a_token_nothing_is_answered(path):
    async with running() as daemon, daemon.client(None) as client:
        answer = await client.get(path)

    assert problem(answer) == (401, "no-token")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("token", ["x", "perdure_", "perdure_0123456789abcdef_" + "A" * 43, "Basic abc", "\u00ff"])
async def test_a_wrong_token_is_refused(token):
    async with running() as daemon, daemon.client(None) as client:
        answer = await client.get("/v1/log", headers=[(b"authorization", f"Bearer {token}".encode("latin-1"))])

    assert problem(answer) == (401, "token-wrong")


async def test_a_token_with_another_secret_is_refused():
    async with running() as daemon:
        forged = daemon.token[:-4] + ("AAAA" if daemon.token[-4:] != "AAAA" else "BBBB")
        async with daemon.client(forged) as client:
            answer = await client.get("/v1/log")

    assert problem(answer) == (401, "token-wrong")


async def test_an_expired_token_is_refused():
    async with running() as daemon:
        token = await daemon.make_token("read", expires=datetime.now(UTC) + timedelta(seconds=1))
        async with daemon.client(token) as client:
            before = await client.get("/v1/log")
            await trio.sleep(1.1)
            after = await client.get("/v1/log")

    assert before.status_code == 200
    assert problem(after) == (401, "token-expired")


async def test_a_revoked_token_is_refused_and_its_streams_end():
    async with running(alive_s=0.1) as daemon:
        token = await daemon.make_token("read")
        async with daemon.client(token) as client:
            ended = trio.Event()

            async def follow():
                with pytest.raises(AssertionError, match="ended"):
                    await sse(daemon, "/v1/follow/log", 1_000, headers={"authorization": f"Bearer {token}"})
                ended.set()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(follow)
                while not daemon.service.followers:
                    await trio.sleep(0.01)
                assert await revoke_token(daemon.service.rt, token.split("_")[1])
                with trio.fail_after(5):
                    await ended.wait()
            answer = await client.get("/v1/log")

    assert problem(answer) == (401, "token-wrong")


BLOB = "bafkreihnfovfxjibh4sqb4yojj6pnp7fm26jh4fdejjktdrhhpzgyuqo4u"
# (scope, method, path, body, whether it suffices)
MAY = [
    ("read", "GET", "/v1/log", None, True),
    ("append:order", "GET", "/v1/log", None, False),
    ("append:order", "POST", "/v1/streams/order-1", PLACED, True),
    ("append:order", "POST", "/v1/streams/orders-1", PLACED, False),
    ("append:*", "POST", "/v1/streams/orders-1", PLACED, True),
    ("read", "POST", "/v1/streams/order-1", PLACED, False),
    ("kv:stock", "PUT", "/v1/kv/stock/a", 1, True),
    ("kv:stock", "GET", "/v1/kv/stocks", None, False),
    ("kv:stock", "PUT", "/v1/kv/stocks/a", 1, False),
    ("read", "GET", "/v1/kv/stock", None, False),
    ("read", "GET", "/v1/status", None, False),
    ("operate", "GET", "/v1/status", None, True),
    ("operate", "GET", "/v1/log", None, False),
    ("read", "GET", "/v1/streams/$audit", None, False),
    ("blob", "POST", "/v1/blobs", 1, True),
    ("read", "POST", "/v1/blobs", 1, False),
    ("read", "PUT", f"/v1/blobs/{BLOB}", 1, False),
    ("blob", "GET", f"/v1/blobs/{BLOB}", None, False),
    ("read", "GET", f"/v1/blobs/{BLOB}", None, True),
    ("append:order", "POST", "/v1/commit", {"appends": [{"stream": "order-1", "events": []}, {"stream": "other", "events": []}]}, False),
    ("append:order", "POST", "/v1/commit", {"appends": [{"stream": "order-1", "events": []}]}, True),
    ("append:order", "POST", "/v1/commit", {"puts": [{"bucket": "stock", "key": "a"}]}, False),
    ("append:order", "POST", "/v1/commit", {"fences": [{"name": "x", "number": 1}]}, False),
]


@pytest.mark.parametrize(("scope", "method", "path", "body", "suffices"), MAY)
async def test_a_scope_permits_what_it_says(scope, method, path, body, suffices, tmp_path):
    async with running(blobs=f"directory:{tmp_path}/blobs") as daemon, daemon.client(await daemon.make_token(scope)) as client:
        answer = await client.request(method, path, **({} if body is None else {"json": body}))

    assert (answer.status_code == 403) is not suffices
    assert answer.status_code in (200, 201, 403, 404)


async def test_perdures_own_names_are_not_for_anybody():
    async with running() as daemon, daemon.client() as client:
        answers = [
            await client.get("/v1/kv/$tokens"),
            await client.put("/v1/kv/$tokens/a", json=1),
            await client.get(f"/v1/kv/$tokens/{daemon.token.split('_')[1]}"),
            await client.post("/v1/streams/$audit", json=PLACED),
            await client.get("/v1/follow/kv/$tokens"),
        ]

    assert [one.status_code for one in answers] == [400] * 5


async def test_the_audit_is_for_operators():
    async with running() as daemon:
        token = await daemon.make_token("read")
        async with daemon.client(token) as reader, daemon.client() as operator:
            seen = (await reader.get("/v1/log")).json()["events"]
            audit = (await operator.get("/v1/streams/$audit")).json()["events"]

    assert seen == []
    assert [one["type"] for one in audit] == ["$audit-token-made"] * 2
    assert token.split("_")[2] not in str(audit)


async def test_wrong_tokens_are_counted_and_right_ones_go_on():
    async with running(failures_per_minute=3) as daemon, daemon.client("perdure_0123456789abcdef_" + "A" * 43) as wrong, daemon.client() as right:
        answers = [problem(await wrong.get("/v1/log"))[0] for _ in range(5)]
        still = await right.get("/v1/log")

    assert answers == [401, 401, 401, 429, 429]
    assert still.status_code == 200


async def test_what_is_kept_of_a_token_is_not_its_secret():
    async with running() as daemon:
        kept = await list_tokens(daemon.service.rt.backend)
        entries = await daemon.service.rt.backend.scan("$tokens", limit=10)

    assert [daemon.token.split("_")[1]] == [one.id for one in kept]
    assert all(daemon.token.split("_", 2)[2].encode() not in one.value for one in entries)


# -- from where ------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost.evil.example", "http://127.0.0.1:1"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
async def test_a_foreign_page_is_refused(origin, method):
    async with running() as daemon, daemon.client() as client:
        answer = await client.request(method, "/v1/streams/order-1", headers={"origin": origin, "access-control-request-method": "POST"})

    assert problem(answer) == (403, "foreign")
    assert "access-control-allow-origin" not in answer.headers


async def test_a_page_of_origins_is_let_in():
    async with running(origins=("https://app.example",)) as daemon, daemon.client(headers={"origin": "https://app.example"}) as client:
        asked = await client.options("/v1/log", headers={"access-control-request-method": "GET"})
        answer = await client.get("/v1/log")

    assert (asked.status_code, answer.status_code) == (204, 200)
    assert {one.headers["access-control-allow-origin"] for one in (asked, answer)} == {"https://app.example"}


async def test_our_own_page_is_let_in_and_a_cross_site_one_without_origin_is_not():
    async with running() as daemon, daemon.client() as client:
        own = await client.get("/v1/log", headers={"origin": daemon.url, "sec-fetch-site": "same-origin"})
        cross = await client.get("/v1/log", headers={"sec-fetch-site": "cross-site"})

    assert (own.status_code, cross.status_code) == (200, 403)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil:80", "0.0.0.0", "user@localhost", "localhost/x", "169.254.169.254"])
async def test_a_rebound_name_is_refused(host):
    async with running() as daemon, daemon.client() as client:
        answer = await client.get("/v1/log", headers={"host": host})

    assert answer.status_code in (400, 421)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1234", "127.0.0.1", "[::1]:8467", "shop.example"])
async def test_our_names_are_heard(host):
    async with running(hosts=("shop.example",)) as daemon, daemon.client() as client:
        answer = await client.get("/v1/log", headers={"host": host})

    assert answer.status_code == 200


def own_address():
    """An address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has no address but loopback")
        return probe.getsockname()[0]


async def test_nobody_comes_in_by_another_address():
    address = own_address()
    async with running() as daemon:
        port = int(daemon.url.rpartition(":")[2])
        with pytest.raises(OSError, match=r"refused|failed"):
            await trio.open_tcp_stream(address, port)


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.1:80", "example.com:80"])
def test_other_addresses_need_tls_or_a_word(listen):
    with pytest.raises(ValueError, match="needs a certificate"):
        load(flags={"listen": [listen]})

    assert load(flags={"listen": [listen], "insecure": True}).insecure


def test_other_addresses_need_tokens():
    with pytest.raises(ValueError, match="needs tokens"):
        load(flags={"listen": ["0.0.0.0:0"], "insecure": True, "tokens": False})


@pytest.mark.parametrize("scope", ["", "write", "append", "append:", "kv", "append:$audit", "kv:$tokens", "reads", "*"])
def test_what_is_no_scope_is_refused(scope):
    with pytest.raises(ValueError, match=r"scope|category|bucket"):
        Scopes([scope])


# -- what is told ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://ada:s3cret@db/shop is away", "postgresql://ada:***@db/shop is away"),
        ("postgresql://db/shop?password=s3cret&x=1", "postgresql://db/shop?password=***&x=1"),
        ("perdure_0123456789abcdef_" + "A" * 43, "perdure_0123456789abcdef_***"),
        ("http://127.0.0.1:80/a", "http://127.0.0.1:80/a"),
    ],
)
def test_secrets_are_hidden(text, shown):
    assert hidden(text) == shown


def test_a_process_tells_no_secret(tmp_path):
    made = perdure("token", "new", "lmdb:store", "all", "--scope", "read", "--scope", "operate", folder=tmp_path)
    token = made.stdout.strip()
    secret = token.split("_", 2)[2]
    headers = (f"Bearer {token}", f"Bearer {token}x", f"Basic {token}")

    with process(tmp_path, "--store", "lmdb:store", "--listen", "127.0.0.1:0", "--set", "log_level=debug") as daemon:
        targets = (f"/v1/log?token={token}", f"/v1/streams/{token}", "/v1/status", "/v1/nothing")
        answers = [raw(daemon.url, target, header) for target in targets for header in headers]
        daemon.signal(15)
        code = daemon.ended()
    listed = perdure("token", "list", "lmdb:store", folder=tmp_path)

    assert code == 0
    assert len(daemon.told) > 12
    assert [text for text in ("".join(daemon.told), listed.stdout, listed.stderr, *answers) if secret in text] == []
    stored = b"".join(one.read_bytes() for one in (tmp_path / "store").iterdir())
    assert secret.encode() not in stored


def raw(url, target, header):
    """The whole answer."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(f"GET {target} HTTP/1.0\r\nHost: {host}\r\nAuthorization: {header}\r\n\r\n".encode())
        parts = []
        while part := client.recv(1 << 16):
            parts.append(part)
    return b"".join(parts).decode()
