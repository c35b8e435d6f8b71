"""The files around the lessons agree with each other, and the network really is blocked."""

import ast
import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import contract
import nbformat
import pytest
import pytest_socket
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REPOSITORY = PROJECT["urls"]["Repository"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TEST_ADDRESS = ("192.0.2.1", 80)  # reserved for documentation, belongs to nobody
BLOCKED = "network blocked in tests"


def read(name: str) -> str:
    path = ROOT / name
    assert path.is_file(), f"expected {name} in the repository, found none: restore or write it"
    return path.read_text(encoding="utf-8")


def requirements(lines: list[str]) -> dict[str, Requirement]:
    parsed = [Requirement(line) for line in lines]
    return {canonicalize_name(requirement.name): requirement for requirement in parsed}


RUNTIME = requirements(PROJECT["dependencies"])
EXTRAS = {extra: requirements(lines) for extra, lines in PROJECT["optional-dependencies"].items()}
assert EXTRAS["dev"].pop(PROJECT["name"]).extras == {"site"}  # whoever runs the tests builds the site
EXTRAS["dev"] |= EXTRAS["site"]
EXTRAS["real"] |= EXTRAS["hub"]


# --- versions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*RUNTIME, *EXTRAS["dev"], *EXTRAS["cuda"], *EXTRAS["real"]])
def test_dependency_has_a_lower_and_an_upper_bound(name):
    requirement = (RUNTIME | EXTRAS["dev"] | EXTRAS["cuda"] | EXTRAS["real"])[name]
    operators = {specifier.operator for specifier in requirement.specifier}
    assert operators == {">=", "<"}, (
        f"expected a range 'name>=lowest,<first unsupported', found '{requirement}': "
        "give it both bounds in pyproject.toml"
    )


def test_constraints_pin_every_direct_dependency_inside_its_range():
    lines = (line.split("#")[0].strip() for line in read("constraints.txt").splitlines())
    pins = requirements([line for line in lines if line])
    for name, pin in pins.items():
        assert re.fullmatch(r"==[\w.]+", str(pin.specifier)), (
            f"expected one exact version, found '{pin}': write '{name}==<tested version>' "
            "in constraints.txt"
        )
    for name, requirement in (RUNTIME | EXTRAS["dev"] | EXTRAS["real"]).items():
        assert name in pins, (
            f"expected a tested version of {name}, found none: add '{name}==<tested version>' "
            "to constraints.txt"
        )
        version = Version(str(pins[name].specifier).removeprefix("=="))
        assert requirement.specifier.contains(version), (
            f"expected {name} inside '{requirement}', found {version} in constraints.txt: "
            "move the pin or widen the range in pyproject.toml"
        )


def test_environment_yml_repeats_pyproject():
    environment = yaml.safe_load(read("environment.yml"))
    assert environment["name"] == PROJECT["name"], (
        f"expected the name '{PROJECT['name']}', found '{environment['name']}': "
        "rename the environment in environment.yml"
    )
    python = f"python{PROJECT['requires-python']}"
    assert python in environment["dependencies"], (
        f"expected '{python}', found {environment['dependencies'][0]!r}: "
        "copy requires-python from pyproject.toml to environment.yml"
    )
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    options = [line for line in pip if line.startswith("-")]
    assert options == ["-c constraints.txt", "-e .[dev]"], (
        f"expected the options '-c constraints.txt' and '-e .[dev]', found {options}: "
        "restore them in the pip section of environment.yml"
    )
    listed = requirements([line for line in pip if not line.startswith("-")])
    assert listed == RUNTIME, (
        f"expected the dependencies of pyproject.toml {sorted(map(str, RUNTIME.values()))}, "
        f"found {sorted(map(str, listed.values()))}: copy them to environment.yml"
    )


def imported(path: Path) -> set[str]:
    """Top-level names of the absolute imports in a Python file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


MODULES = {  # packages imported by another name
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
    "ipython": "IPython",
    "pillow": "PIL",
}


@pytest.mark.parametrize("folder", ["tft_utils", "tests"])
def test_every_imported_package_is_declared(folder):
    files = sorted((ROOT / folder).rglob("*.py"))
    # tests/ is on the path while pytest runs, so its own modules import each other by bare name.
    own = {"tft_utils", "tests", *(path.stem for path in files if folder == "tests")}
    declared = RUNTIME | EXTRAS["cuda"] | EXTRAS["real"] | (EXTRAS["dev"] if folder == "tests" else {})
    known = {name.replace("-", "_") for name in declared} | set(sys.stdlib_module_names) | own
    known |= {module for name, module in MODULES.items() if name in declared}
    for path in files:
        undeclared = imported(path) - known
        assert not undeclared, (
            f"expected only declared packages in {path.relative_to(ROOT)}, found imports of "
            f"{sorted(undeclared)}: add them to pyproject.toml (dependencies, or the extra dev)"
        )


# --- the house -----------------------------------------------------------------------------------

# A module imports from its own room and from those below it, and nothing that begins with a _.
ROOMS = (  # from the ground up; what shares a floor does not know each other
    ("files", "stats", "linear"),
    ("architectures",),
    ("storage",),
    ("models",),
    # course draws, claims and runs; it finds a lesson by name when an exercise is checked
    ("course", "remote"),
    ("corpora",),
    ("reading",),
    ("techniques", "organisms"),
    ("lessons",),
)
FLOOR = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}
BY_NAME = {("course", "lessons")}  # who looks up whom with importlib, because it may not import it
LIMITS = {"architectures": 200, "techniques": 450}  # lines of a file
LONGER = {"architectures/mamba_kernels.py", "architectures/mamba_scan.py", "architectures/recurrent.py"}
SOURCES = sorted((ROOT / "tft_utils").rglob("*.py"))
EACH_SOURCE = pytest.mark.parametrize(
    "path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "tft_utils"))
)


def room_of(module: str) -> str:
    """tft_utils.corpora.world -> corpora."""
    return module.split(".")[1]


def taken(tree: ast.Module) -> dict[str, str]:
    """Name in the file -> what of tft_utils it stands for, dotted."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("tft_utils") for alias in node.names), (
                "expected `from tft_utils ... import ...`, which names what is taken"
            )
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tft_utils"):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


@EACH_SOURCE
def test_imports_run_down_through_the_house_and_take_nothing_private(path):
    own = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = taken(tree)
    for name, what in names.items():
        room = room_of(what)
        assert room == own or FLOOR[room] < FLOOR[own], (
            f"expected {own} to import from itself or from below, found {what}: move what both need down"
        )
        assert not what.rpartition(".")[2].startswith("_"), f"found {what}: make {name} public"
    for node in ast.walk(tree):
        by_name = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
        if by_name.startswith("tft_utils.") and (own, room_of(by_name)) not in BY_NAME:
            assert FLOOR[room_of(by_name)] <= FLOOR[own], f"found {by_name!r}, which stands above {own}"
    modules = {name for name, what in names.items() if module_exists(what)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            private = node.value.id in modules and re.match("_[^_]", node.attr)
            assert not private, f"found {node.value.id}.{node.attr} in line {node.lineno}: make it public"


@EACH_SOURCE
def test_no_condition_names_an_architecture(path):
    """What differs between architectures is data of their files, or a verb of the model."""
    names = set(contract.named_in_conditions(ast.parse(path.read_text(encoding="utf-8"))))
    assert not names, (
        f"found conditions on {sorted(names)}: put what differs into the architecture's file"
    )


def test_words_of_the_house_mean_one_thing():
    """One way each to load, to ask, to read and to run: nobody else takes these names."""
    places = {name: [] for name in ("load", "tokens", "ask", "Asked", "Item", "read", "run", "batches")}
    for path in SOURCES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in places:
                places[node.name].append(path.name)
    twice = {name: files for name, files in places.items() if len(files) != 1}
    assert not twice, f"expected each name in one file, found {twice}: rename the others, or use the one"


def module_exists(dotted: str) -> bool:
    path = ROOT.joinpath(*dotted.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def test_every_room_has_its_floor():
    found = {path.stem for path in (ROOT / "tft_utils").iterdir() if path.name[0] not in "_."}
    assert found == FLOOR.keys(), (
        f"expected the rooms {sorted(FLOOR)}, found {sorted(found)}: give a new one its floor in ROOMS"
    )


@EACH_SOURCE
def test_files_stay_short(path):
    name = str(path.relative_to(ROOT / "tft_utils"))
    limit = LIMITS.get(name.split("/")[0])
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert limit is None or name in LONGER or lines <= limit, (
        f"expected at most {limit} lines in {name}, found {lines}: delete, or say things once"
    )


@pytest.mark.parametrize("command", [["format", "--check"], ["check"]], ids=" ".join)
def test_ruff_is_content(command):
    ruff = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "."], cwd=ROOT, capture_output=True, text=True
    )
    assert not ruff.returncode, f"run `ruff {command[0]}`: {ruff.stdout[-2000:]}{ruff.stderr[-500:]}"


def test_layout_is_rarely_kept_by_hand():
    mark = "# fmt" + ": skip"
    files = [*SOURCES, *(ROOT / "tests").rglob("*.py"), *NOTEBOOKS]
    counts = {str(p.relative_to(ROOT)): p.read_text(encoding="utf-8").count(mark) for p in files}
    assert sum(counts.values()) <= 10, (
        f"expected '{mark}' at most ten times, found { ({k: n for k, n in counts.items() if n}) }: "
        "let ruff decide; it leaves notebooks alone"
    )


# --- addresses and links -----------------------------------------------------------------------


def cells(notebook: Path, kind: str) -> list[nbformat.NotebookNode]:
    return [c for c in nbformat.read(notebook, as_version=4).cells if c.cell_type == kind]


def prose(path: Path) -> str:
    """Markdown of a page or of a notebook."""
    if path.suffix == ".ipynb":
        return "\n".join(cell.source for cell in cells(path, "markdown"))
    return read(str(path.relative_to(ROOT)))


def badge(notebook: str) -> str:
    return f"https://colab.research.google.com/github/{REPOSITORY.removeprefix('https://github.com/')}/blob/main/{notebook}"


PAGES = [ROOT / "README.md", *NOTEBOOKS]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_images_are_files_of_this_repository(page):
    """A page looks the same without a network."""
    for target in re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", prose(page)):
        assert (page.parent / target).is_file(), (
            f"expected an image of this repository in {page.name}, found {target}: keep it in docs"
        )


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_colab_links_open_existing_notebooks_of_this_repository(page):
    found = re.findall(r"https://colab\.research\.google\.com/github/[^\s)\"'>]+", prose(page))
    valid = {badge(f"notebooks/{path.name}") for path in NOTEBOOKS}
    for link in found:
        assert link in valid, (
            f"expected a Colab link of the form {badge('notebooks/<existing notebook>.ipynb')}, "
            f"found {link} in {page.name}: correct it, or the repository address in pyproject.toml"
        )
    if page in NOTEBOOKS:
        own = badge(f"notebooks/{page.name}")
        assert own in found, (
            f"expected a Colab badge with {own} in {page.name}, found {found or 'none'}: "
            "add it to the title cell"
        )


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_setup_cell_fetches_this_repository(notebook):
    for cell in cells(notebook, "code"):
        if "setup" not in cell.metadata.get("tags", []):
            continue
        for address in re.findall(r"https://github\.com/[\w.-]+/[\w.-]+", cell.source):
            assert address.removesuffix(".git") == REPOSITORY, (
                f"expected the setup cell of {notebook.name} to fetch {REPOSITORY}, "
                f"found {address}: copy the address from pyproject.toml"
            )


def test_lesson_table_lists_every_notebook():
    rows = re.findall(r"^\|\s*\d\d[a-z]?\s*\|.*$", read("README.md"), flags=re.MULTILINE)
    assert rows, (
        "expected a lesson table in README.md with rows '| 00 | [start_here](notebooks/...) |', "
        "found no such row: write it"
    )
    linked = set()
    for row in rows:
        targets = re.findall(r"\]\((notebooks/[^)]+\.ipynb)\)", row)
        linked.update(targets)
        assert targets or "planned" in row, (
            f"expected a link to a notebook or the word 'planned', found '{row}': "
            "add one of them to the row in README.md"
        )
        for target in targets:
            assert (ROOT / target).is_file(), (
                f"expected the file {target}, found none: write it, or mark the row 'planned'"
            )
            assert badge(target) in row, (
                f"expected the Colab badge {badge(target)} in the same row, found '{row}': add it"
            )
            verdict = re.search(r"\| Verdict \| (.+) \|", prose(ROOT / target))[1]
            assert verdict in row, (
                f"expected the verdict of {target}, '{verdict}', in its row, found '{row}': copy it"
            )
    missing = {f"notebooks/{path.name}" for path in contract.notebooks.all_notebooks()} - linked
    assert not missing, (
        f"expected every lesson in the lesson table of README.md, found no row for "
        f"{sorted(missing)}: add one each"
    )


@pytest.mark.parametrize("page", ["README.md", "data/README.md"])
def test_relative_links_resolve(page):
    text = read(page)
    links = re.findall(r"\]\(([^)\s]+)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    for link in links:
        target = link.split("#")[0]
        if re.match(r"\w+:", link) or not target:
            continue
        path = (ROOT / page).parent / target
        assert path.exists(), (
            f"expected '{link}' in {page} to lead to a file, found none at "
            f"{path.resolve()}: correct the link"
        )


# --- the rest of the repository ----------------------------------------------------------------


def test_repository_stays_small():
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listing.returncode:
        pytest.skip(f"not a git checkout: {listing.stderr.strip()}")
    paths = [ROOT / name for name in set(listing.stdout.split("\0")) if name]
    megabytes = {p.relative_to(ROOT): p.stat().st_size / 1e6 for p in paths if p.is_file()}
    for path, size in megabytes.items():
        assert size <= 12, (
            f"expected at most 12 MB a file, found {path} with {size:.1f} MB: "
            "shrink it, or keep it out of git"
        )
    data = sum(size for path, size in megabytes.items() if path.parts[0] == "data")
    assert data < 100, (
        f"expected less than 100 MB in data/, found {data:.1f} MB: store smaller models or fewer files"
    )


def test_citation_matches_pyproject():
    citation = yaml.safe_load(read("CITATION.cff"))
    for key, expected in {
        "cff-version": "1.2.0",
        "version": PROJECT["version"],
        "repository-code": REPOSITORY,
        "license": PROJECT["license"],
    }.items():
        assert citation.get(key) == expected, (
            f"expected {key}: {expected}, found {citation.get(key)}: correct CITATION.cff"
        )


def test_continuous_integration_runs_make_test():
    script = ROOT / ".ci" / "run"
    assert "make test" in read(".ci/run").splitlines(), (
        "expected a line 'make test' in .ci/run, found none: everything checked goes through it"
    )
    assert script.stat().st_mode & 0o100, (
        "expected .ci/run to be executable, found it is not: chmod +x .ci/run"
    )
    job = yaml.safe_load(read(".github/workflows/test.yml"))["jobs"]["test"]
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == [".ci/run"], (
        f"expected the workflow to run .ci/run alone, found {commands}: "
        "move other checks behind 'make test'"
    )
    lowest = f">={job['strategy']['matrix']['python'][0]}"
    assert lowest == PROJECT["requires-python"], (
        f"expected the matrix to start at {PROJECT['requires-python']}, found {lowest}: "
        "test the oldest supported Python"
    )


def test_makefile_has_its_targets():
    makefile = read("Makefile")
    found = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    wanted = {"lab", "test", "test-fast", "bench", "notebooks", "site", "organisms", "clean", "help"}
    assert wanted <= found, (
        f"expected the targets {sorted(wanted)}, found {sorted(found)}: restore the missing ones"
    )
    assert "--nbmake" in makefile, (
        "expected 'make test' to execute the notebooks with --nbmake, found no such flag: "
        "restore it in the Makefile"
    )


# --- no network --------------------------------------------------------------------------------


def test_this_process_cannot_reach_the_network():
    with (
        pytest.warns(UserWarning, match="192.0.2.1"),
        pytest.raises(pytest_socket.SocketConnectBlockedError),
    ):
        socket.socket().connect(TEST_ADDRESS)  # no look-up: a worker of xdist would refuse that first


ATTEMPTS = {
    "connect": f"socket.create_connection({TEST_ADDRESS}, timeout=1)",
    "connect_ex": f"socket.socket().connect_ex({TEST_ADDRESS})",
    "udp": f"socket.socket(type=socket.SOCK_DGRAM).sendto(b'', {TEST_ADDRESS})",
    "name": "socket.getaddrinfo('example.org', 80)",
    "library": "import urllib.request; urllib.request.urlopen('http://192.0.2.1', timeout=1)",
}


@pytest.mark.parametrize("attempt", ATTEMPTS.values(), ids=ATTEMPTS.keys())
def test_a_child_process_cannot_reach_the_network(attempt):
    run = subprocess.run(
        [sys.executable, "-c", f"import socket\n{attempt}"], capture_output=True, text=True
    )
    assert BLOCKED in run.stderr, (
        f"expected '{BLOCKED}' from {attempt}, found exit status {run.returncode} and "
        f"'{run.stderr.strip()[-300:]}': tests/conftest.py must put tests/offline on PYTHONPATH"
    )


def test_a_child_process_still_reaches_this_machine():
    code = (
        "import socket\n"
        "server = socket.create_server(('127.0.0.1', 0))\n"
        "socket.create_connection(('localhost', server.getsockname()[1]), timeout=5)\n"
        "socket.socketpair()\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not run.returncode, (
        f"expected loopback and Unix sockets to stay open, found '{run.stderr.strip()[-300:]}': "
        "repair is_local in tests/offline/sitecustomize.py"
    )


def test_a_notebook_kernel_cannot_reach_the_network(tmp_path):
    code = f"import socket\n{ATTEMPTS['connect']}"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    with pytest.raises(CellExecutionError) as failure:
        NotebookClient(notebook, timeout=60, kernel_name="python3").execute(cwd=tmp_path)
    assert BLOCKED in str(failure.value), (
        f"expected '{BLOCKED}' from the kernel, found '{str(failure.value)[-300:]}': "
        "tests/conftest.py must put tests/offline on the kernel's PYTHONPATH"
    )


def test_readme_states_what_the_cards_say():
    from tft_utils.organisms.training import capability_table

    assert capability_table() in read("README.md"), (
        "expected README.md to hold the capability table of the shipped cards, found another one: "
        "paste the output of `python -m tft_utils.organisms table`"
    )
