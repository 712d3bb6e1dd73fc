"""The report in a real browser: no request, no error, both themes, and a table that sorts."""

import json
import re
import subprocess
from html import unescape

import matplotlib.image
import numpy as np
import pytest

from browser import BROWSER
from lagseg_jax.imaging.overlay import write_overlay
from lagseg_jax.reports.page import write_report
from report_files import write_evaluation

pytestmark = pytest.mark.skipif(not BROWSER, reason="no Chromium or Chrome on this machine")
# Of axial slices: to the head, to the back, to the left.
AFFINE = np.array([[0, 0, -1.0, 0], [0, -1.0, 0, 0], [3.0, 0, 0, 0], [0, 0, 0, 1.0]])
DARK, LIGHT = 0, 1  # values of preferredColorScheme


def browse(page, folder, *options):
    """Opens a page; returns standard output, console messages and what the page asked for."""
    log = folder / "net.json"
    done = subprocess.run(
        [
            *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            # The browser's own errands must not leave this machine either.
            "--host-resolver-rules=MAP * ~NOTFOUND",
            *(f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}"),
            *("--enable-logging=stderr", "--hide-scrollbars", "--window-size=1200,3000"),
            *options,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    started = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    # "not an origin" is the browser itself.
    asked = [p["url"] for p in started if p.get("initiator", "not an origin") != "not an origin"]
    return done.stdout, re.findall("CONSOLE.*", done.stderr), asked


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("browser")
    write_evaluation(workdir, 13, warning="the encoder has random weights")
    picture = workdir / "evaluation" / "overlays" / "worst_train_1.png"
    image = np.random.default_rng(0).normal(size=(9, 31, 37))
    ball = np.hypot(*(np.indices((31, 37)) - 15)) < 9
    write_overlay(picture, image, np.stack([ball] * 9), np.stack([ball] * 9), "train_1", AFFINE)
    return write_report(workdir / "evaluation")


def screenshot(page, folder, scheme):
    path = folder / f"{scheme}.png"
    _, console, asked = browse(
        page, folder, f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={path}"
    )
    assert not console and not asked
    return matplotlib.image.imread(path)[..., :3]


def test_light_and_dark(page, tmp_path):
    light, dark = (screenshot(page, tmp_path, scheme) for scheme in (LIGHT, DARK))
    assert light.shape == dark.shape == (3000, 1200, 3)
    assert (light[5, 5] == 1).all() and dark[5, 5].max() < 0.15
    for picture in (light, dark):
        rows = np.abs(picture - picture[5, 5]).max(-1).max(1) > 0.3
        assert rows.mean() > 0.3  # rows of pixels with something legible on them
        blue = (picture[..., 2] - picture[..., 0] > 0.25).sum()
        orange = (picture[..., 0] - picture[..., 2] > 0.25).sum()
        assert blue > 5000 and orange > 1000


def test_the_table_sorts(page, tmp_path):
    # A script of ours may only run in a copy without the page's policy.
    clicks = "<script>document.querySelectorAll('th[aria-sort]')[3].click();{}</script></body>"
    text = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    orders = []
    for again in ("", "document.querySelectorAll('th[aria-sort]')[3].click()"):
        copy = tmp_path / "copy.html"
        copy.write_text(text.replace("</body>", clicks.format(again)))
        dom, console, _ = browse(copy, tmp_path, "--dump-dom")
        assert not console
        distances = re.findall(r"<tr><td .*?</td>(?:<td .*?</td>){2}<td data-value=\"(.*?)\"", dom)
        orders.append([unescape(value) for value in distances])
        direction = "descending" if again else "ascending"
        assert dom.count(f'aria-sort="{direction}"') == 1
    ascending = [float(value) for value in orders[0][:-1]]
    assert len(ascending) == 12 and ascending == sorted(ascending)
    # The case without a distance stays last.
    assert orders[1] == [*orders[0][:-1][::-1], ""] and orders[0][-1] == ""


def test_the_policy_and_the_watch_work(page, tmp_path):
    """A request and a script that do not belong there are stopped, and would have been seen."""
    strange = '<img src="http://127.0.0.1:9/x.png"><script>document.title = "run"</script></body>'
    text = page.read_text().replace("</body>", strange)
    copy = tmp_path / "copy.html"
    copy.write_text(text)
    dom, console, asked = browse(copy, tmp_path, "--dump-dom")
    assert len(console) == 2 and not asked and "<title>run" not in dom
    copy.write_text(re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", text))
    _, _, asked = browse(copy, tmp_path, "--dump-dom")
    assert asked == ["http://127.0.0.1:9/x.png"]
