"""uvicorn's HTTP protocol, with two limits that it lacks, and deaf to offers of another protocol."""

import asyncio

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 65_536
"""Bytes that may come without being a part of a body: request line, headers, trailers."""
ARRIVAL_SECONDS = 120.0
"""For all of a request to arrive, its body included; then the connection is closed."""


class Protocol(HttpToolsProtocol):
    """One connection.

    Its parser keeps a head of any length, and joins the pieces in quadratic time; and it drops the body of a request
    that offers another protocol, as Java's HTTP client does with its first request on a connection.
    """

    _head = 0
    _arrival: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a request."""
        super().connection_made(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing more."""
        self._arrived()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take a piece of a request."""
        self._unset_keepalive_if_required()
        self._head += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(data[upgrade.args[0] :])
        else:
            if self._head > MAX_HEAD and not self.transport.is_closing():
                self.send_400_response("The request's head is too long.")

    def on_message_begin(self) -> None:
        """Expect the rest of a request, which may have come after another one."""
        super().on_message_begin()
        self._expect()

    def on_headers_complete(self) -> None:
        """Count from here anew."""
        self._head = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Count from here anew."""
        self._head = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Expect nothing more of this request."""
        self._head = 0
        self._arrived()
        super().on_message_complete()

    def _should_upgrade(self) -> bool:
        """Leave a request alone that offers another protocol, until `_decline_upgrade`."""
        return True

    def _decline_upgrade(self, rest: bytes) -> None:
        """Read the request again without its offer, and then what came after its head."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        kept = [b"%b: %b" % (name, value) for name, value in self.headers if name != b"upgrade"]
        if len(kept) == len(self.headers):  # CONNECT, which a proxy would understand
            self.send_400_response("Invalid HTTP request received.")
            return
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join([b"%b %b HTTP/%b" % (method, self.url, version), *kept, b"", rest]))

    def _expect(self) -> None:
        if self._arrival is None:
            self._arrival = self.loop.call_later(ARRIVAL_SECONDS, self._close)

    def _arrived(self) -> None:
        if self._arrival:
            self._arrival.cancel()
            self._arrival = None

    def _close(self) -> None:
        if self.pipeline:  # then it is not read on before its turn
            self._arrival = None
            self._expect()
        elif not self.transport.is_closing():
            self.transport.close()
