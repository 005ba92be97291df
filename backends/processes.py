"""Which process this is, and whether another one has surely ended.

Only a hint hangs on it: who knows that an owner is dead need not wait for its silence. An answer that is wrong costs
a change of owner, never a write: every commit of an owner carries its fence.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Protocol

import attrs


class Processes(Protocol):
    """Names processes. A name is told to people up to its ` (`, and understood by whoever made it."""

    def mine(self) -> str:
        """The name of this process."""
        ...

    def gone(self, name: str) -> bool:
        """Whether the process of that name has ended; False where that cannot be known from here."""
        ...


class RealProcesses:
    """`process PID on HOST (BOOT NAMESPACE STARTED)`: of this boot and this name space of pids, so that a pid means the same here and there."""

    def mine(self) -> str:
        pid = os.getpid()
        return f"process {pid} on {socket.gethostname()} ({_where()} {_started(pid)})"

    def gone(self, name: str) -> bool:
        told, _, place = name.partition(" (")
        where, _, started = place.removesuffix(")").rpartition(" ")
        if not where or where != _where():
            return False
        pid = int(told.split()[1])
        try:
            os.kill(pid, 0)  # asks only whether it is there, also where /proc hides it from other users
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return _started(pid) not in (started, None)


def _where() -> str:
    """This boot, and this name space of pids; '' where the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """When the process began, in ticks since the boot: a pid that is given again is another one. '' if it has ended, None if that is not told."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return "" if fields[0] in "ZX" else fields[19]


def told(name: str) -> str:
    """A process's name for people."""
    return name.partition(" (")[0]


@attrs.frozen
class NamedProcess:
    """A process with a name of its own that knows nothing of others: for simulations, where several live in one."""

    name: str

    def mine(self) -> str:
        return self.name

    def gone(self, name: str) -> bool:
        return False
