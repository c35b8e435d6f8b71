"""Lesson 07a, activation_patching: its exercises, and figures of patches and their estimates."""

import functools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tft_utils import models, reading
from tft_utils.corpora import pairs as world_pairs
from tft_utils.course import plots
from tft_utils.course.exercises import Wrong, expect_equal, expect_tensor
from tft_utils.course.plots import BLUE, GREY, Drawn, Map, arrow, canvas, each, write
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


def needed(model, batch, layer):
    """How much of the answer is lost without what block `layer`'s mixer gives the last word: [prompt].

    A noising patch: what the mixer gives in the corrupt run is put into the clean run. 0: nothing is
    lost; 1: all of it.
    """
    rows = torch.arange(len(batch))
    with model.trace(batch.corrupt):
        other = model.mixer_output(layer)[rows, batch.last].save()
        corrupt = model.logits[rows, batch.last].save()
    with model.trace(batch.ids):
        clean = model.logits[rows, batch.last].save()
    with model.trace(batch.ids):
        model.mixer_output(layer)[rows, batch.last] = other
        patched = model.logits[rows, batch.last].save()
    return effect(*(batch.score(logits) for logits in (patched, corrupt, clean)))


def by_role(effects, roles):
    """Mean over prompts of what the words of each role restore, summed: [role depth].

    effects [depth prompt pos]; roles: for each prompt a dict, role -> positions of its words. All have
    the same roles in the same order; a role may have no word.
    """
    maps = []
    for i, positions in enumerate(roles):
        rows = [effects[:, i, list(at)].sum(-1) for at in positions.values()]
        maps.append(torch.stack(rows))
    return torch.stack(maps).mean(0)


def moved(effects, roles):
    """Effects of another prompt as an estimate of each prompt's: at the words of a role stand, in turn,
    those of the next prompt whose role has as many words; where none has, the mean over the role's words
    in the next prompt that has it [depth prompt pos]; nan at words of no role.

    effects, roles: as `by_role`.
    """
    estimate, n = torch.full_like(effects, torch.nan), len(roles)
    for i, positions in enumerate(roles):
        for role, at in positions.items():
            others = [j % n for j in range(i + 1, i + n) if len(roles[j % n][role])]
            alike = [j for j in others if len(roles[j][role]) == len(at)]
            for donor in (alike or others)[:1] if len(at) else ():
                given = effects[:, donor, list(roles[donor][role])]
                estimate[:, i, list(at)] = given if alike else given.mean(-1, True)
    return estimate


def depth_of_move(at_last):
    """The depth, 0 to 1, from which on the last word holds more than half of the answer: [prompt].

    at_last: the effect of a patch at each prompt's last word, depth by depth [depth prompt].
    """
    held = (at_last > 0.5).long()
    stretch = held.flip(0).cumprod(0).sum(0)  # how many of the last depths hold it, without a gap
    return (len(held) - stretch) / (len(held) - 1)


def in_order(exact, estimate, apart=0.1):
    """The share of pairs of cells that an estimate puts in the right order: one number.

    exact, estimate: effects of the same cells [cell]. A pair counts where its exact effects are more
    than `apart` apart. Two equal estimates are in no order.
    """
    larger = exact[:, None] - exact > apart  # [cell cell]: a pair, the larger one first
    right = estimate[:, None] > estimate
    return right[larger].float().mean()


def slopes(model, batch, x):
    """The gradient of m at every depth of a run that begins with the embeddings x: [depth prompt pos d].

    x [prompt pos d]: the clean prompts', the corrupt ones', or what lies between.
    """
    x = [x.clone().requires_grad_()]
    with torch.enable_grad():
        for layer in range(model.n_layers):
            x.append(model.block(layer, x[-1]))
        m = batch.score(reading.finish(model, x[-1], model.n_layers, batch.last))
        return torch.stack(torch.autograd.grad(m.sum(), x))


def estimated(model, batch, shares=(0,)):
    """An estimate of every patch's effect, from gradients: [depth prompt pos].

    shares: where the gradients are taken on the line from the corrupt prompts' embeddings (0) to the
    clean ones' (1); the mean over them counts.
    """
    clean, corrupt = (reading.streams(model, ids) for ids in (batch.ids, batch.corrupt))
    starts = [torch.lerp(corrupt[0], clean[0], share) for share in shares]
    slope = sum(slopes(model, batch, x) for x in starts) / len(starts)
    change = ((clean - corrupt) * slope).sum(-1)
    ends = (reading.finish(model, x[-1], model.n_layers, batch.last) for x in (clean, corrupt))
    m_clean, m_corrupt = (batch.score(logits) for logits in ends)
    return change / (m_clean - m_corrupt)[:, None]


def check_effect(attempt) -> None:
    clean, corrupt = torch.tensor([4.0, 2.0, 3.0]), torch.tensor([-4.0, -6.0, 1.0])
    patched = torch.tensor([0.0, -4.0, 4.0])
    right = effect(patched, clean, corrupt)  # 0.5, 0.25, 1.5
    mistakes = {
        "a patch that does nothing gets 1 and one that restores the clean run gets 0; measure from the "
        "corrupt run": 1 - right,
        "you do not divide by the distance between both runs, so effects of two prompts cannot be "
        "compared": patched - corrupt,
        "divide by the clean run's distance from the corrupt run, not by its m": (patched - corrupt)
        / clean,
        "an effect beyond 1 or below 0 is possible and says something; do not clip it": right.clamp(0, 1),
    }
    definition = "the effect is the patched run's distance from the corrupt one, over the clean run's"
    answer = attempt(patched, clean, corrupt)
    expect_equal(answer, right, "one effect for each prompt", mistakes, definition)


@functools.cache
def _asked() -> list[tuple[models.Model, reading.Asked]]:
    """Each organism of the pair, and a few pairs of prompts of different lengths."""
    pairs = world_pairs.fact_pairs(3, seed=2) + world_pairs.indirect_object_pairs(3, seed=2)
    return [(model, patching.asked_of(model, pairs)) for model in models.load_models().values()]


def _alike(answer: Tensor, truth: Tensor) -> bool:
    return torch.allclose(answer.double(), truth.double(), rtol=1e-2, atol=2e-3)


def _expect(answer: Tensor, truth: Tensor, mistakes: Mapping[str, Tensor], otherwise: str) -> None:
    """Refuses an answer that is not the truth, up to what two ways of running a model differ by."""
    if not _alike(answer, truth):
        hints = (hint for hint, wrong in mistakes.items() if _alike(answer, wrong))
        raise Wrong(next(hints, otherwise))


@torch.no_grad()
def check_patch_one(attempt) -> None:
    for model, batch in _asked():
        differs = batch.ids != batch.corrupt  # the last such word: the giver, or the subject
        at = (differs * torch.arange(differs.shape[1])).argmax(1)
        rows, k = torch.arange(len(batch)), int(0.4 * model.n_layers)
        clean, corrupt = (reading.streams(model, ids)[k] for ids in (batch.ids, batch.corrupt))
        put, other = corrupt.clone(), clean.clone()
        put[rows, at], other[rows, at] = clean[rows, at], corrupt[rows, at]
        runs = (put, clean, corrupt, other)
        m = [batch.score(reading.finish(model, x, k, batch.last)) for x in runs]
        mistakes = {
            "you patch the clean run with the corrupt stream; put the clean stream into the corrupt "
            "run": effect(m[3], m[1], m[2]),
            "nothing was patched: assign to `model.residual(k)[rows, at]` in a trace of the corrupt "
            "prompts, before you read the logits": 0 * m[0],
            "you hand over the whole stream; patch the one position `at` of each prompt": 0 * m[0] + 1,
            "you return a logit difference; put it through `effect`": m[0],
        }
        answer = expect_tensor(attempt(model, batch, k, at), (len(batch),), "the effects")
        otherwise = (
            "not the effects: read the logits at `batch.last`, and patch each prompt at its own `at`"
        )
        _expect(answer, effect(*m[:3]), mistakes, otherwise)


@torch.no_grad()
def check_grid_of_one(attempt) -> None:
    for model, batch in _asked():
        one = batch[:1]
        truth, noising = (patching.grid(model, one, noising=n).values[:, 0] for n in (False, True))
        hint = f"a row for each of {model.n_layers + 1} depths, a column for each word"
        answer = expect_tensor(attempt(model, one), truth.shape, "the effects", hint)
        inside = truth[0].isfinite()
        answer, truth, noising = (x[:, inside] for x in (answer, truth, noising))
        mistakes = {
            "you patch the clean run; start from the corrupt streams": 1 - noising,
            "every word restores everything: you patch the whole prompt in each row; row i gets the "
            "clean stream at word i alone": torch.ones_like(truth),
            "all depths have the same effects; take the streams of depth k, and go on from k": (
                truth[:1].expand_as(truth)
            ),
        }
        otherwise = "these are not the effects of one patch at a time, depth by depth, word by word"
        _expect(answer, truth, mistakes, otherwise)


def check_by_role(attempt) -> None:
    effects = torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(2))
    roles = [
        {"before": range(0), "subject": [0, 1], "last": [3]},
        {"before": range(2), "subject": [2, 3, 4], "last": [5]},
        {"before": [0], "subject": [1, 3], "last": [4]},
    ]
    right, words = by_role(effects, roles), [[max(1, len(at)) for at in row.values()] for row in roles]
    of_each = torch.stack([by_role(effects[:, [i]], [row]) for i, row in enumerate(roles)])
    mistakes = {
        "you take the mean over a role's words; what they restore adds up": (
            (of_each / torch.tensor(words)[..., None]).mean(0)
        ),
        "you add up the prompts; take their mean": 3 * right,
        "each prompt has its own positions; you use one's for all": by_role(effects, roles[:1] * 3),
        "this is one prompt alone; take the mean over all": of_each[0],
    }
    hint = "for each prompt and role: the sum over its words; then the mean over prompts"
    expect_equal(attempt(effects, roles), right, "a row for each role", mistakes, hint)


def check_depth_of_move(attempt) -> None:
    columns = [[0, 0, 0.2, 0.8, 1], [0, 0.9, 0.1, 0.6, 1], [0.6, 0.7, 0.8, 0.9, 1], [0, 0, 0, 0.5, 1]]
    at_last = torch.tensor(columns).T  # [depth prompt]
    right, over = depth_of_move(at_last), at_last > 0.5
    mistakes = {
        "what comes and goes has not moved; ask from where on it *stays*": over.long().argmax(0) / 4,
        "a depth of 1 is after the last block: divide by the number of blocks": right * 4,
        "divide by the number of blocks, which is one less than the number of depths": right * 4 / 5,
        "exactly half is not more than half": depth_of_move(at_last + 1e-6),
    }
    hint = "of each prompt, the first depth from which on no effect is a half or less, over the blocks"
    expect_equal(attempt(at_last), right, "one depth for each prompt", mistakes, hint)


@torch.no_grad()
def check_needed(attempt) -> None:
    for model, batch in _asked():
        layer, where = model.n_layers // 3, reading.at_positions(batch, batch.last)
        lost, restored = (
            patching.grid(model, batch, "mixer", noising, where).at(batch.last)[layer]
            for noising in (True, False)
        )
        mistakes = {
            "you put the clean output into the corrupt run; here it is the other way round": restored,
            "0 should be no loss, and yours is 1 there; measure from the clean run": 1 - lost,
            "nothing was patched: assign to `model.mixer_output(layer)[rows, batch.last]` in a trace of "
            "the clean prompts, before you read the logits": 0 * lost,
        }
        answer = expect_tensor(attempt(model, batch, layer), (len(batch),), "the losses")
        _expect(
            answer, lost, mistakes, "not the losses: patch at `batch.last`; the clean run is the start"
        )


def check_in_order(attempt) -> None:
    exact, estimate = torch.tensor([[1.0, 0.95, 0.5, 0.3, 0], [0.4, 0.6, 0.5, 0.1, 0.1]])
    right, order = in_order(exact, estimate), estimate[:, None] > estimate
    mistakes = {
        "you count the pairs in the wrong order": 1 - right,
        "pairs that are less than `apart` apart count too; leave them out": in_order(exact, estimate, 0),
        "two equal estimates are in no order; they do not count as right": in_order(
            exact, estimate - 1e-3 * torch.arange(5)
        ),
        "you take the share of all pairs; divide by those that are apart": (
            order[exact[:, None] - exact > 0.1].sum() / 20
        ),
    }
    for apart in (0.1, 0.3):
        answer = torch.as_tensor(attempt(exact, estimate, apart), dtype=torch.float32)
        hint = "of the pairs whose exact effects are more than `apart` apart: how many are in order?"
        truth = in_order(exact, estimate, apart)
        expect_equal(answer, truth, "one number", mistakes if apart == 0.1 else {}, hint)


@torch.no_grad()
def check_slopes(attempt) -> None:
    for model, batch in _asked():
        clean, corrupt = (model.embed(ids) for ids in (batch.ids, batch.corrupt))
        x = torch.lerp(corrupt, clean, 0.3)
        right, before = slopes(model, batch, x), x.clone()
        answer = attempt(model, batch, x)
        if x.requires_grad or not torch.equal(x, before):
            raise Wrong("you change the x you were given; begin with a copy, `x.clone()`")
        hint = f"of each of {model.n_layers + 1} depths: give `torch.autograd.grad` all of them"
        answer = expect_tensor(answer, right.shape, "the gradients", hint).detach()
        of_answer = reading.Asked(batch.ids, batch.last, batch.answers)
        mistakes = {
            "the sign is turned: of m, not of -m": -right,
            "you divide by the number of prompts: take the gradient of m.sum()": right / len(batch),
            "begin with the x that you were given": slopes(model, batch, corrupt),
            "m is what `batch.score` returns, not the answer's logit": slopes(model, of_answer, x),
        }
        otherwise = "these are not the gradients of m.sum() at every depth; read logits at `batch.last`"
        _expect(answer, right, mistakes, otherwise)


@torch.no_grad()
def check_estimated(attempt) -> None:
    for model, batch in _asked():
        plain, five = (patching.attribution(model, batch, steps).values for steps in (1, 5))
        ends = (reading.streams(model, ids)[-1] for ids in (batch.ids, batch.corrupt))
        clean, corrupt = (batch.score(reading.finish(model, x, model.n_layers, batch.last)) for x in ends)
        kept, mistakes = plain.isfinite(), {}
        for shares, truth in (((0,), plain), ((0.1, 0.3, 0.5, 0.7, 0.9), five)):
            mistakes |= {
                "the sign is turned: from the corrupt run to the clean one is clean - corrupt": -truth,
                "divide by how far m could move, m_clean - m_corrupt, as in `effect`": (
                    truth * (clean - corrupt)[:, None]
                ),
                "you add up the gradients of all `shares`; take their mean": truth * len(shares),
            }
            hint = "one for each depth, prompt and position"
            answer = expect_tensor(attempt(model, batch, shares), truth.shape, "the estimates", hint)
            wrong = {hint: value[kept] for hint, value in mistakes.items()}
            otherwise = "not (clean - corrupt) times the mean gradient, over m_clean - m_corrupt"
            _expect(answer.detach()[kept], truth[kept], wrong, otherwise)
            mistakes = {"the estimate is the same whatever `shares` says; use each of them": plain}


BY_PATCH = "effect of the patch"
FAR = 1.0  # from the middle of the colours: an effect below -0.5 or above 1.5


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
    whose rows `roles` names. A cell far beyond the colours, which end at 0 and 1, says its number."""
    grid = {}
    for kind, of_kind in maps.items():
        for name, effects in of_kind.items():
            half = 0.5 / (effects.shape[1] - 1)
            extent = (-half, 1 + half, len(effects) - 0.5, -0.5)
            grid[f"{name}: {kind}"] = Map(effects.cpu(), roles[kind], extent=extent)
    look = {"size": (4.6, 2.6), "columns": len(of_kind), "sharex": True, "sharey": "row"}
    figure, axes = plots.maps(grid, BY_PATCH, plots.DEPTH, "", **look)
    for axis, (effects, *_) in zip(axes, grid.values(), strict=True):
        for row, of_role in enumerate(effects.tolist()):
            for k, value in enumerate(of_role):
                if abs(value - 0.5) > FAR:
                    color = "white" if value < 0 else "black"
                    write(axis, k / (len(of_role) - 1), row, f"{value:.0f}", color=color, fontsize=8.5)

    def arrives(effects: Tensor) -> str:
        most = (k for k, value in enumerate(effects[-1]) if value > 0.5)
        return f"k = {next(most, 'none')} of {effects.shape[1] - 1}"

    said = "The last word holds more than half of the answer from a depth on"
    return figure, f"{said}. {each(maps, arrives)}."


def moves(depths: Mapping[str, Mapping[str, plots.Row]]) -> Drawn:
    """Where answers move: per kind a panel, in it per model a marker for each training; model ->
    'trained' and 'untrained' -> their depths."""
    figure, axes = plots.dot_panels(depths, plots.DEPTH, (-0.03, 1.03), size=(4.7, 2.2))

    def listed(row: plots.Row) -> str:
        return ", ".join(f"{what} {' '.join(f'{x:.2f}' for x in xs)}" for what, xs in row.items())

    said = "The mean depth at which answers move to the last word, of each training"
    return figure, f"{said}. {each(depths, listed)}."


def parts(maps: Mapping[str, Mapping[str, Tensor]], title: str) -> Drawn:
    """Effect of each component in each block: per model a map, component -> effects [block]."""
    grid, said = {}, []
    for name, effects in maps.items():
        rows = torch.stack(list(effects.values())).cpu()
        cells = [[f"{x:.1f}" if abs(x) >= 0.05 else "" for x in row] for row in rows.tolist()]
        grid[name] = Map(rows, list(effects), range(rows.shape[1]), cells)
        top, block = divmod(int(rows.nan_to_num(-math.inf).argmax()), rows.shape[1])
        said.append(f"{name}: {list(effects)[top]}, block {block}, {rows[top, block]:.2f}")
    size = 4.7, 1.7 + 0.22 * max(map(len, maps.values()))
    figure, _ = plots.maps(grid, BY_PATCH, "block", "", (-1, 1), size=size)
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
