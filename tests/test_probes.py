"""Probes: solvers against scikit-learn, readers against nnsight, splits, trees, pairs, erasure."""

import itertools
import json

import numpy as np
import pytest
import torch
from concept_erasure import optimal_linear_shrinkage
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression

from tft_utils import files, linear, models, reading, stats
from tft_utils.corpora import pairs as world_pairs
from tft_utils.corpora import published, tasks, world
from tft_utils.corpora.lexicon import BEHAVIOURS, HEROES, NOUNS, PLACES, THINGS, Rng
from tft_utils.organisms import evaluation
from tft_utils.techniques import erasure, minimal_pairs, probes, structure

NAMES = models.PAIR
SMALL = {"train": 300, "known": 80, "new": 80}


@pytest.fixture(scope="module", autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module", params=NAMES)
def model(request):
    return models.load(request.param)


def planted(depths=3, n=300, d=12, seed=0):
    """Vectors [n depth d] whose label [n] is planted, more clearly at each depth."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.randint(2, (n,), generator=draw)
    x = torch.randn(n, depths, d, generator=draw) @ torch.randn(d, d, generator=draw) + 2
    x = x + (2.0 * y - 1)[:, None, None] * torch.linspace(0, 2, depths)[:, None] * torch.randn(
        d, generator=draw
    )
    return x, y


# ---- the two classifiers -----------------------------------------------------------------------


@pytest.mark.parametrize("decay", [1e-4, 1e-2])
def test_logistic_is_scikit_learns_at_every_depth(decay):
    x, y = planted()
    w, b = linear.logistic(x.double(), y.bool(), decay)
    for k in range(x.shape[1]):
        theirs = LogisticRegression(C=1 / (2 * len(x) * decay), tol=1e-10, max_iter=5000)
        theirs.fit(x[:, k].double().numpy(), y.numpy())
        np.testing.assert_allclose(w[k].numpy(), theirs.coef_[0], atol=1e-4)
        np.testing.assert_allclose(b[k].item(), theirs.intercept_[0], atol=1e-4)


def test_logistic_of_separable_labels_converges():
    x = torch.tensor([[[-1.0]], [[-2.0]], [[5.0]], [[1.0]]], dtype=torch.float64)
    w, b = linear.logistic(x, torch.tensor([False, False, True, True]), 1e-6)
    p = torch.sigmoid(x[:, 0] @ w[0] + b[0])
    gradient = ((p - torch.tensor([0.0, 0, 1, 1])) * x[:, 0, 0]).mean() + 2e-6 * w[0, 0]
    assert abs(gradient) < 1e-8


def test_discriminant_is_scikit_learns_with_the_same_shrinkage():
    """The same scores, with the covariance shrunk as the authors of LEACE shrink theirs."""
    x, y = planted(n=400)
    three = (y + (x[:, 2, 0] > 2).long()).clamp(max=2)
    labels = torch.stack([y, three])
    W, b = linear.discriminant(x, labels, 3)
    chosen = linear.choose(x, W, b)
    for task, label in enumerate(labels):
        classes = label.unique()  # the first labelling has two of three
        for k in range(x.shape[1]):
            X = x[:, k].double()
            means = torch.stack([X[label == c].mean(0) for c in range(3)]).nan_to_num()
            within = (X - means[label]).T @ (X - means[label]) / len(X)
            amount = 1 - (optimal_linear_shrinkage(within, len(X)) / within)[0, 1]
            assert 0 < amount < 1
            theirs = LinearDiscriminantAnalysis(
                solver="lsqr", shrinkage=float(amount), store_covariance=True
            ).fit(X, label)
            # scikit-learn shrinks each class towards its own mean variance; in all that is the same.
            np.testing.assert_allclose(theirs.covariance_.trace(), within.trace().item(), rtol=1e-9)
            mine = X @ W[k, task].T + b[k, task]
            mine, scores = (
                each - each.mean(1, keepdims=True)
                for each in (mine[:, classes].numpy(), _scores(theirs, X.numpy()))
            )
            np.testing.assert_allclose(mine, scores, atol=1e-6 * abs(scores).max())
            assert (chosen[k, task].numpy() == theirs.predict(X)).all()


def _scores(fit, X):
    """A column a class; with two classes scikit-learn gives their difference."""
    scores = fit.decision_function(X)
    return scores if scores.ndim == 2 else np.stack([-scores, scores], 1) / 2


@pytest.mark.parametrize("n", [30, 300])
def test_shrinkage_is_that_of_the_package(n):
    x = torch.randn(2, n, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    S = (x * torch.linspace(0.1, 2, 40)).mT @ (x * torch.linspace(0.1, 2, 40)) / n
    theirs = optimal_linear_shrinkage(S, n)
    assert torch.allclose(linear.shrink(S.clone(), n), theirs, rtol=1e-9)
    assert (linear.shrink(torch.zeros(2, 3, 3), n) == 0).all()


def test_the_vectors_are_not_changed():
    x, y = planted()
    x = x.double().transpose(0, 1).contiguous().transpose(0, 1)  # already as the solver wants them
    before = x.clone()
    linear.discriminant(x, y[None], 2)
    assert torch.equal(x, before)


def test_several_labellings_are_fitted_as_one_by_one():
    x, y = planted()
    both, b = linear.discriminant(x, torch.stack([y, 1 - y]), 2)
    alone, b1 = linear.discriminant(x, (1 - y)[None], 2)
    assert torch.allclose(both[:, 1], alone[:, 0])
    assert torch.allclose(b[:, 1], b1[:, 0])


def test_a_planted_direction_is_found_where_it_is_and_not_where_it_is_not():
    train, test = planted(n=600), planted(n=600, seed=0)
    W, b = linear.discriminant(train[0], train[1][None], 2)
    share = (linear.choose(test[0], W, b)[:, 0] == test[1]).double().mean(1)
    assert share[0] < 0.66  # memorised noise of 12 numbers, no signal
    assert share[2] > 0.9


# ---- reading -----------------------------------------------------------------------------------


def test_the_bulk_reader_agrees_with_nnsight(model):
    documents = world_pairs.probe_documents("grammar", 5, 0, "new")
    at = [[0, len(d.words) - 3] for d in documents]
    found = reading.read(model, documents, at)
    document, where = documents[3], at[3]
    for k in (0, 2, model.n_layers):
        with model.trace(document.text):
            residual = model.residual(k)[0].save()
        assert torch.allclose(residual[where], found["residual"][3, :, k], atol=1e-4)
    with model.trace(document.text):
        mixed = model.mixer_output(1)[0].save()
    assert torch.allclose(mixed[where], found["mixer"][3, :, 1], atol=1e-4)


def test_the_state_is_that_of_a_run_that_ends_there(model):
    documents = world_pairs.probe_documents("grammar", 4, 0, "new")
    at = [4, 6, 5, 3]
    found = reading.read_state(model, documents, at, range(model.n_layers))
    assert set(found) == set(model.kind(0).compressed)
    for name, held in found.items():
        ids = torch.tensor([[evaluation.TOKEN_ID[w.text] for w in documents[1].words[:7]]])
        cache = model.hf(input_ids=ids, use_cache=True)[model.architecture.CACHE]
        assert torch.allclose(held[1, 2], model.state(cache, 2)[name].flatten(), atol=1e-5)


# ---- tasks and splits --------------------------------------------------------------------------


def nouns_of(documents, words):
    return {word.text for d in documents for word in d.words} & set(words)


ALL_NOUNS = {"grammar": [*NOUNS, *NOUNS.values()], "story": [*HEROES, *THINGS, *PLACES]}


def sentence_frames(document):
    """Frames, found without the builder: parts of speech, or the words that are no noun or adjective."""
    if document.kind == "grammar":
        return {" ".join(w.pos for w in document.words if w.pos not in ("ADJ", "ADV"))}
    if document.kind == "story":
        text = " ".join("_" if w.pos in ("NOUN", "ADJ") else w.text for w in document.words)
        return set(text.strip(" .").split(" . "))
    cue = document.positions("cue")[0]
    return {document.words[cue - 1].text + document.words[cue + 1].text + document.latents["behaviour"]}


@pytest.mark.parametrize("kind", ["grammar", "story", "persona"])
def test_training_and_testing_share_no_frame_and_new_parts_no_noun(kind):
    train, known, new = (world_pairs.probe_documents(kind, 300, 0, part) for part in world_pairs.PARTS)
    frames = [set().union(*map(sentence_frames, part)) for part in (train, known, new)]
    assert not frames[0] & frames[1]
    assert not frames[0] & frames[2]
    assert min(map(len, frames)) >= 4
    if kind == "persona":
        fillers = [{d.words[d.positions("filler")[0]].text for d in part} for part in (train, new)]
        cues = [{d.latents["cue"] for d in part} for part in (train, new)]
        assert not cues[0] & cues[1]
        for name in BEHAVIOURS:  # two behaviours share a list of fillers, and may split it the same
            of = [
                {d.words[d.positions("filler")[0]].text for d in part if d.latents["behaviour"] == name}
                for part in (train, new)
            ]
            assert not of[0] & of[1]
        assert all(fillers)
        return
    assert not nouns_of(train, ALL_NOUNS[kind]) & nouns_of(new, ALL_NOUNS[kind])
    assert nouns_of(known, ALL_NOUNS[kind]) <= nouns_of(train, ALL_NOUNS[kind])
    if kind == "story":
        moods = [{w.text for d in part for w in d.words if w.role == "mood"} for part in (train, new)]
        assert not moods[0] & moods[1]


def test_probed_words_of_new_parts_of_speech_were_not_probed_in_training():
    words = {}
    for part in world_pairs.PARTS:
        items = [
            tasks.TASKS["part of speech"].find(d, Rng(i), part)
            for i, d in enumerate(world_pairs.probe_documents("grammar", 300, 0, part))
        ]
        words[part] = {item.cause for item in items}
        assert {item.label for item in items} == set(range(len(tasks.OPEN)))
    assert not words["train"] & words["new"]


def test_the_sentences_were_never_trained_on():
    for document in world_pairs.probe_documents("grammar", 50, 0, "new"):
        verb = document.positions("verb")[0]
        subject = document.words[document.words[verb].source].text
        lemma = list(NOUNS)[tasks.LEMMA[subject]]
        predicate = document.words[verb]
        if predicate.text in ("is", "are", "was", "were"):
            key = document.words[verb + 1].text
        else:
            key = predicate.text if predicate.number == "singular" else predicate.foil
        assert world.split_of(lemma, key) == "test"


def test_labels_are_the_worlds():
    document = world_pairs.probe_documents("grammar", 1, 0, "train")[0]
    verb = document.positions("verb")[0]
    item = tasks.TASKS["number"].find(document, Rng(), "train")
    assert item.position == verb - 1
    assert tasks.NUMBERS[item.label] == document.words[verb].number
    subject = tasks.TASKS["subject"].find(document, Rng(), "train")
    assert item.cause in list(NOUNS.items())[subject.label]


def test_a_control_label_belongs_to_its_cause_alone():
    labels = torch.tensor([0] * 90 + [1] * 10)
    causes = [f"w{i}" for i in range(500)]
    drawn = probes.control_labels(causes, labels, 0)
    assert 0.05 < drawn.double().mean() < 0.16
    assert torch.equal(probes.control_labels(causes[::-1], labels, 0).flip(0), drawn)
    assert not torch.equal(probes.control_labels(causes, labels, 1), drawn)


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="expected a kind among grammar, story, persona"):
        world_pairs.probe_documents("facts", 1)


# ---- probing -----------------------------------------------------------------------------------


def test_a_probe_reports_what_was_planted_and_its_control_what_is_memorised():
    draw = torch.Generator().manual_seed(0)
    words = torch.randn(40, 64, generator=draw)
    parts = {}
    for name, n, low, high in (("train", 600, 0, 20), ("known", 200, 0, 20), ("new", 200, 20, 40)):
        which = torch.randint(low, high, (n,), generator=draw)
        label = which % 2
        noise = 0.1 * torch.randn(n, 64, generator=draw)
        identity, value = words[which] + noise, torch.zeros(n, 64)
        value[:, 0] = 2.0 * label - 1
        x = torch.stack([noise, identity, value + noise], 1)  # nothing, the word, the value
        parts[name] = probes.Labelled({"site": x}, label, [str(int(w)) for w in which])
    found = probes.probe(parts, 2, "site")
    assert abs(found.known[0].value - 0.5) < 0.1
    assert found.known[1].value > 0.97
    assert found.control[1].value > 0.9  # by heart
    assert found.new[1].value < 0.75
    assert found.new[2].value == 1
    assert found.control[2].value < 0.85
    assert found.selectivity[2].value > 0.1
    assert found.new[2].low < 1  # Wilson: 200 right ones do not prove a share of 1


def test_the_interval_of_crossed_resampling_covers_seeds_and_items():
    draw = torch.Generator().manual_seed(0)
    by_item = torch.rand(1, 1, 200, generator=draw).repeat(5, 1, 1).round()
    alike = stats.crossed(by_item)[0]
    spread = by_item * torch.tensor([1.0, 0.2, 1, 0.2, 1])[:, None, None]
    differ = stats.crossed(spread)[0]
    assert alike.n == 200
    assert 0.05 < alike.high - alike.low < 0.25
    assert differ.high - differ.low > alike.high - alike.low


def test_a_value_that_all_share_is_no_share_of_right_answers():
    shared = stats.crossed(torch.full((3, 1, 30), 0.25))[0]
    assert shared[2:] == pytest.approx((0.25, 0.25))
    right = stats.crossed(torch.ones(3, 1, 30))[0]
    assert right.low == stats.proportion(30, 30).low < 1


def test_number_is_read_at_the_top_of_both_and_not_at_the_bottom(model):
    parts = probes.collect(model, ["number"], SMALL)["number"]
    found = probes.probe(parts, 2, seeds=2)
    assert found.new[-1].value > 0.95
    assert found.new[0].value < 0.65


def test_every_task_is_collected_with_its_parts(model):
    found = probes.collect(model, sizes={"train": 20, "known": 8, "new": 8})
    assert set(found) == set(tasks.TASKS)
    for task, parts in found.items():
        assert ("new" in parts) == (task != "subject")
        assert parts["known"].x["residual"].shape == (8, model.n_layers + 1, 128)
        assert parts["known"].x["mixer"].shape == (8, model.n_layers, 128)


def test_what_travels_is_the_subjects_number_a_word_later(model):
    found = probes.travelled(model, [0, 1], 2, {"train": 120, "known": 30, "new": 60})
    for distance, parts in found.items():
        assert set(parts["train"].x) == {"residual", *model.kind(0).compressed}
        assert len(parts["train"].label) == 120
        assert all(x.shape[-1] <= 200 for x in parts["new"].x.values())
        for site in {"ssm"} & set(parts["new"].x):
            assert probes.probe(parts, 2, site, seeds=2).new[0].value > 0.9, distance
    sentence = [
        d
        for d in world_pairs.probe_documents("grammar", 360, 0, "train")
        if d.positions("verb")[0] - d.positions("subject")[0] > 1
    ][7]
    at = sentence.positions("subject")[0]
    alone = reading.read(model, [sentence], [[at, at + 1]])["residual"][0, :, 2]
    for distance, parts in found.items():
        assert torch.allclose(parts["train"].x["residual"][7, 0], alone[distance], atol=1e-4)
        assert parts["train"].cause[7] == sentence.words[at].text


# ---- trees -------------------------------------------------------------------------------------


def path_up(heads, i):
    """The word and all above it."""
    path = [i]
    while heads[path[-1]] is not None:
        path.append(heads[path[-1]])
    return path


def test_trees_are_those_of_paths_to_the_root(model):
    """Two words are as far apart as their paths to the root are long where they do not run together."""
    some = structure.trees(model, "train", 12)
    documents = world_pairs.probe_documents("grammar", 12, 0, "train")
    assert some.length.tolist() == [len(d.words) - 1 for d in documents]
    for row, document in enumerate(documents):
        ups = [path_up(world_pairs.heads(document.words), i) for i in range(some.length[row])]
        for i, up in enumerate(ups):
            assert some.depth[row, i] == len(up) - 1
            for j, other in enumerate(ups):
                assert some.distance[row, i, j] == len({*up} ^ {*other})
        assert not some.distance[row, len(ups) :].any(), "padding"


def test_heads_of_a_sentence_by_hand():
    found = {}
    for document in world_pairs.probe_documents("grammar", 400, 0, "train"):
        heads = world_pairs.heads(document.words)
        words = [w.text for w in document.words]
        assert heads.count(None) == 1
        for i, head in enumerate(heads):  # every path ends at the verb: it is a tree
            assert len(path_up(heads, i)) <= len(words)
            if head is not None:
                found.setdefault((document.words[i].pos, document.words[head].pos), 0)
        arcs = [(min(i, h), max(i, h)) for i, h in enumerate(heads) if h is not None]
        for a, b in arcs:  # projective: no two arcs cross
            assert not any(a < c < b < d for c, d in arcs), document.text
    assert ("NOUN", "ADP") in found
    assert ("DET", "VERB") in found  # 'that'


def test_a_planted_tree_is_found_and_another_sentences_is_not():
    """Vectors that are one number an edge: squared distances are tree distances (Hewitt & Manning)."""
    heads = {5: [1, 4, 1, 2, None], 6: [1, None, 1, 2, 3, 4]}
    draw = torch.Generator().manual_seed(0)
    x, distance, depth = torch.zeros(40, 6, 2, 12), torch.zeros(40, 6, 6), torch.zeros(40, 6)
    length = torch.tensor([5, 6] * 20)
    for row, n in enumerate(length.tolist()):
        some = heads[n] if row % 4 < 2 else [None, *range(n - 1)]
        ups = [path_up(some, i) for i in range(n)]
        axes = torch.randperm(6, generator=draw)
        for i, up in enumerate(ups):
            depth[row, i] = len(up) - 1
            x[row, i, 1, axes[torch.tensor(up[:-1], dtype=torch.long)]] = 1
            for j, other in enumerate(ups):
                distance[row, i, j] = len(up) + len(other) - 2 * len(set(up) & set(other))
    x[:, :, 0] = torch.randn(40, 6, 12, generator=draw)
    some = structure.Trees(x, distance, depth, length)
    for what in ("distance", "depth"):
        B = structure.structural_probe(some, what, steps=300)
        noise, true = structure.tree_scores(some, B, what).mean(1)
        assert true > 0.97, what
        assert noise < 0.9, what
    assert not torch.equal(structure.another_tree(some).distance, distance)
    # By hand: of the first tree's four edges one spans three words, all others join neighbours.
    assert structure.chain_scores(some).tolist() == [0.75, 1, 1, 1] * 10


@pytest.mark.parametrize("what", ["distance", "depth"])
def test_the_structural_probes_gradient_is_autograds(what):
    draw = torch.Generator().manual_seed(0)
    distance = torch.randint(1, 4, (4, 5, 5), generator=draw).double()
    depth, length = torch.rand(4, 5, generator=draw).double(), torch.tensor([5, 3, 2, 4])
    some = structure.Trees(torch.zeros(4, 5, 2, 6), distance + distance.mT, depth, length)
    weight = structure._inside(some, what) / 4
    y = torch.randn(2, 4, 5, 3, generator=draw, dtype=torch.float64)
    with torch.enable_grad():
        y.requires_grad_()
        measured = y.square().sum(-1)
        if what == "distance":
            measured = (y[:, :, :, None] - y[:, :, None]).square().sum(-1)
        loss = ((measured - getattr(some, what)).abs() * weight).sum()
        (theirs,) = torch.autograd.grad(loss, y)
    assert torch.allclose(structure._gradient(some, y.detach(), what, weight), theirs)


def kruskal(measured):
    """The pairs of a minimum spanning tree, by hand: the nearest two that are not linked yet."""
    group, edges = list(range(len(measured))), set()
    pairs = itertools.combinations(group, 2)
    for i, j in sorted(pairs, key=lambda pair: float(measured[pair])):
        if group[i] != group[j]:
            edges.add((i, j))
            group = [group[i] if g == group[j] else g for g in group]
    return edges


def test_edges_found_are_those_of_a_spanning_tree_by_hand():
    draw = torch.Generator().manual_seed(0)
    length = torch.tensor([6, 9, 2])
    points = torch.randn(2, 3, 9, 4, generator=draw)
    points[0, 0, 3] = points[0, 0, 1]  # two words in one place
    measured = torch.cdist(points, points).square()
    distance = torch.randint(1, 3, (3, 9, 9), generator=draw).float()
    some = structure.Trees(points, distance + distance.mT - 1, torch.zeros(3, 9), length)
    found = structure._edges_found(measured, some)
    for k in range(2):
        for row, n in enumerate(length.tolist()):
            edges = kruskal(measured[k, row, :n, :n])
            assert len(edges) == n - 1
            assert found[k, row] == sum(some.distance[row, i, j] == 1 for i, j in edges)
    assert found.max() > 1


# ---- minimal pairs and surprisal ---------------------------------------------------------------


def test_blimp_files_are_read_and_judged(model, tmp_path):
    lines = [
        json.dumps(
            {
                "sentence_good": p.clean.text,
                "sentence_bad": p.corrupt.text,
                "field": "morphology",
                "linguistics_term": "subject_verb_agreement",
                "UID": "world_agreement",
                "pairID": str(i),
                "simple_LM_method": True,
                "one_prefix_method": False,
                "two_prefix_method": False,
            }
        )
        for i, p in enumerate(world_pairs.minimal_pairs(20, 3))
    ]
    path = tmp_path / "world_agreement.jsonl"
    path.write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    pairs = published.read_blimp(path)
    assert len(pairs) == 20
    assert pairs[0].name == "world_agreement"
    assert minimal_pairs.judge(model, pairs).all()
    swapped = [published.MinimalPair(p.bad, p.good, p.name) for p in pairs]
    assert not minimal_pairs.judge(model, swapped).any()
    ties = [published.MinimalPair(p.good, p.good, "tie") for p in pairs]
    assert not minimal_pairs.judge(model, ties).any()


@pytest.mark.parametrize("line", ["no json", '{"sentence_good": "a"}', "[1]"])
def test_a_broken_line_is_named(tmp_path, line):
    path = tmp_path / "broken.jsonl"
    path.write_text('{"sentence_good": "a", "sentence_bad": "b", "UID": "c"}\n' + line, encoding="utf-8")
    with pytest.raises(ValueError, match=r"line 2 of .*broken\.jsonl.* take a \.jsonl file of BLiMP"):
        published.read_blimp(path)


def test_surprisal_is_the_cross_entropy_of_one_sentence(model):
    text = "The keys near the cabinet are old ."
    (bits,) = minimal_pairs.surprisal(model, [text])
    row = [model.tokenizer.eos_token_id, *model.tokenizer(text).input_ids]
    logits = model.hf(input_ids=torch.tensor([row])).logits[0].double()
    chance = logits.softmax(-1)[range(len(row) - 1), row[1:]]
    assert torch.allclose(bits.double(), -chance.log2(), atol=1e-4)
    many = minimal_pairs.surprisal(model, ["The dog waits .", text])
    assert torch.allclose(many[1], bits, atol=1e-4)


def test_unknown_words_are_named(model):
    with pytest.raises(ValueError, match="found 'cowboys' in 'The cowboys wait .'"):
        minimal_pairs.surprisal(model, ["The cowboys wait ."])


def test_minimal_pairs_agree_with_the_cards(model):
    name = model.architecture.__name__.split(".")[-1].replace("gpt_neox", "transformer")
    card = json.loads((files.ORGANISMS / f"{name}-0" / "card.json").read_text(encoding="utf-8"))[
        "evaluation"
    ]
    pairs = [p for a in range(4) for p in world_pairs.minimal_pairs(50, 5, attractors=a)]
    share = minimal_pairs.judge(
        model, [published.MinimalPair(p.clean.text, p.corrupt.text, "") for p in pairs]
    )
    assert card["grammar"]["low"] - 0.02 <= share.double().mean()
    assert torch.equal(minimal_pairs.prefers(model, pairs), share)


# ---- erasure -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def marked():
    return [tasks.numbers_before_verbs(200), tasks.other_words(6)]


def test_after_erasure_no_linear_probe_finds_the_number(model, marked):
    k = model.n_layers - 1
    clean = reading.read(model, marked[0].documents, marked[0].at)["residual"][:, 0]
    with erasure.erased(model, erasure.fit_erasers(model, [k], marked)):
        left = reading.read(model, marked[0].documents, marked[0].at)["residual"][:, 0]
    z = torch.tensor(marked[0].value)[:, 0]

    def covariance(x):
        """Of the vectors and the number, against the vectors' own size."""
        x = (x - x.mean(0)).double()
        return (x * z[:, None]).mean(0).norm() / x.norm(dim=1).mean()

    assert covariance(left[:, k]) < 0.02 * covariance(clean[:, k])
    assert torch.equal(clean[:, k - 1], left[:, k - 1])
    assert not torch.allclose(clean[:, k + 1], left[:, k + 1])


def test_erasing_number_breaks_agreement_and_nothing_else(model, marked):
    depths = range(model.n_layers // 2, model.n_layers + 1)
    number = erasure.fit_erasers(model, depths, marked)
    asked = [p for a in range(4) for p in world_pairs.minimal_pairs(50, 2, attractors=a)]
    for k in depths:
        assert int(torch.linalg.matrix_rank(number[k].proj_left @ number[k].proj_right)) == 1
    with erasure.erased(model, number):
        assert minimal_pairs.prefers(model, asked).double().mean() < 0.75
        facts = evaluation.evaluate(model.hf, 100, kinds=["facts"])["facts"]
    assert facts.value >= 0.9  # the eraser was fitted to few other words
    assert minimal_pairs.prefers(model, asked[:20]).all()  # outside, the model is whole again


def test_each_depth_is_made_from_what_the_ones_below_leave(model, marked):
    k, seen = model.n_layers // 2, {}

    def make(depth, x):
        seen[depth] = x.clone()
        return lambda stream: 0.5 * stream

    made = erasure.one_by_one(model, (k, k + 1), marked, make)
    with erasure.erased(model, {k: made[k]}):
        left = reading.read(model, marked[0].documents, marked[0].at)["residual"][:, 0, k + 1]
    clean = reading.read(model, marked[0].documents, marked[0].at)["residual"][:, 0]
    assert torch.allclose(seen[k][: len(left)], clean[:, k], atol=1e-4)
    assert torch.allclose(seen[k + 1][: len(left)], left, atol=1e-4)
    assert not torch.allclose(left, clean[:, k + 1], atol=1e-2)


def test_a_control_moves_as_far_and_along_another_direction(model, marked):
    k = model.n_layers // 2
    (eraser,) = erasure.fit_erasers(model, [k], marked).values()
    parts = eraser.bias, eraser.proj_left[:, 0], eraser.proj_right[0]
    mean, a, b = parts
    u = torch.randn(len(a), generator=torch.Generator().manual_seed(0)).to(a)
    u = u - (u @ b) / (b @ b) * b
    other = erasure.along(mean, a.norm() * u / u.norm(), b)
    x = reading.read(model, marked[0].documents, marked[0].at)["residual"][:, 0, k]
    assert torch.allclose(erasure.along(*parts)(x), eraser(x), atol=1e-4)
    assert torch.allclose((other(x) - x).norm(dim=1), (eraser(x) - x).norm(dim=1), rtol=1e-3)
    assert torch.allclose(other(x) @ b, x @ b, atol=1e-3)  # the number can still be read
    far = [erasure.distances(model, {k: one}, marked[0])[k] for one in (eraser, other)]
    assert far[0] == pytest.approx(far[1], rel=1e-3)
    assert far[0] == pytest.approx((eraser(x) - x).square().sum(1).mean().item(), rel=1e-2)
