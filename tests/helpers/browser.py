"""Drives Chromium or Chrome over a pipe (DevTools protocol): real keys, real policy, no library."""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import time

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
SECONDS = 60


class Page:
    """One page of a running browser.

    Attributes:
        asked: addresses that it requested from a network.
        said: errors, warnings and refusals of the policy.
    """

    def __init__(self, read, write):
        self._read, self._write, self._buffer, self._count = read, write, b"", 0
        self.asked, self.said, self._session = [], [], None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + SECONDS
        while (answer := self._next(end)).get("id") != self._count:
            self._note(answer)
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def _next(self, end):
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            piece = os.read(self._read, 1 << 20)
            assert piece, "the browser is gone"
            self._buffer += piece
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, event):
        method, params = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if not url.startswith(("file:", "data:", "blob:", "about:")):
                self.asked.append(url)
        elif method == "Runtime.exceptionThrown":
            self.said.append(params["exceptionDetails"])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.said.append(params["entry"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.said.append(params["args"])

    def open(self, path, until="true", place=""):
        self.call("Page.navigate", url=path.as_uri() + place)
        loaded = "location.protocol === 'file:' && document.readyState === 'complete'"
        self.wait(f"{loaded} && {until}")

    def run(self, script):
        """The value of a script, which no policy of the page hinders."""
        result = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, condition):
        end = time.monotonic() + SECONDS
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < end, f"{condition} never came true: {self.said}"
            time.sleep(0.02)

    def key(self, key, code=0):
        """Presses a key as a person does."""
        text = {"text": key} if len(key) == 1 else {}
        about = {"key": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", **about, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def mouse(self, kind, x, y, **more):
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def size(self, width, height, ratio=1):
        about = {"width": width, "height": height, "deviceScaleFactor": ratio, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **about)

    def dark(self, on):
        feature = {"name": "prefers-color-scheme", "value": "dark" if on else "light"}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def screenshot(self, path):
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


# The protocol's pipes are 3 and 4. A process of its own puts them there: JAX forbids to fork. By
# way of other numbers, since a pipe that is 3 already would be closed at the start of the browser.
CONNECT = """
import fcntl, os, sys
low, high = (fcntl.fcntl(int(pipe), fcntl.F_DUPFD, 10) for pipe in sys.argv[1:3])
os.dup2(low, 3)
os.dup2(high, 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""


@contextlib.contextmanager
def browser(profile):
    """Starts a browser that resolves no name, and yields its page."""
    (from_us, to_it), (from_it, to_us) = os.pipe(), os.pipe()

    process = subprocess.Popen(
        [
            *(sys.executable, "-I", "-S", "-c", CONNECT, str(from_us), str(to_us)),
            *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--host-resolver-rules=MAP * ~NOTFOUND", "--remote-debugging-pipe"),
            f"--user-data-dir={profile}",
            "about:blank",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(from_us, to_us),
    )
    os.close(from_us), os.close(to_us)
    try:
        yield Page(from_it, to_it)
    finally:
        process.terminate()
        process.wait(SECONDS)
        os.close(from_it), os.close(to_it)
