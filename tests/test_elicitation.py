"""Elicitation: probes against planted directions and closed forms, one reading against three runs."""

import copy

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from scipy import optimize
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score
from torch import Tensor

from tft_utils import models, reading, stats
from tft_utils.corpora import statements
from tft_utils.course import plots
from tft_utils.lessons import anomalies, latent_knowledge
from tft_utils.linear import DECAY, logistic
from tft_utils.techniques import elicitation, generalisation
from tft_utils.techniques.elicitation import Hiddens

N, DEPTH, D = 400, 3, 16


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cosine(w: Tensor, direction: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(w, direction, dim=-1)


DIRECTION = torch.nn.functional.normalize(normal(DEPTH, D, seed=9), dim=-1)


def planted(n: int = N, strength: float = 2.0, noise: Tensor | None = None, seed: int = 0) -> Hiddens:
    """Truth along one direction per depth, in h, and with opposite signs in h0 and h1. Which answer
    was put lies along another, at right angles, and is much louder."""
    direction, answer = DIRECTION, normal(DEPTH, D, seed=8)
    answer = answer - (answer * direction).sum(-1, keepdim=True) * direction
    bob = torch.arange(n) % 2 == 1
    truth, rule = (torch.rand(n, generator=torch.Generator().manual_seed(seed + s)) < 0.5 for s in (1, 2))
    sign = (2.0 * truth - 1)[:, None, None] * direction * strength
    shift = torch.eye(D) if noise is None else noise
    last = sign + normal(n, DEPTH, D, seed=seed + 3) @ shift
    pair = torch.stack((-sign - 5 * answer, sign + 5 * answer), 1)
    pair = pair + normal(n, 1, DEPTH, D, seed=seed + 4) + 0.3 * normal(n, 2, DEPTH, D, seed=seed + 5)
    return Hiddens(
        last,
        pair,
        2.0 * torch.where(bob, rule, truth) - 1,
        bob,
        truth,
        rule,
        torch.linspace(0, 1, n)[torch.randperm(n, generator=torch.Generator().manual_seed(seed + 6))],
        torch.arange(n),
    )


def both(w: Tensor) -> Tensor:
    """What a direction is on a pair (h0, h1)."""
    return torch.cat((-w, w), -1)


# --------------------------------------------------------------------------------------------------
# Planted directions and closed forms


@pytest.mark.parametrize("method", elicitation.METHODS)
def test_a_probe_finds_the_planted_direction(method):
    h = planted(10000).part("A")
    probe = elicitation.fit(method, h, seed=0)
    wanted = both(DIRECTION) if method in elicitation.PAIRED else DIRECTION
    assert cosine(probe.w, wanted).min() > (0.99 if method != "LR on pair" else 0.9)
    fresh = planted(1000, seed=50)
    said = probe.score(fresh) > 0  # E4: the sign means something
    assert (said == fresh.truth).float().mean(1).min() > 0.9


def test_correlated_noise_turns_lda_and_not_the_mean_difference():
    """The closed form: LDA's direction is S^-1 v, the mean difference stays v."""
    noise = torch.eye(D)
    noise[0] += 2
    h = planted(40000, noise=noise).part("A")
    S = noise.T @ noise
    whitened = torch.linalg.solve(S, DIRECTION.T).T
    assert cosine(whitened, DIRECTION).min() < 0.9
    assert cosine(elicitation.fit("LDA", h).w, whitened).min() > 0.99
    assert cosine(elicitation.fit("mean difference", h).w, DIRECTION).min() > 0.99


def test_lda_equals_scikit_learn_where_nothing_needs_shrinking():
    h = planted(20000).part("A")
    probe = elicitation.fit("LDA", h)
    theirs = LinearDiscriminantAnalysis(solver="lsqr").fit(h.last[:, 1], h.truth)
    assert np.allclose(probe.w[1], theirs.coef_[0], rtol=0.03, atol=0.02)
    assert probe.b[1].item() == pytest.approx(theirs.intercept_[0], abs=0.03)


def test_lda_with_fewer_items_than_features_still_generalises():
    """E5: a pseudo-inverse of the covariance would be blind outside the items' span."""
    h = planted(24).part("A")
    assert len(h) < D
    fresh = planted(1000, seed=50)
    assert generalisation.auroc(elicitation.fit("LDA", h).score(fresh), fresh.truth).min() > 0.85


@pytest.mark.parametrize("n", [30, 2 * D + 2])
def test_logistic_regression_is_the_same_with_fewer_items_than_features(n):
    """The short way, among mixes of the items, ends where gradient steps on all features end."""
    h = planted(n).part("A")
    x, y = torch.cat((h.last, h.pair[:, 1]), -1), h.truth  # 2 D features
    w, b = elicitation.lr(x, y)

    def loss(point):
        score = x[:, 1].double().numpy() @ point[:-1] + point[-1]
        sign = 2.0 * y.numpy() - 1
        return np.logaddexp(0, -sign * score).mean() + DECAY * (point[:-1] ** 2).sum()

    best = optimize.minimize(loss, np.zeros(2 * D + 1), tol=1e-10)
    assert np.allclose(w[1], best.x[:-1], rtol=1e-2, atol=1e-2 * np.abs(best.x).max())
    assert b[1].item() == pytest.approx(best.x[-1], rel=1e-2, abs=1e-2)


def test_mean_difference_is_half_way_between_the_means():
    h = planted().part("B")
    probe = elicitation.fit("mean difference", h)
    score = probe.score(h)
    assert torch.allclose(score[:, h.label].mean(1), -score[:, ~h.label].mean(1), atol=1e-4)
    assert torch.allclose(probe.w.norm(dim=-1), torch.ones(DEPTH))


def test_a_depth_that_holds_nothing_is_a_coin_flip():
    """As at depth 0, where the last word is a colon, whoever is asked about whatever."""
    h = planted()
    h.last[:, 0], h.pair[:, :, 0] = 1.0, 1.0
    for method in elicitation.METHODS:
        score = elicitation.fit(method, h).score(h)
        assert score.isfinite().all(), method
        assert generalisation.auroc(score[0].round(decimals=3), h.label) == 0.5, method
    by_chance = torch.einsum("nkd,rkd->rkn", h.last, generalisation.random_directions(h, seed=0))
    assert (generalisation.auroc(by_chance, h.truth)[:, 0] == 0.5).all()


# --------------------------------------------------------------------------------------------------
# Contrast pairs


def test_the_ccs_loss_on_a_hand_case():
    """Items (0.2, 0.7) and (0.5, 0.5): inconsistent by 0.1 and 0, unconfident by 0.2 and 0.5."""
    p0, p1 = torch.tensor([0.2, 0.5]), torch.tensor([0.7, 0.5])
    by_hand = (0.1**2 + 0**2) / 2 + (0.2**2 + 0.5**2) / 2
    assert elicitation.ccs_loss(p0, p1).item() == pytest.approx(by_hand)
    sure = torch.tensor([0.0, 1.0])
    assert elicitation.ccs_loss(sure, 1 - sure) == 0
    assert elicitation.ccs_loss(sure, sure).item() == pytest.approx(1.5)  # (1 + 0 + 1 + 1) / 2


def test_ccs_finds_as_low_a_loss_as_another_optimiser():
    h = planted(200)
    x = elicitation.normalised(h.pair, elicitation.leace(h.pair))
    x = (x / x.square().mean((0, 1, 3), keepdim=True).sqrt())[:, :, 1].double().numpy()

    def loss(point):
        p0, p1 = (1 / (1 + np.exp(-(side @ point[:-1] + point[-1]))) for side in x.swapaxes(0, 1))
        value = np.mean((p0 - 1 + p1) ** 2) + np.mean(np.minimum(p0, p1) ** 2)
        return value + elicitation.CCS_DECAY / 2 * (point[:-1] ** 2).sum()

    rng = np.random.default_rng(0)
    best = min(
        (optimize.minimize(loss, rng.normal(size=D + 1) / 4) for _ in range(6)),
        key=lambda found: found.fun,
    )
    w, _ = elicitation.ccs(h.pair, seed=0)
    maps = elicitation.leace(h.pair)
    pulled = torch.tensor(best.x[:-1], dtype=torch.float32) @ maps[0][1, 1]
    assert cosine(w[1, D:], pulled).abs() > 0.98


def test_leace_leaves_no_trace_of_which_answer_was_put():
    h = planted()
    x = elicitation.normalised(h.pair, elicitation.leace(h.pair))
    assert (h.pair[:, 1] - h.pair[:, 0]).mean(0).norm(dim=-1).min() > 10
    assert (x[:, 1] - x[:, 0]).mean(0).norm(dim=-1).max() < 1e-3
    side = torch.tensor([False, True]).repeat(len(h))
    w, b = logistic(x.flatten(0, 1), side)
    score = torch.einsum("nkd,kd->kn", x.flatten(0, 1), w) + b[:, None]
    assert (generalisation.auroc(score, side) - 0.5).abs().max() < 0.05


@pytest.mark.parametrize("maps", ["leace", "of each side"])
def test_a_folded_score_is_the_difference_of_two_normalised_ones(maps):
    h, w = planted(), normal(DEPTH, D, seed=4)
    of_sides = normal(2, DEPTH, D, D, seed=5), normal(2, DEPTH, D, seed=6)
    maps = elicitation.leace(h.pair) if maps == "leace" else of_sides
    s0, s1 = torch.einsum("nskd,kd->skn", elicitation.normalised(h.pair, maps), w)
    folded = elicitation.Probe("CCS", *elicitation.on_pair(w, maps)).score(h)
    assert torch.allclose(folded, s1 - s0, rtol=1e-4, atol=1e-3)


def test_a_probe_never_looks_at_the_items_it_is_tested_on():
    """E9: the score of an item does not depend on which other items are scored with it."""
    h = planted()
    for method in elicitation.METHODS:
        probe = elicitation.fit(method, h.part("AE"), seed=0)
        whole = probe.score(h)
        few = torch.tensor([3, 50, 7])
        assert torch.allclose(probe.score(h.where(few)), whole[:, few], rtol=1e-4, atol=1e-4), method


def test_unsupervised_probes_take_only_scale_and_sign_from_labels():
    """With all labels turned around the direction stays and the score turns around."""
    h = planted().part("A")
    turned = copy.copy(h)
    object.__setattr__(turned, "truth", ~h.truth)
    for method in elicitation.UNSUPERVISED:
        one, other = (elicitation.fit(method, each, seed=0) for each in (h, turned))
        assert torch.allclose(cosine(one.w, other.w), -torch.ones(DEPTH), atol=1e-4), method


# --------------------------------------------------------------------------------------------------
# Scores


def test_auroc_is_that_of_scikit_learn_ties_included():
    score = (normal(4, 200) * 3).round()
    y = normal(200, seed=1) > 0.3
    theirs = [roc_auc_score(y, row) for row in score]
    assert np.allclose(generalisation.auroc(score, y), theirs)
    with pytest.raises(ValueError, match="both labels for an AUROC, found 3 items with 3 true"):
        generalisation.auroc(torch.zeros(3), torch.ones(3, dtype=torch.bool))


def test_random_directions_are_signed_on_the_training_items():
    """Isotropic noise around truth: a random direction has the cosine's share of the signal."""
    h, fresh = planted(2000).part("A"), planted(2000, seed=50)
    w = generalisation.random_directions(h, 0)
    assert w.shape == (generalisation.DIRECTIONS, DEPTH, D)
    same, other = (
        generalisation.auroc(torch.einsum("nkd,rkd->rkn", part.last, w), part.truth)
        for part in (h, fresh)
    )
    assert same.min() >= 0.5
    probe = generalisation.auroc(elicitation.fit("LR", h).score(fresh), fresh.truth)
    assert 0.6 < other.mean() < same.mean() + 0.02 < probe.min()
    assert not torch.equal(w, generalisation.random_directions(h, 1))


def test_intervals_of_auroc_agree_with_a_bootstrap_done_item_by_item():
    rng, scored = np.random.default_rng(0), []
    for task in range(2):
        y = normal(80, seed=task) > 0
        score = normal(3, 80, seed=task + 5) + (task + 1) * y
        scored.append(generalisation.Scored(score, y, torch.arange(80) // 2))
    found = generalisation.mean_auroc(scored, seed=0)
    theirs = [np.mean([roc_auc_score(y, row) for row in score]) for score, y, *_ in scored]
    assert found.value == pytest.approx(np.mean(theirs))
    assert found.n == 160
    halves = [scored[0], *[scored[1]._replace(weight=0.5)] * 2]  # a task in two groups weighs as one
    assert generalisation.mean_auroc(halves, seed=0).value == pytest.approx(np.mean(theirs))
    draws = []
    for _ in range(400):
        values = []
        for score, y, about, _ in scored:
            items = np.concatenate([np.flatnonzero(about == c) for c in rng.integers(40, size=40)])
            values.append(np.mean([roc_auc_score(y[items], row[items]) for row in score]))
        draws.append(np.mean(values))
    assert np.allclose((found.low, found.high), np.quantile(draws, (0.025, 0.975)), atol=0.015)


def test_a_draw_without_a_label_does_not_count():
    y = torch.arange(30) < 2
    perfect = generalisation.Scored(y.float()[None], y, torch.arange(30))
    assert generalisation.mean_auroc([perfect], seed=0) == (1, 30, 1, 1)


def test_a_transfer_chooses_its_depth_near_and_reports_it_far():
    """Truth at every depth near; far away it has turned around at the last one."""
    near, far = planted(400, seed=20), planted(400, seed=40)
    far.last[:, 2] = -far.last[:, 2]
    near.last[:, 0] = normal(400, D, seed=3)  # nothing at the first depth
    train = planted(400)
    train.last[:, 0] = normal(400, D, seed=2)
    found = generalisation.transfer("LR", train.part("A"), near.part("A"), far.part("A"), seeds=(0, 1))
    assert found.depths == (1, 1)
    every, apart = torch.ones(len(found.far), dtype=torch.bool), found.far.apart
    by_depth = found.by_depth(every)
    assert by_depth[:, 1].min() > 0.9
    assert by_depth[:, 2].max() < 0.1
    for mask in (every, apart):
        at = found.scored(mask)
        assert torch.equal(at.truth, far.part("A").truth[mask])
        assert torch.allclose(generalisation.auroc(at.score, at.truth), found.by_depth(mask)[:, 1])
    assert not torch.equal(found.score[0], found.score[1])  # another seed, other training items
    again = generalisation.transfer("LR", train.part("A"), near.part("A"), far.part("A"), seeds=(0, 1))
    assert torch.equal(found.score, again.score)


@pytest.mark.parametrize("method", ["LR", "LR on pair"])
def test_chance_is_measured_in_the_features_that_a_method_reads(method):
    """Each direction is signed on its training items and read at the depth that is best near to them."""
    train, near, far = (planted(400, seed=seed).part("A") for seed in (0, 20, 40))
    for part in (train, near, far):
        part.last[:, 0], part.pair[:, :, 0] = 1.0, 1.0  # nothing at the first depth
    score = generalisation.by_chance(method, train, near, far, seed=0)
    assert score.shape == (generalisation.DIRECTIONS, len(far))
    w = generalisation.random_directions(train, 0, method)
    assert w.shape[-1] == (2 * D if method in elicitation.PAIRED else D)
    close = torch.einsum("nkd,rkd->rkn", elicitation.features(near, method), w)
    depth = generalisation.earliest_informative(generalisation.auroc(close, near.truth))
    assert depth.min() > 0
    at = torch.einsum("nd,d->n", elicitation.features(far, method)[:, depth[7]], w[7, depth[7]])
    assert torch.allclose(score[7], at, rtol=1e-4, atol=1e-4)
    aurocs = generalisation.auroc(score, far.truth)
    found = generalisation.spread(aurocs)
    assert found.low < found.value < found.high
    assert ((aurocs < found.low).float().mean() - 0.025).abs() < 0.005


@pytest.mark.parametrize(
    ("aurocs", "depth"),
    [
        ([0.5, 0.6, 0.98, 1.0, 0.9], 2),  # 0.48 reaches 95 % of 0.5
        ([0.5, 0.6, 0.97, 1.0, 0.9], 3),
        ([0.4, 0.4, 0.3, 0.5, 0.4], 2),  # nothing above chance: the middle
        ([0.5, 0.5, 0.5], 1),
    ],
)
def test_the_earliest_informative_depth(aurocs, depth):
    assert generalisation.earliest_informative(torch.tensor(aurocs)) == depth


# --------------------------------------------------------------------------------------------------
# Parts, bad input


def test_parts_are_slices_by_character_and_difficulty():
    h = planted()
    assert not h.part("A").bob.any()
    assert h.part("B").bob.all()
    assert h.part("AE").quantile.max() <= 0.25
    assert h.part("BH").quantile.min() >= 0.75
    assert torch.equal(h.part("BH").label, h.part("BH").rule)
    assert torch.equal(h.part("AH").label, h.part("AH").truth)
    apart = h.where(h.apart)
    assert torch.equal(apart.truth, ~apart.rule)
    assert torch.equal(h.at(1).last[:, 0], h.last[:, 1])
    assert torch.equal(h.at(-1).pair[:, :, 0], h.pair[:, :, 2])
    with pytest.raises(ValueError, match="expected a part, one of A, B, AE, AH, BE, BH; found 'C'"):
        h.part("C")


def test_bad_input_gets_a_sentence():
    h = planted()
    with pytest.raises(ValueError, match="expected a method, one of LR, .*; found 'SVM'"):
        elicitation.fit("SVM", h)
    one = h.where(h.label)
    with pytest.raises(ValueError, match="both labels to fit LR, found .* items with .* true; take more"):
        elicitation.fit("LR", one)


# --------------------------------------------------------------------------------------------------
# One reading


@pytest.fixture(scope="module", params=models.PAIR)
def model(request):
    with torch.no_grad():
        yield models.load(request.param)


def three_runs(model, statement: statements.Statement, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """The reference's way, by nnsight: the prompt, then the prompt with each answer, row by row."""

    def states(text: str) -> tuple[Tensor, Tensor]:
        with model.trace(text, use_cache=False):
            depths = range(model.n_layers + 1)
            found = torch.stack([model.residual(k)[0, -1] for k in depths]).save()
            logits = model.logits[0, -1].save()
        return found, logits

    prompt = f"{name} : {statement.text}"
    last, logits = states(prompt)
    false, true = model.tokenizer.convert_tokens_to_ids(list(statements.CHOICES))
    pair = torch.stack([states(f"{prompt} {choice}")[0] for choice in statements.CHOICES])
    return last, pair, logits[true] - logits[false]


def test_one_reading_equals_three_runs_per_item(model):
    """E2, E3, E10: neither name nor answer sees another's words, at every depth, in every batch."""
    some = [s for task in statements.TASKS for s in statements.draw(task, 4)]
    h = elicitation.extract(model, some, rows=3)
    assert len(h) == 2 * len(some)
    for i, statement in enumerate(some):
        for c, name in enumerate(statements.CHARACTERS):
            last, pair, log_odds = three_runs(model, statement, name)
            at = 2 * i + c
            assert (h.last[at] - last).abs().max() < 1e-4 * last.abs().max()
            assert (h.pair[at] - pair).abs().max() < 1e-4 * pair.abs().max()
            assert h.log_odds[at].item() == pytest.approx(log_odds.item(), abs=1e-3)
            assert (bool(h.bob[at]), bool(h.truth[at]), bool(h.rule[at])) == (
                name == "bob",
                statement.truth,
                statement.rule,
            )
            assert h.label[at] == statement.label(name)


@pytest.mark.parametrize("name", ["gated_deltanet", "griffin", "lstm", "mamba2", "rwkv", "xlstm"])
def test_every_architecture_reads_both_answers_as_if_alone(name):
    """Whatever a model carries on, and where it hands out nothing that goes on."""
    model = models.load(name)
    some = [s for task in ("addition", "grammar") for s in statements.draw(task, 2)]
    h = elicitation.extract(model, some, rows=3, last=True)
    for i, prompt in enumerate(statements.prompts(some, last=True)):
        texts = (prompt, *(f"{prompt} {choice}" for choice in statements.CHOICES))
        for at, text in zip((h.last[i], *h.pair[i]), texts, strict=True):
            alone = reading.streams(model, reading.tokens(model, text).ids)[:, 0, -1]
            assert (at - alone).abs().max() < 1e-4 * alone.abs().max()


def test_a_part_read_alone_is_the_part_of_the_whole(model):
    """E10: what is not needed is not read; easy still means a quarter of all with the same labels."""
    some = statements.draw("grammar", 48)
    whole = elicitation.extract(model, some)
    few = elicitation.extract(model, some, parts=("AE", "BH"))
    assert len(few) == 24 < len(whole)
    for part in ("AE", "BH"):
        one, other = few.part(part), whole.part(part)
        assert torch.allclose(one.last, other.last, atol=1e-4)
        assert torch.allclose(one.pair, other.pair, atol=1e-4)
        assert torch.allclose(one.log_odds, other.log_odds, atol=1e-4)
        for field in ("bob", "truth", "rule", "quantile", "about"):
            assert torch.equal(getattr(one, field), getattr(other, field)), field
    with pytest.raises(ValueError, match="expected statements in AE, BE, found none; take more"):
        elicitation.extract(model, some[:1], parts=("AE", "BE"))


def test_another_name_may_stand_where_bob_does(model):
    some = statements.draw("grammar", 4)
    usual = elicitation.extract(model, some)
    other = elicitation.extract(model, some, names=("alice", "carl"))
    assert torch.allclose(other.part("A").last, usual.part("A").last, atol=1e-4)
    assert not torch.allclose(other.part("B").last, usual.part("B").last, atol=1e-2)
    by_hand, _, _ = three_runs(model, some[1], "carl")
    assert (other.last[3] - by_hand).abs().max() < 1e-4 * by_hand.abs().max()


def test_extraction_leaves_no_hooks_behind(model):
    before = [len(m._forward_hooks) for m in model.hf.modules()]
    elicitation.extract(model, statements.draw("addition", 4))
    assert [len(m._forward_hooks) for m in model.hf.modules()] == before


# --------------------------------------------------------------------------------------------------
# Figures


def figures():
    low, high = stats.proportion(2, 20), stats.proportion(19, 20)
    yield latent_knowledge.known_and_said()
    values = {task: [low, high, low] for task in ("one", "two", "three", "four")}
    curves = {part: {"A": values, "B": values} for part in ("near", "far")}
    yield latent_knowledge.by_depth(curves, {name: dict.fromkeys(values, 1) for name in "AB"})
    tasks = {"LR": {"one": 0.9, "mean": 0.95}, "CCS": {"one": 0.1, "mean": 0.1}}
    yield latent_knowledge.by_task({"A": tasks, "B": tasks}, "AUROC")
    rows = {"A": {"LR": high, "CCS": low}, "B": {"LR": low, "CCS": low}}
    chance = {name: {"LR": low} for name in "AB"}
    panels, bars = dict.fromkeys(("apart", "all"), rows), dict.fromkeys(("apart", "all"), chance)
    yield latent_knowledge.beside_chance(panels, bars, {"LR": 0.76, "unknown": 0.5})
    yield anomalies.usual_and_odd()
    added = dict.fromkeys(anomalies.WHO, [1.0, 2.0, 30.0])
    yield anomalies.by_depth({name: {"one": added, "two": added} for name in "AB"})
    odd = dict.fromkeys("AB", dict.fromkeys(anomalies.FLAGGED, {"one": high, "mean": low}))
    yield anomalies.flagged(odd)
    yield anomalies.flagged(odd, odd)


def test_figures_are_fit_for_a_page_and_the_same_again():
    first, second = ([plots.png(figure) for figure, _ in figures()] for _ in range(2))
    assert first == second
    for figure, alt in figures():
        assert not plots.unfit(figure, alt), alt
        plt.close(figure)


def test_alt_texts_state_the_numbers():
    _, depth, task, chance, _, added, flagged, beside = (alt for _, alt in figures())
    plt.close("all")
    assert "far, at the depth chosen on alice's items, A: one 0.95, two 0.95" in depth
    assert "means of the tasks: A: LR 0.95, CCS 0.10" in task
    assert "apart, A: LR 0.95, CCS 0.10; B: LR 0.10" in chance
    assert "at most for bob, A: one 30, two 30" in added
    assert "by task; means, A: bob 0.10" in flagged
    assert "by task beside random detectors; means, A: bob 0.10" in beside


def test_published_values_are_known_by_our_names():
    assert latent_knowledge.published()["LR"] == 0.76
    assert {"LR", "CCS", "CRC", "own answer"} <= latent_knowledge.published().keys()
