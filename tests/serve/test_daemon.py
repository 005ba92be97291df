"""The daemon as a process: it starts, drains, reloads, tells systemd, and shares a store with another one."""

from __future__ import annotations

import itertools
import random
import signal
import socket
import time
from contextlib import ExitStack

import attrs
import httpx2
import pytest

from daemons import perdure, process
from perdure.runtime.serve.config import ServeConfig
from perdure.runtime.serve.notify import Notifier

STORE = ("--store", "lmdb:store", "--listen", "127.0.0.1:0")
PLACED = {"events": [{"type": "placed", "data": {"customer": "ada", "cents": 5}}]}


def client_of(folder, url, store="lmdb:store"):
    token = perdure("token", "new", store, "all", *(f"--scope={one}" for one in ("read", "append:*", "kv:*", "operate")), folder=folder).stdout.strip()
    return httpx2.Client(base_url=url, headers={"authorization": f"Bearer {token}"}, timeout=20)


def wait_until(what, seconds=10.0):
    """What *what* gives, once it is true."""
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.02)
    return found


# -- its end ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_drains_in_time(tmp_path, number):
    """With a request under way, a follower and an idle connection: the models are saved, the store is left cleanly."""
    with process(tmp_path, *STORE) as daemon, client_of(tmp_path, daemon.url) as client:
        client.post("/v1/streams/order-1", json=PLACED)
        with client.stream("GET", "/v1/follow/log?after=0") as live:
            daemon.signal(number)
            began = time.monotonic()
            list(live.iter_raw())  # it is ended, not torn
        code = daemon.ended()
        took_s = time.monotonic() - began

    assert (code, took_s < 5) == (0, True)
    assert "drained and closed" in daemon.told[-1]
    with process(tmp_path, *STORE) as again, client_of(tmp_path, again.url) as client:
        revenue = client.get("/v1/models/revenue?wait_for=2").json()
        assert revenue["state"] == {"cents": 5}


def test_who_waits_for_a_model_is_told_that_it_ends(tmp_path):
    with process(tmp_path, *STORE, "--set", "drain_s=60") as daemon, client_of(tmp_path, daemon.url) as client:
        host, _, port = daemon.url.removeprefix("http://").rpartition(":")
        before = client.get("/v1/status").json()["http"]["requests"]
        with socket.create_connection((host, int(port)), timeout=20) as waiting:
            head = f"GET /v1/models/revenue?wait_for=1000&wait_s=100 HTTP/1.1\r\nHost: {host}\r\nAuthorization: {client.headers['authorization']}\r\n\r\n"
            waiting.sendall(head.encode())
            asked = itertools.count(before + 1)
            wait_until(lambda: client.get("/v1/status").json()["http"]["requests"] > next(asked))  # more than those of the status itself
            daemon.signal(signal.SIGTERM)
            answer = waiting.makefile("rb").read().decode()
        code = daemon.ended()

    assert answer.startswith("HTTP/1.1 503")
    assert "urn:perdure:problem:closed" in answer
    assert code == 0


def test_it_does_not_wait_longer_than_it_may_for_who_does_not_read(tmp_path):
    with process(tmp_path, *STORE, "--set", "drain_s=2", "--set", "body_s=60") as daemon, client_of(tmp_path, daemon.url) as client:
        token = client.headers["authorization"]
        host, _, port = daemon.url.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port))) as slow:
            head = f"POST /v1/streams/a HTTP/1.1\r\nHost: {host}\r\nAuthorization: {token}\r\n"
            slow.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 9\r\n\r\n".encode())
            wait_until(lambda: client.get("/v1/status").json()["http"]["connections"] == 2)
            daemon.signal(signal.SIGTERM)
            began = time.monotonic()
            code = daemon.ended()

    assert code == 0
    assert time.monotonic() - began < 3


def test_a_second_signal_ends_it_at_once(tmp_path):
    with process(tmp_path, *STORE, "--set", "drain_s=60", "--set", "body_s=60") as daemon, client_of(tmp_path, daemon.url) as client:
        host, _, port = daemon.url.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port))) as slow:
            head = f"POST /v1/streams/a HTTP/1.1\r\nHost: {host}\r\nAuthorization: {client.headers['authorization']}\r\n"
            slow.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 9\r\n\r\n".encode())
            wait_until(lambda: client.get("/v1/status").json()["http"]["connections"] == 2)
            daemon.signal(signal.SIGTERM)
            wait_until(lambda: any("draining" in line for line in daemon.told))
            daemon.signal(signal.SIGTERM)
            assert daemon.ended(3) == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["shop:app"], 2, "which store?"),
        (["shop:app", "--store", "nonsense:"], 2, "names no store"),
        (["shop:app", "--store", "memory:", "--listen", "0.0.0.0:0"], 2, "needs a certificate"),
        (["shop:app", "--store", "memory:", "--set", "nonsense=1"], 2, "has no 'nonsense'"),
        (["shop:app", "--store", "memory:", "--set", "idle_s=x"], 2, "is a number"),
        (["shop:app", "--store", "memory:", "--config", "absent.toml"], 2, "cannot be read"),
        (["shop:nothing", "--store", "memory:"], 2, "has no 'nothing'"),
        (["broken:app", "--store", "memory:"], 6, "cannot be imported"),
        (["shop:app", "--store", "lmdb:absent", "--set", "create=false", "--listen", "127.0.0.1:0"], 3, ""),
        (["shop:app", "--store", "memory:", "--listen", "127.0.0.1:{port}"], 3, "another program listens"),
    ],
)
def test_what_keeps_it_from_starting_is_told(tmp_path, arguments, code, told):
    (tmp_path / "shop.py").write_text("from perdure.runtime import App\napp = App()\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = perdure("serve", *(one.format(port=taken.getsockname()[1]) for one in arguments), folder=tmp_path)

    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode in ({code} if told else {2, 3})


# -- SIGHUP ----------------------------------------------------------------------------------


def test_it_takes_on_what_it_can_and_says_what_it_cannot(tmp_path):
    (tmp_path / "serve.toml").write_text('store = "lmdb:store"\nlisten = ["127.0.0.1:0"]\nhosts = []\n')
    with process(tmp_path, "--config", "serve.toml") as daemon, client_of(tmp_path, daemon.url) as client:
        before = client.get("/v1/head", headers={"host": "shop.example"})
        (tmp_path / "serve.toml").write_text('store = "lmdb:store"\nlisten = ["127.0.0.1:0"]\nhosts = ["shop.example"]\nidle_s = 5\n')
        daemon.signal(signal.SIGHUP)
        wait_until(lambda: any("needs a new start: idle_s" in line for line in daemon.told))
        after = wait_until(lambda: (found := client.get("/v1/head", headers={"host": "shop.example"})).status_code == 200 and found)
        (tmp_path / "serve.toml").write_text("hosts = 7\n")
        daemon.signal(signal.SIGHUP)
        wait_until(lambda: any("nothing was reloaded" in line for line in daemon.told))
        audit = client.get("/v1/streams/$audit").json()["events"]

    assert (before.status_code, after.status_code) == (421, 200)
    assert any("reloaded: hosts" in line for line in daemon.told)
    assert [one["data"]["fields"] for one in audit if one["type"] == "$audit-config-reloaded"] == [["hosts"]]


# -- systemd ---------------------------------------------------------------------------------


def test_systemd_is_told(tmp_path):
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        systemd.settimeout(10)
        with process(tmp_path, *STORE, NOTIFY_SOCKET=address, WATCHDOG_USEC="300000") as daemon:
            told: list[str] = []
            while sum("WATCHDOG=1" in one for one in told) < 3 or not any("READY=1" in one for one in told):
                told.append(systemd.recv(4_096).decode())
            daemon.signal(signal.SIGHUP)
            while not any("RELOADING=1" in one for one in told):
                told.append(systemd.recv(4_096).decode())
            daemon.signal(signal.SIGTERM)
            while "STOPPING=1" not in told[-1]:
                told.append(systemd.recv(4_096).decode())
            assert daemon.ended() == 0

    assert any("STATUS=ready" in one for one in told)


@pytest.mark.parametrize(
    ("environment", "address", "watchdog_s"),
    [
        ({}, "", 0.0),
        ({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "2000000"}, "@x", 2.0),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}, "/x", 0.0),
        ({"WATCHDOG_USEC": "soon"}, "", 0.0),
    ],
)
def test_what_systemd_wants_is_read(environment, address, watchdog_s):
    notifier = Notifier.of(environment)

    notifier.tell(READY="1")  # nobody listens: nothing happens
    assert (notifier.address, notifier.watchdog_s) == (address, watchdog_s)


# -- two of them -----------------------------------------------------------------------------


def running_in(client):
    """The models that run in the daemon asked."""
    [projections] = [one for one in client.get("/v1/status").json()["root"]["children"] if one["name"] == "projections"]
    return {one["name"]: one["state"] for one in projections["children"]}


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_two_share_the_work_and_either_may_end(tmp_path, end):
    with process(tmp_path, *STORE) as first, client_of(tmp_path, first.url) as one, process(tmp_path, *STORE) as second:
        other = httpx2.Client(base_url=second.url, headers=one.headers, timeout=20)
        both = [wait_until(lambda c=c: len(found := c.get("/v1/status").json()["daemons"]) == 2 and found) for c in (one, other)]
        states = [running_in(one), running_in(other)]
        position = other.post("/v1/streams/order-1", json=PLACED).json()["position"]
        seen = [c.get(f"/v1/models/revenue?wait_for={position}").json()["state"] for c in (one, other)]

        first.signal(end)
        first.ended()
        wait_until(lambda: set(running_in(other).values()) == {"running"}, 20)
        position = other.post("/v1/streams/order-1", json=PLACED).json()["position"]
        after = other.get(f"/v1/models/revenue?wait_for={position}").json()["state"]
        alone = wait_until(lambda: len(found := other.get("/v1/status").json()["daemons"]) == 1 and found, 20)
        other.close()

    assert [sum(one["here"] for one in daemons) for daemons in both] == [1, 1]
    assert all({states[0][name], states[1][name]} == {"running", "standing by"} for name in ("revenue", "accounts"))
    assert (seen, after) == ([{"cents": 5}] * 2, {"cents": 10})
    assert alone[0]["here"]


LEASE_S = 3.0


def both_told(clients):
    """Whether each daemon's status shows both, and each model runs in exactly one of them and waits in the other."""
    if any(len(one.get("/v1/status").json()["daemons"]) != 2 for one in clients):
        return False
    states = [running_in(one) for one in clients]
    return all(sorted(one[name] for one in states) == ["running", "standing by"] for name in ("revenue", "accounts"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [7])
def test_two_share_one_server_and_either_may_be_killed_at_any_time(tmp_path, database, seed):
    """Round by round the one that runs the models ends, while both are written to: the other runs them within the lease time and 2 s.

    Nothing is lost, and nothing folded twice.
    """
    draw = random.Random(seed)
    arguments = ("--store", database, "--listen", "127.0.0.1:0", "--set", f"limits.lease_s={LEASE_S}")
    ends = [signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGTERM]
    draw.shuffle(ends)
    stored, handed_over_s = 0, []
    with ExitStack() as stack:
        daemons = [stack.enter_context(process(tmp_path, *arguments)) for _ in range(2)]
        with client_of(tmp_path, "http://any", database) as made:
            headers = made.headers

        def client(number):
            return stack.enter_context(httpx2.Client(base_url=daemons[number].url, headers=headers, timeout=20))

        def append(one):
            nonlocal stored
            answer = one.post("/v1/streams/order-1", json=PLACED)
            assert answer.status_code == 200, answer.text
            stored += 1

        clients = [client(0), client(1)]
        for number in ends:
            wait_until(lambda: both_told(clients), 30)
            victim = 0 if "running" in running_in(clients[0]).values() else 1
            ran = [name for name, state in running_in(clients[victim]).items() if state == "running"]
            until = time.monotonic() + draw.uniform(0, 1.5)
            while time.monotonic() < until:
                append(draw.choice(clients))
            survivor = clients[1 - victim]
            daemons[victim].signal(number)
            began = time.monotonic()
            if number == signal.SIGTERM:  # it gives back what it holds: no lease has to run out
                daemons[victim].ended()
            while not (over := {running_in(survivor)[name] for name in ran} <= {"running"}) and time.monotonic() < began + 20:
                append(survivor)
            assert over
            handed_over_s.append(time.monotonic() - began)
            daemons[victim].ended()
            wait_until(lambda: len(survivor.get("/v1/status").json()["daemons"]) == 1, 20)  # noqa: B023 - asked at once
            daemons[victim] = stack.enter_context(process(tmp_path, *arguments))
            clients[victim] = client(victim)
        wait_until(lambda: both_told(clients), 30)
        position = clients[0].get("/v1/head").json()["head"]
        sums = [one.get(f"/v1/models/revenue?wait_for={position}").json()["state"] for one in clients]

    assert max(handed_over_s) < LEASE_S + 2, handed_over_s
    assert sums == [{"cents": 5 * stored}] * 2


def test_every_field_is_documented():
    assert [name for name, field in attrs.fields_dict(ServeConfig).items() if not field.metadata["help"]] == []
