"""Which HTTP client and which HTTP server cost the gateway least: the same work with each, by processor time.

`python -m benchmarks.gateway` measures them in turn. `python -m benchmarks.http_libraries LOOP PARSER` runs the server.
"""

import asyncio
import re
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import httpx
import psutil
import uvicorn
import uvloop

from benchmarks.raw_load import raw_load
from tools import PROJECT
from tools.client import json_request, wait_until

_SERVERS = [("uvloop", "httptools"), ("uvloop", "h11"), ("asyncio", "httptools"), ("asyncio", "h11")]
_ROUNDS, _SECONDS, _REQUESTS, _AT_ONCE = 3, 1.5, 400, 8
_ANSWER = b'{"embedding":"%b"}' % (b"A" * 4096)
_HEADERS = {"Content-Type": "application/json"}


def clients(port: int, path: str, body: bytes) -> dict[str, float]:
    """Return each client's processor time for a POST of this body, in ms; the median of some rounds, in turn."""
    url = f"http://127.0.0.1:{port}{path}"
    taken: dict[str, list[float]] = {"aiohttp": [], "httpx": []}
    for _ in range(_ROUNDS):
        taken["aiohttp"].append(uvloop.run(_with_aiohttp(url, body)))
        taken["httpx"].append(uvloop.run(_with_httpx(url, body)))
    return {name: statistics.median(milliseconds) for name, milliseconds in taken.items()}


def servers(body: dict[str, Any]) -> dict[str, float]:
    """Return the processor time of uvicorn with each loop and parser for a POST of this body, in ms."""
    request = json_request(body, path="/")
    return {f"{loop} and {parser}": _served_ms(loop, parser, request) for loop, parser in _SERVERS}


async def _with_aiohttp(url: str, body: bytes) -> float:
    async with aiohttp.ClientSession(headers=_HEADERS) as session:

        async def ask() -> bytes:
            async with session.post(url, data=body) as response:
                return await response.read()

        return await _processor_ms(ask)


async def _with_httpx(url: str, body: bytes) -> float:
    async with httpx.AsyncClient(headers=_HEADERS) as client:

        async def ask() -> bytes:
            return (await client.post(url, content=body)).content

        return await _processor_ms(ask)


async def _processor_ms(ask: Callable[[], Awaitable[bytes]]) -> float:
    """Return this process's processor time for a request, of several that run at once, in ms."""

    async def some() -> None:
        for _ in range(_REQUESTS // _AT_ONCE):
            await ask()

    await ask()
    before = _used()
    await asyncio.gather(*(some() for _ in range(_AT_ONCE)))
    return (_used() - before) * 1000 / _REQUESTS


def _used() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _served_ms(loop: str, parser: str, request: bytes) -> float:
    with tempfile.TemporaryFile("w+") as log:
        command = [sys.executable, "-m", "benchmarks.http_libraries", loop, parser]
        process = subprocess.Popen(command, cwd=PROJECT, stdout=log, stderr=log)
        try:

            def port() -> int:
                log.seek(0)
                found = re.search(r"running on http://127\.0\.0\.1:(\d+)", log.read())
                return int(found[1]) if found else 0

            wait_until(port)
            raw_load(port(), request, _AT_ONCE, 0.5)
            before = psutil.Process(process.pid).cpu_times()
            load = raw_load(port(), request, _AT_ONCE, _SECONDS)
            after = psutil.Process(process.pid).cpu_times()
            used = after.user + after.system - before.user - before.system
            return used * 1000 / (load.requests_per_second * _SECONDS)
        finally:
            process.terminate()
            process.wait()


async def answer(_: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
    """Read the body, and answer as much as a vector is, as an ASGI application."""
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_ANSWER))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": _ANSWER})


def main() -> None:
    """Run the server with the loop and the parser of the command line."""
    loop, parser = sys.argv[1:]
    uvicorn.run(answer, port=0, loop=loop, http=parser, access_log=False, lifespan="off")


if __name__ == "__main__":
    main()
