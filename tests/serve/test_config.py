"""Each field of the configuration has an effect, each source its rank, and what does not fit is told."""

from __future__ import annotations

import re
import ssl
from contextlib import suppress
from typing import Any

import attrs
import pytest
import trio
from shop import Placed, Total, step

from daemons import Kept, process, running
from perdure.actors.status import ActorStatus
from perdure.backends.errors import Misuse
from perdure.backends.limits import Limits
from perdure.runtime import App, Projection, of
from perdure.runtime.serve.config import RELOADED, ServeConfig, load, reload
from perdure.runtime.serve.listen import open_sockets
from perdure.runtime.serve.operating import behind, not_ready

PLACED = {"events": [{"type": "placed", "data": {"customer": "ada", "cents": 5}}]}
EFFECTS: dict[str, Any] = {}


def shows(effect):
    """A test of the field that its name ends in."""
    EFFECTS[effect.__name__.removeprefix("effect_of_")] = effect
    return effect


async def asked(daemon, head, body=b"", seconds=5.0):
    """What is answered to bytes, until the server hangs up."""
    found = b""
    with trio.move_on_after(seconds):
        async with await trio.open_tcp_stream("127.0.0.1", int(daemon.url.rpartition(":")[2])) as stream:
            try:
                await stream.send_all(head + body)
                async for part in stream:
                    found += part
            except trio.BrokenResourceError:
                pass
    return found


def post(daemon, *lines):
    lines = ("POST /v1/streams/a HTTP/1.1", "Host: localhost", f"Authorization: Bearer {daemon.token}", "Content-Type: application/json", *lines)
    return "\r\n".join((*lines, "", "")).encode()


@shows
async def effect_of_store(tmp_path):
    async with running(f"lmdb:{tmp_path / 'store'}"):
        assert (tmp_path / "store" / "data.mdb").exists()


@shows
async def effect_of_create(tmp_path):
    with pytest.RaisesGroup(pytest.RaisesExc(Misuse, match="there is no store")):
        async with running(f"lmdb:{tmp_path / 'store'}", create=False):
            pass


@shows
async def effect_of_changed(tmp_path):
    url = f"lmdb:{tmp_path / 'store'}"
    async with running(url) as daemon, daemon.client() as client:
        position = (await client.post("/v1/streams/order-1", json=PLACED)).json()["position"]
        await client.get(f"/v1/models/revenue?wait_for={position}")
    other = App(projections=[Projection("revenue", version=2, initial=Total(), step=step, events=of(Placed))])
    async with running(url, with_app=other) as daemon, daemon.client() as client:
        refused = (await client.get("/v1/models")).json()["models"][0]["fault"]
    async with running(url, with_app=other, changed="rebuild") as daemon, daemon.client() as client:
        rebuilt = (await client.get("/v1/models")).json()["models"][0]["fault"]

    assert (bool(refused), rebuilt) == (True, None)


@shows
async def effect_of_spent(tmp_path):
    for policy, ends in (("fail", True), ("leave", False)):
        gone = True
        with suppress(BaseExceptionGroup):
            async with running(spent=policy) as daemon:
                with trio.move_on_after(10):
                    while not (gave_up := "gave up" in {one.state for one in daemon.service.rt.models_status()}):
                        daemon.service.rt._models.crash("revenue", OSError("a wire was cut"))
                        await trio.sleep(0.05)
                gone = not gave_up
        assert gone is ends


@shows
async def effect_of_blobs(tmp_path):
    async with running(blobs=f"directory:{tmp_path / 'blobs'}") as daemon, daemon.client() as client:
        assert (await client.post("/v1/blobs", content=b"a cat")).status_code == 201
        assert [file.read_bytes() for file in (tmp_path / "blobs" / "blobs").rglob("baf*")] == [b"a cat"]


@shows
async def effect_of_listen(tmp_path):
    async with running(listen=("127.0.0.1:0", "127.0.0.2:0")) as daemon, daemon.client() as client:
        assert [url.rpartition(":")[0] for url in daemon.service.urls] == ["http://127.0.0.1", "http://127.0.0.2"]
        assert (await client.get(f"{daemon.service.urls[1]}/v1/head")).status_code == 200


@shows
async def effect_of_insecure(tmp_path):
    with pytest.raises(ValueError, match="insecure"):
        ServeConfig(listen=("0.0.0.0:0",))
    [opened] = open_sockets(ServeConfig(listen=("0.0.0.0:0",), insecure=True))
    opened.close()


@shows
async def effect_of_tls_cert(tmp_path):
    (tmp_path / "cert.pem").write_text("nothing")
    with pytest.RaisesGroup(pytest.RaisesExc(Misuse, match="holds no certificate")):
        async with running(tls_cert=str(tmp_path / "cert.pem")):
            pass


@shows
async def effect_of_tls_key(tmp_path):
    with pytest.raises(ValueError, match="without tls_cert"):
        ServeConfig(tls_key="key.pem")
    assert ssl.OPENSSL_VERSION  # with a certificate: test_tls.test_it_serves_https


@shows
async def effect_of_tokens(tmp_path):
    async with running(tokens=False) as daemon, daemon.client(None) as client:
        assert (await client.get("/v1/status")).status_code == 200


@shows
async def effect_of_hosts(tmp_path):
    for hosts, status in (((), 421), (("shop.example",), 200)):
        async with running(hosts=hosts) as daemon, daemon.client() as client:
            assert (await client.get("/v1/head", headers={"host": "shop.example"})).status_code == status


@shows
async def effect_of_origins(tmp_path):
    for origins, status in (((), 403), (("https://a.example",), 200)):
        async with running(origins=origins) as daemon, daemon.client() as client:
            assert (await client.get("/v1/head", headers={"origin": "https://a.example"})).status_code == status


@shows
async def effect_of_failures_per_minute(tmp_path):
    async with running(failures_per_minute=1) as daemon, daemon.client("x") as client:
        assert [(await client.get("/v1/head")).status_code for _ in range(3)] == [401, 429, 429]


@shows
async def effect_of_connections_max(tmp_path):
    async with running(connections_max=1) as daemon:
        async with await trio.open_tcp_stream("127.0.0.1", int(daemon.url.rpartition(":")[2])):
            await trio.sleep(0.1)
            assert (await asked(daemon, b"")).startswith(b"HTTP/1.1 503")


@shows
async def effect_of_followers_max(tmp_path):
    async with running(followers_max=0) as daemon, daemon.client() as client:
        assert (await client.get("/v1/follow/log")).status_code == 503


@shows
async def effect_of_head_bytes(tmp_path):
    async with running(head_bytes=2_000) as daemon, daemon.client() as client:
        assert (await client.get("/v1/head", headers={"x": "a" * 3_000})).status_code == 431


@shows
async def effect_of_body_bytes(tmp_path):
    async with running(body_bytes=2_000, bodies_bytes=4_000) as daemon, daemon.client() as client:
        assert (await client.put("/v1/kv/b/k", json="a" * 3_000)).status_code == 413
        assert (await asked(daemon, post(daemon, "Transfer-Encoding: chunked"), b"bb9\r\n" + b" " * 3_001 + b"\r\n")).startswith(b"HTTP/1.1 413")


@shows
async def effect_of_bodies_bytes(tmp_path):
    async with running(body_bytes=20_000, bodies_bytes=20_000, body_s=20) as daemon, daemon.client() as client:
        async with await trio.open_tcp_stream("127.0.0.1", int(daemon.url.rpartition(":")[2])) as held:
            await held.send_all(post(daemon, "Content-Length: 19000"))
            while not daemon.service.room.used:
                await trio.sleep(0.01)
            large = await client.put("/v1/kv/b/k", json="a" * 18_000)
            small = await client.put("/v1/kv/b/k", json="a")

    assert (large.status_code, small.status_code) == (503, 200)


@shows
async def effect_of_blob_bytes(tmp_path):
    async with running(blobs=f"directory:{tmp_path / 'blobs'}", blob_bytes=2_000, body_bytes=1_024) as daemon, daemon.client() as client:
        assert [(await client.post("/v1/blobs", content=b"a" * size)).status_code for size in (2_000, 2_001)] == [201, 413]


@shows
async def effect_of_blobs_max(tmp_path):
    async with running(blobs=f"directory:{tmp_path / 'blobs'}", blobs_max=1) as daemon, daemon.client() as client:
        async with await trio.open_tcp_stream("127.0.0.1", int(daemon.url.rpartition(":")[2])) as held:
            await held.send_all(post(daemon, "Content-Length: 9").replace(b"/v1/streams/a", b"/v1/blobs"))
            await trio.sleep(0.1)
            assert (await client.post("/v1/blobs", content=b"a")).status_code == 503
            await held.send_all(b"a" * 9)
            assert (await held.receive_some(12)) == b"HTTP/1.1 201"
        assert (await client.post("/v1/blobs", content=b"a")).status_code == 201


@shows
async def effect_of_page_max(tmp_path):
    async with running(page_max=2) as daemon, daemon.client() as client:
        await client.post("/v1/streams/a", json={"events": PLACED["events"] * 5})
        assert len((await client.get("/v1/streams/a?limit=100")).json()["events"]) == 2


@shows
async def effect_of_idle_s(tmp_path):
    async with running(idle_s=0.2) as daemon:
        for head in (b"", b"GET / HT", b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"):
            began = trio.current_time()
            await asked(daemon, head)
            assert 0.1 < trio.current_time() - began < 3


@shows
async def effect_of_body_s(tmp_path):
    async with running(body_s=0.2) as daemon:
        assert (await asked(daemon, post(daemon, "Content-Length: 9"))).startswith(b"HTTP/1.1 408")


@shows
async def effect_of_send_s(tmp_path):
    async with running(send_s=0.3) as daemon, daemon.client() as client:
        await client.put("/v1/kv/b/k", json="a" * 900_000)
        request = f"GET /v1/kv/b/k HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {daemon.token}\r\n\r\n".encode()
        before = daemon.service.connections()[0]
        async with await trio.open_tcp_stream("127.0.0.1", int(daemon.url.rpartition(":")[2])) as deaf:
            await deaf.send_all(request * 50)
            await trio.sleep(0.1)
            during = daemon.service.connections()[0]
            with trio.fail_after(10):
                while daemon.service.connections()[0] > before:
                    await trio.sleep(0.05)

    assert during == before + 1


@shows
async def effect_of_answer_s(tmp_path):
    async with running(answer_s=0.1) as daemon, daemon.client() as client:
        assert (await client.get("/v1/models/revenue?wait_for=1000")).status_code == 503


@shows
async def effect_of_wait_s(tmp_path):
    async with running(wait_s=0.1) as daemon, daemon.client() as client:
        assert (await client.get("/v1/models/revenue?wait_for=1000&wait_s=100")).status_code == 412


@shows
async def effect_of_alive_s(tmp_path):
    async with running(alive_s=0.1) as daemon:
        request = f"GET /v1/follow/log HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {daemon.token}\r\n\r\n".encode()
        assert (await asked(daemon, request, seconds=1)).count(b"id: ") >= 3


@shows
async def effect_of_drain_s(tmp_path):
    assert ServeConfig(drain_s=1).limits_in_time().close_s < ServeConfig(drain_s=5).limits_in_time().close_s


LAGGING = ActorStatus("revenue", "running", lag_events=5, lag_s=1.0)


@shows
async def effect_of_ready_lag_events(tmp_path):
    assert list(behind(ServeConfig(ready_lag_events=4), [LAGGING])) == ["model revenue is 5 events behind"]
    assert list(behind(ServeConfig(ready_lag_events=5), [LAGGING])) == []


@shows
async def effect_of_ready_lag_s(tmp_path):
    assert list(behind(ServeConfig(ready_lag_s=0.5), [LAGGING])) == ["model revenue is 1 s behind"]
    assert list(behind(ServeConfig(ready_lag_s=1), [LAGGING])) == []


@shows
async def effect_of_ready_faulted(tmp_path):
    def fails(state, event):
        raise ValueError

    broken = App(projections=[Projection("broken", version=1, initial=0, step=fails, events=of(Placed))])
    for policy, status in (("refuse", 503), ("ignore", 200)):
        async with running(with_app=broken, ready_faulted=policy) as daemon, daemon.client() as client:
            position = (await client.post("/v1/streams/a", json=PLACED)).json()["position"]
            await client.get(f"/v1/models/broken?wait_for={position}")
            assert (await client.get("/health/ready")).status_code == status


@shows
async def effect_of_ready_stuck_s(tmp_path):
    for stuck_s, reasons in ((5.0, 1), (60.0, 0)):
        async with running(ready_stuck_s=stuck_s) as daemon:
            for now_s in (0.0, 10.0):
                daemon.service.health.look(daemon.service.rt.journal_statistics(), [LAGGING], now_s)
            assert len(not_ready(daemon.service)) == reasons


@shows
async def effect_of_metrics_open(tmp_path):
    for is_open, status in ((False, 401), (True, 200)):
        async with running(metrics_open=is_open) as daemon, daemon.client(None) as anybody:
            assert (await anybody.get("/metrics")).status_code == status


@shows
async def effect_of_trace_share(tmp_path):
    begun = []
    for share in (0, 1):
        kept = Kept()
        async with running(environment=kept.environment, trace_share=share) as daemon, daemon.client() as client:
            await client.get("/v1/head")
        begun.append(list(kept.named()))
    assert begun == [[], ["GET /v1/head"]]


@shows
async def effect_of_log_format(tmp_path):
    first = {}
    for form in ("console", "json"):
        with process(tmp_path, "--store", "memory:", "--listen", "127.0.0.1:0", "--set", f"log_format={form}") as daemon:
            daemon.signal(15)
            daemon.ended()
        first[form] = daemon.told[0][0]
    assert (first["console"] != "{", first["json"]) == (True, "{")


@shows
async def effect_of_log_level(tmp_path):
    with process(tmp_path, "--store", "memory:", "--listen", "127.0.0.1:0", "--set", "log_level=error") as daemon:
        daemon.signal(15)
        daemon.ended()
    assert daemon.told == []


@shows
async def effect_of_limits(tmp_path):
    async with running(limits=Limits(event_bytes=100)) as daemon, daemon.client() as client:
        answer = await client.post("/v1/streams/a", json={"events": [{"type": "x", "data": "a" * 200}]})
    assert answer.status_code == 413


@pytest.mark.parametrize("name", EFFECTS)
async def test_it_has_an_effect(name, tmp_path):
    await EFFECTS[name](tmp_path)


def test_each_field_is_shown_to_have_one():
    assert sorted(EFFECTS) == sorted(attrs.fields_dict(ServeConfig))


# -- where it comes from ---------------------------------------------------------------------


def test_a_later_source_goes_before_an_earlier_one(tmp_path):
    file = tmp_path / "serve.toml"
    file.write_text('idle_s = 1\nbody_s = 1\npage_max = 1\nhosts = ["a"]\n[limits]\nclose_s = 1\nevent_bytes = 1000\n')
    environment = {"PERDURE_BODY_S": "2", "PERDURE_PAGE_MAX": "2", "PERDURE_LIMITS_CLOSE_S": "2", "PERDURE_TOKENS": "false", "PERDURE_TEST_POSTGRES": "x"}

    found = load(str(file), environment, {"page_max": "3", "hosts": "b, c", "limits.ask_s": "3"})

    assert (found.idle_s, found.body_s, found.page_max, found.hosts, found.tokens) == (1, 2, 3, ("b", "c"), False)
    assert (found.limits.close_s, found.limits.event_bytes, found.limits.ask_s) == (2, 1000, 3)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nonsense = 1", "the configuration has no 'nonsense' (serve.toml)"),
        ("[limits]\nnonsense = 1", "the configuration has no limits.nonsense (serve.toml)"),
        ("limits = 1", "limits is a table"),
        ("idle_s = 'x'", "idle_s is a number from 0 to 86,400, not 'x'"),
        ("idle_s = '5'", "idle_s is a number from 0 to 86,400, not '5'"),
        ("idle_s = true", "idle_s is a number from 0 to 86,400, not True"),
        ("idle_s = -1", "idle_s is a number from 0 to 86,400, not -1.0"),
        ("idle_s = nan", "idle_s is a number from 0 to 86,400, not nan"),
        (f"idle_s = 1{'0' * 400}", "idle_s is a number from 0 to 86,400, not 1000"),
        (f"idle_s = 1{'0' * 9000}", "not TOML"),
        ("trace_share = 2", "trace_share is a number from 0 to 1, not 2.0"),
        ("connections_max = 1.5", "connections_max is a whole number from 1 to 100,000, not 1.5"),
        ("connections_max = true", "connections_max is a whole number from 1 to 100,000, not True"),
        ("connections_max = '5'", "connections_max is a whole number from 1 to 100,000, not '5'"),
        ("tokens = 1", "tokens is true or false, not 1"),
        ("tokens = 'yes'", "tokens is true or false, not 'yes'"),
        ("store = 5", "store is a text, not 5"),
        ("listen = 5", "listen is a list of texts, not 5"),
        ("listen = [5]", "listen is a list of texts, not [5]"),
        ("listen = ['8467']", "no address"),
        ("listen = []", "no address"),
        ("hosts = 1", "hosts is a list of texts, not 1"),
        ("origins = ['app.example']", "https://"),
        ("changed = 'often'", "changed is one of refuse, rebuild, not 'often'"),
        ("changed = []", "changed is one of refuse, rebuild, not []"),
        ("body_bytes = 100000000", "bodies_bytes"),
        ("[limits]\nclose_s = 0", "limits.close_s is a number above 0, up to 3,600, not 0.0"),
        ("[limits]\nclose_s = 'x'", "limits.close_s is a number above 0, up to 3,600, not 'x'"),
        ("[limits]\nevent_bytes = 1.5", "limits.event_bytes is a whole number from 1 to 67,108,864, not 1.5"),
        ("= 1", "not TOML"),
    ],
)
def test_what_does_not_fit_is_told(tmp_path, monkeypatch, text, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "serve.toml").write_text(text)

    with pytest.raises(Misuse, match=re.escape(told)) as refused:
        load("serve.toml")

    assert not re.search(r"<class|must be|Attribute\(|\n", str(refused.value).removeprefix("the configuration 'serve.toml' is not TOML"))


@pytest.mark.parametrize(("name", "text"), [("TOKENS", "maybe"), ("PAGE_MAX", "1.5"), ("IDLE_S", "x"), ("LIMITS_CLOSE_S", "")])
def test_a_text_that_is_not_what_its_setting_is_is_told(name, text):
    with pytest.raises(Misuse, match=f"{name.lower().replace('limits_', 'limits.')} is .*, not '{text}'$"):
        load(environment={f"PERDURE_{name}": text})


@pytest.mark.parametrize(("text", "value"), [("true", True), ("Yes", True), ("1", True), ("false", False), ("NO", False), ("0", False)])
def test_where_there_is_only_text_it_says_true_or_false(text, value):
    assert load(environment={"PERDURE_TOKENS": text}).tokens is value
    assert load(flags={"tokens": text}).tokens is value


def test_what_is_reloaded_is_what_says_so():
    running, wanted = ServeConfig(), ServeConfig(page_max=7, idle_s=7, limits=Limits(close_s=7))

    now, taken, later = reload(running, wanted)

    assert (taken, later) == (("page_max",), ("idle_s", "limits"))
    assert now == attrs.evolve(running, page_max=7)
    assert "hosts" in RELOADED
