"""What a reader meets: lessons that run in JupyterLab, and pages that read well on GitHub.

A real browser without a window checks both: Chromium or Chrome with the chromedriver of the same
version (Debian: `apt install chromium chromium-driver`). Without them everything here is skipped.
"""

import ast
import os
import re
import shutil
import socket
import subprocess
import symtable
import sys
from collections.abc import Iterator

import nbformat
import pytest
from nbconvert import HTMLExporter
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select
from selenium.webdriver.support.wait import WebDriverWait

from tft_utils.course.grading import tags
from tft_utils.course.notebooks import all_notebooks, parse
from tft_utils.files import ROOT

BROWSERS = ("google-chrome", "chromium", "chromium-browser")
# No window, no background traffic; the proxy that is not there blocks all but this machine.
FLAGS = """--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-quic --no-first-run
--disable-background-networking --disable-component-update --disable-sync
--proxy-server=127.0.0.1:9""".split()
PATIENCE = 600  # seconds, for a machine that is busy: not a budget
# One lesson without an explorer, whole; and for each kind, what a reader moves, a lesson's explorer.
SLIDER, MENU = ".jp-CodeCell [role=slider]", ".jp-CodeCell select"
LESSONS = {"01a_two_machines": None, "01b_selection": SLIDER, "03_relevance_propagation": MENU}
WIDTHS = {"desktop": 1280, "phone": 390}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if not (found and driver):
        pytest.skip("skipped loudly: no Chromium with a chromedriver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = found
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as browser:
        yield browser


def set_width(browser, width: int):
    """In pixels; a window of Chromium's would not shrink to a phone's width."""
    view = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", view)


def wait(condition, hope: str):
    """The first truthy value of `condition()`."""
    return WebDriverWait(None, PATIENCE).until(lambda _: condition(), f"expected {hope}")


# --- JupyterLab --------------------------------------------------------------------------------


# As `make lab` starts it: JupyterLab asks nothing of the network, nor the reader whether it may.
QUIET = re.findall(
    r"--LabApp\.(?:news_url|check_for_updates_class)=\S+", (ROOT / "Makefile").read_text(encoding="utf-8")
)


def test_make_lab_asks_for_no_news(lab, browser):
    assert len(QUIET) == 2
    browser.get(lab[1].format("00_start_here"))
    config = browser.execute_script(
        "return JSON.parse(document.getElementById('jupyter-config-data').textContent)"
    )
    assert config["news"] == {"disabled": True}


@pytest.fixture(scope="module")
def lab(browser, tmp_path_factory):
    """JupyterLab's folder and address; it serves a copy, because it saves what it shows."""
    root = tmp_path_factory.mktemp("lab")
    for folder in ("data", "notebooks", "tft_utils"):
        shutil.copytree(ROOT / folder, root / folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        "--IdentityProvider.token=reader",
        f"--ServerApp.root_dir={root}",
        "--LabApp.expose_app_in_browser=True",
        *QUIET,
    ]
    # A user's own settings must neither decide a test nor be changed by it.
    own = {"JUPYTER_CONFIG_DIR": str(root / "config"), "JUPYTER_DATA_DIR": str(root / "share")}
    log, started = root / "jupyterlab.log", (root / "share" / "runtime").glob
    with log.open("w", encoding="utf-8") as out:
        server = subprocess.Popen(command, env=os.environ | own, stdout=out, stderr=out)
    try:
        wait(lambda: server.poll() is not None or any(started("*.json")), "JupyterLab to start")
        said = log.read_text(encoding="utf-8")
        assert server.poll() is None, f"JupyterLab did not start: {said[-2000:]}"
        yield root, f"http://127.0.0.1:{port}/lab/tree/notebooks/{{}}.ipynb?token=reader&reset"
    finally:
        server.terminate()
        server.wait()


# On the page an error looks like any text on stderr, and cells out of sight may not be drawn; the
# notebook's model knows both.
STATE = """
const widgets = [...(window.jupyterapp?.shell.widgets('main') ?? [])];
const cells = widgets.flatMap((w) => w.content?.model?.toJSON?.()?.cells ?? []);
const errors = cells.flatMap((cell) => cell.outputs ?? [])
  .filter((output) => output.output_type === 'error').map((e) => `${e.ename}: ${e.evalue}`);
const counts = cells.filter((c) => c.cell_type === 'code').map((c) => c.execution_count);
const idle = document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status === 'idle';
"""
READY = """
const kernel = document.querySelector('.jp-Toolbar-kernelName')?.textContent ?? '';
return idle && counts.length === arguments[0] && kernel.startsWith('Python')"""
ENDED = "return idle && (errors.length || counts.every(Boolean)) && {counts, errors}"
# What a page has asked of other hosts than its own.
HOSTS = """
const names = performance.getEntriesByType('resource').map((entry) => entry.name);
return names.filter((name) => /^http/.test(name) && !name.startsWith(location.origin))"""
FIGURES = """
const images = arguments[0].closest('.jp-CodeCell').querySelectorAll('img');
const found = [...images].map((image) => image.src).join();
return found !== arguments[1] && found"""


def tables(source: str) -> Iterator[symtable.SymbolTable]:
    """The names of a cell, then of all functions in it."""
    ahead = [symtable.symtable(source, "cell", "exec")]
    for table in ahead:
        ahead += table.get_children()
        yield table


def made(source: str) -> set[str]:
    """The names that a cell sets, or sets something in."""
    symbols = next(tables(source)).get_symbols()
    names = {symbol.get_name() for symbol in symbols if symbol.is_assigned() or symbol.is_imported()}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Subscript, ast.Attribute)) and not isinstance(node.ctx, ast.Load):
            names |= {part.id for part in ast.walk(node.value) if isinstance(part, ast.Name)}
    return names


def read(source: str) -> set[str]:
    """The names that a cell needs from elsewhere, or from above in it."""
    of_cell, *of_functions = tables(source)
    names = {symbol.get_name() for symbol in of_cell.get_symbols() if symbol.is_referenced()}
    return names | {s.get_name() for of in of_functions for s in of.get_symbols() if s.is_global()}


def explorer_alone(code: list[dict]) -> list[dict]:
    """Of the code cells of a lesson its explorer, and what that needs; the others run with nbmake."""
    *before, explorer = code[: [cell.id for cell in code].index("explorer") + 1]
    kept, needed = [explorer], read(explorer.source)
    for cell in reversed(before):
        if {"setup", "parameters"} & tags(cell):
            kept.append(cell)
        elif made(cell.source) & needed:
            kept.append(cell)
            needed |= read(cell.source)
    return kept[::-1]


@pytest.mark.parametrize("name", LESSONS)
def test_lesson_runs_in_jupyterlab(browser, lab, name):
    root, address = lab
    path = root / "notebooks" / f"{name}.ipynb"
    notebook, js = parse(path), browser.execute_script
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if LESSONS[name]:
        notebook.cells = code = explorer_alone(code)
    for cell in code:  # committed outputs would look like a run
        cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, path)
    set_width(browser, WIDTHS["desktop"])
    browser.get(address.format(name))
    wait(lambda: js(STATE + READY, len(code)), f"{name} and its kernel to be ready")
    browser.find_element(By.XPATH, "//*[contains(@class, 'MenuBar')][text()='Run']").click()
    browser.find_element(By.CSS_SELECTOR, ".lm-Menu [data-command='runmenu:run-all']").click()
    end = wait(lambda: js(STATE + ENDED), f"every cell of {name} to run")
    assert not end["errors"], f"{name} in JupyterLab: {'; '.join(end['errors'])}"
    assert end["counts"] == list(range(1, len(code) + 1))

    for kind in (SLIDER, MENU):
        found = browser.find_elements(By.CSS_SELECTOR, kind)
        assert bool(found) == (LESSONS[name] == kind), f"{name} shows {len(found)} of {kind}"
        if found:
            move_and_watch(js, found[0])
    assert js(HOSTS) == []


def move_and_watch(js, control):
    """One step or another choice, after which the control's cell must show another figure."""
    before = wait(lambda: js(FIGURES, control, ""), "a figure at the control")
    if control.tag_name == "select":
        Select(control).select_by_index(int(control.get_property("selectedIndex") == 0))
    else:
        now, most = (control.get_attribute(f"aria-value{end}") for end in ("now", "max"))
        control.send_keys(Keys.ARROW_LEFT if now == most else Keys.ARROW_RIGHT)
    wait(lambda: js(FIGURES, control, before), "the figure to change")


# --- the page on GitHub ------------------------------------------------------------------------

# GitHub's rules for width, not nbconvert's: images shrink, long words break, code and tables scroll.
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><base href="{base}"><style>
body {{ font: 16px/1.5 sans-serif; max-width: 980px; margin: auto; padding: 16px }}
img {{ max-width: 100% }} pre, table {{ display: block; max-width: 100%; overflow: auto }}
table {{ width: max-content; border-spacing: 13px 6px }} body {{ overflow-wrap: break-word }}
pre {{ background: #f6f8fa }}</style><body>{body}"""
FAULTS = """
const faults = [], width = () => document.documentElement.scrollWidth, folded = width();
for (const image of document.images) {
  const name = image.src.slice(0, 80);
  if (!image.alt || image.alt.startsWith('No description')) faults.push('no alt text: ' + name);
  if (!image.naturalWidth) faults.push('broken image: ' + name);
}
for (const fold of document.querySelectorAll('details')) {
  const name = fold.textContent.slice(0, 80), height = fold.offsetHeight;
  if (fold.open) faults.push('open from the start: ' + name);
  fold.querySelector('summary').click();
  if (fold.offsetHeight <= height) faults.push('does not unfold: ' + name);
}
const widest = Math.max(folded, width());
if (widest > innerWidth + 1) faults.push(`${widest} px wide on a screen of ${innerWidth} px`);
return faults"""


@pytest.mark.parametrize("path", all_notebooks(), ids=lambda path: path.stem)
def test_page_reads_well(browser, tmp_path, path):
    body, _ = HTMLExporter(template_name="basic").from_filename(str(path))
    page = tmp_path / "page.html"
    page.write_text(PAGE.format(base=path.as_uri(), body=body), encoding="utf-8")
    faults = {}
    for name, width in WIDTHS.items():
        set_width(browser, width)
        browser.get(page.as_uri())
        faults[name] = browser.execute_script(FAULTS)
    assert not any(faults.values()), f"{path.name}, at the width of each: {faults}"
