"""Every error over HTTP is a problem that says what to do; and one that came from a daemon says it once."""

from __future__ import annotations

import socket

import httpx2
import pytest
from shop import Placed

from daemons import perdure, process, running
from perdure.backends.commit import Append, Committed, Draft, propose
from perdure.backends.errors import Forbidden, Misuse, Unavailable
from perdure.backends.http import open_http
from perdure.runtime import open_runtime
from perdure.runtime.client import open_client

REFUSED = [
    ("GET", "/v1/streams/absent", 404, "GET /v1/streams lists"),
    ("GET", "/v1/kv/prices/absent", 404, "GET /v1/kv/BUCKET lists"),
    ("GET", "/v1/models/absent", 404, "GET /v1/models lists"),
    ("GET", "/v1/models/accounts/keys/absent", 404, "GET /v1/models/accounts/keys lists"),
    ("GET", "/v1/models/revenue/keys", 404, "/v1/models/NAME"),
    ("GET", "/v1/absent", 404, "/openapi.json"),
    ("GET", "/v1/blobs", 405, "it has POST"),
    ("GET", "/v1/blobs/bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku", 404, "same bytes"),
    ("PATCH", "/v1/streams", 405, "it has GET, HEAD"),
    ("PUT", "/v1/streams/a", 405, "it has GET, HEAD, POST"),
    ("POST", "/v1/kv/prices/a", 405, "it has DELETE, GET, HEAD, PUT"),
    ("POST", "/openapi.json", 405, "it has GET, HEAD"),
    ("GET", "/v1/models/revenue?wait_for=1000&wait_s=0.01", 412, "ask again"),
]


@pytest.mark.parametrize(("method", "path", "status", "told"), REFUSED)
async def test_its_detail_says_what_to_do(tmp_path, method, path, status, told):
    async with running(blobs=f"directory:{tmp_path / 'blobs'}") as daemon, daemon.client() as client:
        answer = await client.request(method, path)

    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert told in answer.json()["detail"]
    assert answer.headers.get("allow", "") == (answer.json()["detail"].removeprefix("it has ") if status == 405 else "")


@pytest.mark.parametrize("token", [None, "x", "perdure_0123456789abcdef_" + "a" * 43])
async def test_who_has_no_token_or_a_wrong_one_is_told_where_one_is_made(token):
    async with running() as daemon, daemon.client(token) as client:
        answer = await client.get("/v1/head")

    assert answer.status_code == 401
    assert "`perdure token new` makes one, where the daemon runs" in answer.json()["detail"]


@pytest.mark.parametrize("headers", [{"host": ""}, {"x": "a" * 40_000}, {"origin": "https://elsewhere.example"}, {"host": "elsewhere.example"}])
async def test_what_does_not_come_in_is_told_what_to_do(headers):
    async with running() as daemon, daemon.client() as client:
        answer = await client.get("/v1/head", headers=headers)

    assert answer.status_code >= 400
    assert answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"[" * 40_000, "the body is not JSON: it is nested too deeply"),
        (b'{"events": [{"type": "x", "data": ' + b"[" * 40_000, "the body is not JSON: it is nested too deeply"),
        (b'\xef\xbb\xbf{"events": []}', "the body is not JSON: it begins with a byte order mark: leave that out"),
        (b'{"events": [{"type": "\xff"}]}', "the body is not JSON: it is not UTF-8"),
    ],
)
@pytest.mark.parametrize("media_type", ["application/json", "application/cloudevents-batch+json"])
async def test_a_body_that_is_no_json_is_told_why(body, told, media_type):
    async with running() as daemon, daemon.client() as client:
        answer = await client.post("/v1/streams/a", content=body, headers={"content-type": media_type})

    assert answer.status_code == 400
    if media_type == "application/json":
        assert answer.json()["detail"] == told
    assert "codec" not in answer.text
    assert "recursion" not in answer.text


# -- at the client ---------------------------------------------------------------------------


async def test_a_client_without_a_token_is_told_once_where_to_put_one(monkeypatch):
    monkeypatch.delenv("PERDURE_TOKEN", raising=False)
    async with running() as daemon:
        with pytest.raises(Forbidden) as refused:
            async with open_client(daemon.url):
                pass

    told = "give one in PERDURE_TOKEN, or in a file that the URL names (?token_file=PATH); `perdure token new` makes one, where the daemon runs"
    assert str(refused.value) == f"the daemon refuses: a token is needed; {told}"


async def test_a_client_with_a_wrong_token_is_told_once():
    async with running() as daemon:
        with pytest.raises(Forbidden) as refused:
            async with open_client(daemon.url, token="x"):
                pass

    assert str(refused.value) == "the daemon refuses: the token is not valid; `perdure token new` makes one, where the daemon runs"


@pytest.mark.parametrize("command", ["read URL order-1", "top URL --json"])
def test_who_reads_where_nobody_answers_is_told_nothing_of_what_was_stored(tmp_path, command):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        done = perdure(*command.replace("URL", url).split(), folder=tmp_path)

    assert (done.returncode, "unavailable" in done.stderr, done.stderr.count("try again")) == (3, True, 1)
    assert "stored" not in done.stderr


async def test_a_read_that_gets_no_answer_says_nothing_of_what_was_stored():
    async with running(tokens=False, followers_max=0) as daemon, open_runtime(daemon.url) as rt:
        with pytest.raises(Unavailable) as refused:
            async with rt.backend.view():
                pass

    assert str(refused.value) == "the store is unavailable: there are too many live streams; try again later (followers_max)"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    """One that permits everything, and a folder with its app."""
    folder = tmp_path_factory.mktemp("daemon")
    (folder / "kept.py").write_text("from perdure.runtime import App, Retention\napp = App(retention=[Retention(categories=['order'], age_s=1.0)])\n")
    with process(folder, "--store", "lmdb:store", "--listen", "127.0.0.1:0", "--set", "tokens=false") as started:
        yield started.url, folder


@pytest.mark.parametrize(
    "command",
    [
        "token new URL till --scope read",
        "token list URL",
        "token revoke URL 0123456789abcdef",
        "hold list URL",
        "hold put URL reader --position 0",
        "hold drop URL reader",
        "retain URL --app kept:app",
        "backup URL saved",
        "import URL /dev/null",
    ],
)
def test_what_only_the_store_itself_can_is_told_where_to_do_it(root, daemon, command):
    url, folder = daemon
    done = perdure(*command.replace("URL", url).split(), folder=folder)

    assert done.returncode == 2
    assert done.stderr.endswith("do it where the daemon runs, on the store's own URL (that of `perdure serve --store`)\n")
    assert "token new" not in done.stderr
    assert f"`{command.split()[0]}`" in (root / "docs" / "client.md").read_text().rpartition("Commands that take a URL")[2]


async def test_what_is_perdures_own_cannot_be_had_by_any_token():
    """As what a runtime keeps can, by one that may read: so the remedy is not to make one."""
    async with running() as daemon, open_client(daemon.url, token=await daemon.make_token("kv:*")) as rt:
        for bucket, told in (("$tokens", "where the daemon runs, on the store's own URL"), ("$leases", "the token needs the scope read; `perdure token new`")):
            with pytest.raises(Forbidden) as refused:
                await rt.backend.scan(bucket, limit=1)
            assert told in str(refused.value)


async def test_what_is_refused_in_halves_is_told_once():
    """Two commits that do not fit into one request: the second one's finds nobody."""

    class Half(httpx2.AsyncHTTPTransport):
        commits = 0

        async def handle_async_request(self, request):
            self.commits += request.url.path.endswith("/commit")
            if self.commits > 1:
                raise httpx2.ConnectError("nobody is there")
            return await super().handle_async_request(request)

    async with running(tokens=False) as daemon:
        backend = await open_http(daemon.url, transport=Half())
        try:
            backend._body_bytes = 1_500
            draft = Draft("x", 1, b"\xda\x03\xe8" + b"a" * 1_000)
            commits = [propose([Append(f"order-{number}", [draft])], id=bytes([number]) * 16, at_us=1) for number in (1, 2)]
            first, second = (await backend.commit(commits)).answers
        finally:
            await backend.aclose()

    assert isinstance(first, Committed)
    assert isinstance(second, Unavailable)
    assert str(second).count("unavailable") == str(second).count("try again") == 1


def test_a_taken_address_is_told_as_what_it_is(tmp_path):
    (tmp_path / "shop.py").write_text("from perdure.runtime import App\napp = App()\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = perdure("serve", "shop:app", "--store", "memory:", "--listen", address, folder=tmp_path)

    assert done.returncode == 3
    assert done.stderr.endswith(f"perdure: {address} is unavailable: another program listens there; end it, or give another address (listen)\n")


async def test_what_is_no_text_in_utf8_is_told_so():
    half = "a\udcff"
    async with open_runtime("memory:") as rt:
        for write in (
            lambda: rt.append(half, [Placed("ada", 5)]),
            lambda: rt.append("order-1", [Placed(half, 5)]),
            lambda: rt.kv(half, str).put("k", "v"),
            lambda: rt.kv("b", str).put(half, "v"),
            lambda: rt.kv("b", str).put("k", half),
        ):
            with pytest.raises(Misuse, match="UTF-8") as refused:
                await write()
            assert "codec" not in str(refused.value)
            assert "control characters" not in str(refused.value)
