"""Claims: every number that a lesson states is asserted, shown with its interval, and registered.

    claim("start_here/transplant-mamba", found, expect=0.98, tolerance=0.03, control=wrong_donor,
          technique="transplant", architecture="mamba", metric="answers moved", verdict="transfers")

A claim leaves one output in its notebook: a line to read, and beside it a record under `MIME`.
`collect` gathers the records of all notebooks; data/claims.json is that registry, rebuilt by
`make notebooks`. `scoreboard` turns it into rows technique x metric x architecture.
"""

import json
import math
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from IPython.display import display

from tft_utils.files import DATA
from tft_utils.stats import Estimate

MIME = "application/vnd.tft.claim+json"
REGISTRY = DATA / "claims.json"
VERDICTS = ("transfers", "partly", "no")


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
    verdict: str | None = None,
) -> None:
    """Asserts that an estimate is what the prose says, shows it, and registers it.

    name: '<lesson>/<slug>', unique in the course. expect, tolerance: the prose's number and how far
    the value may be from it; None: no prose speaks of this model, so nothing is asserted. The
    environment variable TFT_CLAIMS=show shows every claim and asserts none. control: the same metric
    where the technique should find nothing. verdict: 'transfers', 'partly' or 'no', once per technique
    and metric, on the claim of the last architecture; it needs a control.
    Errors: `AssertionError` when the value is out of tolerance, `ValueError` for a malformed claim.
    """
    _check_form(name, estimate, control, tolerance, verdict)
    value = float(estimate.value)
    if expect is not None and os.environ.get("TFT_CLAIMS") != "show":
        assert abs(value - expect) <= tolerance + 1e-12, (  # 1 - 0.95 is a little more than 0.05
            f"{name}: expected {expect:.4g} within {tolerance:.2g}, found {value:.4g}; correct the "
            "prose if the new number is right, or find out what changed"
        )
    record = {
        "name": name,
        "technique": technique,
        "architecture": architecture,
        "metric": metric,
        **_plain(estimate),
        "expect": expect,
        "tolerance": tolerance,
        "control": _plain(control) if control else None,
        "verdict": verdict,
    }
    # One bundle: no front end knows the record's type, so each of them shows the text.
    display({"text/plain": _line(record), MIME: record}, raw=True)


def _check_form(
    name: str, estimate: Estimate, control: Estimate | None, tolerance: float, verdict: str | None
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
    if verdict is not None and verdict not in VERDICTS:
        raise ValueError(f"{name}: expected a verdict among {', '.join(VERDICTS)}, found {verdict!r}")
    if verdict is not None and control is None:
        raise ValueError(
            f"{name}: expected a control beside the verdict {verdict!r}, found none; measure the "
            "same metric where the technique should find nothing"
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
        parts.append(f"verdict: {record['verdict']}")
    return ", ".join(parts)


def _shown(found: dict) -> str:
    """Value and interval, four digits each."""
    return f"{found['value']:.4g} [{found['low']:.4g}, {found['high']:.4g}]"


# --------------------------------------------------------------------------------------------------
# The registry and the scoreboard


def collect(notebooks: Iterable[Path]) -> list[dict]:
    """The records of all claims in the outputs of the notebooks, in their order.

    Errors: `ValueError` when two claims share a name, or when a technique and metric have two
    verdicts.
    """
    records = [
        output["data"][MIME]
        for path in notebooks
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
        for output in cell.get("outputs", ())
        if MIME in output.get("data", {})
    ]
    _refuse_twice("name", [record["name"] for record in records], "rename one of them")
    said = [(r["technique"], r["metric"]) for r in records if r["verdict"]]
    _refuse_twice("verdict", said, "say it once, on the claim of the last architecture")
    return records


def _refuse_twice(what: str, found: list, remedy: str) -> None:
    for item in found:
        if found.count(item) > 1:
            raise ValueError(f"expected each {what} once, found {item!r} twice; {remedy}")


def registry_text(records: list[dict]) -> str:
    """The one text of a registry."""
    return json.dumps(records, indent=1, ensure_ascii=False) + "\n"


def scoreboard(registry: list[dict]) -> list[dict]:
    """The records whose technique and metric have a verdict, each with that verdict, in their order."""
    verdicts = {(r["technique"], r["metric"]): r["verdict"] for r in registry if r["verdict"]}
    rows = ((r, verdicts.get((r["technique"], r["metric"]))) for r in registry)
    return [record | {"verdict": verdict} for record, verdict in rows if verdict]


def table(rows: list[dict]) -> str:
    """The scoreboard in Markdown."""
    head = ("technique", "metric", "architecture", "value [95 % interval]", "n", "control", "verdict")
    lines = [head, ("---",) * len(head)]
    for row in rows:
        control = _shown(row["control"]) if row["control"] else "none"
        named = [row[key] for key in head[:3]]
        lines.append((*named, _shown(row), str(row["n"]), control, row["verdict"]))
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


if __name__ == "__main__":
    if not REGISTRY.is_file():
        sys.exit(f"expected the registry {REGISTRY}, found none; run `make notebooks`")
    print(table(scoreboard(json.loads(REGISTRY.read_text(encoding="utf-8")))), end="")
