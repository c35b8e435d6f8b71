"""The teaching kit, made from the committed notebooks: `python -m tft_utils.course.kit`.

build/kit/student      lessons without solutions, notes and outputs
build/kit/instructor   lessons as committed; notes and times in front, known mistakes behind each solution
build/kit/slides       figures and questions of each lesson, as a notebook and as a page
build/kit/README.md    docs/teaching.md, its times made new: how to use all this, to grade, and plans

The pages have nbconvert's slides and a player of ours in place of reveal.js, so they need no other host.
`jupyter nbconvert --to slides` makes pages with reveal.js from the same notebooks.
"""

import copy
import json
import re
import runpy
import shutil
import sys
from itertools import pairwise
from pathlib import Path

from tft_utils.course import address, notebooks
from tft_utils.course.grading import tags
from tft_utils.files import ROOT

KIT, GUIDE = ROOT / "build" / "kit", ROOT / "docs" / "teaching.md"
NOTES = re.compile(r"<details><summary>Notes for an instructor</summary>\n(.*)</details>", re.S)
FOLD = re.compile(r"<details>.*?</details>\n?", re.S)
BADGE = re.compile(r"\[!\[Open in Colab\]\([^)]*\)\]\([^)]*\)( · )?")
EFFORT = re.compile(r"^Difficulty (\S+) · Importance (\S+) · (\d+) minutes$", re.M)
BRIEF = re.compile(r"^### Exercise: (.+)$", re.M)
OPEN = re.compile(r"^### (?:On your own|An open question|Open question)\b.*?(?=^##|\Z)", re.S | re.M)
TIMES = re.compile(r"(\d+) minutes of ([^,|]+)")


def source(notebook: dict, cell_id: str) -> str:
    """The text of a cell; empty when there is no such cell."""
    return next((c["source"] for c in notebook["cells"] if c["id"] == cell_id), "")


def markdown(text: str, cell_id: str, slide: str = "") -> dict:
    metadata = {"slideshow": {"slide_type": slide}} if slide else {}
    return {"cell_type": "markdown", "id": cell_id, "metadata": metadata, "source": text}


def with_links(notebook: dict) -> dict:
    """A copy that can stand anywhere: links out of the lessons' folder lead to the repository."""
    notebook, pages = copy.deepcopy(notebook), f"]({address.GITHUB}{address.current()}/blob/main/"
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = BADGE.sub("", cell["source"]).replace("](../", pages)
    return notebook


# --------------------------------------------------------------------------------------------------
# What is in a lesson


def reading(notebook: dict) -> int:
    """Minutes of everything but exercises, as the lesson's table says."""
    return sum(int(n) for n, what in TIMES.findall(source(notebook, "glance")) if what != "exercises ")


def exercises(notebook: dict) -> dict[str, tuple[str, str, str, int]]:
    """Name of each exercise -> its heading, difficulty, importance and minutes."""
    found = {}
    for cell in notebook["cells"]:
        if "exercise" in tags(cell) and (heading := BRIEF.search(cell["source"])):
            difficulty, importance, minutes = EFFORT.search(cell["source"]).groups()
            name = cell["id"].removeprefix("ex-").replace("-", "_")
            found[name] = heading[1], difficulty, importance, int(minutes)
    return found


def minutes(notebook: dict, names: list[str] | None = None) -> int:
    """Minutes of a lesson with some of its exercises; None: with all."""
    known = exercises(notebook)
    return reading(notebook) + sum(known[name][3] for name in (known if names is None else names))


def mistakes(lesson: Path) -> dict[str, list[tuple[str, str]]]:
    """Exercise -> known wrong answers, each with its hint; of a hint that varies, what stays."""
    file = ROOT / "tests" / "wrong" / f"{lesson.stem.split('_', 1)[1]}.py"
    wrong = runpy.run_path(str(file))["WRONG"] if file.is_file() else {}
    return {name: [(answer, plain(hint)) for answer, hint in each] for name, each in wrong.items()}


def plain(regex: str) -> str:
    """A pattern as one reads it: r'found \\(1\\).*none' -> 'found (1) ... none'."""
    text = re.sub(r"\.[*+]\??|\\d\+?|\[[^\]]*\][*+]?", "...", regex.replace("(?s)", ""))
    text = re.sub(r"\\(.)", r"\1", text).strip("^$").replace("...", " ... ").replace("|", ", or: ")
    return re.sub(" +", " ", text).strip()


# --------------------------------------------------------------------------------------------------
# Three kinds of notebook


def student(notebook: dict) -> dict:
    """A lesson to hand out."""
    notebook = with_links(notebook)
    notebook["cells"] = [c for c in notebook["cells"] if "solution" not in tags(c) and c["id"] != "teach"]
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
    notebook["metadata"].pop("digest", None)
    return notebook


def instructor(notebook: dict, wrong: dict[str, list[tuple[str, str]]]) -> dict:
    """A lesson to teach from."""
    notebook = with_links(notebook)
    notes = NOTES.search(source(notebook, "teach"))[1].strip()
    rows = [
        f"| `{name}` | {heading} | {difficulty} | {importance} | {n} |"
        for name, (heading, difficulty, importance, n) in exercises(notebook).items()
    ]
    total = f"| **all** | with {reading(notebook)} minutes beside | | | {minutes(notebook)} |"
    table = ["| exercise | | difficulty | importance | minutes |", "|---|---|---|---|---|", *rows, total]
    front = markdown(f"## For the instructor\n\n{notes}\n\n" + "\n".join(table), "instructor")
    cells = []
    for cell in notebook["cells"]:
        cells += [cell] if cell["id"] != "teach" else []
        cells += [front] if cell["id"] == "glance" else []
        if "solution" in tags(cell):
            base = cell["id"].removesuffix("-solution")
            known = wrong.get(base.removeprefix("ex-").replace("-", "_"), [])
            said = "\n".join(f"\n```python\n{answer}```\n\nHint: *{hint}*" for answer, hint in known)
            fold = f"<details><summary>Typical mistakes</summary>\n{said}\n\n</details>"
            cells += [markdown(fold, f"{base}-mistakes")] if known else []
    notebook["cells"] = cells
    return notebook


def slides(notebook: dict) -> dict:
    """Title, aims, predictions, each figure, the open question, the recap's questions, their answers."""
    notebook = with_links(notebook)
    title = source(notebook, "title").split("\n\n")
    aims = source(notebook, "objectives").split(".\n\n")[0]
    predictions = source(notebook, "predict")
    found = [
        markdown(f"{title[0]}\n\n{title[-1]}", "title", "slide"),
        markdown(aims, "objectives", "slide"),
        markdown(predictions[predictions.index("## Predict first") :], "predict", "slide"),
    ]
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            found += [markdown(s, f"{cell['id']}-{i}", "slide") for i, s in enumerate(open_ends(cell))]
        outputs = cell.get("outputs", [])
        found += [
            figure(output, caption, f"{cell['id']}-{i}")
            for i, (output, caption) in enumerate(pairwise(outputs))
            if "image/png" in output.get("data", {})
        ]
    recap = source(notebook, "recap")
    found.append(markdown(FOLD.sub("", recap), "recap", "slide"))
    answers = re.search(r"</summary>\n(.*)</details>", recap, re.S)[1]
    found.append(markdown(f"## Answers\n{answers}", "answers", "slide"))
    name = title[0].removeprefix("# ")
    return notebook | {"cells": found, "metadata": notebook["metadata"] | {"title": name}}


def figure(output: dict, caption: dict, cell_id: str) -> dict:
    """A slide of what `plots.show` left: an image with its alt text, and the caption."""
    alt = re.sub(r"([\[\]])", r"\\\1", output["metadata"]["image/png"]["alt"])
    text = f"![{alt}](attachment:figure.png)\n\n{caption['data']['text/markdown']}"
    image = {"figure.png": {"image/png": output["data"]["image/png"].replace("\n", "")}}
    return markdown(text, cell_id, "slide") | {"attachments": image}


def open_ends(cell: dict) -> list[str]:
    """The open questions in a cell, each with its heading."""
    return OPEN.findall(cell["source"])


# --------------------------------------------------------------------------------------------------
# Pages

PLAYER = """
<style>
body.jp-Notebook { margin: 0; padding: 0; overflow: hidden; }
.reveal section { display: none; }
.reveal section.here { display: block; }
.reveal section section { box-sizing: border-box; height: 100vh; overflow: auto; padding: 4vh 6vw; }
.reveal img { max-height: 72vh; max-width: 100%; object-fit: contain; }
.reveal footer { position: fixed; right: 1em; bottom: .5em; }
@media print {
  body.jp-Notebook { overflow: visible; }
  .reveal section, .reveal section section { display: block; break-after: page; height: auto; }
  .reveal footer { display: none; }
}
</style>
<footer id="at" aria-live="polite"></footer>
<script>
const pages = [...document.querySelectorAll(".slides section:not(:has(section))")];
const at = () => Number(location.hash.slice(1) || 1) - 1;
function show(n) {
  n = Math.min(Math.max(n, 0), pages.length - 1);
  document.querySelectorAll(".here").forEach(s => s.classList.remove("here"));
  for (let s = pages[n]; s.tagName == "SECTION"; s = s.parentElement) s.classList.add("here");
  document.getElementById("at").textContent = `${n + 1} / ${pages.length}`;
  history.replaceState(null, "", `#${n + 1}`);
}
const STEPS = {
  ArrowRight: 1, ArrowDown: 1, PageDown: 1, " ": 1, ArrowLeft: -1, ArrowUp: -1, PageUp: -1,
  Home: -1000, End: 1000,
};
addEventListener("keydown", e => e.key in STEPS && show(at() + STEPS[e.key]));
addEventListener("click", e => {
  if (!e.target.closest("a")) show(at() + (e.clientX < innerWidth / 3 ? -1 : 1));
});
show(at());
</script>
"""
TEMPLATE = """
{% extends 'reveal/base.html.j2' %}
{% block header %}<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>{{ nb.metadata.title }}</title>
<style>{% include 'static/index.css' %}{% include 'static/theme-light.css' %}
:root { --jp-content-font-size1: 22px; }
.anchor-link, .jp-InputPrompt, .jp-OutputPrompt { display: none; }
</style></head>{% endblock %}
{% block body_header %}<body class="jp-Notebook"><main class="reveal"><div class="slides">
{% endblock %}
{% block body_footer %}</div>{% raw %}PLAYER{% endraw %}</main></body></html>{% endblock %}
{% block footer %}{% endblock %}
"""


def page(notebook: dict) -> str:
    """A notebook of slides as one file of HTML."""
    from nbconvert import SlidesExporter
    from nbformat import from_dict

    raw = TEMPLATE.replace("PLAYER", PLAYER).strip()
    exporter = SlidesExporter(raw_template=raw)
    return exporter.from_notebook_node(from_dict(copy.deepcopy(notebook)))[0]


TIME = re.compile(r"\d+:\d\d <!-- (\d\d[^>]*) -->")


def plan(text: str, lessons: dict[str, dict]) -> str:
    """A text, its times, each before a comment, made new. The comment says of what: '01' is all of lesson
    01, '01 attend scan' its reading and these exercises; '01; 02' the sum. Hours and minutes."""

    def part(asked: str) -> int:
        number, *names = asked.split()
        return minutes(lessons[number], names or None)

    def time(match: re.Match) -> str:
        total = sum(map(part, match[1].split(";")))
        return f"{total // 60}:{total % 60:02d} <!-- {match[1]} -->"

    return TIME.sub(time, text)


def make(folder: Path = KIT) -> None:
    """Writes the kit into a folder, which is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    kinds = [folder / name for name in ("student", "instructor", "slides")]
    for each in kinds:
        each.mkdir(parents=True)
    lessons = {path: notebooks.parse(path) for path in notebooks.all_notebooks()}
    for path, notebook in lessons.items():
        deck = slides(notebook)
        made = student(notebook), instructor(notebook, mistakes(path)), deck
        for kind, one in zip(kinds, made, strict=True):
            text = json.dumps(one, indent=1, ensure_ascii=False) + "\n"
            (kind / path.name).write_text(text, encoding="utf-8")
        (folder / "slides" / f"{path.stem}.html").write_text(page(deck), encoding="utf-8")
    numbered = {notebooks.number(path): notebook for path, notebook in lessons.items()}
    text = plan(GUIDE.read_text(encoding="utf-8"), numbered)
    for file in (GUIDE, folder / "README.md"):
        file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    make()
    print(f"written to {KIT}", file=sys.stderr)
