"""Lesson 03, relevance_propagation: the rules of LRP as edits of a run, its books, and two tests of it.

The checks of whole runs know the truth from `techniques.relevance`, which works without nnsight.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tft_utils import models, reading
from tft_utils.architectures import mamba_scan as scan
from tft_utils.architectures import softmax
from tft_utils.architectures.recurrent import keep
from tft_utils.corpora import questions as world_questions
from tft_utils.course import plots
from tft_utils.course.exercises import Wrong, close, expect_equal, expect_tensor, refuse
from tft_utils.course.plots import BLUE, CONTROL, GREY, Drawn, Map, arrow, canvas, style, write
from tft_utils.stats import Estimate
from tft_utils.techniques import relevance as technique


def constant_scale(x, eps=1e-5):
    """x [... d] over its root mean square, which counts as a constant: linear in x."""
    scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return x * scale.detach()


def identity_rule(x, y):
    """y = phi(x), elementwise, rewritten as x times a constant: the values of y, the slope y / x."""
    slope = torch.where(x == 0, 0.0, y / x)
    return x * slope.detach()


def edit_norm(norm):
    """Inside a trace: a LayerNorm under the norm rule."""
    centred = norm.input - norm.input.mean(-1, keepdim=True)
    norm.output = constant_scale(centred, norm.eps) * norm.weight + norm.bias


def contrast(model, case):
    """Inside a trace: the answer's logit minus the foil's."""
    answer, foil = reading.token_ids(model, [case.answer, case.foil])
    return model.logits[0, -1, answer] - model.logits[0, -1, foil]


def hold(operation):
    """Inside a trace: what an operation gives counts as a constant."""
    operation.output = operation.output.detach()


def keep_shares(qkv, shares, heads):
    """Queries, keys and values with their shares of the gradient; the numbers stay.

    qkv: [... heads*3*width], head after head its query, key and value; shares: theirs, three numbers.
    """
    parts = qkv.unflatten(-1, (heads, 3, -1))
    share = torch.tensor(shares, dtype=qkv.dtype, device=qkv.device)[:, None]
    with_shares = parts * share + (parts * (1 - share)).detach()
    return with_shares.flatten(-3)


def explain_by_edits(model, case):
    """AttnLRP as edits of one run: the relevance of each word [pos]."""
    with torch.enable_grad(), model.trace(case.prompt):
        words = model.residual(0)
        for block in model.blocks:
            edit_norm(block.input_layernorm)
            qkv = block.attention.query_key_value
            qkv.output = keep_shares(qkv.output, (1 / 4, 1 / 4, 1 / 2), model.config.num_attention_heads)
            edit_norm(block.post_attention_layernorm)
            act = block.mlp.act
            act.output = identity_rule(act.input, act.output)
        edit_norm(model.final_norm)
        f = contrast(model, case)
        with f.backward():
            gradient = words.grad.save()
        found = (words * gradient).sum(-1)[0].detach().save()
    return found


def books(f, words, biases, patterns=()):
    """What the words get of f, each [pos], what all biases get together, and what the patterns leak.

    words: their vectors [pos d_model]; biases: tensors, some of which f may not depend on;
    patterns: attention weights [... query source], of whose gradient half counts.
    """
    of_words, *slopes = torch.autograd.grad(f, [words, *biases, *patterns], allow_unused=True)
    of_biases, of_patterns = slopes[: len(biases)], slopes[len(biases) :]
    owed, leak = 0.0, 0.0
    for bias, slope in zip(biases, of_biases, strict=True):
        if slope is not None:
            owed += (bias * slope).sum().item()
    for A, slope in zip(patterns, of_patterns, strict=True):
        hands_on = A * slope / 2
        dx = hands_on - A * hands_on.sum(-1, keepdim=True)
        leak += (hands_on - torch.xlogy(dx, A)).sum().item()
    return (words * of_words).sum(-1).detach(), owed, leak


def detach_six(block, mixer):
    """Inside a trace: one block of the readable Mamba under MambaLRP."""
    hold(block.norm.source.torch_rsqrt_0)
    _ = mixer.source  # rewrites the mixer, so it comes before the mixer runs
    z = mixer.in_proj.output.mT.chunk(2, dim=1)[1]
    act = scan.tap(mixer, "silu")
    act.output = identity_rule(act.input, act.output)
    for part in ("discrete_A", "discrete_B", "read"):  # 'read' is C
        hold(scan.tap(mixer, part))
    gate, gated = scan.tap(mixer, "gate"), scan.tap(mixer, "gated")
    gate.output = identity_rule(z, gate.output)
    gated.output = (gated.output + gated.output.detach()) / 2


def explain_by_detaches(model, case, detach):
    """MambaLRP as edits of one run: the relevance of each word [pos]."""
    with torch.enable_grad(), model.trace(case.prompt, use_cache=False):
        words = model.residual(0)
        for layer in range(model.n_layers):
            detach(model.blocks[layer], model.mixer(layer))
        hold(model.final_norm.source.torch_rsqrt_0)
        f = contrast(model, case)
        with f.backward():
            gradient = words.grad.save()
        found = (words * gradient).sum(-1)[0].detach().save()
    return found


def removal_curves(embeddings, relevance, score, baseline):
    """Two curves of the score while one word after another becomes `baseline` [d_model], and their gap.

    embeddings: of one prompt [pos d_model]; relevance: [pos]; score: [variant pos d_model] -> [variant].
    First curve [removed]: the most relevant word goes first; second: the least relevant. Then the mean
    of second minus first. The last word always stays, because it asks the question.
    """
    curves = []
    for ranked in (relevance[:-1], -relevance[:-1]):
        order = ranked.argsort(descending=True)
        rows = [embeddings]
        for at in order:
            changed = rows[-1].clone()
            changed[at] = baseline
            rows.append(changed)
        curves.append(score(torch.stack(rows)))
    most, least = curves
    return most, least, (least - most).mean()


def leave_one_out(embeddings, score, baseline):
    """How much of the score each word takes with it when `baseline` [d_model] stands in for it: [pos].

    embeddings: of one prompt [pos d_model]; score: [variant pos d_model] -> [variant].
    """
    without = []
    for at in range(len(embeddings)):
        changed = embeddings.clone()
        changed[at] = baseline
        without.append(changed)
    return score(embeddings[None]) - score(torch.stack(without))


def _relevance(f: Tensor, x: Tensor) -> Tensor:
    """x df/dx for a graph that leads from x to f."""
    if not f.requires_grad:
        raise Wrong("no gradient reaches x: detach the factor, and leave x itself in the graph")
    (gradient,) = torch.autograd.grad(f.sum(), x)
    return x.detach() * gradient


@torch.enable_grad()
def check_constant_scale(attempt) -> None:
    draw = torch.Generator().manual_seed(0)
    x = (3 * torch.randn(2, 4, 6, generator=draw) + 1).requires_grad_()
    truth = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    found, unit = attempt(x), F.normalize(x, dim=-1)
    mistakes = {
        "you subtract the mean; the root mean square is taken of x as it is": F.layer_norm(x, (6,)),
        "you divide by the length of x; take the mean of the squares, not their sum": unit,
    }
    otherwise = "the values are not x over its root mean square, over the last axis"
    expect_equal(found, truth, "the scaled x", mistakes, otherwise)
    total, f = _relevance(found, x).sum(-1), found.detach().sum(-1)
    if torch.allclose(total, torch.zeros_like(total), atol=1e-3):
        raise Wrong(
            "the values are right, but the gradient still knows that the scale depends on x, so the "
            "relevance of each vector sums to 0; detach the scale"
        )
    if not torch.allclose(total, f, rtol=1e-3, atol=1e-3):
        raise Wrong("the relevance of x does not sum to what comes out; only the scale is constant")
    small = torch.full((1, 4), 1e-3)
    if not torch.allclose(attempt(small, 1e-2), small / (1e-6 + 1e-2) ** 0.5, rtol=1e-3):
        raise Wrong("you leave out `eps`, which is added to the mean of the squares before the root")


@torch.enable_grad()
def check_identity_rule(attempt) -> None:
    for name, phi in (("GELU", F.gelu), ("SiLU", F.silu)):
        x = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0]).requires_grad_()
        y = phi(x)
        found = expect_tensor(attempt(x, y), x.shape, "the new output")
        if found.isnan().any():
            raise Wrong("at x = 0 you divide 0 by 0 and get nan; give the slope a finite value there")
        if not close(found, y):
            raise Wrong(f"the values must stay those of y, here of {name}(x); only the slope changes")
        kept, plain = _relevance(found, x), _relevance(phi(x), x)
        if close(kept[x != 0], plain[x != 0]):
            own = f"the gradient is still {name}'s own derivative"
            raise Wrong(f"{own}; the factor y / x must be a constant: detach it")
        if not close(kept, y):
            raise Wrong("x times the slope must be y: every unit hands on exactly what it received")


@torch.enable_grad()
def check_keep_shares(attempt) -> None:
    draw = torch.Generator().manual_seed(0)
    qkv = torch.randn(2, 5, 2 * 3 * 4, generator=draw).requires_grad_()
    given, shares = torch.randn(qkv.shape, generator=draw), (0.25, 0.5, 1.0)
    found = expect_tensor(attempt(qkv, shares, 2), qkv.shape, "the new qkv")
    if not close(found, qkv):
        raise Wrong("the numbers must stay; add back, detached, what a share takes off")
    if not found.requires_grad:
        raise Wrong("no gradient reaches qkv: detach only the part that gets no share")
    (gradient,) = torch.autograd.grad(found, qkv, given)

    def scaled(pattern: Tensor) -> Tensor:
        return given * pattern.repeat(24 // len(pattern))

    by_head = torch.tensor(shares).repeat_interleave(4)
    mistakes = {
        "the whole gradient still flows; nothing has got its share": given,
        "you split the last axis into three; it holds, head after head, query, key and value": scaled(
            torch.tensor(shares).repeat_interleave(8)
        ),
        "the shares go to the wrong parts: the order is query, key, value": scaled(by_head.flip(0)),
        "the shares are for what is detached; each part keeps its share": scaled(1 - by_head),
    }
    if not close(gradient, scaled(by_head)):
        refuse(gradient, mistakes, "expected each part's gradient times its share: query, key and value")


@functools.cache
def _model(name: str, readable: bool = False) -> models.Model:
    return models.load(name, readable=readable)


def _refuse_run(found: Tensor, name: str, rules: str, mistakes: Callable) -> None:
    """Refuses what a run by edits gives its words, unless it is what the rule set gives. mistakes: of
    model, prompt and case, each hint with the relevance [pos] that the mistake gives."""
    model, case = _model(name), world_questions.cases("fact", 1, seed=1)[0]
    asked = reading.ask(model, [case.prompt], [case.answer], [case.foil])

    def is_of(rule_set: str, *without: str) -> bool:
        truth = technique.flow(model, asked, rule_set, without)[0, 0]
        shaped = expect_tensor(found, truth.shape, "relevance [pos]", "one number for each word")
        return torch.allclose(shaped.float(), truth, rtol=1e-3, atol=2e-3)

    if is_of(rules):
        return
    for rule in model.architecture.RULES:
        if is_of(rules, rule):
            raise Wrong(f"the rule '{rule}' is missing: everything else is right")
    if is_of(rules, *model.architecture.RULES):
        raise Wrong("this is gradient x input: no rule has any effect")
    for other in model.architecture.RULE_SETS:
        if is_of(other):
            raise Wrong(f"this is {other}, another rule set; expected {rules}")
    for hint, mistaken in mistakes(model, asked, case):
        if torch.allclose(found.float(), mistaken, rtol=1e-3, atol=2e-3):
            raise Wrong(hint)
    raise Wrong(f"the relevance is not that of {rules}; leave out one rule at a time to find out which")


@torch.enable_grad()
def _slopes(model, asked, put: Callable, at_end: Callable) -> tuple[Tensor, Tensor]:
    """The words' vectors and their gradients, each [pos d_model]; at_end: the `put` of the final norm."""
    words = stream = model.embed(asked.ids).detach().requires_grad_()
    for layer in range(model.n_layers):
        stream = model.block(layer, stream, put)
    (slopes,) = torch.autograd.grad(asked.score(model.to_logits(stream[:, -1], at_end))[0], words)
    return words[0].detach(), slopes[0]


def _mistaken_edits(model, asked, case) -> Iterator[tuple[str, Tensor]]:
    put = technique.shares(model, asked.last, "AttnLRP")

    def halves(point: str, value):
        return torch.lerp(value.detach(), value, 0.5) if point in ("q", "k") else put(point, value)

    alone = reading.ask(model, [case.prompt], [case.answer])
    for hint, *ways in (
        ("the final norm still has its own slope: edit it, too, after the last block", asked, put, keep),
        ("you explain the answer's logit alone; `contrast` takes off the foil's", alone, put, put),
        ("a half is halved again: q and k keep a quarter each", asked, halves, put),
    ):
        words, slopes = _slopes(model, *ways)
        yield hint, (words * slopes).sum(-1)
    words, slopes = _slopes(model, asked, put, put)
    yield "this is the gradient alone; multiply it by the words' vectors", slopes.sum(-1)


def check_explain_by_edits(attempt) -> None:
    case = world_questions.cases("fact", 1, seed=1)[0]
    _refuse_run(attempt(_model("transformer"), case), "transformer", "AttnLRP", _mistaken_edits)


def _mistaken_detaches(model, asked, case) -> Iterator[tuple[str, Tensor]]:
    hints = {
        "discrete_A": "what the scan keeps, 'discrete_A', still passes on a gradient: hold it",
        "discrete_B": "what the scan writes with, 'discrete_B', still passes on a gradient: hold it",
        "read": "what the scan reads with, 'read', which is C, still passes on a gradient: hold it",
        "silu": "the SiLU behind the convolution, 'silu', still has its own slope: the identity rule",
        "gate": "the gate's SiLU, 'gate', still has its own slope: the identity rule, on z",
    }
    for part, hint in hints.items():
        yield hint, explain_by_detaches(_model("mamba", readable=True), case, partial(_all_but, part))


def _all_but(part: str, block, mixer) -> None:
    """`detach_six` without its edit of one line of the scan."""
    hold(block.norm.source.torch_rsqrt_0)
    _ = mixer.source
    z = mixer.in_proj.output.mT.chunk(2, dim=1)[1]
    act = scan.tap(mixer, "silu")
    if part != "silu":
        act.output = identity_rule(act.input, act.output)
    for name in ("discrete_A", "discrete_B", "read"):
        if name != part:
            hold(scan.tap(mixer, name))
    gate, gated = scan.tap(mixer, "gate"), scan.tap(mixer, "gated")
    if part != "gate":
        gate.output = identity_rule(z, gate.output)
    gated.output = (gated.output + gated.output.detach()) / 2


def check_detach_six(attempt) -> None:
    case = world_questions.cases("fact", 1, seed=1)[0]
    found = explain_by_detaches(_model("mamba", readable=True), case, attempt)
    _refuse_run(found, "mamba", "MambaLRP", _mistaken_detaches)


@torch.enable_grad()
def check_books(attempt) -> None:
    draw = torch.Generator().manual_seed(0)
    words, b1, b2, unused, W, w, x, G = (
        torch.randn(*shape, generator=draw).requires_grad_()
        for shape in ((4, 3), (5,), (4, 1), (2,), (3, 5), (4, 5), (2, 1, 4, 4), (2, 1, 4, 4))
    )
    future = torch.ones(4, 4, dtype=torch.bool).triu(1)
    A = x.detach().masked_fill(future, -torch.inf).softmax(-1)
    patterns = [pattern.requires_grad_() for pattern in A.unbind()]
    f = (
        (w * (words @ W + b1)).sum()
        + 2 * b2.sum()
        + sum((a * g).sum() for a, g in zip(patterns, G, strict=True))
    )
    of_words, of_b1 = words * (w @ W.T), b1 * w.sum(0)
    truth, owed = of_words.sum(-1).detach(), of_b1.sum().item() + 2 * b2.sum().item()
    answer = attempt(f, words, [b1, b2, unused], patterns)
    if not (isinstance(answer, tuple) and len(answer) == 3):
        raise Wrong(
            "expected three things, the words' shares, the biases' number and the leak; return all"
        )
    mistakes = {
        "these are gradients; multiply each by its vector": (w @ W.T).sum(-1).detach(),
        "you add up all words; each word keeps a number of its own": truth.sum().expand(4),
    }
    expect_equal(
        answer[0], truth, "the words' shares [pos]", mistakes, "expected x df/dx, summed per word"
    )
    found = float(answer[1])
    if abs(found - w.sum(0).sum().item() - 8) < 1e-3:
        raise Wrong("a bias gets b df/db: multiply its slope by the bias itself")
    if abs(found - of_b1.sum().item()) < 1e-3:
        raise Wrong("only the first bias is in your books; add up all of them")
    if abs(found - owed) > 1e-3:
        raise Wrong(
            f"expected {owed:.3f} for the biases, found {found:.3f}: the sum of b df/db over all numbers"
        )
    _refuse_leak(float(answer[2]), A.detach(), G.detach())
    without = (w * (words @ W + b1)).sum()
    if float(attempt(without, words, [b1])[2]):
        raise Wrong("where no pattern is given nothing leaks: the leak is 0")


def _refuse_leak(found: float, A: Tensor, slope: Tensor) -> None:
    """Refuses a leak that is not that of these patterns and slopes, each [pattern head query source]."""
    each = softmax.leak(A, slope)
    truth, given = each.sum().item(), (A * slope / 2).sum().item()
    unturned = given - torch.xlogy(A * slope / 2, A).sum().item()
    mistakes = {
        "only half of the slope counts: the other half went to the values": 2 * truth,
        "the leak is what the weights hand on less what the scores receive; yours is turned": -truth,
        "this is all that the weights hand on; take off what the scores receive": given,
        "this is what the scores receive; the leak is what the weights hand on, less that": given - truth,
        "dx lacks the sum over its row: A times (g less the row's sum of A g)": unturned,
        "only one pattern is in your books; add up the leaks of all": each[-1].item(),
    }
    if found != found:
        raise Wrong("where A is 0 the logarithm is infinite and 0 times it is nan; `torch.xlogy` gives 0")
    for hint, value in mistakes.items():
        if abs(found - value) < 1e-3:
            raise Wrong(hint)
    if abs(found - truth) > 1e-3:
        raise Wrong(f"expected a leak of {truth:.3f}, found {found:.3f}: A g less dx log A, all added up")


def check_leave_one_out(attempt) -> None:
    embeddings, baseline = torch.arange(8.0).reshape(4, 2) ** 2, torch.tensor([1.0, -1.0])
    weights = torch.tensor([[1.0, 2.0], [-1.0, 0.5], [3.0, 1.0], [0.5, -2.0]])

    def score(x: Tensor) -> Tensor:
        if x.dim() != 3 or x.shape[1:] != embeddings.shape:
            raise Wrong(f"score reads [variant pos d_model], here [n, 4, 2]; found {list(x.shape)}")
        return (x * weights).sum((1, 2)) ** 2 / 100

    before, truth = embeddings.clone(), leave_one_out(embeddings, score, baseline)
    found = expect_tensor(attempt(embeddings, score, baseline), truth.shape, "the losses [pos]")
    if not torch.equal(embeddings, before):
        raise Wrong("you write into the embeddings that you were given; work on a clone")
    changed, running = embeddings.clone(), []
    for at in range(4):
        changed[at] = baseline
        running.append(changed.clone())
    whole = score(embeddings[None])
    zeros = leave_one_out(embeddings, score, torch.zeros(2))
    mistakes = {
        "the sign is turned: a word that is missed lowers the score, and its loss is positive": -truth,
        "words that you took out stay out; start each variant from a fresh clone": whole
        - score(torch.stack(running)),
        "these are the scores without each word; take them from the score of the whole": whole - truth,
        "you put zeros there; put `baseline`": zeros,
    }
    if not close(found, truth):
        refuse(found, mistakes, "expected the score of the whole minus the score without the word")


def check_removal_curves(attempt) -> None:
    embeddings, baseline = torch.arange(15.0).reshape(5, 3), torch.tensor([-1.0, -2.0, -3.0])
    relevance = torch.tensor([0.5, -3.0, 2.0, 1.0, 9.0])
    weights = torch.tensor([3.0, -1.0, 4.0, 0.5, 2.0])[:, None]

    def score(x: Tensor) -> Tensor:
        if x.dim() != 3 or x.shape[1:] != embeddings.shape:
            raise Wrong(f"score reads [variant pos d_model], here [n, 5, 3]; found {list(x.shape)}")
        return (x * weights).sum((1, 2)) ** 2 / 100

    def curve(ranked: Tensor, fresh: bool = False, baseline: Tensor = baseline) -> Tensor:
        rows = [embeddings]
        for at in ranked.argsort(descending=True):
            rows.append((embeddings if fresh else rows[-1]).clone())
            rows[-1][at] = baseline
        return score(torch.stack(rows))

    before, ranked = embeddings.clone(), relevance[:-1]
    answer = attempt(embeddings, relevance, score, baseline)
    if not torch.equal(embeddings, before):
        raise Wrong("you write into the embeddings that you were given; work on a clone")
    if not (isinstance(answer, tuple) and len(answer) == 3):
        raise Wrong("expected three things, two curves and the mean gap between them; return all three")
    if torch.is_tensor(answer[0]) and answer[0].shape == (6,):
        raise Wrong("you remove the last word; it asks the question and always stays")
    if torch.is_tensor(answer[0]) and answer[0].shape == (4,):
        raise Wrong("a curve begins with the whole prompt, where nothing is removed")
    mistakes = {
        "the curves are exchanged: in the first one the most relevant word goes first": curve(-ranked),
        "you go by the size of the relevance; its sign counts too: a word against the answer must not "
        "go first": curve(ranked.abs()),
        "words that are removed stay removed; start each step from the one before": curve(ranked, True),
        "you put zeros there; put `baseline`": curve(ranked, baseline=torch.zeros(3)),
    }
    most, least, gap = answer
    otherwise = "remove one word more each time, by relevance, and score every step"
    expect_equal(most, curve(ranked), "the first curve [removed]", mistakes, otherwise)
    mistakes = {"both curves remove the most relevant word first; turn one around": curve(ranked)}
    expect_equal(least, curve(-ranked), "the second curve [removed]", mistakes, otherwise)
    truth = (least - most).mean()
    if abs(float(gap) + float(truth)) < 1e-3:
        raise Wrong("the gap is turned: the second curve minus the first is large for a good order")
    if abs(float(gap) - float(truth)) > 1e-3:
        raise Wrong("the gap is the mean over all steps of second minus first")


def handed_back() -> Drawn:
    """A sketch of conservation: one number, shared out anew at each depth, always the same sum."""
    rows = {  # label -> words and their shares
        "the answer's logit": {"f": 10},
        "after the last block": {"is": 10},
        "half-way": {"Zabar": 4, "of": 1, "is": 4, "biases": 1},
        "the words": {"The": 0.8, "capital": 2.2, "of": 0.8, "Zabar": 4, "is": 0.8, "biases": 1.4},
    }
    figure, (axis,) = canvas((9, 2.9), (-3.2, 11), (-3.5, 0.5))
    for y, (label, owners) in enumerate(rows.items()):
        left = 0.0
        for word, width in owners.items():
            ink, line = BLUE if word == "Zabar" else GREY, ":" if word == "biases" else "-"
            look = {"height": 0.62, "color": "white", "edgecolor": ink, "linewidth": 1.8}
            axis.barh(-y, width, left=left, linestyle=line, **look)
            write(axis, left + width / 2, -y, word, color=ink)
            left += width
        write(axis, -0.2, -y, label, ha="right")
        if y:
            arrow(axis, (10.3, 1 - y), (10.3, -y))
    write(axis, 10.7, -1.5, "backward", rotation=270, color=GREY)
    return figure, (
        "Four bars of one length: the answer's logit, then the same amount shared out among more "
        "words and a little for biases, down to the words of the prompt."
    )


class Reading(NamedTuple):
    """One prompt, and what each model's explanation gives its words as shares of the explained."""

    title: str
    words: Sequence[str]
    shares: Mapping[str, Tensor]  # model -> [word]
    causes: Sequence[int]


SHARE = "share of the explained number"


def shared_out(books: Mapping[str, plots.Row]) -> Drawn:
    """Who got the explained number: 'model, rule set' -> owner -> share of it; the shares sum to 1."""
    owners = {owner: {name: row[owner] for name, row in books.items()} for owner in [*books.values()][0]}
    values = [value for row in owners.values() for value in row.values()]
    ends = [end for v in values for end in ((v.low, v.high) if isinstance(v, Estimate) else (v,))]
    looks = dict(zip(owners, plots.SERIES, strict=False))
    figure, _ = plots.compared(owners, SHARE, (min(ends) - 0.1, max(ends) + 0.1), looks)
    return figure, f"Shares of the explained number, with intervals. {plots.listed(books, '.2f')}."


def hit_rates(tops: Mapping[str, Mapping[str, plots.Row]]) -> Drawn:
    """How often a deciding word is found: 'among the top k' -> series -> kind -> rate."""
    series = {name for rows in tops.values() for name in rows}
    known = {name: style(name) if name != "random" else CONTROL for name in series}
    size = 5.2, 1.4 + 0.5 * len(next(iter(next(iter(tops.values())).values())))
    label = "share of questions with a deciding word"
    figure, _ = plots.dot_panels(tops, label, (-0.03, 1.03), lambda _, name, at: known[name], size=size)
    said = ". ".join(f"{top}: {plots.listed(rows, '.2f')}" for top, rows in tops.items())
    return figure, f"Share of questions with a deciding word, with intervals. {said}."


def word_shares(readings: Sequence[Reading]) -> Drawn:
    """Prompts as rows of coloured words, one row a model; a dot marks each known cause."""
    grid, tops = {}, []
    for title, words, shares, causes in readings:
        values = torch.stack([row.cpu() for row in shares.values()])
        cells = [[f"{share:+.2f}".replace("0.", ".") for share in row] for row in values.tolist()]
        marked = [f"• {word}" if at in causes else word for at, word in enumerate(words)]
        grid[title] = Map(values, list(shares), marked, cells)
        top = [f"'{words[int(row.argmax())]}' for {name}" for name, row in shares.items()]
        tops.append(" and ".join(top))
    size = (9.4, max(2.8, (0.95 + 0.3 * len(shares)) * len(grid)) / len(grid))
    figure, axes = plots.maps(grid, SHARE, " ", "", _around_zero(grid), size=size, columns=1)
    for axis, title in zip(axes, grid, strict=True):
        axis.set_title("")
        axis.set_title(title, fontsize=10, loc="left")
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    return figure, f"The word with the largest share, prompt by prompt: {'; '.join(tops)}."


def by_depth(words: Sequence[str], shares: Mapping[str, Tensor]) -> Drawn:
    """Where the explained number stands after k blocks: per model a map [k word] of shares."""
    grid = {
        name: Map(depths.cpu(), columns=words, turn=90, origin="lower") for name, depths in shares.items()
    }
    names, scale = (SHARE, "position", "blocks applied, k"), _around_zero(grid)
    figure, _ = plots.maps(grid, *names, scale, size=(4.7, 4.2))
    said = " and ".join(
        f"{name} holds more than half there from k = {int((depths[:, -1] > 0.5).float().argmax())} "
        f"of {len(depths) - 1}"
        for name, depths in shares.items()
    )
    return figure, f"Relevance moves to the last word as blocks are applied: {said}."


def _around_zero(grid: Mapping[str, Map]) -> tuple[float, float]:
    most = max(float(shown.values.abs().max()) for shown in grid.values())
    return -most, most


Curves = tuple[Sequence[Estimate], Sequence[Estimate]]  # the most relevant words first, the least first


def removals(measured: Mapping[str, Mapping[str, Curves]], ylabel: str) -> Drawn:
    """The explained number while words go: model -> method -> curves. The first method is in colour
    with 95 % bands, others are thin and grey. A random order has one curve: its two are alike."""
    lines, gaps = {}, []
    for model, methods in measured.items():
        lines[model] = {
            f"{method}, {which} relevant first": line if at == 0 else plots.plain(line)
            for at, (method, both) in enumerate(methods.items())
            for which, line in zip(("most", "least"), both, strict=True)
            if method != "random"
        }
        if "random" in methods:
            lines[model]["random order"] = plots.plain(methods["random"][0])
        most, least, *_ = map(plots.plain, lines[model].values())
        gap = (sum(least) - sum(most)) / len(most)
        gaps.append(f"{model} {gap:.1f}")

    def look(model: str, label: str, at: int) -> dict:
        own = style(model) if at < 2 else plots.THIN | {"marker": "^"}
        return own | {"linestyle": "--" if "least" in label else ":" if "random" in label else "-"}

    figure, (axis, *_) = plots.curves(lines, "share of the words removed", ylabel, look)
    low, high = axis.get_ylim()
    axis.set_ylim(low, high + 0.65 * (high - low) * bool(axis.get_legend()))  # room for the legend
    return figure, (
        f"Removing the most relevant words first breaks the answer sooner than removing "
        f"the least relevant first; mean gap in logits: {', '.join(gaps)}."
    )
