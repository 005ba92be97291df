"""A disk of a few MiB, to be filled: ext4 in a file where this user may mount one, else memory of a fixed size."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

SIZE_MIB = 32

How = Literal["ext4", "tmpfs"]


def ways(folder: Path) -> list[How]:
    """In which ways a small disk can be had here."""
    return [how for how in get_args(How) if not _why_not(how, folder)]


def why_none(folder: Path) -> str:
    """Why there is no way."""
    return "; ".join(f"{how}: {_why_not(how, folder)}" for how in get_args(How))


def _why_not(how: How, folder: Path) -> str:
    if os.getuid():
        return "only root may mount"
    if how == "ext4" and shutil.which("mkfs.ext4") is None:
        return "there is no mkfs.ext4: apt-get install e2fsprogs"
    try:
        with small_disk(how, folder / f"try-{how}"):
            return ""
    except subprocess.CalledProcessError as error:
        return f"{' '.join(map(str, error.cmd))} fails: {error.stderr.strip()}"


@contextmanager
def small_disk(how: How, folder: Path) -> Iterator[Path]:
    """The folder it is mounted at, below *folder*; unmounted at the end."""
    folder.mkdir()
    place, image = folder / "disk", folder / "image"
    place.mkdir()
    if how == "ext4":
        with image.open("wb") as file:
            file.truncate(SIZE_MIB << 20)
        _run("mkfs.ext4", "-q", "-F", "-m", "0", str(image))
        _run("mount", "-o", "loop", str(image), str(place))
    else:
        _run("mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m", "perdure-torture", str(place))
    try:
        yield place
    finally:
        _run("umount", str(place))
        shutil.rmtree(folder)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def fill(path: Path, size_bytes: int | None = None) -> int:
    """Write so much to the file *path*, or as much as there is room for; how much that was."""
    written = 0
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        chunk = 1 << 20
        while chunk and (size_bytes is None or written < size_bytes):
            try:
                written += os.write(handle, bytes(chunk if size_bytes is None else min(chunk, size_bytes - written)))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                chunk = chunk // 2 if chunk > 512 else 0
        os.fsync(handle)
    finally:
        os.close(handle)
    return written
