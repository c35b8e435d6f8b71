"""The scoreboard: every lesson on every model, and a verdict for each technique on each architecture.

    python -m tft_utils.course.scoreboard run [MODEL ...] [--seeds 0 1] [--lessons 02 04] [--scale tiny]
    python -m tft_utils.course.scoreboard table             what the committed notebooks claim, as a table
    python -m tft_utils.course.scoreboard readme            write the README's section from that file

A lesson is a function of its parameters cell. Each run gives it one model of one seed, shows its claims
and asserts none, and leaves a file in build/scoreboard. Without names, all organisms of all seeds run. A
run whose lesson, package and organism have not changed since is not repeated, so an interrupted call
carries on. A cell that fails is recorded and stops nothing else; a run that broke off is recorded and
done again by the next call. At the end data/scoreboard.json gets these runs beside those that it holds,
but for those whose lesson or organism has changed: one more model needs its own runs alone.
"""

import argparse
import ast
import functools
import hashlib
import itertools
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from threading import Lock

from tft_utils import files
from tft_utils.architectures import ARCHITECTURES
from tft_utils.course import claims, notebooks, standings, verdicts
from tft_utils.models import PAIR
from tft_utils.stats import Estimate

RUNS = files.ROOT / "build" / "scoreboard"
AT_ONCE = 2  # runs side by side, a thread each
_PARSING = Lock()  # Python 3.11 may fail where two threads build syntax trees at once
LONGEST = 3600  # seconds a cell may take: a large model on a slow machine
PACKAGES = ("torch", "transformers", "nnsight", "numpy", "scipy", "numba", "peft", "concept-erasure")


def run_file(lesson: Path, model: str, seed: int, scale: str) -> Path:
    """Where the run of a lesson on a model is kept."""
    return RUNS / scale / lesson.stem / f"{model}-{seed}.json"


def _target(scale: str) -> Path:
    """Where the board of a scale is kept."""
    return claims.SCOREBOARD if scale == "tiny" else RUNS / f"{scale}.json"


def known_runs(scale: str, runs: str = "*/*.json") -> list[dict]:
    """The runs of the board, then those of build/scoreboard whose file is like `runs`. One may stand in
    both, and either may be the older."""
    kept = _target(scale)
    made = files.read_json(kept, "run `make scoreboard`").get("runs", []) if kept.is_file() else []
    return made + [files.read_json(path, "delete it") for path in sorted((RUNS / scale).glob(runs))]


def digest(lesson: dict, model: str, seed: int) -> dict[str, str]:
    """What a run depends on, a checksum a part.

    lesson: its code, without comments. organism: the checksums of its files, and of its adapters where
    the lesson reads them.
    package: the modules that the lesson reaches by imports, without comments and docstrings; of the
    architectures those of this model and of the course's pair; not the room `course`, which draws and
    judges but measures nothing.
    """
    cells = [cell["source"] for cell in lesson["cells"] if cell["cell_type"] == "code"]
    read = [(files.ORGANISMS, f"{model}-{seed}")]
    if any("quirky" in cell for cell in cells):
        read.append((files.ORGANISMS / "quirky", f"{model}-{seed}"))
    if any("last=True" in cell for cell in cells):  # an adapter that is told the name last
        read.append((files.ORGANISMS / "quirky", f"{model}-{seed}-last"))
    listed = [files.read_json(at / "manifest.json", files.REPAIR).get(name) for at, name in read]
    models = [(model, seed), *((name, 0) for name in PAIR)]
    return {
        "lesson": _checksum(*map(_plain, cells)),
        "organism": _checksum(json.dumps(listed, sort_keys=True)),
        "package": _checksum(*(_plain(p.read_text(encoding="utf-8")) for p in _reached(cells, models))),
    }


def _checksum(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


@functools.cache
def _plain(source: str) -> str:
    """Python without comments, layout and docstrings; a cell with magics as it is."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return source
    for node in ast.walk(tree):
        match getattr(node, "body", None):
            case [ast.Expr(value=ast.Constant(value=str())), *rest]:
                node.body = rest
    return ast.dump(tree)


def _reached(cells: Iterable[str], models: Iterable[tuple[str, int]]) -> list[Path]:
    """The files of the package that code imports, and what those import, as `digest` says."""
    package, found = files.ROOT / "tft_utils", set()
    ahead = {path for cell in cells for path in _imported(cell)}
    for name, seed in models:
        config = files.ORGANISMS / f"{name}-{seed}" / "config.json"
        if config.is_file():
            kind = json.loads(config.read_text(encoding="utf-8"))["model_type"]
            ahead.add(Path(ARCHITECTURES[kind].__file__))
    while ahead:
        path = ahead.pop()
        if path not in found and (package / "course") not in path.parents:
            found.add(path)
            ahead |= _imported(path.read_text(encoding="utf-8"))
    return sorted(found)


@functools.cache
def _imported(source: str) -> set[Path]:
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return set()
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tft_utils"):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    places = [files.ROOT.joinpath(*name.split(".")) for name in names]
    known = {*(p.with_suffix(".py") for p in places), *(p / "__init__.py" for p in places)}
    return {path for path in known if path.is_file()}


def stale(board: dict) -> list[str]:
    """A sentence for each run of the board whose lesson or organism has changed since.

    A change of the package alone is none: most change no number, and a board of hours would be out of
    date with every edit. What the package computes is checked by its numbers, in
    tests/test_scoreboard.py: those of the pair against the lessons', which run at every change, and
    those of one more model a day, measured anew.
    """
    notebook_of = {path.stem: notebooks.parse(path) for path in lessons()}
    return list(filter(None, (_out_of_date(run, notebook_of) for run in board.get("runs", ()))))


def _out_of_date(run: dict, notebook_of: dict[str, dict]) -> str:
    """Why a run is, and what to do; empty where it is not."""
    name = f"{run['lesson']} on {run['model']}, seed {run['seed']}"
    lesson = notebook_of.get(run["lesson"])
    if lesson is None:
        return f"{name}: there is no such lesson; run `make scoreboard`"
    now, then = digest(lesson, run["model"], run["seed"]), run["digest"] or {}
    changed = [part for part in ("lesson", "organism") if now[part] != then.get(part)]
    return f"{name}: its {' and '.join(changed)} changed since; run `{again(run)}`" if changed else ""


def again(run: dict) -> str:
    """The command that makes a run of the board anew."""
    command = "python -m tft_utils.course.scoreboard run"
    return f"{command} {run['model']} --seeds {run['seed']} --lessons {notebooks.number(run['lesson'])}"


def lessons() -> list[Path]:
    """Those that measure: what stands on the board itself is not part of it."""
    return [p for p in notebooks.all_notebooks() if not notebooks.results_read(notebooks.parse(p))]


def with_parameters(notebook: dict, **values) -> dict:
    """The notebook with a cell behind its parameters cell that sets other values, as papermill does.

    Errors: `ValueError` where it has no parameters cell, or that cell does not set one of the names.
    """
    from nbformat.v4 import new_code_cell

    at = [i for i, cell in enumerate(notebook["cells"]) if cell["id"] == "parameters"]
    given = notebook["cells"][at[0]]["source"] if at else ""
    if unknown := [name for name in values if f"\n{name} = " not in f"\n{given}"]:
        raise ValueError(
            f"expected a cell 'parameters' that sets {', '.join(values)}, found none that sets "
            f"{unknown[0]}; add it"
        )
    source = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    notebook["cells"].insert(at[0] + 1, new_code_cell(source))
    return notebook


def run_lesson(lesson: Path, model: str, seed: int = 0, scale: str = "tiny") -> dict:
    """Runs a lesson on one model of a seed: its claims, first errors, seconds, versions; kept as a file.

    The kernel asserts no claim. An `Unsupported` is what an architecture says it cannot do. A run that
    breaks off, because its kernel dies or a cell takes too long, keeps no digest.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    notebook, path = notebooks.parse(lesson), run_file(lesson, model, seed, scale)
    with _PARSING:
        fresh = digest(notebook, model, seed)
    asked = [lesson.stem, model, seed, fresh]
    for known in known_runs(scale, path.relative_to(RUNS / scale).as_posix()):
        if [known[part] for part in ("lesson", "model", "seed", "digest")] == asked:
            return known
    with_parameters(notebook, SCALE=scale, MODELS=(model,), SEED=seed)
    start, broken = time.monotonic(), []
    client = NotebookClient(
        notebook,
        timeout=LONGEST,
        kernel_name="python3",
        allow_errors=True,
        record_timing=False,
        resources={"metadata": {"path": str(lesson.parent)}},
    )
    try:
        client.execute()
    except (CellTimeoutError, DeadKernelError) as error:
        broken = [{"cell": "", "kind": type(error).__name__, "message": str(error).splitlines()[0]}]
    shown = [(cell["id"], output) for cell in notebook["cells"] for output in cell.get("outputs", ())]
    with _PARSING:
        failed = failures(notebook["cells"])
    done = {
        "lesson": lesson.stem,
        "model": model,
        "seed": seed,
        "digest": None if broken else fresh,
        "seconds": round(time.monotonic() - start, 1),
        "versions": {name: version(name) for name in PACKAGES},
        "claims": _records(shown, claims.MIME),
        "none": _records(shown, claims.NONE),
        "failed": failed + broken,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    files.replace_file(path, lambda part: part.write_text(json.dumps(done, indent=1), encoding="utf-8"))
    return done


def _records(shown: Iterable[tuple[str, dict]], kind: str) -> list[dict]:
    """The records of a kind in cells' outputs, each with its cell."""
    return [o["data"][kind] | {"cell": cell} for cell, o in shown if kind in o.get("data", {})]


def failures(cells: Sequence[dict]) -> list[dict]:
    """What each cell that failed says. One that failed because an earlier one did, from which it lacks a
    name or has half of a value, says what that one says, and names it under 'after'. So does one that
    could claim nothing of what an earlier one left."""
    failed: dict[str, dict] = {}
    maker: dict[str, str] = {}  # name -> the cell that sets it
    for cell in (cell for cell in cells if cell["cell_type"] == "code"):
        set_here, asked = _names(cell["source"])
        asked = asked - set_here  # such as a loop's own variable
        own = {}
        for output in cell["outputs"]:
            if output["output_type"] == "error":
                own = {"cell": cell["id"], "kind": output["ename"], "message": output["evalue"]}
                if output["ename"] == "NameError":
                    asked = set(re.findall(r"name '(\w+)' is not defined", output["evalue"]))
        silent = "claim" in asked and not _records([("", o) for o in cell["outputs"]], claims.MIME)
        before = [failed[maker[name]] for name in sorted(asked) if maker.get(name) in failed]
        if before and (silent or own) and own.get("kind") != "Unsupported":
            root = before[-1]
            own = {"cell": cell["id"]} | {key: root[key] for key in ("kind", "message")}
            own["after"] = root.get("after", root["cell"])
        if own:
            failed[cell["id"]] = own
        maker |= dict.fromkeys(set_here, cell["id"])
    return list(failed.values())


def _names(source: str) -> tuple[set[str], set[str]]:
    """The names that a cell sets, and those that it reads; none of a cell with magics."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError:
        return set(), set()
    names = [node for node in nodes if isinstance(node, ast.Name)]
    made = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    made |= {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    return made, {node.id for node in names if isinstance(node.ctx, ast.Load)}


def board(runs: Iterable[dict]) -> list[dict]:
    """Rows technique x metric x architecture from runs: each seed's effect, the ratio and the verdict.

    Errors: `ValueError` where a technique and metric were scored twice on one model.
    """
    scores: dict[tuple, dict[int, dict]] = {}
    for done in runs:
        for record in filter(lambda record: record["better"], done["claims"]):
            key = (record["technique"], record["metric"], record["architecture"])
            of_seeds = scores.setdefault(key, {})
            if done["seed"] in of_seeds:
                raise ValueError(
                    f"expected one score of {', '.join(key)} for seed {done['seed']}, found two; "
                    "give one of them another metric"
                )
            of_seeds[done["seed"]] = record | {"lesson": done["lesson"]}
    rows = []
    for (technique, metric, architecture), of_seeds in scores.items():
        basis = scores.get((technique, metric, claims.BASIS), {})
        said = None
        if basis and architecture != claims.BASIS:
            own, theirs = ([_effect(record) for record in side.values()] for side in (of_seeds, basis))
            said = verdicts.verdict(own, theirs)
        rows.append(
            {
                "technique": technique,
                "metric": metric,
                "architecture": architecture,
                "lesson": next(iter(of_seeds.values()))["lesson"],
                "seeds": {seed: _score(record) for seed, record in sorted(of_seeds.items())},
                "ratio": said.ratio._asdict() if said and said.ratio else None,
                "verdict": said.word if said else None,
            }
        )
    return rows


def _score(record: dict) -> dict:
    kept = {key: record[key] for key in ("value", "low", "high", "n", "control", "better")}
    return kept | {"effect": _effect(record)._asdict()}


def _effect(record: dict) -> Estimate:
    return verdicts.effect_of(_estimate(record), _estimate(record["control"]), record["better"])


def _estimate(record: dict) -> Estimate:
    return Estimate(*(record[field] for field in Estimate._fields))


def table(rows: Sequence[dict]) -> str:
    """The board in Markdown: means over seeds of score and control, the ratio of effects, the verdict."""
    head = ("technique", "metric", "architecture", "seeds", "score", "control", "ratio", "verdict")
    body = []
    for row in rows:
        seeds, ratio = list(row["seeds"].values()), row["ratio"]
        score, control = (
            sum(values) / len(seeds)
            for values in ([s["value"] for s in seeds], [s["control"]["value"] for s in seeds])
        )
        shown = f"{ratio['value']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]" if ratio else ""
        names = (row["technique"], row["metric"], row["architecture"], f"{len(seeds)}")
        body.append((*names, f"{score:.3g}", f"{control:.3g}", shown, row["verdict"] or ""))
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [head, ("---",) * len(head), *body])


def draws(models: Sequence[str], seeds: Sequence[int] | None, scale: str) -> list[tuple[str, int]]:
    """Which model of which seed runs; published models are one draw each.

    Errors: `LoadError` for an organism that is not trained, or a scale without models' names.
    """
    if scale != "tiny":
        if not models:
            raise files.LoadError(f"expected the models to run at scale={scale!r}, found none; name them")
        return [(name, 0) for name in models]
    trained = files.seeds()
    wanted = [
        (name, seed)
        for name in models or trained
        for seed in (trained.get(name, [0]) if seeds is None else seeds)
    ]
    if missing := [(n, s) for n, s in wanted if s not in trained.get(n, [])]:
        name, seed = missing[0]
        raise files.LoadError(
            f"expected a trained organism, found none of name {name!r} and seed {seed}; use one of "
            + ", ".join(f"{n} {s}" for n, known in trained.items() for s in known)
        )
    return wanted


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tft_utils.course.scoreboard",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("table", help="print the committed claims' verdicts")
    verbs.add_parser("readme", help="write the README's section from data/scoreboard.json")
    command = verbs.add_parser("run", help="run lessons on models, and write the board")
    command.add_argument("models", nargs="*", metavar="MODEL", help="default: all organisms")
    command.add_argument("--seeds", nargs="*", type=int, help="default: all that are trained")
    command.add_argument("--lessons", nargs="*", default=(), help="numbers, such as 02 05a")
    command.add_argument("--scale", default="tiny")
    options = parser.parse_args(arguments)
    if options.verb == "table":
        registry = json.loads(claims.REGISTRY.read_text(encoding="utf-8"))
        print(table(board([{"lesson": "", "seed": 0, "claims": registry}])), end="")
        return
    if options.verb == "readme":
        write_readme()
        return
    wanted = options.lessons or [notebooks.number(path) for path in lessons()]
    chosen = [path for path in lessons() if notebooks.number(path) in wanted]
    os.environ |= {"TFT_CLAIMS": "show", "OMP_NUM_THREADS": "1"}
    try:
        drawn = draws(options.models, options.seeds, options.scale)
    except files.LoadError as error:
        parser.exit(1, f"{error}\n")
    work = [(lesson, *draw) for lesson, draw in itertools.product(chosen, drawn)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        pending = [(job, pool.submit(run_lesson, *job, options.scale)) for job in work]
        for i, ((lesson, model, seed), future) in enumerate(pending):
            done = future.result()
            own = [f for f in done["failed"] if "after" not in f]
            trouble = "".join(f"; {f['cell']}: {f['kind']}: {f['message']}" for f in own)
            said = f"{len(done['claims'])} claims in {done['seconds']:.0f} s{trouble}"
            print(f"{i + 1}/{len(work)} {lesson.stem} on {model}, seed {seed}: {said}", file=sys.stderr)
    notebook_of = {path.stem: notebooks.parse(path) for path in lessons()}
    fresh = [run for run in known_runs(options.scale) if not _out_of_date(run, notebook_of)]
    latest = {(run["lesson"], run["model"], run["seed"]): run for run in fresh}
    runs = [run for _, run in sorted(latest.items())]
    whole = {"scale": options.scale, "runs": runs, "rows": board(runs)}
    text = json.dumps(whole, indent=1, ensure_ascii=False) + "\n"
    target = _target(options.scale)
    files.replace_file(target, lambda part: part.write_text(text, encoding="utf-8"))
    print(target)


def write_readme() -> None:
    """Makes the README's section new."""
    page = files.ROOT / "README.md"
    registry = json.loads(claims.REGISTRY.read_text(encoding="utf-8"))
    section = standings.readme(standings.read_board(), registry)
    text = standings.with_section(page.read_text(encoding="utf-8"), section)
    files.replace_file(page, lambda part: part.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    main()
