"""The course as a website: `python -m tft_utils.course.site [FOLDER]`, by default build/site.

Pages are staged in a folder that is thrown away, then Sphinx (docs/site/conf.py) makes HTML of them:

index           README.md
notebooks/*     the notebooks as committed; nothing runs
glossary        every term that a lesson sets in bold, in the sentence that introduces it
bibliography    docs/site/references.bib, and which pages cite each paper
api/*           a page for each room of tft_utils, read from its source; nothing is imported
data/README, docs/*, CONTRIBUTING, CHANGELOG

Links between pages stay; a link to anything else of the repository leads to where it is published.
"""

import ast
import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from tft_utils.course import address, claims, notebooks, verdicts
from tft_utils.files import ROOT

SITE, SOURCE, PACKAGE = ROOT / "build" / "site", ROOT / "docs" / "site", ROOT / "tft_utils"
BIBLIOGRAPHY = SOURCE / "references.bib"
LINK = re.compile(r"(\]\()([^)\s]+)(\))")
CODE = re.compile(r"(^```.*?^```|`[^`]*`)", re.M | re.S)
HEADING = re.compile(r"^(#{1,6}) +(.+?)\s*$", re.M)


def pages() -> list[Path]:
    """What becomes a page as it stands: texts in Markdown, and every notebook of the folder."""
    texts = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/README.md")]
    return [*texts, *sorted((ROOT / "docs").glob("*.md")), *sorted(notebooks.NOTEBOOKS.glob("*.ipynb"))]


def staged(path: Path) -> str:
    """Where a page is staged, relative to the site's source: only the front page is renamed."""
    name = path.relative_to(ROOT).as_posix()
    return "index.md" if name == "README.md" else name


# --------------------------------------------------------------------------------------------------
# Pages that exist


def relinked(text: str, page: Path, folder: Path) -> str:
    """Markdown of a page with links that hold on the site; the images that it shows are staged too."""
    known = {path: staged(path) for path in pages()}
    here = Path(staged(page)).parent

    def link(match: re.Match) -> str:
        file, mark, anchor = match[2].partition("#")
        target = (page.parent / file).resolve()
        if re.match(r"\w+:", match[2]) or not file:
            return match[0]
        name = target.relative_to(ROOT).as_posix()
        if target in known:
            found = os.path.relpath(known[target], here) + mark + anchor.lower()
        elif target.suffix in (".png", ".svg"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(target, folder / name)
            found = match[2]
        else:
            kind = "tree" if target.is_dir() else "blob"
            found = f"{address.GITHUB}{address.current()}/{kind}/main/{name}{mark}{anchor}"
        return f"{match[1]}{found}{match[3]}"

    parts = CODE.split(text)  # text and code in turn
    return "".join(part if i % 2 else LINK.sub(link, part) for i, part in enumerate(parts))


def notebook_page(path: Path, folder: Path) -> dict:
    """A notebook for the site: links that hold, arXiv numbers that lead there, figures as images with
    their alt text, which Sphinx would lose."""
    notebook = notebooks.parse(path)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = relinked(cell["source"], path, folder)
        if cell["id"] == "references":
            cell["source"] = re.sub(
                r"\barXiv\s(\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", cell["source"]
            )
        for output in cell.get("outputs", []):
            for record in (claims.MIME, claims.NONE):  # their text says the same
                output.get("data", {}).pop(record, None)
            if "image/png" in output.get("data", {}):
                _draw(output, folder / staged(path))
    notebook["metadata"]["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    return notebook


def _draw(output: dict, page: Path) -> None:
    """Puts an output's image into a file beside the page, and a line of Markdown in its place."""
    image = base64.b64decode(output["data"]["image/png"])
    name = f"figures/{hashlib.sha256(image).hexdigest()[:16]}.png"
    file = page.parent / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(image)
    alt = re.sub(r"([\[\]\\`*_$<])", r"\\\1", output["metadata"]["image/png"]["alt"])
    output["data"] = {"text/markdown": f"![{alt}]({name})"}
    output["metadata"] = {}


# --------------------------------------------------------------------------------------------------
# Glossary


class Use(NamedTuple):
    """A term as a lesson introduces it."""

    term: str
    lesson: str  # 00 · Start here
    page: str  # notebooks/00_start_here.ipynb
    anchor: str  # of the heading above
    sentence: str  # Markdown


BOLD = re.compile(r"\*\*([^*]+)\*\*")
NO_TERMS_IN = {"title", "glance", "references", "teach"}
# What is bold because it matters here, and names nothing elsewhere.
EMPHASIS = {"a good answer", "nobody ever told", "alice", "bob", "luck", "other names"}
LEANS = re.compile(r"(This|That|These|Those|It|Its|They|Then|So|And|But|There|Call|Does)\b")
ENDS = re.compile(r"(?<=[.!?])(?<!et al\.)(?<!vs\.)\s+(?=[A-Z*`(])")


def is_term(bold: str) -> bool:
    """Whether bold text names something: no sentence, number, verdict or prediction."""
    text = bold.lower()
    return not (
        text in EMPHASIS.union(verdicts.WORDS)
        or text.startswith("prediction")
        or text[-1] in ".:?!"
        or len(text.split()) > 4
        or re.fullmatch(r"[\d.,]+ ?%?", text)
    )


def terms(paths: list[Path]) -> dict[str, list[Use]]:
    """Each term in small letters -> its first use in each lesson; in the order of the alphabet."""
    found: dict[str, list[Use]] = defaultdict(list)
    for path in paths:
        lesson, anchor, slugs = "", "", defaultdict(int)
        for cell in notebooks.parse(path)["cells"]:
            prose = re.sub(r"^```.*?^```", "", cell["source"], flags=re.M | re.S)
            for block in re.split(r"\n\s*\n|\n(?=[*|] )", prose * (cell["cell_type"] == "markdown")):
                if heading := HEADING.match(block):
                    lesson, anchor = lesson or heading[2], slug(heading[2])
                    slugs[anchor] += 1
                    anchor += f"-{slugs[anchor] - 1}" * (slugs[anchor] > 1)
                for bold in BOLD.findall(block) if cell["id"] not in NO_TERMS_IN else ():
                    term = " ".join(bold.split())
                    uses = found[term.lower()] if is_term(term) else None
                    if uses is not None and staged(path) not in (use.page for use in uses):
                        text = sentence(block, bold)
                        begins = term[1:2].islower() and re.search(
                            rf"(^|[.!?] )\*\*{re.escape(term)}", text
                        )
                        shown = term[0].lower() + term[1:] if begins else term
                        uses.append(Use(shown, lesson, staged(path), anchor, text))
    return dict(sorted(found.items()))


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and MyST make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def sentence(block: str, bold: str) -> str:
    """The sentence of a block in which a term is bold, and the one before it where it leans on that.
    Links become their text, because they lead on from another page."""
    text = " ".join(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", block).split()).removeprefix("* ")
    if text.startswith("|"):  # a row of a table
        return " · ".join(part.strip() for part in text.strip("| ").split("|"))
    parts = ENDS.split(text)
    at = next(i for i, part in enumerate(parts) if f"**{' '.join(bold.split())}**" in part)
    leans = at > 0 and (LEANS.match(parts[at]) or len(parts[at].split()) < 8)
    return " ".join(parts[at - 1 : at + 1]) if leans else parts[at]


def glossary_page(paths: list[Path]) -> str:
    """Every term of the lessons, in the words of the lesson."""
    entries = []
    for uses in terms(paths).values():
        said = [f"  {use.sentence} *[{use.lesson}]({use.page}#{use.anchor})*" for use in uses]
        entries.append(f"{uses[0].term}\n" + "\n\n".join(said))
    text = "What a lesson sets in bold, in the sentence that introduces it there."
    return f"# Glossary\n\n{text}\n\n``````{{glossary}}\n" + "\n\n".join(entries) + "\n``````\n"


# --------------------------------------------------------------------------------------------------
# Bibliography


def cited(text: str) -> set[str]:
    """The arXiv numbers in a text."""
    return set(re.findall(r"(?<![\d.])\d{4}\.\d{5}(?!\d)", text)) | set(
        re.findall(r"arXiv\s(\d{4}\.\d{4})(?!\d)", text)
    )


def bibliography(paths: list[Path]) -> str:
    """references.bib, each entry with the pages that cite its arXiv number."""
    text = BIBLIOGRAPHY.read_text(encoding="utf-8")
    places = {path: cited(path.read_text(encoding="utf-8")) for path in paths}

    def noted(match: re.Match) -> str:
        lessons = [path.stem.split("_")[0] for path, found in places.items() if match[1] in found]
        return f"{match[0]}\n  note = {{Lessons: {', '.join(lessons)}}}," if lessons else match[0]

    return re.sub(r"^  eprint = \{([\d.]+)\},", noted, text, flags=re.M)


BIBLIOGRAPHY_PAGE = """# Bibliography

Every paper that a lesson or the package cites, with the lessons that cite it. For your own reference
manager there is [references.bib](REPOSITORY/blob/main/docs/site/references.bib).

```{bibliography}
:all:
:style: plain
```
"""


# --------------------------------------------------------------------------------------------------
# API: the signatures and the words of the source


def api_pages() -> dict[str, str]:
    """Name of each page -> its Markdown; a page for each room, and one for the modules beside them."""
    files = [path for path in sorted(PACKAGE.rglob("*.py")) if path.stat().st_size]
    rooms: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        room = path.relative_to(PACKAGE).parts[0]
        rooms[PACKAGE.name if room.endswith(".py") else f"{PACKAGE.name}.{room}"].append(path)
    return {
        f"api/{room}.md": "\n\n".join([f"# {room}", *map(module_page, paths)]) + "\n"
        for room, paths in rooms.items()
    }


def module_page(path: Path) -> str:
    """A module's words, public classes and functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parts = path.relative_to(ROOT).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    link = f"{address.GITHUB}{address.current()}/blob/main/{path.relative_to(ROOT).as_posix()}"
    text = [f"## {name}", f"```{{py:module}} {name}\n```", words(tree), f"[Source of {name}]({link})"]
    return "\n\n".join([*filter(None, text), *map(directive, public(tree))])


def public(node: ast.Module | ast.ClassDef) -> list[ast.stmt]:
    """The functions, classes and, of a class, the fields that anyone may use."""
    named = [n for n in node.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name[0] != "_"]
    named = [n for n in named if not any(getattr(d, "attr", "") == "setter" for d in n.decorator_list)]
    fields = [n for n in node.body if isinstance(n, ast.AnnAssign) and n.target.id[0] != "_"]
    return (fields if isinstance(node, ast.ClassDef) else []) + named


def directive(node: ast.stmt, depth: int = 6) -> str:
    """A class, function or field for Sphinx's domain of Python; what is inside has a shorter fence."""
    fence, inside = "`" * depth, []
    if isinstance(node, ast.AnnAssign):
        head = f"{{py:attribute}} {node.target.id}\n:type: {ast.unparse(node.annotation)}"
        return f"{fence}{head}\n{fence}"
    if isinstance(node, ast.ClassDef):
        head, inside = f"{{py:class}} {node.name}", [directive(n, depth - 1) for n in public(node)]
    elif "property" in " ".join(map(ast.unparse, node.decorator_list)):
        head = f"{{py:property}} {node.name}"
    else:
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        kind = "function" if depth == 6 else "method"
        head = f"{{py:{kind}}} {node.name}({ast.unparse(node.args)}){returns}"
    body = "\n\n".join(filter(None, [words(node), *inside]))
    return f"{fence}{head}\n\n{body}\n{fence}"


def words(node: ast.AST) -> str:
    """A docstring as Markdown: names stay code, tables of aligned words stay aligned."""
    paragraphs = re.split(r"\n\s*\n", ast.get_docstring(node) or "")
    return "\n\n".join(
        f"```text\n{p}\n```" if re.search(r"\S {2,}\S|^ ", p, re.M) else _escaped(p) for p in paragraphs
    )


def _escaped(text: str) -> str:
    """What Markdown would take for a mark is meant as it is written; backticks and lists are marks."""
    parts = re.split(r"(`[^`]*`)", text)  # text and code in turn
    marks = re.compile(r"([<>$\[\]|]|(?<!^)\*)", re.M)
    return "".join(part if i % 2 else marks.sub(r"\\\1", part) for i, part in enumerate(parts))


# --------------------------------------------------------------------------------------------------
# The site

API = """# The package

`tft_utils` has rooms, and imports run down only. What a page shows is read from the source: signatures,
shapes, units, errors. [How to contribute](../CONTRIBUTING.md) shows the way through it.

```{toctree}
:maxdepth: 2

PAGES
```
"""
TOCTREE = "\n```{{toctree}}\n:hidden:\n:caption: {}\n\n{}\n```\n"


def stage(folder: Path) -> None:
    """Writes the source of the site into a folder."""
    shutil.copytree(SOURCE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    lessons = notebooks.all_notebooks()
    made = {"glossary.md": glossary_page(lessons)} | api_pages()
    made["api/index.md"] = API.replace(
        "PAGES", "\n".join(Path(name).stem for name in made if "/" in name)
    )
    made["bibliography.md"] = BIBLIOGRAPHY_PAGE.replace(
        "REPOSITORY", f"{address.GITHUB}{address.current()}"
    )
    made["references.bib"] = bibliography(lessons)
    for path in pages():
        if path.suffix == ".ipynb":
            made[staged(path)] = json.dumps(notebook_page(path, folder))
        else:
            made[staged(path)] = relinked(path.read_text(encoding="utf-8"), path, folder)
    others = [staged(path) for path in pages() if path not in lessons and staged(path) != "index.md"]
    boards = [name for name in others if name.startswith("notebooks/")]
    look_up = [*boards, "glossary.md", "bibliography.md", "data/README.md", "api/index.md"]
    for caption, names in (
        ("Lessons", map(staged, lessons)),
        ("Look up", look_up),
        ("Teach, run, contribute", [name for name in others if name not in look_up]),
    ):
        made["index.md"] += TOCTREE.format(caption, "\n".join(names))
    for name, text in made.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def make(folder: Path = SITE) -> None:
    """Writes the site into a folder, in place of what was there.

    Errors: `CalledProcessError` when Sphinx has anything to complain about.
    """
    own = address.current()
    told = {"TFT_SITE": f"https://{address.pages(own)}/", "TFT_REPOSITORY": address.GITHUB + own}
    with tempfile.TemporaryDirectory() as temporary:
        source, trees, pages = (Path(temporary, name) for name in ("source", "trees", "pages"))
        stage(source)
        command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
        subprocess.run([*command, "-d", trees, source, pages], check=True, env=os.environ | told)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(pages, folder)


if __name__ == "__main__":
    where = Path(sys.argv[1]) if sys.argv[1:] else SITE
    make(where)
    print(f"written to {where}", file=sys.stderr)
