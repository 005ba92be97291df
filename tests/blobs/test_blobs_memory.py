"""However large a blob is, it goes in and out in little memory. (1 GiB, and how fast: `make bench ARGS='--rows "blob-*"'`.)"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

BLOB_MIB = 160
ABOVE_MIB_MAX = 64


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the memory of a process is read in /proc")
@pytest.mark.parametrize("kind", ["directory", "ipfs"])
def test_a_large_blob_takes_little_memory(tmp_path: Path, load: Callable[[str], ModuleType], kind: str):
    load("benchmarks")
    from benchmarks import ours_blobs

    file = tmp_path / "file"
    with file.open("wb") as writing:
        for _ in range(BLOB_MIB):
            writing.write(os.urandom(1 << 20))

    with getattr(ours_blobs, kind)(tmp_path) as url:
        found = ours_blobs.worked(url, file)

    assert found["mib"] < ABOVE_MIB_MAX
