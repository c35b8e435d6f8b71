"""Claims: every number that a lesson states is asserted, shown with its interval, and registered.

    claim("start_here/transplant-mamba", found, expect=0.98, tolerance=0.03, control=wrong_donor,
          technique="transplant", architecture="mamba", metric="answers moved", better="higher")

A claim leaves one output in its notebook: a line to read, and beside it a record under `MIME`.
`collect` gathers the records of all notebooks; data/claims.json is that registry, rebuilt by
`make notebooks`. At another scale nothing is asserted, and what was found goes to
build/claims-<scale>.json with its model and seed, which is never mixed with the registry.

Nobody writes a verdict: `verdicts` computes it, from the claims of one technique and metric on the
Transformer and on another architecture. In a notebook it is about the two models that run there.
"""

import json
import math
import os
from collections.abc import Collection, Iterable
from pathlib import Path

from IPython import get_ipython
from IPython.display import display

from tft_utils.course import verdicts
from tft_utils.files import DATA, ROOT, explain, replace_file
from tft_utils.models import SCALES, Source
from tft_utils.stats import Estimate

MIME = "application/vnd.tft.claim+json"
NONE = "application/vnd.tft.none+json"  # of `unclaimed`
REGISTRY, SCOREBOARD = DATA / "claims.json", DATA / "scoreboard.json"
BUILD = ROOT / "build"  # of what other scales say
BASIS = "transformer"  # the model whose effects others are compared with
BETTER = ("higher", "lower")
PARAMETERS = {"SCALE": "tiny", "SEED": 0}  # of the committed lessons

_basis: dict[tuple[str, str], Estimate] = {}  # its effects in this process, by technique and metric


def claim(
    name: str,
    estimate: Estimate,
    expect: float | None,
    tolerance: float,
    *,
    technique: str,
    architecture: str,
    metric: str,
    control: Estimate | None = None,
    better: str | None = None,
) -> None:
    """Asserts that an estimate is what the prose says, shows it, and registers it.

    name: '<lesson>/<slug>', unique in the course. architecture: the model's name. expect, tolerance: the
    prose's number and how far the value may be from it; None: no prose speaks of this model. Asserted
    is what prose speaks of: with a notebook's SCALE or SEED changed, or with the environment variable
    TFT_CLAIMS=show, every claim is shown and none asserted. control: the same metric where the
    technique should find nothing. better: 'higher' or 'lower', where the metric is a score of its
    technique: then the distance from the control is the technique's effect, and a verdict follows where
    the Transformer's effect is known. None: a fact, or a foundation that cannot fail.
    There a number that is not finite, as of an effect that never comes, is said and not registered.
    Errors: `AssertionError` when the value is out of tolerance, `ValueError` for a malformed claim.
    """
    if _is_nothing(estimate, control) and not _is_what_prose_speaks_of():
        print(f"{name}: nothing to measure on this model")  # such as when an effect comes
        if better:
            unclaimed(technique, architecture, metric, "no number that it gives here is finite")
        return
    _check_form(name, estimate, control, tolerance, better)
    value = float(estimate.value)
    if expect is not None and _is_what_prose_speaks_of():
        assert abs(value - expect) <= tolerance + 1e-12, (  # 1 - 0.95 is a little more than 0.05
            f"{name}: expected {expect:.4g} within {tolerance:.2g}, found {value:.4g}; correct the "
            "prose if the new number is right, or find out what changed"
        )
    said = None
    if better:
        effect, key = verdicts.effect_of(estimate, control, better), (technique, metric)
        if architecture == BASIS:
            _basis[key] = effect
        elif key in _basis:
            said = verdicts.verdict([effect], [_basis[key]])
    record = {
        "name": name,
        "technique": technique,
        "architecture": architecture,
        "metric": metric,
        **_plain(estimate),
        "expect": expect,
        "tolerance": tolerance,
        "control": _plain(control) if control else None,
        "better": better,
        "verdict": said.word if said else None,
        "ratio": _plain(said.ratio) if said and said.ratio else None,
    }
    _keep(record)
    # One bundle: no front end knows the record's type, so each of them shows the text.
    display({"text/plain": _line(record), MIME: record}, raw=True)


def unclaimed(technique: str, architecture: str, metric: str, reason: str) -> None:
    """Says that a technique has no score on a model, and why: n/a on the scoreboard.

    reason: one sentence about this technique, such as what the architecture says that it lacks. Where a
    cell fails there is no need of it: the scoreboard takes what the failure says.
    """
    record = {"technique": technique, "metric": metric, "architecture": architecture, "reason": reason}
    line = f"{architecture}, {technique}, {metric}: n/a, {reason}"
    display({"text/plain": line, NONE: record}, raw=True)


def says(expected: Collection[str], name: str) -> bool:
    """Whether the lesson's prose speaks of this model: it is among the expected ones, and the notebook
    runs at the scale and seed that the prose was written for."""
    return name in expected and _is_what_prose_speaks_of()


def _is_what_prose_speaks_of() -> bool:
    """Whether the notebook runs with the parameters that its prose was written for."""
    return _parameters() == PARAMETERS and os.environ.get("TFT_CLAIMS") != "show"


def _parameters() -> dict:
    """Scale and seed of the notebook that runs."""
    shell = get_ipython()
    given = shell.user_ns if shell else {}
    return {name: given.get(name, value) for name, value in PARAMETERS.items()}


def _keep(record: dict) -> None:
    """Writes what another scale says beside what was found there before, with the seed and the published
    model at its commit; of each the latest stays. A run of the scoreboard, which only shows claims, keeps
    its own."""
    scale, seed = _parameters().values()
    if scale == PARAMETERS["SCALE"] or os.environ.get("TFT_CLAIMS") == "show":
        return
    source = SCALES.get(scale, {}).get(record["architecture"])
    model = "@".join(map(str, source[:2])) if isinstance(source, Source) else record["architecture"]
    path = BUILD / f"claims-{scale}.json"
    with explain(f"claims in {path}", "delete it"):
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    new = record | {"expect": None, "model": model, "seed": seed}
    found = {(one["name"], one["model"], one["seed"]): one for one in [*known, new]}
    path.parent.mkdir(exist_ok=True)
    replace_file(path, lambda part: part.write_text(registry_text([*found.values()]), encoding="utf-8"))


def _is_nothing(estimate: Estimate, control: Estimate | None) -> bool:
    both = (each for each in (estimate, control) if isinstance(each, Estimate))
    return not all(math.isfinite(number) for each in both for number in each)


def _check_form(
    name: str, estimate: Estimate, control: Estimate | None, tolerance: float, better: str | None
) -> None:
    if not all(name.partition("/")):
        raise ValueError(f"expected a name '<lesson>/<slug>', found {name!r}; add the lesson")
    for what, given in {"estimate": estimate, "control": control or estimate}.items():
        if not isinstance(given, Estimate) or not all(map(math.isfinite, given)):
            raise ValueError(
                f"{name}: expected as {what} a stats.Estimate of finite numbers, found {given!r}; "
                "make one with stats.proportion, stats.mean or stats.bootstrap"
            )
    if not 0 <= tolerance < math.inf:
        raise ValueError(f"{name}: expected a tolerance of at least 0, found {tolerance!r}")
    if better is not None and better not in BETTER:
        raise ValueError(f"{name}: expected as better one of {', '.join(BETTER)}, found {better!r}")
    if better is not None and control is None:
        raise ValueError(
            f"{name}: expected a control beside a score, found none; measure the same metric where the "
            "technique should find nothing"
        )


def _plain(estimate: Estimate) -> dict:
    """An estimate as JSON can hold it; its numbers may come from numpy or torch."""
    return {field: (int if field == "n" else float)(x) for field, x in estimate._asdict().items()}


def _line(record: dict) -> str:
    """The claim in one line of text."""
    parts = [f"{record['name']}: {_shown(record)}", f"n = {record['n']}"]
    if record["control"]:
        parts.append(f"control {_shown(record['control'])}")
    if record["verdict"]:
        ratio = f" (ratio {_shown(record['ratio'])})" if record["ratio"] else ""
        parts.append(f"verdict on the models here: {record['verdict']}{ratio}")
    return ", ".join(parts)


def _shown(found: dict) -> str:
    """Value and interval, four digits each."""
    return f"{found['value']:.4g} [{found['low']:.4g}, {found['high']:.4g}]"


# --------------------------------------------------------------------------------------------------
# The registry


def collect(notebooks: Iterable[Path]) -> list[dict]:
    """The records of all claims in the outputs of the notebooks, in their order.

    Errors: `ValueError` when two claims share a name, or when a technique, metric and architecture have
    two scores.
    """
    records = [
        output["data"][MIME]
        for path in notebooks
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
        for output in cell.get("outputs", ())
        if MIME in output.get("data", {})
    ]
    _refuse_twice("name", [record["name"] for record in records], "rename one of them")
    scored = [(r["technique"], r["metric"], r["architecture"]) for r in records if r["better"]]
    _refuse_twice("score", scored, "give one of them another metric")
    return records


def _refuse_twice(what: str, found: list, remedy: str) -> None:
    for item in found:
        if found.count(item) > 1:
            raise ValueError(f"expected each {what} once, found {item!r} twice; {remedy}")


def registry_text(records: list[dict]) -> str:
    """The one text of a registry."""
    return json.dumps(records, indent=1, ensure_ascii=False) + "\n"
