"""Hypercorn on its Trio worker, answering a constant: what HTTP itself costs. As a program: `python -m benchmarks.peers.hypercorn_constant`."""

from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio import serve

ANSWER = b'{"stream":"a-1","first":1234,"last":1234,"position":123456}'


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Read the whole request, and answer."""
    if scope["type"] == "lifespan":
        for what in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{what}.complete"})
        return
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(ANSWER)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": ANSWER})


async def main() -> None:
    """Serve until killed; where, is printed."""
    config = Config()
    config.bind, config.errorlog = ["127.0.0.1:0"], None
    async with trio.open_nursery() as nursery:
        [url] = await nursery.start(serve, app, config)
        print(url, flush=True)


if __name__ == "__main__":
    trio.run(main)
