"""A real PACS on the loopback address: Orthanc with its DICOMweb plugin, of Debian's packages."""

import base64
import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

PROGRAM = shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin:/usr/bin") or ""
PLUGINS = [*Path("/usr/share/orthanc/plugins").glob("libOrthancDicomWeb.so*")]
USER, PASSWORD = "reader", "secret of the reader"
INSTALLED = bool(PROGRAM and PLUGINS)


class Orthanc:
    """One that runs; `url` is that of DICOMweb."""

    def __init__(self, folder: Path, **settings):
        self.folder, self.settings = folder, settings
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/dicom-web"
        self.start()

    def start(self):
        self.folder.mkdir(exist_ok=True)
        config = {
            "StorageDirectory": str(self.folder),
            "IndexDirectory": str(self.folder),
            "HttpPort": self.port,
            "DicomServerEnabled": False,
            "AuthenticationEnabled": True,
            "RegisteredUsers": {USER: PASSWORD},
            "Plugins": [str(PLUGINS[0])],
            "DicomWeb": {"Enable": True},
        }
        file = self.folder / "orthanc.json"
        file.write_text(json.dumps(config | self.settings))
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen([PROGRAM, str(file)], stdout=log, stderr=log)
        for _ in range(300):
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                self.ask("system")
                return
            assert self.process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.1)
        raise AssertionError("Orthanc does not answer")

    def ask(self, path: str, content: bytes | None = None):
        """The JSON at a path of its own interface; with content it is sent there."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{path}", content)
        known = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        request.add_header("Authorization", f"Basic {known}")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    def kill(self):
        self.process.kill()
        self.process.wait()
