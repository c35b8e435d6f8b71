"""The techniques on a published model that reads English: a test of the code where the answers are
known, not a finding about architectures. Numbers go to build/real/table.md.
"""

import re

import numpy as np
import pytest
import torch

from tests.real.conftest import unpacked
from tft_utils import models, reading, stats
from tft_utils.files import ROOT
from tft_utils.techniques import attention, lenses, minimal_pairs, patching, relevance

N = 48  # questions of a kind
CAUSES = {"fact": 0.6, "indirect object": 0.6, "agreement": 0.6}  # least share of hits in the top 3


def said(e: stats.Estimate) -> str:
    return f"{e.value:.2f} [{e.low:.2f}, {e.high:.2f}], n={e.n}"


def ask(model, cases):
    prompts, answers, foils = zip(*((c.prompt, c.answer, c.foil) for c in cases), strict=True)
    return reading.ask(model, prompts, answers, foils)


def known(model, cases):
    """The questions that the model answers rather than their foil, and its share of them."""
    asked = ask(model, cases)
    logits = model.hf(input_ids=asked.ids).logits[torch.arange(len(asked)), asked.last]
    right = asked.score(logits) > 0
    return [c for c, r in zip(cases, right, strict=True) if r], stats.proportion(
        int(right.sum()), len(right)
    )


def test_every_kind_keeps_a_hundred_items(corpus, report):
    """Of English, under this tokenizer; how many words of each list are one token is in the datasheet."""
    sheet = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    for name in ("names", "nouns", "moods", "facts"):
        left, n = corpus.kept[name]
        report(f"{name} that are one token", f"{left} of {n}")
        assert re.search(rf"^\|.* \| {n} \| .* \| {left} \|$", sheet, re.MULTILINE), name
    pairs = {
        "fact": corpus.fact_pairs(300),
        "indirect object": corpus.indirect_object_pairs(100),
        "agreement": corpus.minimal_pairs(100),
        "mood": corpus.mood_pairs(100),
    }
    for kind, some in pairs.items():
        assert len({(pair.clean.text, pair.corrupt.text) for pair in some}) >= 100, kind
    assert all(len(corpus.cases(kind, 100)) == 100 for kind in corpus.cases_of)
    assert all(
        len({one.text for one in corpus.statements(task, 150)}) >= 100 for task in corpus.statement_tasks
    )


def test_our_blocks_are_the_models_own(smollm2, corpus):
    ids, mask = reading.tokens(smollm2, [corpus.texts(1)[0]])
    x = smollm2.embed(ids)
    for layer in range(smollm2.n_layers):
        x = smollm2.block(layer, x)
    torch.testing.assert_close(smollm2.to_logits(x), smollm2.hf(ids).logits, atol=2e-3, rtol=1e-3)


def test_bfloat16_weights_hardly_change_a_prediction(smollm2, corpus, report):
    """KL from the float32 model, in nats a token: kept narrow, and computed in it from end to end."""
    texts, narrow = [reading.tokens(smollm2, [text]).ids for text in corpus.texts(8)], torch.bfloat16
    exact = [smollm2.hf(ids).logits.double().log_softmax(-1) for ids in texts]

    def costs(model) -> stats.Estimate:
        logs = [model.hf(ids).logits.double().log_softmax(-1) for ids in texts]
        kl = [(p.exp() * (p - q)).sum(-1).flatten() for p, q in zip(exact, logs, strict=True)]
        return stats.ratio(torch.stack([k.sum() for k in kl]), torch.tensor([len(k) for k in kl]))

    kept = costs(models.load(unpacked(), storage_dtype=narrow))
    through = costs(models.load(unpacked(), dtype=narrow))
    for what, cost in ("blocks' matrices in bfloat16", kept), ("all in bfloat16", through):
        report(f"{what}: KL, nats a token", f"{cost.value:.1e} [{cost.low:.1e}, {cost.high:.1e}]")
    assert kept.high < 1e-4 < through.low


def test_repeated_random_tokens_are_copied_by_an_induction_head(smollm2, report):
    """Olsson et al. (2022): the head looks at the token behind the earlier copy of the present one."""
    draw, n = torch.Generator().manual_seed(0), 32
    once = torch.randint(100, smollm2.config.vocab_size, (8, n), generator=draw)
    ids = torch.cat([once, once], 1)
    out = smollm2.hf(ids, output_attentions=True)
    log_p = out.logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    first, second = (
        stats.mean(part.mean(1).tolist()) for part in (log_p[:, : n - 1], log_p[:, n:])
    )  # by row
    report("log-probability of random tokens, nats: read first, again", f"{said(first)}; {said(second)}")
    assert second.low - first.high > 8
    at = torch.arange(n, 2 * n - 1)
    by_row = torch.stack([layer[:, :, at, at - n + 1].mean(2) for layer in out.attentions])
    layer, head = divmod(int(by_row.mean(1).argmax()), by_row.shape[2])
    weight = stats.mean(by_row[layer, :, head].tolist())
    report(f"weight on the match, block {layer}, head {head}, the largest of all", said(weight))
    assert (layer, head) == (18, 6)
    assert weight.low > 0.85
    words = attention.repeats(range(100, 4000), n=8, batch=8)
    (seen,) = (attention.classify(layer)[6] for layer in attention.lag_profiles(smollm2, words)[18:19])
    assert (seen.kind, seen.lag) == ("match", 1), "the lesson's own way finds it, too"


@pytest.mark.parametrize("kind", CAUSES)
def test_it_knows_answers_and_relevance_finds_their_causes(smollm2, corpus, report, kind):
    cases, share = known(smollm2, corpus.cases(kind, N, seed=0))
    report(f"{kind}: answer likelier than the foil", said(share))
    assert share.low > 0.7
    asked, found = ask(smollm2, cases), {}
    for method in ("lrp", "random"):
        hits = relevance.hits(relevance.explain(smollm2, asked, method), asked, cases)
        found[method] = stats.proportion(sum(hits), len(hits))
    report(
        f"{kind}: a cause among the 3 most relevant words, random", ", ".join(map(said, found.values()))
    )
    assert found["lrp"].low > found["random"].value
    assert found["lrp"].value > CAUSES[kind]


@pytest.mark.parametrize("relation", ["capital", "language", "continent"])
def test_it_says_the_facts_whatever_the_phrasing(smollm2, corpus, report, relation):
    """Of all words, not of two: what lessons cut and edit. The phrasings were chosen so on this model."""
    pairs = [p for p in corpus.fact_pairs(240) if p.clean.latents["facts"][0][1] == relation]
    hits = {}
    for pair in pairs:
        asked = patching.asked_of(smollm2, [pair])
        hits[pair.clean.text] = bool(asked.right(smollm2.hf(input_ids=asked.ids).logits[:, -1]))
    share = stats.proportion(sum(hits.values()), len(hits))
    report(f"{relation}: of all words the answer the likeliest", said(share))
    assert share.low > 0.5


def test_agreement_in_minimal_pairs(smollm2, corpus, report):
    right = minimal_pairs.prefers(smollm2, corpus.minimal_pairs(N, seed=0))
    share = stats.proportion(int(right.sum()), len(right))
    report("minimal pairs of agreement over attractors", said(share))
    assert share.low > 0.7


def test_the_logit_lens_reads_more_with_depth(smollm2, corpus, report):
    texts = lenses.encode(smollm2, corpus.texts(1, seed=0))
    ce = lenses.measure(smollm2, lenses.logit_lens(smollm2), texts).nats_per_word("ce")
    shown = [ce[k] for k in (20, 24, 27, 29, 30)]
    report("logit lens, nats a token after 20, 24, 27, 29, 30 blocks", "; ".join(map(said, shown)))
    assert all(a.value > b.value for a, b in zip(shown, shown[1:], strict=False))


def test_patching_follows_a_fact_from_its_subject_to_the_last_word(smollm2, corpus, report, monkeypatch):
    depths = [1, 15, 29]
    monkeypatch.setattr(patching, "_depths", lambda *_: depths)  # of 31: minutes less
    pairs = corpus.fact_pairs(12, seed=0)
    asked = patching.asked_of(smollm2, pairs)
    subject = torch.tensor(
        [max(i for i, w in enumerate(p.clean.words[: p.position]) if w.role == "subject") for p in pairs]
    )
    first, last = (reading.at_positions(asked, at) for at in (subject, asked.last))
    effects = patching.grid(smollm2, asked, where=first | last)
    found = {
        where: {k: stats.bootstrap(effects.at(at)[k].tolist(), np.median, seed=0) for k in depths}
        for where, at in (("subject", subject), ("last word", asked.last))
    }
    for where, by_depth in found.items():
        restored = "; ".join(map(said, by_depth.values()))
        report(f"residual patch at the {where} after 1, 15, 29 blocks, median restored", restored)
    assert found["subject"][1].low > 0.8 > 0.2 > found["subject"][29].high
    assert found["last word"][1].high < 0.2 < 0.8 < found["last word"][29].low
