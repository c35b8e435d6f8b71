"""The site: built once, without a network; then read as files, and as a reader does in a browser.

The browser is that of test_browser.py. axe-core, which looks for what keeps people out, comes with
`make axe`.
"""

import base64
import functools
import http.server
import importlib
import inspect
import os
import pkgutil
import re
import resource
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import axe
import pytest
import test_browser
import yaml
from nbformat import read

import tft_utils
from tft_utils.course import site as tool
from tft_utils.files import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LESSONS = [path for path in NOTEBOOKS if path.name[:2].isdigit()]
SECONDS = 120  # of one core
browser = test_browser.browser


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """The folder of the site. The first worker that needs it builds it, the others wait."""
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "site"
    ended = root.with_suffix(".ended")
    try:
        root.with_suffix(".begun").touch(exist_ok=False)
    except FileExistsError:
        test_browser.wait(ended.exists, "another worker to build the site")
    else:
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        try:
            tool.make(root)
        finally:
            seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
            ended.write_text(str(seconds), encoding="utf-8")
    assert (root / "index.html").is_file(), "the site could not be built: see the worker that tried"
    return root


class Page(HTMLParser):
    """The tags of a page, each with its attributes, and its text."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, {name: value or "" for name, value in attributes}))

    def handle_data(self, data):
        self.text += data

    def having(self, tag: str, attribute: str) -> list[str]:
        return [found[attribute] for name, found in self.tags if name == tag and attribute in found]


@pytest.fixture(scope="session")
def pages(site) -> dict[str, Page]:
    return {path.relative_to(site).as_posix(): Page(path) for path in sorted(site.rglob("*.html"))}


def page_of(path: Path) -> str:
    return tool.staged(path).rpartition(".")[0] + ".html"


# --------------------------------------------------------------------------------------------------
# As files


def test_the_site_takes_less_than_two_minutes(site):
    seconds = float(site.with_suffix(".ended").read_text(encoding="utf-8"))
    assert 0 < seconds < SECONDS


def test_every_page_is_there_and_in_the_menu(pages):
    packages = [room.name for room in pkgutil.iter_modules(tft_utils.__path__) if room.ispkg]
    wanted = {page_of(path) for path in tool.pages()}
    wanted |= {f"api/tft_utils.{name}.html" for name in packages}
    wanted |= {"glossary.html", "bibliography.html", "api/index.html", "api/tft_utils.html"}
    assert wanted | {"search.html"} <= pages.keys()
    menu = {link.split("#")[0] for link in pages["index.html"].having("a", "href")}
    assert wanted - {"index.html"} <= menu


LOADING = {  # what a browser fetches without being asked
    *(("script", "src"), ("img", "src"), ("img", "srcset"), ("iframe", "src"), ("source", "src")),
    *(("video", "src"), ("audio", "src"), ("object", "data"), ("embed", "src"), ("input", "src")),
}
FETCHED = set("stylesheet icon preload prefetch preconnect dns-prefetch modulepreload manifest".split())
ELSEWHERE = re.compile(r"^\s*(?:\w+:)?//")


def fetched_elsewhere(page: Page) -> list[str]:
    """What a page would load from another host."""
    found = [value for tag, attribute in LOADING for value in page.having(tag, attribute)]
    found += [
        of["href"] for tag, of in page.tags if tag == "link" and FETCHED & set(of.get("rel", "").split())
    ]
    return [value for value in found if ELSEWHERE.match(value)]


def test_no_page_and_no_style_loads_anything_from_another_host(site, pages):
    for name, page in pages.items():
        assert not fetched_elsewhere(page), name
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        loads = re.findall(r"(?:url\(|@import\s+)[\"']?((?:https?:)?//[^\"')]+)", text)
        assert not loads, f"{style.name} loads {loads}"


def test_a_page_that_loads_from_elsewhere_is_seen(tmp_path):
    path = tmp_path / "page.html"
    for text in (
        '<script src="//cdn.example.org/x.js">',
        '<link rel="preconnect" href="https://a.example">',
    ):
        path.write_text(text, encoding="utf-8")
        assert fetched_elsewhere(Page(path))


def test_links_inside_the_site_lead_somewhere(site, pages):
    anchors = {name: {of["id"] for _, of in page.tags if "id" in of} for name, page in pages.items()}
    missing = []
    for name, page in pages.items():
        for link in page.having("a", "href"):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link == "#":
                continue
            target = unquote(urljoin(f"/{name}", parts.path)).strip("/") if parts.path else name
            lost = parts.fragment and unquote(parts.fragment) not in anchors.get(target, parts.fragment)
            if lost or not (site / target).is_file():
                missing.append(f"{name}: {link}")
    assert not missing


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_figures_keep_their_alt_text_and_folds_stay_folded(pages, path):
    page, cells = pages[page_of(path)], read(path, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", []) if "data" in output]
    alts = [o.metadata["image/png"]["alt"] for o in outputs if "image/png" in o.data]
    shown = [" ".join(alt.split()) for alt in page.having("img", "alt")]
    assert [alt for alt in shown if alt in {" ".join(alt.split()) for alt in alts}] == [
        " ".join(alt.split()) for alt in alts
    ]
    folds = [of for tag, of in page.tags if tag == "details"]
    assert len(folds) == sum(cell.source.count("<details>") for cell in cells)
    assert not any("open" in of for of in folds)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_formulas_are_drawn_and_code_is_shown(pages, path):
    page, cells = pages[page_of(path)], read(path, as_version=4).cells
    markdown = [re.sub(r"`[^`]*`", "", c.source) for c in cells if c.cell_type == "markdown"]
    formulas = sum(len(re.findall(r"\$[^$]+\$", text)) for text in markdown)
    assert len([tag for tag, _ in page.tags if tag == "math"]) == formulas
    shown = " ".join(page.text.split())
    for cell in cells:
        if cell.cell_type == "code":
            assert " ".join(cell.source.split()) in shown


# --- glossary, bibliography, API -----------------------------------------------------------------


def bold(path: Path) -> set[str]:
    """What a lesson sets in bold and the glossary owes: read here in another way than the tool does."""
    found = set()
    for cell in read(path, as_version=4).cells:
        if cell.cell_type == "markdown" and cell.id not in tool.NO_TERMS_IN:
            text = re.sub(r"```.*?```", "", cell.source, flags=re.S)
            found |= {" ".join(part.split()) for part in text.split("**")[1::2]}
    return {text for text in found if tool.is_term(text)}


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_every_term_of_a_lesson_is_in_the_glossary_with_its_lesson(site, path):
    html = (site / "glossary.html").read_text(encoding="utf-8")
    entry = r'<dt id="term-[^>]*>(.*?)<a class="headerlink".*?</dt>\s*<dd>(.*?)</dd>'
    entries = re.findall(entry, html, re.S)
    # Sphinx sets a curved apostrophe where the lesson has a straight one.
    plain = {re.sub(r"<[^>]*>|\s+$", "", term).replace("’", "'"): body for term, body in entries}
    known = {term.lower(): body for term, body in plain.items()}
    terms = bold(path)
    assert len(terms) >= 3
    for term in terms:
        assert term.lower() in known, f"{path.stem} sets {term!r} in bold, and the glossary lacks it"
        assert page_of(path) in known[term.lower()], f"{term!r}: no link to {path.stem}"


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("residual stream", True),
        ("LoRA", True),
        ("Prediction 2", False),
        ("Reads differently:", False),
        ("at least partly", False),
        ("3.5", False),
        ("The cut must be as large in both models", False),
    ],
)
def test_what_is_a_term(text, is_one):
    assert tool.is_term(text) == is_one


def test_a_term_comes_with_the_sentence_that_introduces_it():
    block = "Meng et al. (2022) did so. It is *one* word. That is a **foil**, the wrong answer. More."
    assert tool.sentence(block, "foil") == "It is *one* word. That is a **foil**, the wrong answer."
    assert tool.sentence("| z | **gate**: multiplies |", "gate") == "z · **gate**: multiplies"
    assert tool.sentence("As in [00](00_x.ipynb), a **key**.", "key") == "As in 00, a **key**."
    assert tool.sentence("A. The **key** says\nwhat.", "key") == "A. The **key** says what."


NUMBER = re.compile(r"(?<![\d.])\d{4}\.\d{5}(?!\d)")


def test_the_bibliography_holds_every_paper_of_the_lessons_and_the_package(pages):
    bib = tool.BIBLIOGRAPHY.read_text(encoding="utf-8")
    listed = re.findall(r"eprint = \{([\d.]+)\}", bib)
    assert len(set(listed)) == len(listed), "a paper is listed twice"
    texts = [ROOT / "README.md", ROOT / "data" / "README.md"]
    sources = [*NOTEBOOKS, *texts, *(ROOT / "tft_utils").rglob("*.py")]
    for path in sources:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":  # images hold anything
            text = "\n".join(cell.source for cell in read(path, as_version=4).cells)
        lacks = set(NUMBER.findall(text)) - set(listed)
        assert not lacks, f"{path.name} cites arXiv {sorted(lacks)}: add them to docs/site/references.bib"
    page = pages["bibliography.html"]
    links = page.having("a", "href")
    for number in listed:
        assert f"https://arxiv.org/abs/{number}" in links
    assert page.text.count("Lessons: ") >= len(
        {n for p in LESSONS for n in tool.cited(p.read_text(encoding="utf-8"))}
    )


WORK = re.compile(r"(\w[\w-]+)(?:, [A-Z][\w-]+)*(?: & \w+| et al\.)? \((\d{4})\)")


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_the_bibliography_holds_every_reference_by_author_and_year(path):
    """Those too that have no arXiv number."""
    bib = tool.BIBLIOGRAPHY.read_text(encoding="utf-8")
    fields = re.findall(r"author = \{([^\n]+)\},\n.*?year = \{(\d+)\}", bib, re.S)
    listed = {(authors.split(" and ")[0].split()[-1], year) for authors, year in fields}
    (text,) = (cell.source for cell in read(path, as_version=4).cells if cell.id == "references")
    works = WORK.findall(text)
    assert len(works) >= text.count("\n* ")
    lacks = set(works) - listed
    assert not lacks, f"{path.stem} cites {sorted(lacks)}: add them to docs/site/references.bib"


def test_the_api_holds_every_public_name(pages):
    """Asked of the imported modules, where the site reads their source."""
    lacks = []
    for module in pkgutil.walk_packages(tft_utils.__path__, "tft_utils."):
        if module.name.endswith("__main__"):
            continue
        found = importlib.import_module(module.name)
        room = ".".join(module.name.split(".")[:2])
        page = pages.get(f"api/{room}.html", pages["api/tft_utils.html"])
        ids = {of["id"] for _, of in page.tags if "id" in of}
        for name, what in vars(found).items():
            own = getattr(what, "__module__", "") == module.name and name == getattr(what, "__name__", "")
            if own and name[0] != "_" and (inspect.isclass(what) or inspect.isfunction(what)):
                lacks += [f"{module.name}.{name}"] * (f"{module.name}.{name}" not in ids)
    assert not lacks


def test_the_workflow_publishes_what_make_site_makes():
    workflow = ROOT / ".github" / "workflows" / "site.yml"
    jobs = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"]
    steps = jobs["build"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == ["make site"]
    (upload,) = (step for step in steps if "upload-pages-artifact" in step.get("uses", ""))
    assert ROOT / upload["with"]["path"] == tool.SITE
    assert jobs["publish"]["needs"] == "build"
    assert jobs["publish"]["permissions"] == {"pages": "write", "id-token": "write"}


# --------------------------------------------------------------------------------------------------
# In a browser


@pytest.fixture(scope="module")
def address(site):
    """The site as a server gives it, at the address that ends in /."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def opened(browser, where: str, width: str = "desktop", theme: str = "light") -> None:
    """A page as it stands when all is loaded."""
    test_browser.set_width(browser, test_browser.WIDTHS[width])
    media = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    browser.get(where)
    ready = "return document.readyState === 'complete'"
    test_browser.wait(lambda: browser.execute_script(ready), f"{where} to load")


def test_pages_read_well_and_nothing_is_fetched(browser, address, pages):
    """On a desktop and on a phone: alt texts, folds, no page wider than its screen, no other host."""
    faults = []
    for name in pages:
        for width in test_browser.WIDTHS:
            opened(browser, address + name, width)
            found = browser.execute_script(test_browser.FAULTS) + browser.execute_script(
                test_browser.HOSTS
            )
            faults += [f"{name}, {width}: {fault}" for fault in found]
    assert not faults, "\n".join(faults)


def test_a_request_to_another_host_is_seen(browser, address, site):
    """The other host is this machine at another port, where nobody listens."""
    page = site / "elsewhere.html"
    page.write_text("<!doctype html><img src='http://127.0.0.1:9/x.png' alt='none'>", encoding="utf-8")
    try:
        opened(browser, address + page.name)
        assert browser.execute_script(test_browser.HOSTS) == ["http://127.0.0.1:9/x.png"]
    finally:
        page.unlink()


RESULTS = "return [...document.querySelectorAll('#search-results li a')].map((a) => a.pathname)"


def test_search_finds(browser, address):
    opened(browser, address + "index.html")

    def finds(page):  # results come one by one
        test_browser.wait(lambda: page in browser.execute_script(RESULTS), f"{page} among the results")

    browser.find_element("css selector", ".sidebar-search").send_keys("transplant\n")
    finds("/notebooks/00_start_here.html")
    opened(browser, address + "search.html?q=proportion")
    finds("/api/tft_utils.html")


BRIGHTNESS = """
const paint = getComputedStyle(document.body);
const [r, g, b] = paint.backgroundColor.match(/\\d+/g).map(Number);
return [r + g + b, ...paint.color.match(/\\d+/g).slice(0, 3).map(Number)]"""


def test_a_dark_page_is_dark_and_the_button_changes_it(browser, address):
    for theme in ("light", "dark"):
        opened(browser, address + "index.html", theme=theme)
        ground, *ink = browser.execute_script(BRIGHTNESS)
        assert (ground < sum(ink)) == (theme == "dark")
    seen = set()
    for _ in range(3):  # as the system, light, dark
        browser.execute_script("document.querySelector('.theme-toggle').click()")
        ground, *ink = browser.execute_script(BRIGHTNESS)
        seen.add(ground < sum(ink))
    assert seen == {True, False}
    browser.execute_script("localStorage.clear()")


SIZES = """
return [...document.querySelectorAll('.figure > img')].map(
  (image) => [image.clientWidth / image.naturalWidth, getComputedStyle(image.parentElement).overflowX])"""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_figures_can_be_read_on_a_phone(browser, address, path):
    """Their letters, of 11 points at 100 dpi, stay larger than 10 pixels; what does not fit scrolls."""
    opened(browser, address + page_of(path), "phone")
    sizes = browser.execute_script(SIZES)
    outputs = [o for cell in read(path, as_version=4).cells for o in cell.get("outputs", [])]
    images = [
        base64.b64decode(o["data"]["image/png"]) for o in outputs if "image/png" in o.get("data", {})
    ]
    widths = [int.from_bytes(image[16:20]) for image in images]  # as the file's first chunk has it
    assert len(sizes) == sum(width >= 500 for width in widths), "a smaller one fits as it is"
    for scale, overflow in sizes:
        assert scale * 11 / 72 * 100 > 10
        assert overflow == "auto"


AXE = """
const done = arguments[0];
document.querySelectorAll('details').forEach((fold) => { fold.open = true; });
setTimeout(() => axe.run(document, {resultTypes: ['violations']}).then(
  (result) => done(result.violations.filter((v) => ['serious', 'critical'].includes(v.impact)).map(
    (v) => `${v.id} (${v.nodes.length}): ${v.nodes[0].html.slice(0, 200)} ${v.nodes[0].failureSummary}`)),
  (error) => done([String(error)])), 100);"""


@pytest.fixture(scope="module")
def checker() -> str:
    if not axe.SCRIPT.is_file():
        pytest.skip("skipped loudly: no axe-core in build/; `make axe` fetches it")
    return axe.SCRIPT.read_text(encoding="utf-8")


@pytest.mark.parametrize(("width", "theme"), [("desktop", "light"), ("phone", "dark")])
def test_nobody_is_kept_out(browser, address, pages, checker, width, theme):
    """axe-core finds nothing serious, with all folds open."""
    browser.set_script_timeout(test_browser.PATIENCE)
    faults = []
    for name in pages:
        opened(browser, address + name, width, theme)
        browser.execute_script(checker)
        faults += [f"{name}: {fault}" for fault in browser.execute_async_script(AXE)]
    assert not faults, "\n".join(faults)


def test_the_checker_finds_what_is_wrong(browser, address, site, checker):
    page = site / "wrong.html"
    html = "<!doctype html><title>x</title><body style='color:#aaa'>pale<img src=x>"
    page.write_text(html, encoding="utf-8")
    try:
        opened(browser, address + page.name)
        browser.execute_script(checker)
        found = " ".join(browser.execute_async_script(AXE))
        assert "color-contrast" in found
        assert "image-alt" in found
    finally:
        page.unlink()
