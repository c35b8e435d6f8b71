"""Where each technique stands: the scoreboard read, for its page, the README and lesson 10.

    board = standings.read_board()           data/scoreboard.json
    cells = standings.cells(board)           a technique's metric on an architecture: verdict, plans

Nothing here is typed: every word, number and reason is made from the file, whatever models it has.
"""

import csv
import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tft_utils import stats
from tft_utils.course import claims, notebooks, verdicts
from tft_utils.course.plots import Drawn, titled, write
from tft_utils.course.verdicts import Plan
from tft_utils.files import DATA, ORGANISMS, ROOT, seeds
from tft_utils.stats import Estimate

NONE, MISSING, ALONE = "n/a", "not run", "no pair"
LOOKS = {  # of a word: its cell, and the text in it (colours: Okabe & Ito 2008, and greys)
    "transfers": ("#0072B2", "white"),
    "at least partly": ("#56B4E9", "black"),
    "partly": ("#F0E442", "black"),
    "at most partly": ("#E69F00", "black"),
    "no": ("#A63C00", "white"),
    "undecided": ("#D0D0D0", "black"),
    "no basis": ("#F2F2F2", "black"),
    NONE: ("white", "#5F5F5F"),
    MISSING: ("white", "#5F5F5F"),
    ALONE: ("white", "#5F5F5F"),
}
MEANINGS = {
    "transfers": "the whole interval of the ratio lies above three quarters",
    "at least partly": "it lies above a quarter, and three quarters are inside",
    "partly": "it lies between a quarter and three quarters",
    "at most partly": "it lies below three quarters, and a quarter is inside",
    "no": "it lies below a quarter",
    "undecided": "a quarter and three quarters are both inside",
    "no basis": "the Transformer's own effect may be zero, so there is nothing to compare with",
    NONE: "the architecture lacks what the technique needs: the table says what",
    MISSING: "nobody has run this lesson on it yet",
    ALONE: "measured here alone: the Transformer has no such thing, so there is no ratio",
}


class Cell(NamedTuple):
    """A technique's metric on an architecture."""

    lesson: str
    technique: str
    metric: str
    architecture: str
    word: str  # of `LOOKS`
    reason: str  # of n/a
    ratio: Estimate | None
    effects: dict[int, Estimate]  # by seed
    basis: dict[int, Estimate]  # the Transformer's
    n: int  # items of a score; 0 where the two sides have not the same
    plans: list[Plan]  # what would decide it; empty where it is decided, or nothing in reach does

    @property
    def name(self) -> str:
        return f"{self.technique}: {self.metric}"


def read_board(path: Path = claims.SCOREBOARD) -> dict:
    """The scoreboard's file. Errors: `ValueError` where it has no rows."""
    board = json.loads(path.read_text(encoding="utf-8"))
    if not board.get("rows"):
        raise ValueError(f"expected rows in {path.name}, found none; run `make scoreboard`")
    return board


def board_file(scale: str) -> Path:
    """The board of a scale; where nobody has run that scale here, the committed one."""
    made = ROOT / "build" / "scoreboard" / f"{scale}.json"
    return made if scale != claims.PARAMETERS["SCALE"] and made.is_file() else claims.SCOREBOARD


def cards() -> dict[str, dict[int, dict]]:
    """The card of every trained organism, by name and seed."""
    return {
        name: {
            seed: json.loads((ORGANISMS / f"{name}-{seed}" / "card.json").read_text(encoding="utf-8"))
            for seed in known
        }
        for name, known in seeds().items()
    }


def cells(board: Mapping) -> list[Cell]:
    """A cell for every metric and every architecture but the Transformer, in the order of the lessons."""
    rows = {(r["technique"], r["metric"], r["architecture"]): r for r in board["rows"]}
    lesson_of = {key[:2]: row["lesson"] for key, row in rows.items()}
    others = [name for name in dict.fromkeys(key[2] for key in rows) if name != claims.BASIS]
    ran = {(row["lesson"], row["architecture"]) for row in board["rows"]}
    ran |= {(run["lesson"], run["model"]) for run in board.get("runs", ())}
    found = []
    for (technique, metric), lesson in sorted(lesson_of.items(), key=lambda pair: pair[1]):
        basis = _effects(rows.get((technique, metric, claims.BASIS)))
        for name in others:
            row, plans, word, reason = rows.get((technique, metric, name)), [], NONE, ""
            effects = _effects(row)
            if row and row["verdict"]:
                word = row["verdict"]
                if word not in verdicts.DECIDED:
                    plans = verdicts.what_would_decide(list(effects.values()), list(basis.values()))
            elif row:
                word = ALONE
            elif (lesson, name) in ran:
                reason = _reason(board, lesson, name, technique, metric)
            else:
                word = MISSING
            ratio = Estimate(**row["ratio"]) if row and row["ratio"] else None
            sizes = {e.n for side in (effects, basis) for e in side.values()}
            n = sizes.pop() if len(sizes) == 1 else 0
            found.append(
                Cell(lesson, technique, metric, name, word, reason, ratio, effects, basis, n, plans)
            )
    return found


def _effects(row: Mapping | None) -> dict[int, Estimate]:
    return {int(seed): Estimate(**score["effect"]) for seed, score in row["seeds"].items()} if row else {}


def _reason(board: Mapping, lesson: str, name: str, technique: str, metric: str) -> str:
    """Why a model has no score of a technique: what its run says of it, or what the cell says that failed
    to claim it. Which cell that is, other models' runs show."""
    runs = [run for run in board.get("runs", ()) if run["lesson"] == lesson]
    claimed = [record for run in runs for record in run["claims"]]
    where = {
        claim.get("cell")
        for claim in claimed
        if (claim["technique"], claim["metric"]) == (technique, metric)
    }
    for run in (run for run in runs if run["model"] == name):
        for none in run.get("none", ()):
            if (none["technique"], none["metric"]) == (technique, metric):
                return none["reason"]
        for failure in run["failed"]:
            if failure["cell"] in where:
                return failure["message"]
    return "the lesson does not measure it there"


def over_seeds(
    lesson: str, scale: str, columns: Mapping[str, tuple[str, str]], rows: Sequence[str] = ("",)
) -> str:
    """What the recorded runs of a lesson found in every training, as a table in Markdown.

    A row for each of `rows` and each model; in a cell the numbers of its seeds in turn, and behind two or
    more the 95 % interval of their mean. columns: head -> a claim's name without lesson and model, where
    `{}` stands for the row, and 'value' or 'control'. A lesson that shows it goes on being measured: it
    reads what other runs found, and claims its own.
    """
    runs = [run for run in read_board(board_file(scale))["runs"] if run["lesson"].endswith(f"_{lesson}")]
    found = {r["name"]: {} for run in runs for r in run["claims"]}
    for run in runs:
        for record in run["claims"]:
            found[record["name"]][run["seed"]] = record
    names, body = list(dict.fromkeys(run["model"] for run in runs)), []
    for row, name in itertools.product(rows, sorted(names, key=lambda name: name != claims.BASIS)):
        said = []
        for slug, field in columns.values():
            of_seeds = found.get(f"{lesson}/{slug.format(row)}-{name}", {})
            each = (r if field == "value" else r[field] for _, r in sorted(of_seeds.items()))
            said.append(_numbers([x["value"] for x in each if x]))
        if any(said):
            body.append(((row, name) if row else (name,)) + tuple(said))
    table = markdown((*[""] * (2 if any(rows) else 1), *columns), body)
    return table + "\nIn brackets: the mean over trainings, 95 % by Student's t." * ("[" in table)


def _numbers(values: Sequence[float]) -> str:
    said = ", ".join(_rounded(value) for value in values)
    if len(values) < 2:
        return said
    mean, error = statistics.fmean(values), statistics.stdev(values) / len(values) ** 0.5
    reach = verdicts.quantile(len(values) - 1) * error
    return f"{said} [{_rounded(mean - reach)}, {_rounded(mean + reach)}]"


def _rounded(value: float) -> str:
    return f"{round(value, 2) + 0:.2f}"  # never -0.00


# --------------------------------------------------------------------------------------------------
# The figure and its table


def standing(cells: Sequence[Cell]) -> Drawn:
    """Technique x architecture: a word in every cell, and a colour that repeats it."""
    names = list(dict.fromkeys(cell.name for cell in cells))
    columns = list(dict.fromkeys(cell.architecture for cell in cells))
    at = {(cell.name, cell.architecture): cell for cell in cells}
    size = 5.2 + 1.05 * len(columns), 0.8 + 0.36 * len(names)
    figure, (axis,) = titled([""], "architecture", size=size)
    for y, x in itertools.product(range(len(names)), range(len(columns))):
        cell = at[names[y], columns[x]]
        colour, ink = LOOKS[cell.word]
        axis.add_patch(_box(x, y, colour))
        text = cell.word.replace("at least ", "at least\n").replace("at most ", "at most\n")
        write(axis, x, y, text, color=ink, fontsize=8, linespacing=0.9)
    lessons = [at[name, columns[0]].lesson for name in names]
    for y in range(1, len(names)):  # a line between lessons
        if lessons[y] != lessons[y - 1]:
            axis.axhline(y - 0.5, color="black", linewidth=1.2)
    labels = [f"{n}  ({notebooks.number(lesson)})" for n, lesson in zip(names, lessons, strict=True)]
    axis.set_yticks(range(len(names)), labels, fontsize=8)
    turn = {"rotation": 30, "ha": "right"} if len(columns) > 3 else {}
    axis.set_xticks(range(len(columns)), columns, fontsize=9, **turn)
    axis.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(names) - 0.5, -0.5))
    axis.grid(visible=False)
    axis.tick_params(length=0)
    said = "; ".join(
        f"{column}: " + ", ".join(f"{n} {word}" for word, n in counts(cells, column).items())
        for column in columns
    )
    return figure, f"A verdict for each technique (rows) on each architecture (columns). {said}."


def _box(x: float, y: float, colour: str):
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor="white", linewidth=2)


def counts(cells: Sequence[Cell], architecture: str | None = None) -> dict[str, int]:
    """How often each word is said, in the order of `LOOKS`."""
    said = [cell.word for cell in cells if architecture in (None, cell.architecture)]
    return {word: said.count(word) for word in LOOKS if word in said}


def meanings(cells: Sequence[Cell]) -> str:
    """The words that are used, in Markdown, each with what it means and how often it is said."""
    rows = [(f"**{word}**", f"{n}", MEANINGS[word]) for word, n in counts(cells).items()]
    return markdown(("word", "cells", "meaning"), rows)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    rule = ("---",) * len(head)
    return "".join(f"| {' | '.join(map(str, cells))} |\n" for cells in [head, rule, *rows])


def shown(ratio: Estimate | None) -> str:
    return f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]" if ratio else ""


def listed(effects: Mapping[int, Estimate]) -> str:
    """'0.97, 0.98': the effects of seeds in their order."""
    return ", ".join(f"{effect.value:.2f}" for effect in effects.values())


def table(cells: Sequence[Cell]) -> str:
    """What is behind the figure: the effect of every seed, the ratio of their means, the word."""
    head = ("lesson", "technique: metric", "architecture", "its effects", "the Transformer's", "ratio")
    rows = [
        (
            notebooks.number(cell.lesson),
            cell.name,
            cell.architecture,
            listed(cell.effects),
            listed(cell.basis),
        )
        + (shown(cell.ratio), cell.word + (f": {cell.reason}" if cell.reason else ""))
        for cell in cells
        if cell.word != MISSING
    ]
    return markdown((*head, "verdict"), rows)


# --------------------------------------------------------------------------------------------------
# What is open, and what would decide it


def is_open(cell: Cell) -> bool:
    return cell.word in verdicts.WORDS and cell.word not in verdicts.DECIDED


def open_table(cells: Sequence[Cell]) -> str:
    """Every verdict that leaves a border open: why, and what would decide it."""
    rows = [
        (cell.name, cell.architecture, cell.word, why(cell), decider(cell))
        for cell in filter(is_open, cells)
    ]
    return markdown(("technique: metric", "architecture", "verdict", "why", "what would decide it"), rows)


def decider(cell: Cell) -> str:
    """'9 seeds a side (7 and 7 more), then transfers', for each plan; or that nothing in reach does."""
    said = []
    for plan in cell.plans:
        parts = []
        if plan.seeds or plan.basis:
            new = [(plan.seeds, cell.architecture), (plan.basis, claims.BASIS)]
            more = " and ".join(f"{n} of {name}" for n, name in new if n)
            parts.append(f"{more} more" if plan.word else f"{more} more, to see how seeds differ")
        if plan.times > 1:
            size = f" ({plan.times * cell.n})" if cell.n else ""
            parts.append(f"{plan.times} times the items{size}")
        then = f" → {plan.word}" if plan.word else ""
        said.append(" with ".join(parts) + then)
    if said:
        return "; or ".join(said)
    own, basis = (statistics.fmean(e.value for e in side.values()) for side in (cell.effects, cell.basis))
    if basis <= 0:
        return "another technique: the Transformer's mean effect is not above zero"
    most = f"nothing within {verdicts.MOST} seeds and {verdicts.TIMES} times the items"
    ratio = own / basis
    border = min((verdicts.PARTLY, verdicts.FULLY), key=lambda border: abs(ratio - border))
    if abs(ratio - border) < 0.1:
        return f"{most}: the ratio of the means, {ratio:.2f}, stands at the border {border}"
    return f"{most}: seeds differ too much beside the Transformer's mean effect, {basis:.2f}"


def why(cell: Cell) -> str:
    """What opens the interval: one side's seeds differ, items are few, or seeds are."""
    if len(cell.effects) == len(cell.basis) == 1:
        return "one seed on each side: the verdict is about these two models"
    sides = {cell.architecture: cell.effects, claims.BASIS: cell.basis}
    spread = {
        name: statistics.stdev(e.value for e in effects.values()) if len(effects) > 1 else 0.0
        for name, effects in sides.items()
    }
    widest = max(spread, key=spread.get)
    if cell.word == "no basis" and 2 * spread[claims.BASIS] >= spread[widest]:
        widest = claims.BASIS
    effects = sides[widest]
    items = statistics.fmean((e.high - e.low) / (2 * stats.Z) for e in effects.values())
    if spread[widest] > max(items, 0.1 * _size(cell)):
        return f"the seeds of {widest} differ: {listed(effects)}"
    if items > 0.1 * _size(cell):
        return f"few items: an effect is known to about {stats.Z * items:.2f}"
    fewest = min(map(len, sides.values()))
    return f"few seeds: they agree, but {fewest} on a side leave the interval wide"


def _size(cell: Cell) -> float:
    return max(abs(statistics.fmean(e.value for e in cell.basis.values())), 1e-9)


# --------------------------------------------------------------------------------------------------
# How far seeds differ


def of_pairs(cell: Cell) -> dict[int, str]:
    """Seed -> the verdict that the two models of this seed alone would get, as a lesson gives it."""
    both = [seed for seed in cell.effects if seed in cell.basis]
    return {seed: verdicts.verdict([cell.effects[seed]], [cell.basis[seed]]).word for seed in both}


def changes(cells: Sequence[Cell], architecture: str) -> Estimate | None:
    """The share of verdicts on pairs of models that change when the seed does, with its interval.

    Over every two seeds of every metric; metrics of one lesson share their models' luck and count as one
    observation. None: no metric has two seeds on both sides, or all are of one lesson.
    """
    changed, lessons = [], []
    for cell in cells:
        words = of_pairs(cell) if cell.architecture == architecture else {}
        for one, other in itertools.combinations(words.values(), 2):
            changed.append(float(one != other))
            lessons.append(cell.lesson)
    if len(set(lessons)) < 2:
        return None
    found = stats.clustered_mean(changed, lessons)
    return found._replace(low=max(0.0, found.low), high=min(1.0, found.high))


def with_seeds(cells: Sequence[Cell]) -> list[str]:
    """The architectures that have a second seed beside a second Transformer."""
    return list(dict.fromkeys(cell.architecture for cell in cells if len(of_pairs(cell)) > 1))


def how_far_seeds_differ(cells: Sequence[Cell]) -> str:
    """A sentence for each architecture with a second seed: the error bar of a lesson's verdict."""
    said = []
    for name in with_seeds(cells):
        if share := changes(cells, name):
            seeds = sorted({s for c in cells if c.architecture == name for s in of_pairs(c)})
            said.append(
                f"* **{name}**, seeds {', '.join(map(str, seeds))}: take another pair of models, and "
                f"{share.value:.0%} [{share.low:.0%}, {share.high:.0%}] of the verdicts change "
                f"({share.n} comparisons; lessons are the independent observations)."
            )
    return "\n".join(said) or "No architecture has a second seed beside a second Transformer yet."


def changes_table(cells: Sequence[Cell], architecture: str) -> str:
    """The verdicts that change when the seed does: a word for each seed."""
    words = [(cell, of_pairs(cell)) for cell in cells if cell.architecture == architecture]
    seeds = sorted({seed for _, said in words for seed in said})
    rows = [
        (cell.name, *(said.get(seed, "") for seed in seeds), cell.word)
        for cell, said in words
        if len(set(said.values())) > 1
    ]
    return markdown(("technique: metric", *(f"seed {s} alone" for s in seeds), "all seeds"), rows)


def old_and_new(cells: Sequence[Cell], registry: Sequence[Mapping]) -> list[tuple[Cell, str]]:
    """Each cell with the word that the lessons' one pair gives, where both have one."""
    old = {
        (r["technique"], r["metric"], r["architecture"]): r["verdict"] for r in registry if r["better"]
    }
    pairs = ((c, old.get((c.technique, c.metric, c.architecture))) for c in cells)
    return [(cell, word) for cell, word in pairs if word and cell.word in verdicts.WORDS]


def old_table(cells: Sequence[Cell], registry: Sequence[Mapping]) -> str:
    """One pair's verdicts beside those over all seeds; a reason for each that changed."""
    rows = [
        (cell.name, cell.architecture, word, cell.word, why(cell) if word != cell.word else "the same")
        for cell, word in old_and_new(cells, registry)
    ]
    return markdown(("technique: metric", "architecture", "one pair", "all seeds", "reason"), rows)


# --------------------------------------------------------------------------------------------------
# Beside what is published


def _read(name: str) -> list[dict]:
    with open(DATA / "published" / name, encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _excess(lens: str) -> str:
    """What a published lens costs beyond the model itself at half depth."""
    rows, said = _read("tuned_lens.csv"), []
    for name in dict.fromkeys(row["model"] for row in rows):
        of_model = [row for row in rows if row["model"] == name]
        own = next(row for row in of_model if row["lens"] == "model")
        depths = [row for row in of_model if row["lens"] == lens]
        half = min(depths, key=lambda row: abs(int(row["k"]) - int(row["blocks"]) / 2))
        bits = float(half["ce_bits_per_byte"]) - float(own["ce_bits_per_byte"])
        said.append(f"{name} {bits:.2f}")
    return ", ".join(said)


def _ranges(setting: str) -> str:
    """Mean published range of the matching probability over seven behaviours, as a share."""
    rows = [row for row in _read("paper_steering_state.csv") if row["setting"] == setting]
    by_model: dict[str, list[float]] = {}
    for row in rows:
        by_model.setdefault(row["model"], []).append(float(row["range_percentage_points"]) / 100)
    return ", ".join(f"{name} {statistics.fmean(values):.2f}" for name, values in by_model.items())


def _edit(score: str = "score") -> str:
    best = max(_read("rome_mamba.csv"), key=lambda row: float(row[score] or 0))
    return f"mamba-2.8b {float(best[score]) / 100:.2f} (layer {best['layer']}, the best)"


SHARES = (
    "theirs: cost beyond the model at half depth in bits a byte, less is better; ours: share of the "
    "way from the average word to the model, more is better"
)
PUBLISHED = (  # technique, metric, what is published, how the two measures differ, source
    (("logit lens", "share read at half depth"), lambda: _excess("logit"), SHARES, "Paulo et al. 2024"),
    (("tuned lens", "share read at half depth"), lambda: _excess("tuned"), SHARES, "Paulo et al. 2024"),
    (
        ("rank-one edit", "score of five tests, the matrix it writes with"),
        _edit,
        "theirs: harmonic mean of three tests on real facts",
        "Sharma et al. 2024",
    ),
    (
        ("rank-one edit", "score of five tests, the matrix it reads with"),
        lambda: _edit("score_in_proj_x"),
        "theirs: as above, and of the matrix the half alone that the convolution reads",
        "Sharma et al. 2024",
    ),
    (
        ("steering, last word", "reach, up minus down (share)"),
        lambda: _ranges("residual"),
        "theirs: range over depths and multipliers, at the answer",
        "Paulo et al. 2024",
    ),
    (
        ("steering, state", "reach, up minus down (share)"),
        lambda: _ranges("state"),
        "theirs: range over depths and multipliers, at the answer",
        "Paulo et al. 2024",
    ),
)


def beside_published(board: Mapping) -> str:
    """Published values beside the means over our seeds, where somebody measured the like."""
    rows = []
    for (technique, metric), published, difference, source in PUBLISHED:
        ours = {
            row["architecture"]: statistics.fmean(seed["value"] for seed in row["seeds"].values())
            for row in board["rows"]
            if (row["technique"], row["metric"]) == (technique, metric)
        }
        here = ", ".join(f"{name} {value:.2f}" for name, value in ours.items()) or "not run"
        rows.append((f"{technique}: {metric}", published(), here, difference, source))
    return markdown(
        ("technique: metric", "published", "here, mean of seeds", "what differs", "source"), rows
    )


# --------------------------------------------------------------------------------------------------
# The README's section

BEGIN, END = (
    "<!-- scoreboard: `python -m tft_utils.course.scoreboard readme` writes this -->",
    "<!-- end -->",
)


def seeds_of(board: Mapping) -> dict[str, list[int]]:
    """Which seeds of which model are on the board."""
    found: dict[str, set[int]] = {}
    for row in board["rows"]:
        found.setdefault(row["architecture"], set()).update(map(int, row["seeds"]))
    return {name: sorted(seeds) for name, seeds in sorted(found.items())}


def sentence(board: Mapping, registry: Sequence[Mapping]) -> str:
    """What the board is, and how it differs from the lessons' one pair."""
    made = cells(board)
    both = old_and_new(made, registry)
    changed = [cell for cell, word in both if word != cell.word]
    seeds = ", ".join(f"{len(known)} of {name}" for name, known in seeds_of(board).items())
    lessons = sorted({notebooks.number(row["lesson"]) for row in board["rows"]})
    decided = [cell for cell in made if cell.word in verdicts.DECIDED]
    judged = [cell for cell in made if cell.word in verdicts.WORDS]
    return (
        f"Trained models: {seeds}. Lessons: {', '.join(lessons)}. "
        f"{len(decided)} of {len(judged)} verdicts are decided. "
        f"Of the {len(both)} verdicts that the lessons' one pair gives as well, {len(changed)} change."
    )


def readme(board: Mapping, registry: Sequence[Mapping]) -> str:
    """The README's section on the scoreboard, between its markers."""
    made = cells(board)
    columns = list(dict.fromkeys(cell.architecture for cell in made))
    at = {(cell.name, cell.architecture): cell.word for cell in made}
    names = list(dict.fromkeys((cell.name, notebooks.number(cell.lesson)) for cell in made))
    rows = [(name, *(at[name, column] for column in columns), lesson) for name, lesson in names]
    grid = markdown(("technique: metric", *columns, "lesson"), rows)
    body = f"{sentence(board, registry)}\n\n{grid}"
    return f"{BEGIN}\n\n{body}\n{END}"


def with_section(text: str, section: str) -> str:
    """A page with its section made new. Errors: `ValueError` where it lacks the markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"expected {BEGIN!r} and {END!r} in the page, found none; add both lines")
    return before + section + after
