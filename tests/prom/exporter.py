"""`Exporter`: an HTTP server whose ``/metrics`` text a test sets, in a thread of its own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self


class Exporter:
    """``with Exporter() as exporter: exporter.set({"rps": 3})``; `address` is what a scrape configuration names."""

    def __init__(self) -> None:
        outer = self
        self.text = ""
        self.status = 200
        self.scrapes = 0

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.scrapes += 1
                body = outer.text.encode()
                self.send_response(outer.status)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                with contextlib.suppress(ConnectionError):  # a Prometheus that is stopped hears no answer
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    def set(self, samples: Mapping[str, float]) -> None:
        """Serve these samples, such as ``{'rps{pod="a"}': 3}``, from now on."""
        self.text = "".join(f"{series} {value}\n" for series, value in samples.items())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
