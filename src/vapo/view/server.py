"""Serves the page on this machine alone, and each step when it is asked for: for logs too large for a file, and live runs."""

import json
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from vapo.view.page import html, index
from vapo.view.steps import Log

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def server(logs: Sequence[Log], port: int, steps: Sequence[int] | None = None) -> ThreadingHTTPServer:
    """A server on 127.0.0.1, not yet serving. It answers only those who call it by a loopback name: a page from elsewhere, whose
    name was made to lead here, does not read the log.

    Args:
        port: 0 for any that is free.
        steps: RL steps; None for all, also those that a run has yet to write.

    Raises:
        ValueError: the port cannot be had.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                if urlsplit(f"//{self.headers.get('Host', '')}").hostname not in LOOPBACK:
                    return self._send(403, "text/plain", b"only for this machine")
                match self.path.split("?")[0].strip("/").split("/"):
                    case [""]:
                        return self._send(200, "text/html; charset=utf-8", html(index(logs, True, steps)).encode())
                    case ["index"]:
                        return self._send(200, "application/json", json.dumps(index(logs, True, steps)).encode())
                    case ["step", run, step]:
                        return self._send(200, "application/octet-stream", logs[int(run)].pack(int(step), level=1))
                self._send(404, "text/plain", b"no such page")
            except ConnectionError:
                pass  # the reader went on to another step
            except (OSError, ValueError, LookupError) as error:
                self._send(404, "text/plain", str(error).encode())

        def _send(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass  # a page that follows a run asks every few seconds

    try:
        return ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except (OSError, OverflowError) as error:
        raise ValueError(f"port {port} cannot be had ({error}): set --port to another, or to 0 for any that is free") from error
