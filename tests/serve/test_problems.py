"""Every error over HTTP is a problem that says what to do; and one that came from a daemon says it once."""

from __future__ import annotations

import pytest

from daemons import running

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
