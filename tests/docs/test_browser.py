"""The site in a real browser, at the width of a laptop and of a phone.

    pip install -e ".[demo,test,docs,browser]"
    python -m pytest -m browser

Needs Chromium, as the distribution packages it, and playwright, which drives it; skipped where one
of them is missing. The site is built from the pages as they are.
"""

import importlib.util
import re

import pytest

from tests.docs import browsing
from tests.repository import repository_file

pytestmark = pytest.mark.browser

# The pages of the navigation, which has all of the site.
NAVIGATION = repository_file("mkdocs.yml").read_text(encoding="utf-8")
PAGES = re.findall(r"[:-] (\S+)\.md$", NAVIGATION, re.MULTILINE)
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
# Faults of every kind, put into a page that has none.
SPOILED = """
<img src="missing.png" alt="">
<p><img src="../images/frozen-backbone.svg" style="width: 3000px; max-width: none" alt=""></p>
<p style="width: 2000px">A line that no screen has room for</p>
<img src="../images/two-sweeps.svg#only-dark" style="display: inline !important" alt="">
<img src="../images/cut.svg" alt="">
<a href="../nowhere/">a page</a> <a href="#nowhere">a place</a>
<img src="http://127.0.0.2:9/other.png" alt="">
<script>
  console.error("said by the page");
  document.addEventListener("copy", event => {
    event.clipboardData.setData("text/plain", "something else");
    event.preventDefault();
  });
</script>
"""
CUT = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="90" height="20" viewBox="0 0 90 20">'
    '<text x="80" y="9" font-size="7">beyond its edge</text></svg>'
)


@pytest.fixture(scope="module")
def browser():
    """Chromium, without a window."""
    program = browsing.chromium()
    if program is None:
        pytest.skip(f"no Chromium: none of {', '.join(browsing.CHROMIUM)} is on the PATH")
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("the extra browser is not installed: no playwright")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Without the sandbox it also starts for root, in a container; it opens our pages alone.
        options = {"executable_path": program, "args": ["--no-sandbox"]}
        started = playwright.chromium.launch(**options)
        yield started
        started.close()


@pytest.fixture(scope="module")
def site(browser, tmp_path_factory):
    """The folder of the site."""
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("the extra docs is not installed: no mkdocs")
    return browsing.build(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def address(site):
    """Where the site is served."""
    with browsing.served(site) as address:
        yield address


@pytest.fixture(scope="module", params=browsing.WIDTHS, ids=lambda width: f"{width}px")
def reader(request, browser, address):
    """A tab of one width, in the light scheme to begin with."""
    size = {"width": request.param, "height": browsing.WIDTHS[request.param]}
    permissions = ["clipboard-read", "clipboard-write"]
    context = browser.new_context(viewport=size, color_scheme="light", permissions=permissions)
    yield browsing.Reader(context, address)
    context.close()


def faults_of(reader, site, path):
    """All that is wrong with a page, in lines."""
    page = reader.open(path)
    faults = [f"image not loaded: {image}" for image in page.evaluate(browsing.UNLOADED)]
    faults += [f"wider than the screen: {what}" for what in page.evaluate(browsing.OUTSIDE)]
    links = page.evaluate("() => [...document.links].map(link => link.href)")
    faults += [f"leads nowhere: {link}" for link in browsing.broken(site, reader.address, links)]
    faults += browsing.uncopied(page)
    faults += browsing.unlit(page)
    faults += reader.unreadable_plots()
    return list(dict.fromkeys([*faults, *reader.complaints]))


@pytest.mark.parametrize("name", PAGES)
def test_page(reader, site, name):
    faults = faults_of(reader, site, browsing.path_of(name))
    assert not faults, "\n".join(faults)


def test_faults_are_seen(reader, site):
    text = (site / "concepts" / "bilevel" / "index.html").read_text(encoding="utf-8")
    folder = site / "concepts" / "spoiled"
    folder.mkdir(exist_ok=True)
    code = (site / "concepts" / "engine" / "index.html").read_text(encoding="utf-8")
    code = code[code.index('<div class="highlight">') :].partition("</div>")[0] + "</div>"
    spoiled = SPOILED.replace("../images", "../../images").replace("../nowhere", "../../nowhere")
    text = text.replace("</article>", f"{code}{spoiled}</article>")
    (folder / "index.html").write_text(text, encoding="utf-8")
    (site / "images" / "cut.svg").write_text(CUT, encoding="utf-8")
    faults = "\n".join(faults_of(reader, site, "concepts/spoiled/"))
    for fault in (
        "image not loaded: http://127.0.0.2:9/other.png",
        "404: ",
        "wider than the screen: img ../../images/frozen-backbone.svg",
        "wider than the screen: p A line that no screen has room for",
        "wider than the screen: the page",
        "nowhere/\nleads nowhere: ",
        "#nowhere\n",
        "copied 'something else' for ",
        "image of the other scheme: ",
        "cut.svg: cut off: 'beyond its edge'",
        "cut.svg: letters of 7.0 px",
        "console: said by the page",
        "asked another host: http://127.0.0.2:9/other.png",
    ):
        assert fault in faults


@pytest.mark.parametrize("term", TERMS)
def test_search_finds(reader, term):
    """The search has an answer, and the page that it leads to has the term on it."""
    page = reader.open("")
    button = page.locator("label.md-header__button[for=__search]")  # a phone's
    (button if button.is_visible() else page.locator("input[name=query]")).click()
    page.keyboard.type(term)
    first = page.locator(".md-search-result__item a").first
    first.wait_for()
    page.goto(first.evaluate("link => link.href"))
    assert term.lower() in page.locator("article").inner_text().lower()
    assert not reader.complaints


def test_the_choice_of_dark_is_kept(browser, address):
    """On the next page; and a reader whose system is dark begins in the dark."""
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme)
        page = browsing.Reader(context, address).open("")
        if scheme == "light":
            page.locator("label[title=Dark]").click()
            page.goto(f"{address}quickstart/")
        assert page.evaluate(browsing.SCHEME)["scheme"] == "slate"
        context.close()
