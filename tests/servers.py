"""A tiny HTTP server on loopback whose answers a test writes: for faults that a well-kept server does not show."""

import contextlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Answer:
    """``body`` is bytes, or plain data sent as JSON; ``cut`` bytes of it are sent before the connection breaks."""

    status: int
    body: object = b""
    headers: dict = field(default_factory=dict)
    cut: int | None = None


@dataclass
class Asked:
    method: str
    path: str
    headers: dict
    body: bytes
    base: str


@dataclass
class Running:
    url: str
    requests: list


@contextlib.contextmanager
def serving(answer):
    """Serve ``answer(Asked) -> Answer`` and record what was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def handle_any(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            base = f"http://{self.headers['Host']}"
            request = Asked(self.command, self.path, dict(self.headers), body, base)
            asked.append(request)
            reply = answer(request)
            content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if reply.cut is not None:
                self.wfile.write(content[: reply.cut])
                self.wfile.flush()
                self.close_connection = True
                self.connection.shutdown(2)
                return
            self.wfile.write(content)

        do_GET = do_POST = handle_any

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield Running(f"http://127.0.0.1:{server.server_port}", asked)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
