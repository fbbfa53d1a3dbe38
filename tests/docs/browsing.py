"""The site as a reader's browser shows it: built, served on this machine, opened in Chromium.

`test_browser.py` asks the questions. What a page is asked in JavaScript stands here, so that each
answer comes back as plain values.
"""

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.docs.pages import ROOT

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SMALLEST_LETTERS = 9  # pixels of the screen, in a plot
PATIENCE = 30_000  # milliseconds for anything that a page does
WIDTHS = {1280: 900, 390: 844}  # a laptop's window and a phone's, each with its height

# Everything that ends beyond the right edge of the screen, or begins before the left one, and that
# the reader cannot scroll to inside of a box of its own. An image has to fit without scrolling.
OUTSIDE = """() => {
  const width = document.documentElement.clientWidth;
  const scrolls = e => {
    for (let box = e.parentElement; box && box !== document.body; box = box.parentElement)
      if (/auto|scroll/.test(getComputedStyle(box).overflowX)) return true;
    return false;
  };
  const outside = [];
  for (const e of document.querySelectorAll("article *")) {
    const {left, right, width: wide, height} = e.getBoundingClientRect();
    if (!wide || !height || !e.checkVisibility() || (left >= -1 && right <= width + 1)) continue;
    if (e.matches("img, svg, canvas, video") || !scrolls(e))
      outside.push(`${e.localName} ${e.getAttribute("src") ?? e.textContent.slice(0, 40)}`);
  }
  const page = document.scrollingElement;
  if (page.scrollWidth > page.clientWidth) outside.push(`the page: ${page.scrollWidth}`);
  return outside;
}"""

UNLOADED = """async () => {
  const images = [...document.images];
  await Promise.all(images.map(image => image.decode().catch(() => null)));
  return images.filter(image => !image.naturalWidth).map(image => image.src);
}"""

# Of each plot that is seen: its address, and its width on the screen.
PLOTS = """() => [...document.querySelectorAll("article img")]
  .filter(image => image.checkVisibility() && /[.]svg(#|$)/.test(image.src))
  .map(image => [image.src.split("#")[0], image.getBoundingClientRect().width])"""

# A plot opened as a page: the width it is drawn at, the smallest letters, and the words that its
# own edges cut off.
INSIDE_PLOT = """() => {
  const svg = document.documentElement, {width, height} = svg.getBoundingClientRect();
  const words = [...document.querySelectorAll("text")].filter(word => word.textContent.trim());
  const cut = words.filter(word => {
    const box = word.getBoundingClientRect();
    return box.left < -1 || box.top < -1 || box.right > width + 1 || box.bottom > height + 1;
  });
  const sizes = words.map(word => {
    const matrix = word.getScreenCTM(), scale = Math.hypot(matrix.a, matrix.b);
    return parseFloat(getComputedStyle(word).fontSize) * scale;
  });
  return [width, Math.min(...sizes, 1e9), cut.map(word => word.textContent.trim())];
}"""

CODE = """() => [...document.querySelectorAll("article .highlight pre > code")]
  .filter(code => code.checkVisibility()).map(code => code.textContent)"""

SCHEME = """() => ({
  scheme: document.body.dataset.mdColorScheme,
  paper: getComputedStyle(document.body).backgroundColor,
  ink: getComputedStyle(document.querySelector("article")).color,
  wrong: [...document.querySelectorAll("article img")].filter(image => {
    const other = document.body.dataset.mdColorScheme === "slate" ? "#only-light" : "#only-dark";
    const same = other === "#only-light" ? "#only-dark" : "#only-light";
    return image.checkVisibility() ? image.src.endsWith(other) : image.src.endsWith(same);
  }).map(image => image.src),
})"""


def chromium() -> str | None:
    """The browser of this machine's distribution, where there is one."""
    return next(filter(None, map(shutil.which, CHROMIUM)), None)


def build(folder: Path) -> Path:
    """The site, built into a folder from the pages as they are."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Nothing on the screen for each file."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder's files, on this machine alone."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


def path_of(page: str) -> str:
    """Where the site has a page of the navigation: `faq` is `faq/`, `guides/index` is `guides/`."""
    return re.sub(r"(^|/)index/$", r"\1", f"{page}/")


@functools.cache
def anchors(file: Path) -> frozenset[str]:
    """What a link into a page may name."""
    text = file.read_text(encoding="utf-8")
    return frozenset(re.findall(r'\s(?:id|name)="?([^"\s>]+)', text))


def broken(site: Path, address: str, links: list[str]) -> list[str]:
    """The links that lead to no file of the site, or to no place in it; others' are left alone."""
    found = []
    for link in links:
        if not link.startswith(address):
            continue
        parts = urlsplit(link)
        file = site / unquote(parts.path).lstrip("/")
        file = file / "index.html" if file.is_dir() else file
        place = unquote(parts.fragment)
        is_page = file.suffix == ".html" and file.exists()
        if not file.exists() or (is_page and place and place not in anchors(file)):
            found.append(link)
    return found


def uncopied(page) -> list[str]:
    """Blocks of code whose button puts something else on the clipboard, or that have none."""
    page.evaluate("() => document.querySelectorAll('details').forEach(box => box.open = true)")
    texts = page.evaluate(CODE)
    buttons = page.locator("article .highlight button[data-clipboard-target]:visible")
    if not buttons.count():
        buttons = page.locator("article .highlight button[title^=Copy]:visible")
    if buttons.count() != len(texts):
        return [f"{len(texts)} blocks of code, {buttons.count()} buttons to copy them"]
    faults = []
    for number, text in enumerate(texts):
        page.evaluate("() => navigator.clipboard.writeText('nothing')")
        buttons.nth(number).click()
        copied = page.evaluate("() => navigator.clipboard.readText()")
        if copied.strip() != text.strip():
            faults.append(f"copied {copied[:40]!r} for {text[:40]!r}")
    return faults


def unlit(page) -> list[str]:
    """What is wrong when the reader goes from light to dark and back."""
    light = page.evaluate(SCHEME)
    page.locator("label[title=Dark]").click()
    dark = page.evaluate(SCHEME)
    page.locator("label[title=Light]").click()
    back = page.evaluate(SCHEME)
    faults = []
    if [light["scheme"], dark["scheme"], back["scheme"]] != ["default", "slate", "default"]:
        faults.append(f"light and dark: {light['scheme']}, {dark['scheme']}, {back['scheme']}")
    if light["paper"] == dark["paper"] or light["ink"] == dark["ink"]:
        faults.append(f"dark is like light: {dark}")
    return faults + [f"image of the other scheme: {i}" for i in light["wrong"] + dark["wrong"]]


class Reader:
    """One tab: it opens pages, and notes what went wrong while it did."""

    def __init__(self, context: Any, address: str) -> None:
        self.page = context.new_page()
        self._plots = context.new_page()
        self._inside: dict[str, tuple[float, float, list[str]]] = {}
        context.set_default_timeout(PATIENCE)
        self.address = address
        self.complaints: list[str] = []
        self.page.on("console", self._note_message)
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("request", self._note_request)
        self.page.on("response", self._note_response)
        self.page.on("requestfailed", self._note_failure)

    def _note_message(self, message):
        if message.type in ("error", "warning"):
            self.complaints.append(f"console: {message.text}")

    def _note_request(self, request):
        if not request.url.startswith((self.address, "data:", "blob:" + self.address)):
            self.complaints.append(f"asked another host: {request.url}")

    def _note_response(self, response):
        if response.status >= 400:
            self.complaints.append(f"{response.status}: {response.url}")

    def _note_failure(self, request):
        # What a page still asked for when the reader left it is no fault of the page.
        if request.failure != "net::ERR_ABORTED":
            self.complaints.append(f"{request.failure}: {request.url}")

    def open(self, path):
        """Opens a page; what was noted before is forgotten."""
        self.complaints.clear()
        self.page.goto(self.address + path)
        return self.page

    def unreadable_plots(self):
        """Words that a plot's own edge cuts off, and plots whose letters are too small here."""
        faults = []
        for source, width in self.page.evaluate(PLOTS):
            if source not in self._inside:
                self._plots.goto(source)
                self._inside[source] = self._plots.evaluate(INSIDE_PLOT)
            drawn, letters, cut = self._inside[source]
            plot = source.rpartition("/")[2]
            faults += [f"{plot}: cut off: {word!r}" for word in cut]
            if letters * width / drawn < SMALLEST_LETTERS:
                faults.append(f"{plot}: letters of {letters * width / drawn:.1f} px")
        return faults
