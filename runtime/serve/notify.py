"""What systemd is told: datagrams to the socket it names (sd_notify(3)). Where it names none, nothing."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

import attrs


@attrs.frozen
class Notifier:
    """Tells systemd; *address* is that of its socket, '' for nobody. *watchdog_s*: it wants a sign of life so often, 0 for none."""

    address: str = ""
    watchdog_s: float = 0.0

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Notifier:
        """The one that the environment names. A watchdog that is meant for another process does not count."""
        pid, usec = environment.get("WATCHDOG_PID"), environment.get("WATCHDOG_USEC", "")
        ours = pid is None or pid == str(os.getpid())
        return cls(environment.get("NOTIFY_SOCKET", ""), int(usec) / 1e6 if ours and usec.isdecimal() else 0.0)

    def tell(self, **fields: str) -> None:
        """Send fields, as `READY="1"`. Never waits, never fails: a supervisor that does not listen stops nobody."""
        if not self.address:
            return
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as opened:
                opened.sendto("\n".join(f"{name}={value}" for name, value in fields.items()).encode(), address)
        except OSError:
            pass
