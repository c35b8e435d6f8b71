"""Lesson 07, activation_patching: its exercises, and figures of patches, knockouts and edits."""

import functools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tft_utils import models, reading
from tft_utils.corpora import pairs as world_pairs
from tft_utils.course import plots
from tft_utils.course.exercises import Wrong, close, expect_equal, expect_tensor, refuse
from tft_utils.course.plots import BLUE, GREY, Drawn, Lines, Map, arrow, canvas, each, style, write
from tft_utils.stats import Estimate
from tft_utils.techniques import patching


def effect(patched, clean, corrupt):
    """How much of the way from the corrupt to the clean run a denoising patch goes: 0 nothing, 1 all.

    patched, clean, corrupt: the logit difference of each prompt in the three runs [prompt].
    """
    return (patched - corrupt) / (clean - corrupt)


def patch_one(model, batch, k, at):
    """The effect of the clean stream after k blocks, put into the corrupt run at `at`: [prompt].

    batch: clean prompts `ids`, `corrupt` ones, last words at `last`; at: a position of each prompt.
    """
    rows = torch.arange(len(batch))
    with model.trace(batch.ids):
        kept = model.residual(k)[rows, at].save()
        clean = model.logits[rows, batch.last].save()
    with model.trace(batch.corrupt):
        corrupt = model.logits[rows, batch.last].save()
    with model.trace(batch.corrupt):
        model.residual(k)[rows, at] = kept
        patched = model.logits[rows, batch.last].save()
    return effect(*(batch.score(logits) for logits in (patched, clean, corrupt)))


def grid_of_one(model, one):
    """The effect of a patch at every depth and word of one prompt: [depth pos].

    one: a batch with a single prompt. reading.streams gives its streams [depth 1 pos d].
    """
    clean, corrupt = (reading.streams(model, ids) for ids in (one.ids, one.corrupt))
    ends = (reading.finish(model, x[-1], model.n_layers, one.last) for x in (clean, corrupt))
    m_clean, m_corrupt = (one.score(logits) for logits in ends)
    n, rows = one.ids.shape[1], []
    word = torch.arange(n)
    for k in range(model.n_layers + 1):
        x = corrupt[k].repeat(n, 1, 1)  # row i will be patched at word i
        x[word, word] = clean[k][0]
        patched = one.score(reading.finish(model, x, k, one.last.repeat(n)))
        rows.append(effect(patched, m_clean, m_corrupt))
    return torch.stack(rows)


def estimated(model, batch):
    """An estimate of every patch's effect, from the gradients of one corrupt run: [depth prompt pos]."""
    clean, corrupt = (reading.streams(model, ids) for ids in (batch.ids, batch.corrupt))
    with torch.enable_grad():
        x = [corrupt[0].clone().requires_grad_()]
        for layer in range(model.n_layers):
            x.append(model.block(layer, x[-1]))
        m = batch.score(reading.finish(model, x[-1], model.n_layers, batch.last))
        slopes = torch.autograd.grad(m.sum(), x)
    change = ((clean - corrupt) * torch.stack(slopes)).sum(-1)
    m_clean = batch.score(reading.finish(model, clean[-1], model.n_layers, batch.last))
    return change / (m_clean - m.detach())[:, None]


def dual_state(u, delta, A, B, C, sources, queries):
    """The scan in which no source reaches any query: y [pos channel].

    u, delta [pos channel]; A [channel d_state], negative; B, C [pos d_state]; sources, queries: sets
    of positions. The state decays at a blocked source as it always does. Other positions read as ever.
    """
    whole = kept = torch.zeros_like(A)
    y = []
    for t in range(len(u)):
        decay = torch.exp(delta[t, :, None] * A)
        write = (delta[t] * u[t])[:, None] * B[t]
        whole = decay * whole + write
        kept = decay * kept + (0 if t in sources else write)
        y.append((kept if t in queries else whole) @ C[t])
    return torch.stack(y)


def reach(sources, width):
    """The mask `sources` [prompt pos], with the `width` positions after each source added."""
    wider = sources.clone()
    for j in range(1, width + 1):
        wider[:, j:] |= sources[:, :-j]
    return wider


def rank_one(W, k, v, C):
    """W changed by a matrix of rank one, so that it stores v under the key k: [d_out d_in].

    W [d_out d_in]; k [d_in]; v [d_out]; C [d_in d_in]: the mean of k k^T over other keys, which are to
    notice as little as possible.
    """
    u = torch.linalg.solve(C, k)
    return W + torch.outer(v - W @ k, u / (u @ k))


def check_effect(attempt) -> None:
    clean, corrupt = torch.tensor([4.0, 2.0, 3.0]), torch.tensor([-4.0, -6.0, 1.0])
    patched = torch.tensor([0.0, -4.0, 4.0])
    right = effect(patched, clean, corrupt)  # 0.5, 0.25, 1.5
    mistakes = {
        "a patch that does nothing gets 1 and one that restores the clean run gets 0; measure from the "
        "corrupt run": 1 - right,
        "you do not divide by the distance between both runs, so effects of two prompts cannot be "
        "compared": patched - corrupt,
        "you divide by the clean run's m; divide by its distance from the corrupt run's": (
            (patched - corrupt) / clean
        ),
        "an effect beyond 1 or below 0 is possible and says something; do not clip it": right.clamp(0, 1),
    }
    definition = "the effect is the patched run's distance from the corrupt one, over the clean run's"
    expect_equal(
        attempt(patched, clean, corrupt), right, "one effect for each prompt", mistakes, definition
    )


@functools.cache
def _asked() -> dict[str, tuple[models.Model, reading.Asked]]:
    """Each organism of the pair, and a few pairs of prompts of different lengths."""
    asked = {}
    for name, model in models.load_models().items():
        pairs = world_pairs.fact_pairs(3, seed=2) + world_pairs.indirect_object_pairs(3, seed=2)
        asked[name] = model, patching.asked_of(model, pairs)
    return asked


def _alike(answer: Tensor, truth: Tensor) -> bool:
    return torch.allclose(answer.double(), truth.double(), rtol=1e-2, atol=2e-3)


def check_patch_one(attempt) -> None:
    for model, batch in _asked().values():
        differs = batch.ids != batch.corrupt  # the last such word: the giver, or the subject
        at = (differs * torch.arange(differs.shape[1])).argmax(1)
        rows, k = torch.arange(len(batch)), int(0.4 * model.n_layers)
        with torch.no_grad():
            clean, corrupt = (reading.streams(model, ids)[k] for ids in (batch.ids, batch.corrupt))
            put = corrupt.clone()
            put[rows, at] = clean[rows, at]
            other = clean.clone()
            other[rows, at] = corrupt[rows, at]
            m = [
                batch.score(reading.finish(model, x, k, batch.last)) for x in (put, clean, corrupt, other)
            ]
            last = corrupt.clone()
            last[:, -1] = clean[:, -1]
            answer = expect_tensor(attempt(model, batch, k, at), (len(batch),), "the effects")
            wrong = {
                "you patch the clean run with the corrupt stream; put the clean stream into the corrupt "
                "run": effect(m[3], m[1], m[2]),
                "nothing was patched: assign to `model.residual(k)[rows, at]` in a trace of the corrupt "
                "prompts, before you read the logits": 0 * m[0],
                "you hand over the whole stream; patch the one position `at` of each prompt": 0 * m[0]
                + 1,
                "you return a logit difference; put it through `effect`": m[0],
            }
        if _alike(answer, effect(*m[:3])):
            continue
        for hint, value in wrong.items():
            if _alike(answer, value):
                raise Wrong(hint)
        raise Wrong(
            "these are not the effects; prompts have different lengths: read the logits at `batch.last` "
            "and patch each prompt at its own position"
        )


def check_grid_of_one(attempt) -> None:
    for model, batch in _asked().values():
        one = batch[:1]
        with torch.no_grad():
            truth = patching.grid(model, one).values[:, 0]
            noising = patching.grid(model, one, noising=True).values[:, 0]
            answer = attempt(model, one)
        hint = f"a row for each of {model.n_layers + 1} depths, a column for each word"
        answer = expect_tensor(answer, truth.shape, "the effects", hint)
        inside = truth.isfinite()
        if _alike(answer[inside], truth[inside]):
            continue
        if _alike(answer[inside], 1 - noising[inside]):
            raise Wrong("you patch the clean run; start from the corrupt streams")
        if _alike(answer[0][inside[0]], torch.ones_like(truth[0][inside[0]])):
            raise Wrong(
                "every word restores everything: you patch the whole prompt in each row; row i gets the "
                "clean stream at word i alone"
            )
        if _alike(answer[:, inside[0]], truth[:1, inside[0]].expand_as(answer[:, inside[0]])):
            raise Wrong("all depths have the same effects; take the streams of depth k, and go on from k")
        raise Wrong("these are not the effects of one patch at a time, depth by depth, word by word")


def check_estimated(attempt) -> None:
    for model, batch in _asked().values():
        with torch.no_grad():
            truth = patching.attribution(model, batch).values
            answer = attempt(model, batch)
        shape = truth.shape
        answer = expect_tensor(answer, shape, "the estimates", "one for each depth, prompt and position")
        kept = truth.isfinite()
        if _alike(answer.detach()[kept], truth[kept]):
            continue
        whole = [
            batch.score(
                reading.finish(model, reading.streams(model, ids)[-1], model.n_layers, batch.last)
            )
            for ids in (batch.ids, batch.corrupt)
        ]
        scale = (whole[0] - whole[1])[:, None]
        if _alike(answer.detach()[kept], -truth[kept]):
            raise Wrong("the sign is turned: from the corrupt run to the clean one is clean - corrupt")
        if _alike(answer.detach()[kept], (truth * scale)[kept]):
            raise Wrong("divide by how far m could move, m_clean - m_corrupt, as in `effect`")
        raise Wrong(
            "these are not (clean - corrupt) times the gradient of m in the corrupt run, summed over the "
            "vector, over m_clean - m_corrupt"
        )


def check_dual_state(attempt) -> None:
    draw = torch.Generator().manual_seed(0)
    u, B, C = (torch.randn(6, n, generator=draw) for n in (3, 2, 2))
    delta = 0.2 + torch.rand(6, 3, generator=draw)
    A, query, none = -0.2 - torch.rand(3, 2, generator=draw), 4, set()
    answer = expect_tensor(attempt(u, delta, A, B, C, {1, 2}, {query}), (6, 3), "y")
    plain = dual_state(u, delta, A, B, C, none, none)
    if close(answer, dual_state(u, delta, A, B, C, {1, 2}, {query})):
        if not close(attempt(u, delta, A, B, C, none, {query}), plain):
            raise Wrong("with no source blocked, y must be that of the plain scan")
        return
    outside = torch.tensor([1, 0, 0, 1, 1, 1])[:, None]  # of the sources
    hints = {
        "every position loses the sources; only the queries may: keep two states": (u * outside, delta),
        "nothing is blocked: at a query, read the state that never took in the sources": (u, delta),
    }
    refuse(answer, {hint: dual_state(*case, A, B, C, none, none) for hint, case in hints.items()})
    hint = "the second state stands still at a source; it must decay there, and take in nothing"
    refuse(answer[query], {hint: dual_state(u, delta * outside, A, B, C, none, none)[query]})
    others = [t for t in range(6) if t != query]
    if not close(answer[others], plain[others]):
        raise Wrong("positions that are no queries must read the whole state, as ever")
    raise Wrong(
        "the query's y is not C times a state that decays like the other and skips the sources' writes"
    )


def check_reach(attempt) -> None:
    sources = torch.zeros(2, 8, dtype=torch.bool)
    sources[0, 1] = sources[1, 2] = sources[1, 6] = True
    before = sources.clone()
    for width in (3, 0, 1):
        answer = expect_tensor(attempt(sources, width), (2, 8), "the mask")
        if not torch.equal(sources, before):
            raise Wrong("you change the mask you were given; return a new one")
        truth = reach(before, width)
        if torch.equal(answer.bool(), truth):
            continue
        if torch.equal(answer.bool(), truth & ~before) and width:
            raise Wrong("the sources themselves are missing; they stay in")
        if torch.equal(answer.bool().flip(1), reach(before.flip(1), width)):
            raise Wrong(
                "you add the words before a source; a convolution looks back, so the words after it"
            )
        if torch.equal(answer.bool(), reach(before, width + 1)):
            raise Wrong(f"you add {width + 1} words instead of {width}")
        if torch.equal(answer.bool(), before):
            raise Wrong("nothing was added; shift the mask to the right by 1, 2 ... width places")
        raise Wrong(
            f"with width {width}, each source and the {width} positions after it are in, no other"
        )


def check_rank_one(attempt) -> None:
    draw = torch.Generator().manual_seed(1)
    W, k, v = (torch.randn(*shape, generator=draw) for shape in ((3, 4), (4,), (3,)))
    root = torch.randn(4, 4, generator=draw)
    C, before = root @ root.T + 0.5 * torch.eye(4), W.clone()
    answer = expect_tensor(attempt(W, k, v, C), (3, 4), "the new matrix")
    if not torch.equal(W, before):
        raise Wrong("you change the W you were given; return a new matrix")
    if torch.linalg.matrix_rank(answer - W, atol=1e-4) > 1:
        raise Wrong("the change has a rank above one; it is the outer product of two vectors")
    if not torch.allclose(answer @ k, v, atol=1e-3):
        if torch.allclose((answer - W) @ k, v, atol=1e-3):
            raise Wrong("you add v to what W stored; only the difference v - W k is missing")
        raise Wrong("the new matrix does not store v: times k it must give v; mind the scale of u")
    if close(answer, W + torch.outer(v - W @ k, k / (k @ k))):
        raise Wrong("v is stored, but you ignore C: keys that are common elsewhere are moved too much")
    if not torch.allclose(answer, rank_one(W, k, v, C), atol=1e-3):
        raise Wrong("v is stored, but another u moves the other keys less: solve C u = k")


CONTROL = {"color": GREY, "linestyle": "-.", "marker": "v"}
BY_PATCH = "effect of the patch"


def two_runs() -> Drawn:
    """A sketch: two runs over the same places, and one activation carried over."""
    figure, (axis,) = canvas((9, 3.2), (-2.3, 10.4), (-0.7, 2.9))
    ring = {"marker": "o", "markersize": 13, "markerfacecolor": "white", "linestyle": ""}
    for left, subject, ink, answer in (
        (0, "Lesor", BLUE, "lentils"),
        (6, "Kutor", plots.VERMILION, "cotton"),
    ):
        for i, word in enumerate(("in", subject, "grow")):
            x = left + 1.2 * i
            write(axis, x, -0.4, word, color=ink if i == 1 else "black")
            axis.plot([x] * 3, range(3), markeredgecolor=ink, markeredgewidth=1.6, **ring)
        write(axis, left + 1.2, 2.6, f"says {answer}", color=ink)
    axis.plot(1.2, 1, **ring | {"markerfacecolor": BLUE, "markeredgecolor": BLUE})
    arrow(axis, (1.45, 1), (7, 1), linewidth=2, color=BLUE)
    write(axis, 4.2, 1.2, "put it in, run on", color=BLUE)
    for y, label in enumerate(("words", "after block 1", "after block 2")):
        write(axis, -0.5, y, label, ha="right", color=GREY, fontsize=10)
    write(axis, 9.7, 2.0, "what does it\nsay now?", color=GREY, fontsize=10)
    return figure, (
        "Two runs on prompts that differ in the subject; one activation of the clean run is put at "
        "the same place of the corrupt run, which then continues."
    )


def one_prompt(maps: Mapping[str, Tensor], words: Sequence[str]) -> Drawn:
    """The effects of all patches of one prompt: per model a map [depth pos], drawn word by word."""
    grid = {name: Map(effects.T.cpu(), words) for name, effects in maps.items()}
    figure, _ = plots.maps(grid, BY_PATCH, "depth k (blocks applied)", "", size=(4.6, 3.2), sharey="row")

    def path(effects: Tensor) -> str:
        stops = dict.fromkeys(words[i] for i in effects.argmax(1).tolist())
        return ", then ".join(stops)

    said = "; ".join(f"{name}: {path(effects)}" for name, effects in maps.items())
    return figure, f"Where a patch of one prompt restores most, from the first to the last depth. {said}."


def routes(maps: Mapping[str, Mapping[str, Tensor]], roles: Mapping[str, Sequence[str]]) -> Drawn:
    """Mean effect of a residual patch: per kind (row of panels) and model (column) a map [role depth],
    whose rows `roles` names."""
    grid = {}
    for kind, of_kind in maps.items():
        for name, effects in of_kind.items():
            half = 0.5 / (effects.shape[1] - 1)
            extent = (-half, 1 + half, len(effects) - 0.5, -0.5)
            grid[f"{name}: {kind}"] = Map(effects.cpu(), roles[kind], extent=extent)
    look = {"size": (4.6, 2.6), "columns": len(of_kind), "sharex": True, "sharey": "row"}
    figure, _ = plots.maps(grid, BY_PATCH, plots.DEPTH, "", **look)

    def arrives(effects: Tensor) -> str:
        most = (k for k, value in enumerate(effects[-1]) if value > 0.5)
        return f"k = {next(most, 'none')} of {effects.shape[1] - 1}"

    said = "The last word holds more than half of the answer from a depth on"
    return figure, f"{said}. {each(maps, arrives)}."


def parts(maps: Mapping[str, Mapping[str, Tensor]], title: str) -> Drawn:
    """Effect of each component in each block: per model a map, component -> effects [block]."""
    grid, said = {}, []
    for name, effects in maps.items():
        rows = torch.stack(list(effects.values())).cpu()
        cells = [[f"{x:.1f}" if abs(x) >= 0.05 else "" for x in row] for row in rows.tolist()]
        grid[name] = Map(rows, list(effects), range(rows.shape[1]), cells)
        top, block = divmod(int(rows.nan_to_num(-math.inf).argmax()), rows.shape[1])
        said.append(f"{name}: {list(effects)[top]}, block {block}, {rows[top, block]:.2f}")
    figure, _ = plots.maps(grid, BY_PATCH, "block", "", (-1, 1))
    return figure, f"{title}: the strongest component. {'; '.join(said)}."


Clouds = Mapping[str, tuple[Tensor, Tensor]]  # an estimate -> exact and estimated effects [cell]


def estimates(clouds: Mapping[str, Mapping[str, Clouds]]) -> Drawn:
    """Estimated effects over exact ones [cell]: per kind (row of panels) and model (column) two named
    estimates, all on the same axes."""
    grid = {f"{kind}, {name}": row for kind, of_kind in clouds.items() for name, row in of_kind.items()}
    columns = len(grid) // len(clouds)
    figure, axes = plots.titled(grid, "exact effect", "estimated effect", (4.5, 3.4), columns)
    looks = [{key: plots.SERIES[i][key] for key in ("color", "marker")} for i in (2, 1)]
    for axis, by_label in zip(axes, grid.values(), strict=True):
        axis.plot([0, 1], [0, 1], color="black", linewidth=1)
        for look, (label, (exact, estimate)) in zip(looks, by_label.items(), strict=True):
            axis.scatter(exact.tolist(), estimate.tolist(), s=12, alpha=0.5, label=label, **look)
    axes[0].set(xlim=(-0.4, 1.3), ylim=(-0.4, 1.6))
    plots.legend(figure)
    said = each(grid, lambda both: f"{(both[0] - both[1]).abs().mean():.2f}")
    return figure, f"Mean distance of the estimate from the exact effect: {said}."


def curves(lines: Lines, x: Mapping[str, Sequence[float]], xlabel: str, ylabel: str) -> Drawn:
    """Lines with 95 % bands, a panel a model on the same axes; a label that begins 'control' is grey."""
    labels = list(dict.fromkeys(label for row in lines.values() for label in row))

    def look(name: str, label: str, at: int) -> dict:
        own = CONTROL if label.startswith("control") else plots.SERIES[labels.index(label)]
        return {"markersize": 5} | own

    def ends(line: Sequence[Estimate]) -> str:
        values = [e.value for e in line if e.n]
        return f"{values[0]:.2f} to {values[-1]:.2f}, lowest {min(values):.2f}"

    figure, _ = plots.curves(lines, xlabel, ylabel, look, ylim=(-0.05, 1.05), x=x)
    return figure, f"{ylabel[0].upper() + ylabel[1:]}, first to last point. {each(lines, ends)}."


Points = tuple[Sequence[float], Sequence[float]]  # relative depths, scores


def sweep(
    scores: Mapping[str, Mapping[str, Sequence[float]]], published: Mapping[str, Mapping[str, Points]]
) -> Drawn:
    """An edit's score by layer: per panel the models over relative depth, and in grey the published
    sweeps of another model (label -> its points)."""
    lines = {title: dict(by_model) for title, by_model in scores.items()}
    for title, others in published.items():
        lines[title] |= {label: dict(zip(*line, strict=True)) for label, line in others.items()}

    def look(title: str, label: str, at: int) -> dict:
        ours = len(scores[title])
        return style(label) if at < ours else {"color": GREY, "linestyle": ":", "marker": "^v"[at - ours]}

    names = "block / last block", "score (harmonic mean)"
    figure, _ = plots.curves(lines, *names, look, ylim=(-0.03, 1.03))
    said = each(scores, lambda line: f"block {line.index(max(line))} with {max(line):.2f}")
    return figure, f"The best block for an edit: {said}."
