"""Whatever is sent, the daemon answers as its document says, stays within its bounds, and goes on with the others."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
import requests
import schemathesis
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from daemons import perdure, process, running

EXAMPLES = int(os.environ.get("SERVE_EXAMPLES", "15"))
PLACED = {"events": [{"type": "placed", "data": {"customer": "ada", "cents": 5}}]}
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
MIB = 1 << 20
LIVE_S = 0.2
LIVE_BYTES = 4_096


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    """A daemon as a process, with (url, token, pid)."""
    folder = tmp_path_factory.mktemp("fuzzed")
    made = perdure("token", "new", "lmdb:store", "all", *(f"--scope={one}" for one in ("read", "append:*", "kv:*", "blob", "operate")), folder=folder)
    bounds = ("body_s=2", "idle_s=3", "send_s=3", "bodies_bytes=16777216", "connections_max=1300", "alive_s=0.5", "blobs=directory:blobs")
    with process(folder, "--store", "lmdb:store", "--listen", "127.0.0.1:0", *(f"--set={one}" for one in bounds)) as running:
        yield running.url, made.stdout.strip(), running.process.pid
        assert "Traceback" not in (told := "".join(running.told)), told[-8_000:]


@pytest.fixture(scope="module")
def client(daemon):
    url, token, _ = daemon
    with httpx2.Client(base_url=url, headers={"authorization": f"Bearer {token}"}, timeout=20) as client:
        yield client


# -- by its document -------------------------------------------------------------------------


def operations():
    """What the document says there is, live streams left out: they do not end."""
    from perdure.runtime.serve.openapi import plain_path
    from perdure.runtime.serve.web import OPERATIONS

    return [(one.method, plain_path(one.path)) for one in OPERATIONS if not (one.live or one.wire or one.name == "wire_view")]


@pytest.mark.parametrize(("method", "path"), operations())
def test_every_answer_is_as_documented(daemon, method, path):
    """Also to what the document forbids: that is half of what is drawn."""
    url, token, _ = daemon
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operation = schema[path][method]
    sent = []

    @given(case=st.one_of(operation.as_strategy(), operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)))
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    def check(case):
        answer = case.call(headers={**dict(case.headers or {}), "Authorization": f"Bearer {token}"}, timeout=20)
        sent.append(answer.status_code)
        case.validate_response(answer, checks=CHECKS)

    check()
    assert sent


def live_operations():
    """The live streams for everybody; those of the wire are a client's."""
    from perdure.runtime.serve.openapi import plain_path
    from perdure.runtime.serve.web import OPERATIONS

    return [plain_path(one.path) for one in OPERATIONS if one.live and one.path.startswith("/v1/follow/")]


def begun(answer):
    """The first pieces of a live answer, which is left then; all of another one."""
    if answer.headers.get("content-type") != "text/event-stream":
        return answer.content
    raw, until = b"", time.monotonic() + LIVE_S
    for piece in answer.iter_content(chunk_size=None):
        raw += piece
        if time.monotonic() > until or len(raw) > LIVE_BYTES:
            return raw
    return raw


def complaints(raw):
    """The lines of a live answer that are none of server-sent events, and data that is not JSON."""
    found = []
    for line in raw.split(b"\n")[:-1]:
        name, colon, rest = line.partition(b": ")
        if line and not (colon and (name in (b"", b"retry", b"event") or (name == b"id" and rest.isdigit()) or (name == b"data" and is_json(rest)))):
            found.append(line)
    return found


def is_json(text):
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("path", live_operations())
def test_every_live_answer_is_as_documented(daemon, client, path):
    """What of it comes in a moment, that is: it does not end. Some drawn names are of what there is, so that something lives."""
    url, token, _ = daemon
    client.post("/v1/streams/order-1", json=PLACED)
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operation = schema[path]["GET"]
    real = st.sampled_from([{}, {"name": "revenue", "bucket": "stock"}, {"name": "accounts", "bucket": "$tokens"}])
    statuses = set()

    @given(case=st.one_of(operation.as_strategy(), operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)), names=real)
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    def check(case, names):
        case.path_parameters = {**(case.path_parameters or {}), **{name: one for name, one in names.items() if f"{{{name}}}" in path}}
        request = case.as_transport_kwargs(headers={**dict(case.headers or {}), "Authorization": f"Bearer {token}"})
        with requests.request(**request, stream=True, timeout=10) as answer:
            raw = begun(answer)
            answer._content = raw
        statuses.add(answer.status_code)
        case.validate_response(answer, checks=CHECKS)
        assert answer.status_code != 200 or complaints(raw) == []

    check()
    with client.stream("GET", path.format(name="revenue", bucket="stock")) as answer:
        statuses.add(answer.status_code)
    assert 200 in statuses


def test_a_live_answer_that_is_none_would_be_found():
    assert complaints(b": perdure\nretry: 1000\n\nid: 7\ndata: {}\n\nevent: problem\ndata: 1\n\n") == []
    assert complaints(b"id: x\ndata: {\n\nnonsense\n") == [b"id: x", b"data: {", b"nonsense"]


def test_an_answer_that_is_not_documented_would_be_found(daemon):
    url, token, _ = daemon
    described = httpx2.get(f"{url}/openapi.json").json()
    del described["paths"]["/v1/streams/{stream}"]["get"]["responses"]["404"]
    schema = schemathesis.openapi.from_dict(described)
    case = schema["/v1/streams/{stream}"]["GET"].Case(path_parameters={"stream": "absent-1"})

    answer = case.call(base_url=url, headers={"Authorization": f"Bearer {token}"})

    assert answer.status_code == 404
    with pytest.raises(BaseExceptionGroup, match="Schemathesis"):
        case.validate_response(answer, checks=CHECKS)


# -- raw bytes -------------------------------------------------------------------------------


async def exchange(url, data, *, seconds=6.0):
    """What the server answers to bytes, until it hangs up."""
    answer = b""
    with trio.move_on_after(seconds):
        async with await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2])) as stream:
            try:
                await stream.send_all(data)
                async for part in stream:
                    answer += part
            except trio.BrokenResourceError:
                pass
    return answer


@given(st.one_of(st.binary(max_size=300), st.text(max_size=100).map(str.encode)))
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
def test_bytes_that_are_no_request_are_refused(daemon, data):
    url, _, _ = daemon

    answer = trio.run(exchange, url, data + b"\r\n\r\n")

    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")


PATHS = ["/v1/streams/", "/v1/kv/stock/", "/v1/kv/", "/v1/models/", "/v1/models/accounts/keys/"]


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=80), st.sampled_from(PATHS))
@settings(max_examples=EXAMPLES * 4, deadline=None, suppress_health_check=list(HealthCheck), database=None)
def test_any_name_is_answered(client, name, path):
    encoded = "".join(f"%{one:02X}" for one in name.encode())

    answer = client.get(path + encoded)

    assert answer.status_code in (200, 400, 404, 405, 413)


BROKEN = ["%", "%f", "%ff", "%c3", "%00", "%0a", "%2e%2e/%2e%2e/etc/passwd", "..%2f..%2fetc%2fpasswd", "%uD800", "%ed%a0%80", "a%20b", "//", ";x=1"]


@pytest.mark.parametrize("raw", BROKEN)
def test_a_path_that_is_broken_reaches_nothing(daemon, raw):
    url, token, _ = daemon
    head = f"GET /v1/streams/{raw} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"

    answer = trio.run(exchange, url, head.encode())

    assert answer[9:12] in (b"400", b"404")
    assert b"root:" not in answer


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ("Content-Length: 5\r\nContent-Length: 6\r\n", b"", b"400"),
        ("Content-Length: -1\r\n", b"", b"400"),
        ("Content-Length: 99999999999999999999\r\n", b"", b"4"),
        ("Content-Length: 5000000\r\n", b"", b"413"),
        ("Transfer-Encoding: chunked\r\n", b"zz\r\n", b"400"),
        ("Transfer-Encoding: gzip\r\n", b"", b"501"),
        ("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n", b"4"),
        ("Host: localhost\r\nContent-Length: 0\r\n", b"", b"400"),
        (f"X: {'a' * 70_000}\r\n", b"", b"431"),
        ("Content-Length: 7\r\n", b'{"event', b"400"),
        ("Content-Length: 2\r\n", b"[]", b"400"),
        ("Content-Length: 3\r\n", b"\xff\xfe\xfd", b"400"),
        ("Content-Length: 40000\r\n", b"[" * 40_000, b"400"),
        ("Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nContent-Length: 2\r\n", b"{}", b"400"),
        ("Upgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 2\r\n", b"{}", b"400"),
        ("If-Match: 7\r\nContent-Length: 13\r\n", b'{"events":[]}', b"400"),
        ("If-Match: \"99999999999999999999\"\r\nContent-Length: 13\r\n", b'{"events":[]}', b"400"),
        (f"Idempotency-Key: {'k' * 256}\r\nContent-Length: 13\r\n", b'{"events":[]}', b"400"),
    ],
)
def test_a_broken_request_is_told_what_is_wrong(daemon, headers, body, status):
    url, token, _ = daemon
    usual = f"Host: localhost\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\nConnection: close\r\n"
    head = f"POST /v1/streams/a HTTP/1.1\r\n{usual}{headers}\r\n"

    answer = trio.run(exchange, url, head.encode() + body)

    assert answer[9:12].startswith(status)
    assert answer.count(b"HTTP/1.1 ") == 1


# -- huge, slow, many ------------------------------------------------------------------------


def resident_mib(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB


async def appending(url, token, scope_s):
    """How many appends go through in that time, and the slowest."""
    count, slowest = 0, 0.0
    async with httpx2.AsyncClient(base_url=url, headers={"authorization": f"Bearer {token}"}, timeout=20) as client:
        until = trio.current_time() + scope_s
        while (began := trio.current_time()) < until:
            answer = await client.post("/v1/streams/order-1", json=PLACED)
            assert answer.status_code == 200
            count, slowest = count + 1, max(slowest, trio.current_time() - began)
    return count, slowest


async def abuse(url, token, what, connections, scope_s):
    """*what* on so many connections, while another one appends."""

    async def one(number):
        with trio.move_on_after(scope_s):
            while True:
                try:
                    async with await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2])) as stream:
                        await what(stream, number)
                except (OSError, trio.BrokenResourceError):
                    await trio.sleep(0.05)

    async with trio.open_nursery() as nursery:
        for number in range(connections):
            nursery.start_soon(one, number)
        result = await appending(url, token, scope_s)
        nursery.cancel_scope.cancel()
    return result


def head(token, *lines, target="/v1/streams/x"):
    usual = (f"POST {target} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {token}", "Content-Type: application/json")
    return "\r\n".join((*usual, *lines, "", "")).encode()


ABUSES: dict[str, Any] = {}


def abusive(connections):
    def note(make):
        ABUSES[make.__name__] = (make, connections)
        return make

    return note


@abusive(1_000)
def idle(token):
    async def what(stream, number):
        await stream.receive_some(1)

    return what


@abusive(200)
def slow_heads(token):
    async def what(stream, number):
        for one in head(token):
            await stream.send_all(bytes([one]))
            await trio.sleep(0.2)

    return what


@abusive(200)
def slow_bodies(token):
    async def what(stream, number):
        await stream.send_all(head(token, "Content-Length: 100000"))
        while True:
            await stream.send_all(b" ")
            await trio.sleep(0.2)

    return what


@abusive(50)
def huge_bodies(token):
    async def what(stream, number):
        await stream.send_all(head(token, "Transfer-Encoding: chunked"))
        while True:
            await stream.send_all(b"10000\r\n" + b" " * 65_536 + b"\r\n")

    return what


@abusive(50)
def bodies_without_a_token(token):
    async def what(stream, number):
        await stream.send_all(head("x", "Content-Length: 4000000"))
        for _ in range(60):
            await stream.send_all(b" " * 65_536)
        await stream.receive_some(1)

    return what


@abusive(100)
def readers_who_do_not_read(token):
    async def what(stream, number):
        request = f"GET /v1/log?limit=1000 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        while True:
            await stream.send_all(request)

    return what


@abusive(100)
def followers_who_do_not_read(token):
    async def what(stream, number):
        await stream.send_all(f"GET /v1/follow/log?after=0 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
        await trio.sleep_forever()

    return what


@abusive(200)
def busy(token):
    body = json.dumps(PLACED).encode()

    async def what(stream, number):
        request = head(token, f"Content-Length: {len(body)}", target=f"/v1/streams/busy-{number}") + body
        while True:
            await stream.send_all(request)
            if not await stream.receive_some(65_536):
                return

    return what


@abusive(100)
def noise(token):
    draw = random.Random(7)

    async def what(stream, number):
        await stream.send_all(draw.randbytes(draw.randrange(1, 2_000)))
        await stream.receive_some(1)

    return what


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
@pytest.mark.parametrize("name", ABUSES)
def test_abuse_is_borne(daemon, name):
    """Memory stays within the declared bounds, and the appends of others go on."""
    url, token, pid = daemon
    make, connections = ABUSES[name]
    before = resident_mib(pid)

    count, slowest = trio.run(abuse, url, token, make(token), connections, 4.0)

    grown = resident_mib(pid) - before
    assert count >= 3, f"{count} appends in 4 s, the slowest took {slowest:.2f} s"
    assert grown < 80, f"{before:.0f} MiB before, {grown:.0f} MiB more with {connections} connections"


def test_all_of_them_have_left(daemon, client):
    """Nothing of what was refused, or left, is held."""
    with_us = None
    for _ in range(100):
        with_us = client.get("/v1/status").json()["http"]
        if with_us["connections"] <= 2 and not with_us["bodies_bytes"]:
            break
        trio.run(trio.sleep, 0.1)

    assert with_us is not None
    assert (with_us["connections"] <= 2, with_us["bodies_bytes"], with_us["followers"]) == (True, 0, 0)


async def test_one_connection_too_many_is_told():
    async with running(connections_max=2) as daemon, daemon.client() as client:
        held = [await trio.open_tcp_stream("127.0.0.1", int(daemon.url.rpartition(":")[2])) for _ in range(2)]
        await trio.sleep(0.1)
        answer = await exchange(daemon.url, b"")
        for one in held:
            await one.aclose()
        await trio.sleep(0.1)
        again = await client.get("/health/live")

    assert answer.startswith(b"HTTP/1.1 503")
    assert again.status_code == 200
