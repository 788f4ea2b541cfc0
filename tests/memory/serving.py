"""Web servers of tests, on the loopback address: good ones, and those that behave badly."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Served:
    """What a path answers."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int | None = None
    """The Content-Length to tell; the body's own by default, none at all if negative."""


@dataclass
class Site:
    """A web server; `hits` are the paths asked for, `headers` of the last request."""

    port: int
    pages: dict[str, Served] = field(default_factory=dict)
    hits: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    before: Callable[[], object] = bool
    """Called before each answer."""

    scheme: str = "http"

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"


@contextmanager
def site(tls: ssl.SSLContext | None = None) -> Iterator[Site]:
    """A server that answers what its pages say, and 404 for the rest."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            found.hits.append(self.path)
            found.headers = dict(self.headers)
            found.before()
            page = found.pages.get(self.path, Served(status=404))
            self.send_response(page.status)
            for name, value in page.headers.items():
                self.send_header(name, value)
            length = len(page.body) if page.length is None else page.length
            if length >= 0:
                self.send_header("Content-Length", str(length))
            self.send_header("Connection", "close")
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(page.body)

        def handle(self) -> None:
            with suppress(ssl.SSLError, ConnectionError):
                super().handle()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Site(server.server_address[1])
    if tls is not None:
        # The handshake is made by whoever answers, not by the one that accepts for all.
        server.socket = tls.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        found.scheme = "https"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class Script:
    """A server that says given bytes, whatever it is asked, over and over; see `scripted`."""

    port: int
    connections: int = 0
    received: bytes = b""

    def url(self, path: str, scheme: str = "http") -> str:
        return f"{scheme}://127.0.0.1:{self.port}{path}"


@contextmanager
def scripted(first: bytes = b"", then: bytes = b"", pause: float = 0.0) -> Iterator[Script]:
    """Say `first`, then `then` again and again, `pause` seconds apart, until the other hangs up.

    Without `then` it says no more and holds the connection open.
    """
    ending = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    found = Script(listener.getsockname()[1])
    threads: list[threading.Thread] = []

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(5)
            found.received += connection.recv(1 << 16)
            connection.sendall(first)
            while then and not ending.wait(pause):
                connection.sendall(then)
            while not then and not ending.is_set() and connection.recv(1 << 16):
                pass

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            found.connections += 1
            threads.append(threading.Thread(target=serve, args=(connection,)))
            threads[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield found
    finally:
        ending.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join()
        for thread in threads:
            thread.join()
