"""The site in a real browser, at the width of a laptop and of a phone.

    pip install -e ".[demo,docs,test,browser]"
    python -m pytest -m browser

Needs Chromium, as the distribution packages it, and playwright, which drives it; skipped where one
of them is missing. The site is built from the pages as they are.
"""

import importlib.util

import pytest

from tests.docs import browsing
from tests.docs.pages import NAMES

pytestmark = pytest.mark.browser

PAGES = [name for name in NAMES if name.startswith("docs/")]
TERMS = (
    "convert_bn",
    "Distiller",
    "hypergradient",
    "ridge",
    "window",
    "push",
    "resume",
    "higher",
    "BatchNorm",
    "herding",
)
SMALLEST_LETTERS = 8.5  # pixels of the screen, in a plot


@pytest.fixture(scope="module")
def browser():
    """Chromium, without a window."""
    program = browsing.chromium()
    if program is None:
        pytest.skip(f"no Chromium: none of {', '.join(browsing.CHROMIUM)} is on the PATH")
    sync_api = pytest.importorskip("playwright.sync_api", reason="the extra browser: no playwright")
    with sync_api.sync_playwright() as playwright:
        # Without the sandbox it also starts for root, in a container; it opens our pages alone.
        options = {"executable_path": program, "args": ["--no-sandbox"]}
        started = playwright.chromium.launch(**options)
        yield started
        started.close()


@pytest.fixture(scope="module")
def site(browser, tmp_path_factory):
    """The folder of the site."""
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("the extra docs is not installed")
    return browsing.build(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def address(site):
    with browsing.served(site) as address:
        yield address


@pytest.fixture(scope="module", params=browsing.WIDTHS, ids=lambda width: f"{width}px")
def reader(request, browser, address):
    """A tab of one width, in the light scheme to begin with."""
    size = {"width": request.param, "height": browsing.WIDTHS[request.param]}
    context = browser.new_context(
        viewport=size,
        color_scheme="light",
        permissions=["clipboard-read", "clipboard-write"],
        reduced_motion="reduce",
    )
    context.set_default_timeout(20_000)
    yield browsing.Reader(context, address)
    context.close()


@pytest.mark.parametrize("name", PAGES)
def test_page(reader, site, address, name):
    """All that a page has to do for its reader; every fault is listed, not the first alone."""
    page = reader.open(browsing.path_of(name))
    faults = [f"image not loaded: {image}" for image in page.evaluate(browsing.UNLOADED)]
    faults += [f"wider than the screen: {what}" for what in page.evaluate(browsing.OUTSIDE)]
    links = page.evaluate("() => [...document.links].map(link => link.href)")
    faults += [f"leads nowhere: {link}" for link in browsing.broken(site, address, links)]
    faults += uncopied(page)
    faults += unlit(page)
    faults += reader.complaints
    assert not faults, "\n".join(dict.fromkeys(faults))


def uncopied(page):
    """Blocks of code whose button puts something else on the clipboard, or that have none."""
    page.evaluate("() => document.querySelectorAll('details').forEach(box => box.open = true)")
    texts = page.evaluate(browsing.CODE)
    buttons = [
        button
        for button in page.locator("article .highlight button").all()
        if button.is_visible() and "Copy" in (button.get_attribute("title") or "")
    ]
    if len(buttons) != len(texts):
        return [f"{len(texts)} blocks of code, {len(buttons)} buttons to copy them"]
    faults = []
    for text, button in zip(texts, buttons, strict=True):
        page.evaluate("() => navigator.clipboard.writeText('nothing')")
        button.click()
        copied = page.evaluate("() => navigator.clipboard.readText()")
        if copied.strip() != text.strip():
            faults.append(f"copied {copied[:40]!r} for {text[:40]!r}")
    return faults


def unlit(page):
    """What is wrong when the reader goes from light to dark and back."""
    faults = []
    light = page.evaluate(browsing.SCHEME)
    page.locator("label[title=Dark]").click()
    dark = page.evaluate(browsing.SCHEME)
    page.locator("label[title=Light]").click()
    back = page.evaluate(browsing.SCHEME)
    if [light["scheme"], dark["scheme"], back["scheme"]] != ["default", "slate", "default"]:
        faults.append(f"light and dark: {light['scheme']}, {dark['scheme']}, {back['scheme']}")
    if light["paper"] == dark["paper"] or light["ink"] == dark["ink"]:
        faults.append(f"dark is like light: {dark}")
    faults += [f"image of the other scheme: {image}" for image in light["wrong"] + dark["wrong"]]
    return faults


def test_plots_are_whole_and_legible(reader):
    """No word of a plot is cut off by its edge, and letters keep a size that can be read."""
    shown = {}
    for name in PAGES:
        page = reader.open(browsing.path_of(name))
        for source, width in page.evaluate(browsing.PLOTS):
            shown.setdefault(source, (width, name))
    assert shown
    faults = []
    for source, (width, name) in shown.items():
        reader.page.goto(source)
        drawn, letters, cut = reader.page.evaluate(browsing.INSIDE_PLOT)
        where = f"{source.rpartition('/')[2]} on {name}"
        faults += [f"{where}: cut off: {word!r}" for word in cut]
        if letters * width / drawn < SMALLEST_LETTERS:
            faults.append(f"{where}: letters of {letters * width / drawn:.1f} px")
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("term", TERMS)
def test_search_finds(reader, term):
    """The first page that the search offers has the term on it, and its link leads there."""
    page = reader.open("")
    page.keyboard.press("/")
    page.keyboard.type(term)
    first = page.locator(".md-search-result__item a").first
    first.wait_for()
    assert term.lower() in first.inner_text().lower()
    first.click()
    page.wait_for_load_state("networkidle")
    assert term.lower() in page.locator("article").inner_text().lower()
    assert not reader.complaints


def test_the_choice_of_dark_is_kept(browser, address):
    """On the next page and on the next visit; a reader whose system is dark begins in the dark."""
    context = browser.new_context(color_scheme="light")
    page = browsing.Reader(context, address).open("")
    page.locator("label[title=Dark]").click()
    page.goto(f"{address}quickstart/")
    assert page.evaluate(browsing.SCHEME)["scheme"] == "slate"
    context.close()
    context = browser.new_context(color_scheme="dark")
    page = browsing.Reader(context, address).open("")
    assert page.evaluate(browsing.SCHEME)["scheme"] == "slate"
    context.close()
