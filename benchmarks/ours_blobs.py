"""perdure's blob stores: a large file in and out, beside a plain copy with SHA-256; and the memory that takes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.blob_worker import MIB, copy
from benchmarks.harness import Case, Work, constant
from benchmarks.sizes import Sizes

ROOT = Path(__file__).resolve().parent.parent
NODE = ROOT / "tests" / "ipfs" / "blobnodes" / "fake.py"
WORKER_S = 600

Store = Callable[[Path], AbstractContextManager[str]]


def content(path: Path, sizes: Sizes) -> Path:
    """A file of `blob_mib` MiB that nothing compresses."""
    with path.open("wb") as file:
        for _ in range(sizes.blob_mib):
            file.write(os.urandom(MIB))
    return path


@contextmanager
def directory(folder: Path) -> Iterator[str]:
    yield f"directory:{folder / 'blobs'}"


@contextmanager
def ipfs(folder: Path) -> Iterator[str]:
    """A fake node in a process of its own, its blocks in files."""
    (folder / "node").mkdir(exist_ok=True)
    with subprocess.Popen([sys.executable, str(NODE), str(folder / "node")], stdout=subprocess.PIPE, text=True) as node:
        try:
            assert node.stdout is not None
            yield f"ipfs://127.0.0.1:{int(node.stdout.readline())}"
        finally:
            node.kill()


def worked(url: str, file: Path) -> dict[str, Any]:
    """What a worker says of itself."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.blob_worker", url, str(file)], cwd=ROOT, check=True, capture_output=True, text=True, timeout=WORKER_S
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def in_and_out(store: Store, figure: str) -> Callable[[Path, Sizes], AbstractContextManager[Work]]:
    """One figure of a worker on a fresh store."""

    @contextmanager
    def case(folder: Path, sizes: Sizes) -> Iterator[Work]:
        file = content(folder / "file", sizes)
        with store(folder) as url:
            yield lambda: float(worked(url, file)[figure])

    return case


@contextmanager
def plain_copy(folder: Path, sizes: Sizes) -> Iterator[Work]:
    file = content(folder / "file", sizes)
    yield lambda: copy(str(file), str(folder / "copy"))


PLAIN_COPY = Case("copy with SHA-256", plain_copy, fresh=True)
PUT = {"directory": Case("directory", in_and_out(directory, "put"), fresh=True), "ipfs": Case("fake IPFS node", in_and_out(ipfs, "put"), fresh=True)}
GET = {"directory": Case("directory", in_and_out(directory, "get"), fresh=True), "ipfs": Case("fake IPFS node", in_and_out(ipfs, "get"), fresh=True)}
MEMORY = {"directory": Case("directory", in_and_out(directory, "mib"), fresh=True), "ipfs": Case("fake IPFS node", in_and_out(ipfs, "mib"), fresh=True)}
MEMORY_LIMIT = constant("64 MiB", 64.0)
