"""A local stand-in for a PACS that misbehaves, on the loopback address."""

import contextlib
import time
from http.server import BaseHTTPRequestHandler

from loopback import serving


class Server:
    """What it answers; a test changes it.

    Attributes:
        answers: (method, end of the path) -> status, headers, content; of the first that fits.
        seconds: before each answer.
        requests: (method, path) of all.
    """

    def __init__(self):
        self.answers: dict = {}
        self.seconds = 0.0
        self.requests: list = []
        self.url = ""


class _Handler(BaseHTTPRequestHandler):
    server_of: Server

    def do_GET(self):
        self.answer()

    def do_POST(self):
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while int(self.rfile.readline(), 16):
                self.rfile.readline()
        else:
            self.rfile.read(int(self.headers["Content-Length"]))
        self.answer()

    def log_message(self, *_):
        pass

    def answer(self):
        server, path = self.server_of, self.path.partition("?")[0]
        server.requests.append((self.command, path))
        time.sleep(server.seconds)
        fit = (v for (m, end), v in server.answers.items() if m == self.command and end in path)
        status, headers, content = next(fit, (404, {}, b""))
        with contextlib.suppress(ConnectionError):
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(content))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)


@contextlib.contextmanager
def serve():
    """Yields a running `Server`."""
    server = Server()
    with serving(_Handler, server_of=server) as url:
        server.url = f"{url}/dicom-web"
        yield server
