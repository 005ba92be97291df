"""A load of HTTP requests on keep-alive connections, from a process of its own: `python -m benchmarks.http_load PORT CONNECTIONS SECONDS < REQUEST`.

Each connection sends the same bytes again as soon as it is answered. One loop over epoll and hardly any parsing, so that what is measured is
the server. Prints a JSON object: answers with 200, others, and the p50 and p99 of all in ms.
"""

import json
import re
import selectors
import socket
import sys
import time

LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


class Client:
    """One connection."""

    def __init__(self, port: int, request: bytes) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = request
        self._answer = b""
        self._sent = 0.0

    def ask(self) -> None:
        """Send the request."""
        self._answer, self._sent = b"", time.perf_counter()
        self.socket.sendall(self._request)

    def read(self) -> tuple[bytes, float] | None:
        """The status and the seconds it took, once the answer is whole."""
        part = self.socket.recv(1 << 16)
        if not part:
            raise ConnectionError("the server hung up")
        self._answer += part
        end = self._answer.find(b"\r\n\r\n")
        if end < 0:
            return None
        length = LENGTH.search(self._answer, 0, end)
        if length is None or len(self._answer) < end + 4 + int(length[1]):
            return None
        return self._answer[9:12], time.perf_counter() - self._sent


def load(port: int, request: bytes, connections: int, seconds: float) -> dict[str, float]:
    """What came back."""
    selector = selectors.DefaultSelector()
    clients = [Client(port, request) for _ in range(connections)]
    for client in clients:
        selector.register(client.socket, selectors.EVENT_READ, client)
        client.ask()
    good = other = 0
    took: list[float] = []
    began = time.perf_counter()
    until = began + seconds
    while (now := time.perf_counter()) < until:
        for key, _ in selector.select(until - now):
            client = key.data
            answer = client.read()
            if answer is None:
                continue
            good, other = good + (answer[0] == b"200"), other + (answer[0] != b"200")
            took.append(answer[1])
            client.ask()
    passed = time.perf_counter() - began
    took.sort()
    return {"rate": good / passed, "other": other, "p50_ms": took[len(took) // 2] * 1e3, "p99_ms": took[int(len(took) * 0.99)] * 1e3}


if __name__ == "__main__":
    print(json.dumps(load(int(sys.argv[1]), sys.stdin.buffer.read(), int(sys.argv[2]), float(sys.argv[3]))))
