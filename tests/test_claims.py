"""Claims hold or stop the notebook; their records make one registry and one scoreboard."""

import json
import math
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest

from tft_utils import stats
from tft_utils.course import claims, verdicts
from tft_utils.stats import Estimate

FOUND, CONTROL = Estimate(0.9, 50, 0.8, 0.95), Estimate(0.1, 50, 0.05, 0.2)
COMMON = {"technique": "lens", "architecture": "mamba", "metric": "accuracy"}


@pytest.fixture
def shown(monkeypatch) -> list[dict]:
    """What claims display, instead of displaying it, in a notebook without claims so far."""
    bundles: list[dict] = []
    monkeypatch.setattr(claims, "_basis", {})
    monkeypatch.setattr(claims, "display", lambda bundle, raw: bundles.append(bundle))
    return bundles


def test_a_claim_shows_a_line_and_beside_it_a_record(shown):
    claims.claim("lenses/final", FOUND, 0.92, 0.03, control=CONTROL, better="higher", **COMMON)
    (bundle,) = shown
    assert bundle["text/plain"] == "lenses/final: 0.9 [0.8, 0.95], n = 50, control 0.1 [0.05, 0.2]"
    assert bundle[claims.MIME] == {
        "name": "lenses/final",
        **COMMON,
        "value": 0.9,
        "n": 50,
        "low": 0.8,
        "high": 0.95,
        "expect": 0.92,
        "tolerance": 0.03,
        "control": {"value": 0.1, "n": 50, "low": 0.05, "high": 0.2},
        "better": "higher",
        "verdict": None,
        "ratio": None,
    }


def test_a_verdict_is_computed_where_the_transformer_was_measured_before(shown):
    basis = COMMON | {"architecture": "transformer"}
    half = Estimate(0.5, 50, 0.45, 0.55)
    claims.claim("lenses/t", FOUND, 0.9, 0, control=CONTROL, better="higher", **basis)
    claims.claim("lenses/m", half, 0.5, 0, control=CONTROL, better="higher", **COMMON)
    claims.claim("lenses/fact", half, 0.5, 0, control=CONTROL, **COMMON)
    claims.claim(
        "lenses/x", half, 0.5, 0, control=CONTROL, better="higher", **COMMON | {"metric": "bits"}
    )
    transformer, mamba, fact, other = (bundle[claims.MIME] for bundle in shown)
    effects = [verdicts.effect_of(e, CONTROL, "higher") for e in (half, FOUND)]
    word, ratio = verdicts.verdict(effects[:1], effects[1:])
    assert (word, round(ratio.value, 3)) == ("partly", 0.5)
    assert (mamba["verdict"], mamba["ratio"]) == (word, pytest.approx(ratio._asdict()))
    assert shown[1]["text/plain"].endswith(
        f"verdict on the models here: partly (ratio 0.5 [{ratio.low:.4g}, {ratio.high:.4g}])"
    )
    assert all(record["verdict"] is record["ratio"] is None for record in (transformer, fact, other))


def test_a_technique_that_fails_on_the_transformer_has_no_basis(shown):
    basis = COMMON | {"architecture": "transformer"}
    claims.claim("lenses/t", CONTROL, None, 0, control=FOUND, better="higher", **basis)
    claims.claim("lenses/m", FOUND, None, 0, control=CONTROL, better="higher", **COMMON)
    assert shown[1]["text/plain"].endswith("verdict on the models here: no basis")


def test_a_claim_without_control_says_nothing_of_one(shown):
    claims.claim("lenses/final", FOUND, 0.9, 0, **COMMON)
    assert shown[0]["text/plain"] == "lenses/final: 0.9 [0.8, 0.95], n = 50"


@pytest.mark.parametrize(("value", "expect", "tolerance"), [(1.0, 0.95, 0.05), (0.3, 0.1, 0.2)])
def test_a_value_at_the_very_edge_is_within_tolerance(shown, value, expect, tolerance):
    assert abs(value - expect) > tolerance or value == 0.3  # as floats compare
    claims.claim("a/b", Estimate(value, 9, 0.0, 1.0), expect, tolerance, **COMMON)
    assert len(shown) == 1


def test_a_claim_out_of_tolerance_states_both_numbers_and_registers_nothing(shown):
    with pytest.raises(AssertionError, match=r"^a/b: expected 0.8 within 0.05, found 0.9; correct"):
        claims.claim("a/b", FOUND, 0.8, 0.05, **COMMON)
    assert not shown


def test_a_claim_that_expects_nothing_is_shown_and_recorded(shown):
    claims.claim("a/b", FOUND, None, 0.05, **COMMON)
    assert shown[0]["text/plain"] == "a/b: 0.9 [0.8, 0.95], n = 50"
    assert shown[0][claims.MIME]["expect"] is None
    assert '"expect": null' in claims.registry_text([shown[0][claims.MIME]])


def test_a_reader_of_other_models_can_have_claims_shown_and_not_asserted(shown, monkeypatch):
    monkeypatch.setenv("TFT_CLAIMS", "show")
    claims.claim("a/b", FOUND, 0.1, 0.05, **COMMON)
    assert shown[0][claims.MIME]["expect"] == 0.1
    monkeypatch.setenv("TFT_CLAIMS", "assert")
    with pytest.raises(AssertionError, match="expected 0.1"):
        claims.claim("a/b", FOUND, 0.1, 0.05, **COMMON)


@pytest.mark.parametrize("changed", [{"SCALE": "small"}, {"SEED": 1}])
def test_with_other_parameters_nothing_is_asserted(shown, monkeypatch, tmp_path, changed):
    """The kernel's variables are the notebook's parameters."""
    kernel = SimpleNamespace(user_ns={"SCALE": "tiny", "SEED": 0})
    monkeypatch.setattr(claims, "get_ipython", lambda: kernel)
    with pytest.raises(AssertionError, match="expected 0.1"):
        claims.claim("a/b", FOUND, 0.1, 0.05, **COMMON)
    monkeypatch.setattr(claims, "BUILD", tmp_path)
    kernel.user_ns |= changed
    claims.claim("a/b", FOUND, 0.1, 0.05, **COMMON)
    assert len(shown) == 1


def test_another_scale_keeps_what_it_finds_in_a_file_of_its_own(shown, monkeypatch, tmp_path):
    kernel = SimpleNamespace(user_ns={"SCALE": "small", "SEED": 0})
    monkeypatch.setattr(claims, "get_ipython", lambda: kernel)
    monkeypatch.setattr(claims, "BUILD", tmp_path / "build")
    other = FOUND._replace(value=FOUND.value / 2)
    for name, found in (("a/b", FOUND), ("a/c", FOUND), ("a/b", other)):
        claims.claim(name, found, 0.1, 0.05, **COMMON)
    path = tmp_path / "build" / "claims-small.json"
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert [(r["name"], r["value"], r["expect"]) for r in kept] == [
        ("a/b", other.value, None),
        ("a/c", FOUND.value, None),
    ]
    published = "state-spaces/mamba-130m-hf@1e76775f628fbf1350fbe4dbb3d971ba64af25a1"
    assert [(r["model"], r["seed"]) for r in kept] == [(published, 0)] * 2
    kernel.user_ns["SEED"] = 1  # beside the other seed
    claims.claim("a/b", FOUND, 0.1, 0.05, **COMMON | {"architecture": "a folder"})
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert [(r["name"], r["model"], r["seed"]) for r in kept[2:]] == [("a/b", "a folder", 1)]
    before = path.read_bytes()
    monkeypatch.setenv("TFT_CLAIMS", "show")  # the scoreboard keeps its own
    claims.claim("a/d", FOUND, 0.1, 0.05, **COMMON)
    monkeypatch.delenv("TFT_CLAIMS")
    kernel.user_ns["SCALE"] = "tiny"
    claims.claim("a/e", FOUND, FOUND.value, 0.05, **COMMON)
    assert path.read_bytes() == before
    assert [*path.parent.iterdir()] == [path]


def test_what_cannot_be_measured_on_another_model_is_said_and_not_registered(shown, monkeypatch, capsys):
    kernel = SimpleNamespace(user_ns={"SCALE": "tiny"})
    monkeypatch.setattr(claims, "get_ipython", lambda: kernel)
    for found, control in ((stats.NOTHING, None), (FOUND, stats.NOTHING)):
        with pytest.raises(ValueError, match="of finite numbers"):
            claims.claim("a/b", found, None, 0.05, control=control, **COMMON)
    assert claims.says({"mamba": 1}, "mamba")
    assert not claims.says({"mamba": 1}, "rwkv")
    kernel.user_ns["SCALE"] = "small"
    for found, control in ((stats.NOTHING, None), (FOUND, stats.NOTHING)):
        claims.claim("a/b", found, 0.1, 0.05, control=control, **COMMON)
        assert capsys.readouterr().out == "a/b: nothing to measure on this model\n"
    assert not shown
    claims.claim("a/b", stats.NOTHING, 0.1, 0.05, control=FOUND, better="higher", **COMMON)
    (bundle,) = shown  # the board asks why a score is not there
    assert bundle[claims.NONE]["reason"] == "no number that it gives here is finite"
    assert not claims.says({"mamba": 1}, "mamba")


def test_a_model_without_a_score_says_why(shown):
    claims.unclaimed("cut", "lstm", "share right", "it has no edge to cut")
    line, record = shown[0]["text/plain"], shown[0][claims.NONE]
    assert line == "lstm, cut, share right: n/a, it has no edge to cut"
    names = {"technique": "cut", "architecture": "lstm", "metric": "share right"}
    assert record == names | {"reason": "it has no edge to cut"}
    assert claims.MIME not in shown[0], "the registry holds what was measured"


def test_numbers_of_other_libraries_become_json(shown):
    odd = Estimate(np.float32(0.5), np.int64(9), np.float64(0.25), np.float32(0.75))
    claims.claim("a/b", odd, 0.5, 0.01, control=odd, **COMMON)
    json.dumps(shown[0][claims.MIME])
    assert shown[0][claims.MIME]["n"] == 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "final"}, "expected a name '<lesson>/<slug>', found 'final'"),
        ({"estimate": 0.9}, r"expected as estimate a stats.Estimate of finite numbers, found 0.9"),
        ({"estimate": Estimate(math.nan, 9, 0, 1)}, "expected as estimate .* found Estimate"),
        ({"estimate": Estimate(0.9, 9, 0, math.inf)}, "expected as estimate .* found Estimate"),
        ({"control": (0.1, 9)}, "expected as control a stats.Estimate"),
        ({"tolerance": -0.1}, "expected a tolerance of at least 0, found -0.1"),
        ({"tolerance": math.inf}, "expected a tolerance of at least 0, found inf"),
        ({"better": "more", "control": CONTROL}, "expected as better one of higher, lower, found 'more'"),
        ({"better": "higher"}, "expected a control beside a score, found none"),
    ],
)
def test_a_malformed_claim_is_explained(change, message):
    good = {"name": "a/b", "estimate": FOUND, "expect": 0.9, "tolerance": 0.1, **COMMON}
    with pytest.raises(ValueError, match=message):
        claims.claim(**good | change)


# --------------------------------------------------------------------------------------------------
# The registry and the scoreboard


def record(name: str, architecture: str, value: float, **more) -> dict:
    made = {
        "name": name,
        "technique": "lens",
        "metric": "accuracy",
        "architecture": architecture,
        "value": value,
        "n": 50,
        "low": value - 0.1,
        "high": value + 0.1,
        "expect": value,
        "tolerance": 0.1,
        "control": None,
        "better": None,
        "verdict": None,
        "ratio": None,
    }
    return made | more


SCORE = {"control": CONTROL._asdict(), "better": "higher"}
PAIR = [
    record("lenses/a", "transformer", 0.8, **SCORE),
    record("lenses/b", "mamba", 0.7, **SCORE),
    record("lenses/c", "mamba", 0.2, metric="bits"),
]


def notebook_with(path, records):
    outputs = [
        nbformat.v4.new_output("display_data", data={"text/plain": "", claims.MIME: r}) for r in records
    ]
    cells = [nbformat.v4.new_markdown_cell("# One"), nbformat.v4.new_code_cell("", outputs=outputs)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_collect_reads_every_notebook_in_order(tmp_path):
    paths = [
        notebook_with(tmp_path / "0.ipynb", PAIR[:1]),
        notebook_with(tmp_path / "1.ipynb", []),
        notebook_with(tmp_path / "2.ipynb", PAIR[1:]),
    ]
    assert claims.collect(paths) == PAIR
    assert json.loads(claims.registry_text(PAIR)) == PAIR


def test_a_name_or_a_score_given_twice_is_refused(tmp_path):
    path = notebook_with(tmp_path / "0.ipynb", [PAIR[0], PAIR[0]])
    with pytest.raises(ValueError, match="each name once, found 'lenses/a' twice; rename"):
        claims.collect([path])
    path = notebook_with(tmp_path / "0.ipynb", [PAIR[1], PAIR[1] | {"name": "lenses/d"}])
    with pytest.raises(ValueError, match=r"each score once, found \('lens', 'accuracy', 'mamba'\) twice"):
        claims.collect([path])


def test_estimates_of_this_course_can_be_claimed(shown):
    values = [0.1, 0.4, 0.3, 0.2]
    made = (
        stats.proportion(9, 10),
        stats.mean(values),
        stats.bootstrap(values, np.median, seed=0),
        stats.paired_bootstrap(values, values[::-1], seed=0),
    )
    for i, estimate in enumerate(made):
        claims.claim(f"a/{i}", estimate, estimate.value, 0, **COMMON)
    assert len(shown) == 4
