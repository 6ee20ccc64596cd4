"""Load from raw sockets in several processes: a client that costs little, because it shares the server's cores.

`python -m benchmarks.raw_load PORT CONNECTIONS SECONDS` reads a whole request from stdin, sends it on each connection
again and again, and prints its counts as JSON.
"""

import json
import os
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

_MAX_PROCESSES = 6
_CONTENT_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class RawLoad:
    """What a server answered to a number of connections that each send one request after the other."""

    requests_per_second: float
    """Answered with vectors, of all connections together."""
    p50_ms: float
    """Median latency."""
    p99_ms: float
    """99th percentile of the latency."""
    refused: int
    """Any other answer: 409, mostly."""


def raw_load(port: int, request: bytes, connections: int, seconds: float) -> RawLoad:
    """Send the same HTTP request again and again for some seconds."""
    processes = min(connections, _MAX_PROCESSES, max(1, (os.cpu_count() or 1) // 2))
    running = []
    for index in range(processes):
        share = connections // processes + (index < connections % processes)
        command = [sys.executable, "-m", "benchmarks.raw_load", str(port), str(share), str(seconds)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(request)
        process.stdin.close()
        running.append(process)
    results = [json.loads(process.stdout.read()) for process in running if process.stdout]
    for process in running:
        process.wait()
    latencies = [latency for result in results for latency in result["milliseconds"]]
    if len(latencies) < 2:
        raise RuntimeError(f"{connections} connections got {len(latencies)} answers in {seconds:g} s")
    percentiles = statistics.quantiles(latencies, n=100)
    refused = sum(result["refused"] for result in results)
    return RawLoad(len(latencies) / seconds, percentiles[49], percentiles[98], refused)


def main() -> None:
    """Send the request on stdin until the time is over; print the latencies."""
    port, connections, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    request, milliseconds, refused = sys.stdin.buffer.read(), [], []
    ends = time.perf_counter() + seconds

    def client() -> None:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while (started := time.perf_counter()) < ends:
                connection.sendall(request)
                head, body = _answer(connection)
                if time.perf_counter() > ends:  # a slow server would have as many too many as there are connections
                    return
                if b" 200 " in head[:20] and b'"status":"failed"' not in body:
                    milliseconds.append((time.perf_counter() - started) * 1000)
                else:
                    refused.append(head[:20])

    threads = [threading.Thread(target=client) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"milliseconds": milliseconds, "refused": len(refused)}))


def _answer(connection: socket.socket) -> tuple[bytes, bytes]:
    """Return the head and the body of one HTTP answer."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += _received(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    found = _CONTENT_LENGTH.search(head)
    assert found, head
    parts, size = [body], len(body)
    while size < int(found[1]):
        parts.append(_received(connection))
        size += len(parts[-1])
    return head, b"".join(parts)


def _received(connection: socket.socket) -> bytes:
    data = connection.recv(1 << 20)
    if not data:
        raise ConnectionError("the server closed the connection")
    return data


if __name__ == "__main__":
    main()
