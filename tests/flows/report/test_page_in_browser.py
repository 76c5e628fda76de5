"""The report in a real browser: no error, no sideways scroll, pictures with texts, dark, printed.

Chromium runs without any driver: a script at the end of a copy of the page measures it, and
`--dump-dom` prints what it found. The copy lies in a frame, since windows are not as narrow as a
phone. Where there is no Chromium these tests are skipped.
"""

import json
import re
import shutil
import subprocess

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--enable-logging=stderr",
)  # fmt: skip
MEASURE = """<script>
addEventListener("load", () => {
  const images = [...document.images];
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const found = {
    width: innerWidth,
    wide: document.documentElement.scrollWidth,
    images: images.length,
    broken: images.filter(i => !i.naturalWidth).length,
    wordless: images.filter(i => !i.alt && !i.closest("[aria-label]")).length,
    dark, paper: getComputedStyle(document.body).backgroundColor,
    plot: document.querySelector("picture img").currentSrc.slice(-64),
    overlap: [...document.querySelectorAll("section")].some((s, i, all) =>
      i && s.getBoundingClientRect().top < all[i - 1].getBoundingClientRect().bottom),
  };
  parent.postMessage(JSON.stringify(found), "*");
});
</script></body>"""
FRAME = """<!doctype html><body style="margin:0"><pre id="measured"></pre><script>
addEventListener("message", e => { document.querySelector("pre").textContent = e.data; });
</script><iframe src="copy.html" width="%d" height="900" style="border:0"></iframe></body>"""

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"
)


def browse(tmp_path, page, *flags):
    """Open a page; return what the browser prints, and its complaints about the page."""
    profile = tmp_path / "profile"
    shutil.rmtree(profile, ignore_errors=True)
    done = subprocess.run(
        [CHROMIUM, *QUIET, f"--user-data-dir={profile}", *flags, page.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


def measured(tmp_path, html, width, *flags):
    (tmp_path / "copy.html").write_text(html.replace("</body>", MEASURE))
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME % width)
    waiting = ("--window-size=1400,900", "--virtual-time-budget=20000", "--dump-dom")
    dom, complaints = browse(tmp_path, frame, *waiting, *flags)
    found = re.search(r'<pre id="measured">(.+?)</pre>', dom)
    assert found, "the page did not load"
    return json.loads(found[1]), complaints


@pytest.fixture
def html(unbroken):
    return (unbroken / "report" / "index.html").read_text()


def test_the_page_fits_a_phone_and_a_screen(tmp_path, html):
    plots = set()
    for width, scheme in ((390, 1), (1280, 0)):
        found, complaints = measured(
            tmp_path, html, width, f"--blink-settings=preferredColorScheme={scheme}"
        )
        assert complaints == []
        assert found["width"] == width and found["wide"] <= width
        assert found["images"] > 40 and found["broken"] == found["wordless"] == 0
        assert not found["overlap"]
        assert found["dark"] == (scheme == 0)
        light = sum(map(int, re.findall(r"\d+", found["paper"]))) > 3 * 128
        assert light != found["dark"]
        plots.add(found["plot"])
    assert len(plots) == 2  # plots have a picture for either scheme


def test_the_page_prints(tmp_path, unbroken):
    pdf = tmp_path / "page.pdf"
    _, complaints = browse(tmp_path, unbroken / "report" / "index.html", f"--print-to-pdf={pdf}")
    assert complaints == []
    content = pdf.read_bytes()
    assert content.startswith(b"%PDF") and 2 <= len(re.findall(rb"/Type\s*/Page\b", content)) <= 20


def test_a_poor_page_would_be_seen(tmp_path, html):
    broken = (
        "<script>undefined_name()</script><div style='width:900px'>wide</div>"
        "<img src='data:image/png;base64,AAAA'></body>"
    )
    found, complaints = measured(tmp_path, html.replace("</body>", broken), 390)
    assert any("undefined_name" in line for line in complaints)
    assert found["wide"] > 390 and found["broken"] == 1 and found["wordless"] == 1
