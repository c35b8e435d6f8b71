"""What a lesson must be like, as rules over one notebook; nothing is executed.

A rule family takes a notebook and the path where it belongs, and yields (cell id, sentence): what
was found and what to do. `problems` runs them all and puts file and cell in front.
"""

import ast
import copy
import importlib
import inspect
import re
import runpy
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

from nbformat.validator import iter_validate

from tft_utils import models
from tft_utils.architectures import ARCHITECTURES
from tft_utils.course import claims, notebooks, plots
from tft_utils.course.grading import tags
from tft_utils.course.kit import source

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REPOSITORY = PROJECT["urls"]["Repository"]
TAGS = {"setup", "parameters", "exercise", "check", "solution", "claim", "optional"}
SECTIONS = {  # cell id -> its heading, in the order of a lesson
    "title": "# ",
    "glance": "## At a glance",
    "objectives": "## After this lesson you can",
    "setup": "",
    "parameters": "",
    "idea": "## The idea in one picture",
    "toy": "## By hand",
    "predict": "## Predict first",
    "tf": "## On the Transformer",
    "mamba": "## The same code on Mamba",
    "transfer": "## Does it transfer?",
    "fool": "## What would fool us",
    "limits": "## Limits",
    "recap": "## Recap",
    "teach": "## Teach this",
    "references": "## References",
}
PAGE_SECTIONS = ("title", "setup")  # of a page that is no lesson
GLANCE = ("Time", "Run time", "You need", "Verdict")
CELLS, WORDS, LINES, SETUP_LINES, KILOBYTES = 80, 4500, 18, 8, 400
WRITTEN = 60  # lines of a lesson that the learner writes
FEW_WRITTEN = {"your_turn"}
SHOWN = {"text/plain", "text/markdown", "image/png", claims.MIME, claims.NONE}
BANNED = re.compile(r"\b(simply|obviously)\b", re.IGNORECASE)
EMPTY_LINK_TEXTS = {"here", "click here", "link", "this"}
NETWORK = {"aiohttp", "ftplib", "httpx", "huggingface_hub", "requests", "socket", "urllib"}
ARCHITECTURE = re.compile(  # whatever names one
    "|".join({*ARCHITECTURES, *plots.LOOKS, *models.SCALES["tiny"], "gpt_?neox", "pythia", "rnn"}),
    re.IGNORECASE,
)
PARAMETERS = {"SCALE": str, "MODELS": tuple, "SEED": int, "DEVICE": str}
TRACES = {"trace", "generate"}  # what nnsight opens a trace with
LITERAL_PERCENTS = {95.0}  # the level of every interval
DIFFICULTY = re.compile(r"^Difficulty [●○]{3} · Importance [●○]{3} · \d+ minutes$", flags=re.MULTILINE)
FENCE = re.compile(r"^```python\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
MAKE = "run `make notebooks`"

Problems = Iterator[tuple[str, str]]


def lesson_of(path: Path) -> str:
    """notebooks/00_start_here.ipynb -> start_here."""
    return path.stem.partition("_")[2]


def cells(notebook: dict, kind: str = "", tag: str = "") -> list[dict]:
    """The cells of a kind (all when empty) that have a tag (any when empty)."""
    return [
        cell
        for cell in notebook["cells"]
        if cell["cell_type"].startswith(kind) and (not tag or tag in tags(cell))
    ]


def prose(markdown: str) -> str:
    """Markdown without its code."""
    return re.sub(r"`[^`]*`", "", re.sub(r"^```.*?^```", "", markdown, flags=re.M | re.S))


def headings(markdown: str) -> list[tuple[int, str]]:
    """Level and text of each heading."""
    found = re.findall(r"^(#{1,6}) +(.+?)\s*$", prose(markdown), flags=re.MULTILINE)
    return [(len(marks), text) for marks, text in found]


def trees(notebook: dict) -> Iterator[tuple[dict, ast.Module]]:
    """Each code cell after setup that is plain Python, with its syntax tree."""
    for cell in cells(notebook, "code"):
        if "setup" not in tags(cell):
            try:
                yield cell, ast.parse(cell["source"])
            except SyntaxError:
                continue


# --------------------------------------------------------------------------------------------------
# The rules


def form(path: Path, notebook: dict) -> Problems:
    """nbformat 4.5, slug ids, known tags, the standard kernel, no widget state."""
    if error := next(iter_validate(copy.deepcopy(notebook)), None):
        yield "", f"it is not valid nbformat ({str(error).splitlines()[0]}); {MAKE}"
    if (notebook["nbformat"], notebook["nbformat_minor"]) != (4, 5):
        yield "", f"expected nbformat 4.5; {MAKE}"
    if notebook["metadata"].get("kernelspec") != notebooks.KERNEL:
        yield "", f"expected the kernel python3; {MAKE}"
    if "widgets" in notebook["metadata"]:
        yield "", f"it holds widget state; {MAKE}"
    ids = [cell["id"] for cell in notebook["cells"]]
    for cell in notebook["cells"]:
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", cell["id"]):
            yield cell["id"], "its id is no slug; name it like 'tf-read'"
        if ids.count(cell["id"]) > 1:
            yield cell["id"], "its id is used twice; rename one of the cells"
        if unknown := tags(cell) - TAGS:
            yield cell["id"], f"unknown tags {sorted(unknown)}; use {sorted(TAGS)}"


def sections(path: Path, notebook: dict) -> Problems:
    """The sections of a lesson in their order, and headings that never skip a level."""
    at = {cell["id"]: i for i, cell in enumerate(notebook["cells"])}
    last = -1
    for name, begins in SECTIONS.items():
        if name not in at:
            yield name, f"it is missing; add a cell with this id and '{begins or name}'"
            continue
        if at[name] < last:
            yield name, f"it stands too early; the order is {', '.join(SECTIONS)}"
        last = max(last, at[name])
        if not re.search(f"^{re.escape(begins)}", source(notebook, name), flags=re.MULTILINE):
            yield name, f"expected the heading '{begins}'; correct it"
    for row in GLANCE:
        if not re.search(rf"^\| {row} \| .+\|$", source(notebook, "glance"), flags=re.MULTILINE):
            yield "glance", f"expected a table row '| {row} | ... |'; add it"
    for name in ("recap", "teach"):
        if "<details>" not in source(notebook, name):
            yield name, "expected a folded part; put answers or notes into <details>"
    whole = "\n".join(cell["source"] for cell in cells(notebook, "markdown"))
    real = re.search(r"^## On real models\n(.*?)(?=^## )", whole, flags=re.MULTILINE | re.DOTALL)
    if not real:
        yield "limits", "expected a section '## On real models' before it; add it"
    elif not (re.search(r"\bGB\b", real[1]) and re.search(r"\b(seconds?|minutes?)\b", real[1])):
        yield "limits", "expected the section before it to say what real models cost, in GB and minutes"
    level = 0
    for cell in cells(notebook, "markdown"):
        for depth, text in headings(cell["source"]):
            if depth > level + 1 or (depth == 1 and level):
                yield cell["id"], f"heading '{text}' has level {depth} after {level}; use the next"
            level = depth


def one_cell(notebook: dict, tag: str) -> Problems:
    if [cell["id"] for cell in cells(notebook, "code", tag)] != [tag]:
        yield tag, f"expected one code cell with this id and the tag '{tag}'; write it so"


def setup(path: Path, notebook: dict) -> Problems:
    """One setup cell, the same in every notebook."""
    yield from one_cell(notebook, "setup")
    first = notebooks.all_notebooks()[0]
    text = source(notebook, "setup")
    if text != source(notebooks.parse(first), "setup"):
        yield "setup", f"it differs from that of {first.name}; copy it from there"
    if len(text.splitlines()) > SETUP_LINES:
        yield "setup", f"expected at most {SETUP_LINES} lines; shorten it"


def parameters(path: Path, notebook: dict) -> Problems:
    """One parameters cell with the four names."""
    yield from one_cell(notebook, "parameters")
    if list(set_by(source(notebook, "parameters")).items()) != list(PARAMETERS.items()):
        form = ", ".join(f"{name} ({kind.__name__})" for name, kind in PARAMETERS.items())
        yield "parameters", f"expected {form} and nothing else; write them so"


def set_by(code: str) -> dict[str, type]:
    """Name -> kind of its constant, where the code does nothing but set names; tuples hold strings."""
    kinds = {}
    for node in ast.parse(code).body:
        try:
            (name,), value = (target.id for target in node.targets), ast.literal_eval(node.value)
        except (AttributeError, ValueError):
            return {}
        if isinstance(value, tuple) and not (value and all(isinstance(item, str) for item in value)):
            return {}
        kinds[name] = type(value)
    return kinds


def navigation(path: Path, notebook: dict) -> Problems:
    """The badge opens this very file; map, and of a lesson previous and next, are linked; every link
    resolves."""
    title, known = source(notebook, "title"), [p.name for p in notebooks.all_notebooks()]
    github = REPOSITORY.removeprefix("https://github.com/")
    badge = f"https://colab.research.google.com/github/{github}/blob/main/notebooks/{path.name}"
    if f"]({badge})" not in title:
        yield "title", f"expected a Colab badge that opens {badge}; correct it"
    neighbours = []
    if path.name in known:
        here = known.index(path.name)
        neighbours = [*known[max(0, here - 1) : here], *known[here + 1 : here + 2]]
    for target in ("../README.md#the-lessons", *neighbours):
        if f"]({target})" not in title:
            yield "title", f"expected a link to {target}; add it to the badge row"
    for cell in cells(notebook, "markdown"):
        for text, target in re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", prose(cell["source"])):
            if text.strip().lower() in EMPTY_LINK_TEXTS:
                yield cell["id"], f"link text '{text}' says nothing; name what it leads to"
            if f"![{text}]({target})" in cell["source"] and re.match(r"\w+:", target):
                yield cell["id"], f"image {target} comes from another host; keep a file of ours in docs"
            if (
                not re.match(r"\w+:", target)
                and not to_come(target)
                and (lacks := unresolved(path, target))
            ):
                yield cell["id"], f"link '{target}' leads nowhere: no {lacks}; correct it"


def to_come(link: str) -> bool:
    """Whether a link leads to a lesson whose number is still free, before the last lesson."""
    numbers = [notebooks.number(p) for p in notebooks.all_notebooks()]
    number = re.match(r"(\d\d[a-z]?)_\w+\.ipynb$", link)
    return bool(number) and number[1] not in numbers and number[1] < max(numbers)


def unresolved(path: Path, link: str) -> str:
    """What a relative link from the page at `path` lacks: its file, its anchor, or nothing."""
    file, _, anchor = link.partition("#")
    target = (path.parent / file).resolve() if file else path
    if not target.exists():
        return f"file {file}"
    if not anchor:
        return ""
    if target.suffix == ".ipynb":  # Jupyter's anchors keep the case; GitHub's do not
        pages = [cell["source"] for cell in cells(notebooks.parse(target), "markdown")]
        anchors = {text.replace(" ", "-") for page in pages for _, text in headings(page)}
    else:
        found = headings(target.read_text(encoding="utf-8"))
        anchors = {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for _, t in found}
    return "" if anchor in anchors else f"heading #{anchor}"


def outputs(path: Path, notebook: dict) -> Problems:
    """Run in order, without errors or warnings; only text, Markdown, PNG, claims and reasons for none."""
    ran = cells(notebook, "code")
    for count, cell in enumerate(ran, start=1):
        if cell["execution_count"] != count:
            yield cell["id"], f"it was not run, or not in order; {MAKE}"
            break
    for cell in ran:
        for output in cell["outputs"]:
            if output["output_type"] == "error":
                yield cell["id"], f"it shows the error {output['ename']}; repair it and {MAKE}"
            if output.get("name") == "stderr":
                yield cell["id"], f"it shows '{output['text'].strip()[:80]}' on stderr; avoid it"
            if others := set(output.get("data", {})) - SHOWN:
                yield cell["id"], f"it shows {', '.join(sorted(others))}; show text or a PNG"


def figures(path: Path, notebook: dict) -> Problems:
    """An image has alt text, a sentence; below it stands its caption, numbered from 1."""
    number = 0
    for cell in cells(notebook, "code"):
        for output, below in zip(cell["outputs"], [*cell["outputs"][1:], {}], strict=False):
            if "image/png" not in output.get("data", {}):
                continue
            number += 1
            alt = output["metadata"].get("image/png", {}).get("alt", "")
            if not (alt.endswith(".") and len(alt.split()) >= 8):
                yield (
                    cell["id"],
                    f"an image has the alt text '{alt}'; use plots.show, state the finding",
                )
            caption = below.get("data", {}).get("text/markdown", "")
            if not caption.startswith(f"*Figure {number}. "):
                yield cell["id"], f"expected a caption 'Figure {number}. ...'; use plots.show"
    for cell in cells(notebook, "markdown"):
        for link, alt, target in re.findall(r"(\[?)!\[([^\]]*)\]\(([^)\s]+)", prose(cell["source"])):
            if not alt.strip():
                yield cell["id"], f"the image {target} has no alt text; describe it in the brackets"
            if not link and not re.search(r"^\*.+\*$", cell["source"], re.M):  # a badge needs none
                yield cell["id"], f"the image {target} has no caption; add a line in italics"


def budgets(path: Path, notebook: dict) -> Problems:
    """Length and size; the run time is reported where a notebook is run."""
    words = sum(len(cell["source"].split()) for cell in cells(notebook, "markdown"))
    kilobytes = len(notebooks.canonical(notebook).encode()) / 1000
    for what, found, most in (
        ("cells", len(notebook["cells"]), CELLS),
        ("words", words, WORDS),
        ("kB", round(kilobytes), KILOBYTES),
    ):
        if found > most:
            yield "", f"it has {found} {what}, at most {most}; shorten it"
    for cell in cells(notebook, "code"):
        if (lines := len(cell["source"].splitlines())) > LINES:
            yield cell["id"], f"it has {lines} lines, at most {LINES}; split it"


def language(path: Path, notebook: dict) -> Problems:
    """Words that tell a reader who is stuck that it is easy."""
    for cell in notebook["cells"]:
        for word in BANNED.findall(cell["source"]):
            yield cell["id"], f"it says '{word}'; delete the word"


def code(path: Path, notebook: dict) -> Problems:
    """Plain Python; no network; no architecture by name in a condition; widgets are optional."""
    parsed = {cell["id"] for cell, _ in trees(notebook)}
    for cell in cells(notebook, "code"):
        if "setup" in tags(cell):
            continue
        if cell["id"] not in parsed:
            yield cell["id"], "it is not plain Python; magics and pip belong in setup"
        if re.search(r"\bpip\d? install", cell["source"]):
            yield cell["id"], "it installs packages; only setup does"
        if "ipywidgets" in cell["source"] and "optional" not in tags(cell):
            yield cell["id"], "it uses ipywidgets; tag it 'optional', beneath a still figure"
    for cell, tree in trees(notebook):
        for module in sorted(imported(tree) & NETWORK):
            yield cell["id"], f"it imports {module}; lessons use no network"
        for name in sorted(set(named_in_conditions(tree))):
            yield cell["id"], f"a condition names '{name}'; put what differs into data"
        if traces_again_beside_a_comprehension(tree):
            yield (
                cell["id"],
                (
                    "it traces more than once beside a comprehension, and Python 3.12.0 to "
                    "3.12.9 then loses what the traces save; trace in a function"
                ),
            )


def imported(tree: ast.Module) -> set[str]:
    """Top-level names of the imports."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    return names


def at_top_level(node: ast.AST, times: int = 1) -> Iterator[tuple[ast.AST, int]]:
    """All that runs in a cell's own frame, and how often: once, or twice for whatever repeats."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.ClassDef | ast.Lambda | ast.GeneratorExp):
            repeats = 2 if isinstance(child, ast.For | ast.While) else times
            yield child, repeats
            yield from at_top_level(child, repeats)


def traces_again_beside_a_comprehension(tree: ast.Module) -> bool:
    """What CPython's issue 130809 breaks: a trace puts what it saves into the frame around it, and
    the second time a comprehension's variable hides that frame's names."""
    nodes = list(at_top_level(tree))
    calls = [
        (item.context_expr, times)
        for node, times in nodes
        if isinstance(node, ast.With)
        for item in node.items
        if isinstance(item.context_expr, ast.Call)
    ]
    traces = sum(times for call, times in calls if getattr(call.func, "attr", "") in TRACES)
    inlined = ast.ListComp | ast.SetComp | ast.DictComp
    return traces > 1 and any(isinstance(node, inlined) for node, _ in nodes)


def named_in_conditions(tree: ast.Module) -> Iterator[str]:
    """Architectures by name wherever code chooses between two ways."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If | ast.IfExp | ast.While):
            asked = [node.test]
        elif isinstance(node, ast.comprehension):
            asked = node.ifs
        elif isinstance(node, ast.match_case):
            asked = [node.pattern]
        elif isinstance(node, ast.Compare):  # also outside a condition: what else is it for?
            asked = [n for n in (node.left, *node.comparators) if isinstance(n, ast.Constant)]
        else:
            continue
        for part in (part for test in asked for part in ast.walk(test)):
            name = getattr(part, "value", getattr(part, "id", getattr(part, "attr", "")))
            if isinstance(name, str) and ARCHITECTURE.search(name):
                yield name


def exercises(path: Path, notebook: dict) -> Problems:
    """Four cells each, in one form; the solution is the reference; wrong answers are known."""
    lesson, at = lesson_of(path), [cell["id"] for cell in notebook["cells"]]
    briefs = cells(notebook, "markdown", "exercise")
    if not briefs:
        yield "", "it has no exercise; add a cell 'ex-<name>' tagged 'exercise'"
        return
    wrong = wrong_answers(path)
    names = [brief["id"].removeprefix("ex-").replace("-", "_") for brief in briefs]
    for name in sorted(wrong.keys() - set(names)):
        yield ("", f"tests/wrong/{lesson}.py has answers to {name}, which is no exercise; remove them")
    for brief, name in zip(briefs, names, strict=True):
        if len(wrong.get(name, ())) < 2:
            yield brief["id"], f"fewer than 2 wrong answers in tests/wrong/{lesson}.py; add some"
        four = [brief["id"] + end for end in ("", "-stub", "-check", "-solution")]
        start = at.index(brief["id"])
        if at[start : start + 4] != four or not brief["id"].startswith("ex-"):
            yield (brief["id"], f"expected the four cells {', '.join(four)}; write them in this order")
            continue
        yield from one_exercise(lesson, name, notebook["cells"][start : start + 4])
    module = importlib.import_module(f"tft_utils.lessons.{lesson}")
    references = [inspect.getsource(f) for name in names if (f := getattr(module, name, None))]
    written = sum(map(lines_of_code, references))
    if written < WRITTEN and lesson not in FEW_WRITTEN:
        yield "", f"its exercises have {written} lines, at least {WRITTEN}; let the learner write more"


def lines_of_code(text: str) -> int:
    """Lines that are neither empty nor of a docstring."""
    told = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
            told |= {*range(node.body[0].lineno, node.body[0].end_lineno + 1)}
    lines = enumerate(text.splitlines(), start=1)
    return sum(bool(line.strip()) and number not in told for number, line in lines)


def one_exercise(lesson: str, name: str, four: list[dict]) -> Problems:
    brief, stub, check, solution = four
    for cell, tag in zip(four, ("exercise", "exercise", "check", "solution"), strict=True):
        if tag not in tags(cell):
            yield cell["id"], f"expected the tag '{tag}'; add it"
    if not brief["source"].startswith("### Exercise: "):
        yield brief["id"], "expected the heading '### Exercise: ...'; write it so"
    if not DIFFICULTY.search(brief["source"]):
        yield brief["id"], "expected a line 'Difficulty ●○○ · Importance ●●○ · 10 minutes'; add it"
    if "<details><summary>Hint" not in brief["source"]:
        yield brief["id"], "expected a folded hint, '<details><summary>Hint</summary>'; add one"
    if check["source"] != f'{name} = check("{lesson}/{name}", {name})':
        yield check["id"], f'expected `{name} = check("{lesson}/{name}", {name})`; write it so'
    said = "".join(output.get("text", "") for output in check["outputs"])
    if "not attempted" not in said:
        yield check["id"], f"its output says '{said.strip()[:80]}'; put the stub back and {MAKE}"
    reference = getattr(importlib.import_module(f"tft_utils.lessons.{lesson}"), name, None)
    if reference is None:
        yield stub["id"], f"tft_utils/lessons/{lesson}.py has no {name}; write the reference"
        return
    text = inspect.getsource(reference)
    if not is_stub(stub["source"], text):
        yield (
            stub["id"],
            (
                "expected one function with the reference's signature and docstring that "
                "ends with `raise NotAttempted`; write it so"
            ),
        )
    if not solution["source"].startswith("<details><summary>Solution</summary>\n"):
        yield solution["id"], "expected '<details><summary>Solution</summary>'; fold the solution"
    if FENCE.findall(solution["source"]) != [text]:
        yield (
            solution["id"],
            (
                f"its python fence is not the reference {name} in "
                f"tft_utils/lessons/{lesson}.py; copy that text into it"
            ),
        )


def is_stub(stub: str, reference: str) -> bool:
    """One function, declared and documented as the reference, whose last line raises."""
    (given, *more), (wanted, *_) = (ast.parse(text).body for text in (stub, reference))
    return (
        not more
        and isinstance(given, ast.FunctionDef)
        and (given.name, ast.unparse(given.args)) == (wanted.name, ast.unparse(wanted.args))
        and ast.get_docstring(given) is not None
        and ast.unparse(given.body[-1]) == "raise NotAttempted"
    )


def wrong_answers(path: Path) -> dict[str, list[tuple[str, str]]]:
    """exercise -> (source that replaces the stub, regex of the hint it must get)."""
    file = ROOT / "tests" / "wrong" / f"{lesson_of(path)}.py"
    return runpy.run_path(str(file))["WRONG"] if file.is_file() else {}


def claimed(path: Path, notebook: dict) -> Problems:
    """Numbers in prose are claimed; claims stand in claim cells and carry the lesson's name."""
    records = []
    for cell in cells(notebook, "code"):
        calls = re.search(r"\bclaim\(", cell["source"]) is not None
        if calls != ("claim" in tags(cell)):
            yield cell["id"], "the tag 'claim' and a call of claim() go together; correct one"
        own = [o["data"][claims.MIME] for o in cell["outputs"] if claims.MIME in o.get("data", {})]
        for record in own:
            if not record["name"].startswith(f"{lesson_of(path)}/"):
                yield cell["id"], f"claim {record['name']}: begin its name '{lesson_of(path)}/'"
        if calls and not own:
            yield cell["id"], f"it shows no claim; {MAKE}"
        records += own
    computed = {record["verdict"] for record in records} - {None} or {"foundation"}
    row = re.search(r"^\| Verdict \|.*", source(notebook, "glance"), re.MULTILINE)
    stated = [word.lower() for word in re.findall(r"\*\*([^*]+)\*\*", row.group())] if row else []
    for word in stated or ["none"]:
        if word not in computed:
            yield (
                "glance",
                f"its verdict is {word}, the claims say {', '.join(sorted(computed))}; correct it",
            )
    yield from bound_percents(notebook, percents(notebook, records))


def bound_percents(notebook: dict, known: set[float]) -> Problems:
    for cell in cells(notebook, "markdown"):
        for number in re.findall(r"(\d+(?:\.\d+)?) ?%", prose(cell["source"])):
            half = 0.5 * 10.0 ** -len(number.partition(".")[2]) + 1e-9
            if not any(abs(float(number) - percent) <= half for percent in known):
                yield cell["id"], f"no claim says {number} %; claim it or drop the number"


def percents(notebook: dict, records: list[dict]) -> set[float]:
    """What a sentence may call a percentage: claimed numbers, and settings that the code states."""
    claimed = [
        found[key]
        for r in records
        for found in (r, r["control"] or {})
        for key in ("value", "low", "high", "expect")
        if found.get(key) is not None
    ]
    settings = [
        node.value
        for _, tree in trees(notebook)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, float)
    ]
    return LITERAL_PERCENTS | {100 * number for number in claimed + settings}


def unclaimed(path: Path, notebook: dict) -> Problems:
    """A page that is no lesson teaches no exercise and claims nothing: what it shows is computed."""
    for name in PAGE_SECTIONS:
        if not source(notebook, name):
            yield name, "it is missing; add a cell with this id"
    if not source(notebook, "title").startswith("# "):
        yield "title", "expected the heading '# '; correct it"
    for cell in notebook["cells"]:
        if others := tags(cell) - {"setup", "optional"}:
            yield cell["id"], f"tags of a lesson, {sorted(others)}, on a page that is none; remove them"
    yield from bound_percents(notebook, percents(notebook, []))


RULES: tuple[Callable[[Path, dict], Problems], ...] = (
    form,
    sections,
    setup,
    parameters,
    navigation,
    outputs,
    figures,
    budgets,
    language,
    code,
    exercises,
    claimed,
)


PAGE_RULES = (form, setup, navigation, outputs, figures, budgets, language, code, unclaimed)


def rules_of(path: Path) -> tuple[Callable[[Path, dict], Problems], ...]:
    return RULES if path in notebooks.all_notebooks() else PAGE_RULES


def problems(path: Path, notebook: dict, rules=RULES) -> list[str]:
    """All problems of a notebook that stands at `path`, each as '<file>, cell <id>: <sentence>.'"""
    return [
        f"{path.name}{f', cell {cell}' if cell else ''}: {sentence}."
        for rule in rules
        for cell, sentence in rule(path, notebook)
    ]
