"""The command line, run by a process that may do no more than the modes of files say: root is let do all, so it gives that up."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_DROP = """
import ctypes, os, sys
if os.getuid() == 0:
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (1, 2, 3):  # DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER; exec takes them away
        if libc.prctl(24, capability, 0, 0, 0):  # PR_CAPBSET_DROP
            raise OSError(ctypes.get_errno(), "prctl")
os.execv(sys.executable, [sys.executable, "-P", "-m", "perdure.runtime", *sys.argv[1:]])
"""


def perdure(*arguments: str, cwd: Path | None = None, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    """The command, and what it said."""
    done = subprocess.run([sys.executable, "-c", _DROP, *arguments], capture_output=True, check=False, cwd=cwd, input=stdin)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(errors="surrogateescape"), done.stderr.decode())


@contextmanager
def rights(folder: Path, *, folders: int = 0o555, files: int = 0o444) -> Iterator[None]:
    """A time in which all in *folder* has these modes; then its owner may do all again."""
    paths = [(path, path.is_dir()) for path in [folder, *folder.rglob("*")]]
    for path, is_folder in reversed(paths):  # a folder after what is in it
        path.chmod(folders if is_folder else files)
    try:
        yield
    finally:
        for path, is_folder in paths:
            path.chmod(0o755 if is_folder else 0o644)
