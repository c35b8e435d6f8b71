"""Lesson 01a, two_machines: attention and the selective scan by hand, and what each keeps."""

import copy
import math
from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

from tft_utils.course import plots
from tft_utils.course.exercises import Wrong, close, expect_equal, expect_tensor, expect_two, refuse
from tft_utils.course.plots import GREY, Drawn, arrow, canvas, style, write


def attend(q, k, v):
    """Causal attention: the weights [... pos pos] and the mixed values [... pos d_head].

    q, k, v: queries, keys and values [... pos d_head]; word t may look at the words 0 to t.
    """
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    future = torch.ones_like(scores, dtype=torch.bool).triu(1)
    weights = scores.masked_fill(future, -math.inf).softmax(-1)
    return weights, weights @ v


def plain_rnn(x, W, U):
    """The states h_t = tanh(W h_before + U x_t), starting from h = 0: [pos d].

    x: inputs [pos d_in]; W: from state to state [d d]; U: from input to state [d d_in].
    """
    h, states = W.new_zeros(len(W)), []
    for x_t in x:
        h = torch.tanh(W @ h + U @ x_t)
        states.append(h)
    return torch.stack(states)


def leaky(u, a):
    """The states h_t = a h_before + u_t, number by number, starting from h = 0: [pos d].

    u: inputs [pos d]; a: what is kept of each number at each word [d], between 0 and 1.
    """
    h, states = torch.zeros_like(a), []
    for u_t in u:
        h = a * h + u_t
        states.append(h)
    return torch.stack(states)


def selective(u, delta, A):
    """The states h_t = exp(delta_t A) h_before + delta_t u_t, starting from h = 0: [pos d].

    u: inputs [pos d]; delta: step sizes [pos d], positive; A: decay rates [d], negative.
    """
    h, states = torch.zeros_like(A), []
    for u_t, delta_t in zip(u, delta, strict=True):
        keep = torch.exp(delta_t * A)
        write = delta_t * u_t
        h = keep * h + write
        states.append(h)
    return torch.stack(states)


def scan(u, delta, A, B, C):
    """The selective scan: what is read after each word, starting from an empty state: [pos d_inner].

    u: inputs [pos d_inner]; delta: step sizes [pos d_inner]; A: decay rates [d_inner d_state],
    negative; B, C: write and read vectors [pos d_state].
    """
    h, outputs = torch.zeros_like(A), []
    for t in range(len(u)):
        keep = torch.exp(delta[t][:, None] * A)
        write = (delta[t] * u[t])[:, None] * B[t]
        h = keep * h + write
        outputs.append(h @ C[t])
    return torch.stack(outputs)


def rotate(x, n, base=10_000.0):
    """Turns the first n numbers of x [head pos d_head] by angles that grow with the position."""
    positions = torch.arange(x.shape[-2], device=x.device)[:, None]
    angles = positions / base ** (torch.arange(0, n, 2, device=x.device) / n)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b, rest = x[..., : n // 2], x[..., n // 2 : n], x[..., n:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1)


def attention_by_hand(layer, x):
    """An attention layer's output [pos d_model] and weights [head pos pos]; it reads x [pos d_model]."""
    qkv = F.linear(x, layer.query_key_value.weight, layer.query_key_value.bias)
    qkv = qkv.unflatten(-1, (-1, 3 * layer.head_size)).transpose(0, 1)  # [head pos 3*d_head]
    q, k, v = qkv.chunk(3, dim=-1)
    q, k = rotate(q, layer.rotary_ndims), rotate(k, layer.rotary_ndims)
    weights, mixed = attend(q, k, v)
    together = mixed.transpose(0, 1).flatten(1)  # [pos d_model], the heads side by side
    return F.linear(together, layer.dense.weight, layer.dense.bias), weights


def convolve(signal, kernel, bias):
    """Each channel's weighted sum of this word and those just before it: [pos d_inner].
    signal: [pos d_inner], zeros before it; kernel: weights [d_inner tap], the last for the word itself;
    bias: [d_inner]."""
    taps = kernel.shape[1]
    padded = F.pad(signal, (0, 0, taps - 1, 0))
    windows = padded.unfold(0, taps, 1)  # [pos d_inner tap]
    return (windows * kernel).sum(-1) + bias


def mixer_by_hand(layer, x):
    """Output [pos d_model] of a Mamba mixer that reads x [pos d_model]."""
    signal, z = F.linear(x, layer.in_proj.weight).chunk(2, dim=-1)  # each [pos d_inner]
    u = F.silu(convolve(signal, layer.conv1d.weight[:, 0], layer.conv1d.bias))
    sizes = [layer.time_step_rank, layer.ssm_state_size, layer.ssm_state_size]
    low, B, C = F.linear(u, layer.x_proj.weight).split(sizes, dim=-1)
    delta = F.softplus(F.linear(low, layer.dt_proj.weight, layer.dt_proj.bias))
    A = -torch.exp(layer.A_log)
    y = scan(u, delta, A, B, C)
    y = (y + layer.D * u) * F.silu(z)
    return F.linear(y, layer.out_proj.weight)


def crossover(transformer, mamba):
    """The length in words of the shortest text whose key-value cache holds more than the state.

    Of the configs: num_hidden_layers, hidden_size; intermediate_size, state_size, conv_kernel.
    """
    per_word = transformer.num_hidden_layers * 2 * transformer.hidden_size
    per_layer = mamba.intermediate_size * (mamba.state_size + mamba.conv_kernel)
    return mamba.num_hidden_layers * per_layer // per_word + 1


def check_attend(attempt) -> None:
    draws = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, 4, generator=draws) for _ in range(3))
    weights, mixed = expect_two(attempt(q, k, v), "the weights and the mixed values")
    expect_tensor(weights, (3, 3), "weights, one row per word that looks,")
    truth, values = attend(q, k, v)
    if not close(weights, truth):
        raise Wrong(_what_is_wrong_with(weights, q @ k.T))
    if not close(mixed, values):
        raise Wrong(
            "the weights are right, the mixed values are not: row t is the sum of all values, each "
            "times its weight in row t, so a product of two matrices"
        )
    heads = [torch.stack([x, 2 * x]) for x in (q, k, v)]
    again = expect_tensor(attempt(*heads)[0], (2, 3, 3), "weights for two heads at once")
    if not close(again, attend(*heads)[0]):
        raise Wrong(
            "right for one head, wrong for two at once: only the last two axes belong to one head, "
            "so transpose(-2, -1) and softmax(-1)"
        )


def _what_is_wrong_with(weights: Tensor, scores: Tensor) -> str:
    if close(weights.sum(0), torch.ones(3)):
        return "each column of your weights sums to 1; each row must: softmax over the last axis"
    if weights.triu(1).abs().max() > 1e-6:
        return "a word looks at words after it; a score above the diagonal must become -inf"
    if not close(weights.sum(1), torch.ones(3)):
        return "your weights' rows do not sum to 1; hide the future in the scores, before the softmax"
    future = torch.ones(3, 3, dtype=torch.bool).triu(1)
    for scale, mistake in ((1, "do not divide them"), (1 / 4, "divide them by d_head itself")):
        if close(weights, (scores * scale).masked_fill(future, -math.inf).softmax(-1)):
            return f"the scores have the wrong size: you {mistake}; divide by the root of d_head"
    return "row t must be the softmax of q_t . k_s / sqrt(d_head) over the words s up to t"


def _draws(*shapes: tuple[int, ...]) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=g) for shape in shapes]


def check_plain_rnn(attempt) -> None:
    x, W, U = _draws((5, 2), (3, 3), (3, 2))
    states = expect_tensor(attempt(x, W, U), (5, 3), "states [pos d]", "one for each word")
    first = torch.tanh(U @ x[0])
    if not close(states[0], first):
        refuse(states[0], {"the first state is 0: keep each state after its word is read": 0 * first})
        raise Wrong("after the first word the state is tanh(U x_0), since h is 0 before it")
    turned = plain_rnn(x, W.T, U)
    mistakes = {
        "each of your states knows one word alone: put the last state through W": torch.tanh(x @ U.T),
        "you use the columns of W; the new state is W @ h": turned,
    }
    truth = plain_rnn(x, W, U)
    if not close(states, truth):
        refuse(states, mistakes, "expected tanh(W h + U x_t), with the state before as h")


def check_leaky(attempt) -> None:
    (u,), a = _draws((4, 3)), torch.tensor([0.0, 0.5, 0.9])
    before = u.clone()
    states = expect_tensor(attempt(u, a), (4, 3), "states [pos d]", "one for each word")
    if not torch.equal(u, before):
        raise Wrong("you change the inputs in place; build new states instead")
    mistakes = {
        "what you keep is the sum of all words: multiply the state before by a": u.cumsum(0),
        "you let the new word fade as well: only the state before is multiplied by a": leaky(u * a, a),
        "you mix with 1 - a: here the new word is written whole": leaky(u * (1 - a), a),
    }
    if not close(states, leaky(u, a)):
        refuse(states, mistakes, "expected a h + u_t, number by number, with the state before as h")


def check_selective(attempt) -> None:
    u, raw = _draws((4, 3), (4, 3))
    delta, A = raw.exp(), torch.tensor([-0.2, -1.0, -2.0])
    states = expect_tensor(attempt(u, delta, A), (4, 3), "states [pos d]", "one for each word")
    _refuse_scan(states, *(x[..., None] for x in (u, delta, A)), *torch.ones(2, 4, 1))


def check_scan(attempt) -> None:
    u, raw, B, C = _draws((4, 3), (4, 3), (4, 2), (4, 2))
    delta, A = raw.exp(), torch.tensor([[-0.2, -1.0], [-0.5, -1.5], [-2.0, -0.1]])
    y = expect_tensor(attempt(u, delta, A, B, C), (4, 3), "outputs [pos d_inner]", "one for each word")
    _refuse_scan(y, u, delta, A, B, C)


def _refuse_scan(found: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> None:
    """Refuses what is not the scan, with the hint of the mistake that gives it. Without entries, u and
    delta [pos d 1] and A [d 1] stand for channels of one entry."""
    entries = u.dim() == 2
    u, delta = (x if entries else x[..., 0] for x in (u, delta))

    def like(keep=None, write=None, late=False) -> Tensor:
        h, read = torch.zeros_like(A), []
        for t in range(len(u)):
            old = h
            rate = delta[t][:, None] * A
            kept = torch.exp(rate) if keep is None else keep(rate)
            h = kept * h + (delta if write is None else write)[t][:, None] * u[t][:, None] * B[t]
            read.append((old if late else h) @ C[t])
        return torch.stack(read)

    if close(found, like()):
        return
    whole = like(write=torch.ones_like(delta))
    no_step, grows = like(keep=lambda _: torch.exp(A)), like(keep=lambda rate: torch.exp(-rate))
    mistakes = {
        "the step size is missing from what you write: a word with step 0 must leave no trace": whole,
        "the step size is missing from what you keep: a word with step 0 must change nothing": no_step,
        "old memories grow: A is negative already, so the sign in exp(delta A) is a plus": grows,
        "you keep delta A times the old state; keep exp(delta A) times it": like(keep=lambda rate: rate),
        "you read the old state; first write, then read the new one": like(late=True),
    }
    if entries:
        exchanged = scan(u, delta, A, C, B)
        mistakes["B and C are exchanged: B says what is written, C what is read"] = exchanged
    refuse(found, mistakes)
    what = "delta u times the row B, then read with C" if entries else "delta_t u_t"
    raise Wrong(f"at each word the state becomes exp(delta A) times the one before, plus {what}")


def _linear(weight: Tensor, bias: Tensor | None = None) -> torch.nn.Linear:
    linear = torch.nn.Linear(*weight.T.shape, bias=bias is not None)
    linear.weight.data = weight
    if bias is not None:
        linear.bias.data = bias
    return linear


def check_rotate(attempt) -> None:
    (x,) = _draws((2, 5, 6))
    truth, order = rotate(x, 4), [0, 2, 1, 3, 4, 5]
    pairs = rotate(x[..., order], 4)[..., order]
    order = [2, 3, 0, 1, 4, 5]
    back = rotate(x[..., order], 4)[..., order]  # b turns into a
    mistakes = {
        "nothing turns: word t turns by the angle t / base^(2 i / n)": x,
        "you turn all numbers; only the first n, the others stay": rotate(x, 6),
        "you pair neighbours; number i is paired with number i + n/2": pairs,
        "you turn the other way: a cos - b sin, then b cos + a sin": back,
    }
    otherwise = "word t turns the pair (i, i + n/2) by the angle t / base^(2 i / n)"
    expect_equal(attempt(x, 4), truth, "the turned x", mistakes, otherwise)
    if not close(attempt(x, 4, 100.0), rotate(x, 4, 100.0)):
        raise Wrong("right for base 10000 only: use `base`")


def check_convolve(attempt) -> None:
    signal, kernel, bias = _draws((6, 4), (4, 3), (4,))
    turned = convolve(signal, kernel.flip(1), bias)
    ahead = convolve(signal.flip(0), kernel.flip(1), bias)
    mistakes = {
        "the bias is missing": convolve(signal, kernel, 0 * bias),
        "the kernel is the wrong way round: its last number belongs to the word itself": turned,
        "your windows look ahead; put the zeros before the first word": ahead.flip(0),
    }
    truth, otherwise = convolve(signal, kernel, bias), "word t: signal[t - taps + 1 : t + 1] times kernel"
    expect_equal(attempt(signal, kernel, bias), truth, "sums [pos d_inner]", mistakes, otherwise)


@torch.no_grad()
def check_attention_by_hand(attempt) -> None:
    x, qkv, bias, dense, dense_bias = _draws((5, 8), (24, 8), (24,), (8, 8), (8,))
    layer = SimpleNamespace(
        query_key_value=_linear(qkv, bias), dense=_linear(dense, dense_bias), head_size=4, rotary_ndims=2
    )
    output, weights = expect_two(attempt(layer, x), "the output and the weights of each head")
    expect_tensor(weights, (2, 5, 5), "weights [head pos pos]", "two heads of size 4, five words")
    expect_tensor(output, (5, 8), "an output [pos d_model]")
    truth, right = attention_by_hand(layer, x)

    def weights_of(**changed) -> Tensor:
        return attention_by_hand(SimpleNamespace(**vars(layer) | changed), x)[1]

    first = qkv.unflatten(0, (3, 2, 4)).transpose(0, 1).flatten(0, 2)
    first_bias = bias.unflatten(0, (3, 2, 4)).transpose(0, 1).flatten()
    no_bias = _linear(qkv, torch.zeros(24))
    by_number = (rows.unflatten(0, (2, 4, 3)).transpose(1, 2).flatten(0, 2) for rows in (qkv, bias))
    q, k, v = F.linear(x, qkv, bias).unflatten(-1, (2, 12)).transpose(0, 1).chunk(3, dim=-1)
    one_turned = attend(rotate(q, 2), k, v)[0]
    mistakes = {
        "the rotation is missing: turn q and k before they meet": weights_of(rotary_ndims=0),
        "you turn every number; only the first `layer.rotary_ndims` turn": weights_of(rotary_ndims=4),
        "the bias of the query_key_value map is missing": weights_of(query_key_value=no_bias),
        "q, k and v stand head by head, not all queries first": weights_of(
            query_key_value=_linear(first, first_bias)
        ),
        "a head's q, k and v are blocks of `head_size` numbers, one after the other; you cut them number "
        "by number": weights_of(query_key_value=_linear(*by_number)),
        "you turn the queries alone: cut q and k out first, then turn each": one_turned,
    }
    if not close(weights, right):
        refuse(
            weights, mistakes, "the weights differ: cut q, k, v out head by head, turn q and k, attend"
        )
    if not close(output, truth):
        refuse(
            output,
            {
                "the bias of the dense map is missing": truth - dense_bias,
                "only q and k turn; the values stay as they are": _linear(dense, dense_bias)(
                    (right @ rotate(v, 2)).transpose(0, 1).flatten(1)
                ),
            },
            "the weights are right, the output is not: put the heads side by side, then the dense map",
        )


def _mixer(layer, x, act=F.silu, step=F.softplus, gate=F.silu, ahead=0, skip_last=False) -> Tensor:
    """`mixer_by_hand` with other functions, windows so many words ahead, or a skip after the gate."""
    signal, z = layer.in_proj(x).chunk(2, dim=-1)
    u = act(layer.conv1d(signal.T[None])[0].T[ahead:][: len(x)])
    sizes = [layer.time_step_rank, layer.ssm_state_size, layer.ssm_state_size]
    low, B, C = layer.x_proj(u).split(sizes, dim=-1)
    y = scan(u, step(layer.dt_proj(low)), -torch.exp(layer.A_log), B, C)
    skip = layer.D * u
    return layer.out_proj(y * gate(z) + skip if skip_last else (y + skip) * gate(z))


def _as_it_is(x: Tensor) -> Tensor:
    return x


@torch.no_grad()
def check_mixer_by_hand(attempt) -> None:
    pos, d_model, d_inner, d_state, taps, rank = 6, 3, 4, 2, 3, 1
    x, into, kernel, bias, read, step, start, rates, D, out = _draws(
        *((pos, d_model), (2 * d_inner, d_model), (d_inner, 1, taps), (d_inner,)),
        *((rank + 2 * d_state, d_inner), (d_inner, rank), (d_inner,)),
        *((d_inner, d_state), (d_inner,), (d_model, d_inner)),
    )
    conv = torch.nn.Conv1d(d_inner, d_inner, taps, groups=d_inner, padding=taps - 1)
    conv.weight.data, conv.bias.data = kernel, bias
    parts = {"conv1d": conv, "dt_proj": _linear(step, start)}
    parts |= {"in_proj": _linear(into), "x_proj": _linear(read), "out_proj": _linear(out)}
    sizes = {"conv_kernel_size": taps, "time_step_rank": rank, "ssm_state_size": d_state}
    layer = SimpleNamespace(**parts, **sizes, A_log=rates, D=D, act=F.silu, activation="silu")
    found = expect_tensor(attempt(layer, x), (pos, d_model), "an output [pos d_model]")
    truth = mixer_by_hand(layer, x)
    if close(found, truth):
        return

    def changed(**other) -> Tensor:
        return mixer_by_hand(SimpleNamespace(**vars(layer) | other), x)

    gate_first = changed(in_proj=_linear(into.roll(d_inner, 0)))
    now = copy.deepcopy(conv)
    now.weight.data[..., :-1] = 0
    mistakes = {
        "what goes around the state is missing: D u": changed(D=0 * D),
        "the first half of in_proj's output is the signal, the second the gate": gate_first,
        "B and C are exchanged: x_proj gives the low-rank step, then B, then C": changed(
            x_proj=_linear(read[[0, 3, 4, 1, 2]])
        ),
        "the convolution is missing: it mixes each word with those just before it": changed(conv1d=now),
        "the bias of dt_proj is missing": changed(dt_proj=_linear(step, 0 * start)),
        "the weights hold log(-A), so A is -exp(A_log)": changed(A_log=torch.log(rates.abs())),
        "SiLU is missing behind the convolution": _mixer(layer, x, act=_as_it_is),
        "a step size is positive: its softplus is missing": _mixer(layer, x, step=_as_it_is),
        "SiLU(z) is z times its sigmoid; your gate is the sigmoid alone": _mixer(
            layer, x, gate=F.sigmoid
        ),
        "the gate is SiLU(z), and not z itself": _mixer(layer, x, gate=_as_it_is),
        "your windows look ahead: word t gets itself and those before it": _mixer(
            layer, x, ahead=taps - 1
        ),
        "D u is gated, too: add it before you multiply by SiLU(z)": _mixer(layer, x, skip_last=True),
    }
    refuse(found, mistakes)
    reach = [t for t in range(pos) if not close(found[t], truth[t])]
    raise Wrong(
        f"your output differs at the words {reach}: check in order the convolution and its SiLU, "
        "the three parts of x_proj, softplus, -exp(A_log), D u, the gate's SiLU, out_proj"
    )


def check_crossover(attempt) -> None:
    pairs = {  # blocks and width, then blocks, d_inner, d_state and kernel
        "the organisms": (6, 128, 10, 256, 16, 4),
        "Pythia-160m and Mamba-130m": (12, 768, 24, 1536, 16, 4),
        "Pythia-2.8b and Mamba-2.8b with a state of 64": (32, 2560, 64, 5120, 64, 4),
        "two models of one block": (1, 100, 1, 30, 10, 2),
    }
    for name, (blocks, width, layers, d_inner, d_state, kernel) in pairs.items():
        sizes = {"intermediate_size": d_inner, "state_size": d_state, "conv_kernel": kernel}
        transformer = SimpleNamespace(num_hidden_layers=blocks, hidden_size=width)
        mamba = SimpleNamespace(num_hidden_layers=layers, **sizes)
        per_word, state = blocks * 2 * width, layers * d_inner * (d_state + kernel)
        no_inputs = layers * d_inner * d_state
        mistakes = {
            "a word leaves a key and a value: twice as many numbers": state / (per_word / 2),
            "Mamba also carries the last inputs of its convolution": no_inputs / per_word,
            "every layer has a cache, and every layer has a state": state / layers * blocks / per_word,
        }
        length, right = attempt(transformer, mamba), crossover(transformer, mamba)
        if length == right:
            continue
        if not isinstance(length, int):
            raise Wrong(f"expected a whole number of words, found {length!r}; which way to round?")
        hints = [text for text, other in mistakes.items() if length == int(other) + 1]
        if abs(length - right) == 1 and not hints:
            hints = [
                f"{length} words hold {length * per_word} numbers, the state {state}: the cache must "
                "hold more, not as many, and one word less must not"
            ]
        raise Wrong(f"for {name}: {hints[0] if hints else 'count both sides, then divide'}")


def two_blocks() -> Drawn:
    """One block of each machine, from the residual stream at the bottom to what it adds."""
    stacks = {  # what lies on top of what, and beside it; where the two join; the past
        "One block of the Transformer": (
            "norm|query, key, value|weights: softmax(q · k)|weighted sum of values|project back",
            *("norm|MLP", (4.3, 5.3), "keys, values\nof every\nword"),
        ),
        "One block of Mamba": (
            "norm, project|convolution, SiLU: u|state: keep, write B, read C|+ D u, × gate|project back",
            *("norm, project: z|gate: SiLU(z)", (2.45, 3.5), "one state\nof fixed\nsize"),
        ),
    }
    figure, axes = canvas((9.2, 4.4), (-1.3, 5.4), (-0.9, 5.9), *stacks)
    colours = (style(name)["color"] for name in ("transformer", "mamba"))
    for axis, colour, (main, side, joins, past) in zip(axes, colours, stacks.values(), strict=True):
        for x, boxes in ((1.6, main.split("|")), (4.3, side.split("|"))):
            for y, text in enumerate(boxes):
                edge = colour if y == 2 else GREY  # where the past comes in
                arrow(axis, (x, y - 0.2), (x, y + 0.2))
                write(axis, x, y + 0.5, text, fontsize=10, edge=edge)
        arrow(axis, (1.6, 4.8), (1.6, 5.3))
        bend = "arc3" if joins[0] == 4.3 else "angle,angleA=90,angleB=0"
        arrow(axis, (4.3, 1.8), joins, connectionstyle=bend)
        write(axis, -0.75, 3.4, past, fontsize=10, color=colour)
        arrow(axis, (-1.25, 2.5), (-0.12, 2.5), color=colour)
        for y, text in ((-0.5, "residual stream of this word"), (5.55, "added to the stream")):
            write(axis, 2.8, y, text, fontsize=10.5, weight="bold")
    return figure, (
        "Two block diagrams: the Transformer's past enters at the softmax, from the keys and "
        "values of every word; Mamba's enters through one state of fixed size."
    )


def kept_numbers(lengths: Sequence[int], kept: Mapping[str, Sequence[int]], crossing: int) -> Drawn:
    """How many numbers each model carries from a text, against the text's length in words."""
    lines = {name: [n / 1000 for n in numbers] for name, numbers in kept.items()}
    names = "length of the text (words)", "numbers kept (thousands)"
    figure, (axis,) = plots.curves({"": lines}, *names, ylim=(0, None), x=lengths)
    axis.axvline(crossing, color=GREY, linestyle=":", linewidth=1.5)
    axis.text(crossing + 1, axis.get_ylim()[1] * 0.93, f"{crossing} words", color=GREY)
    ends = " and ".join(f"{name} keeps {n[0]:,} to {n[-1]:,} numbers" for name, n in kept.items())
    return figure, f"From {lengths[0]} to {lengths[-1]} words {ends}; they cross at {crossing} words."
