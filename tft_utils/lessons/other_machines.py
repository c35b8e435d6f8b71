"""Lesson 09, other_machines: one recurrence under many names, and what each of them keeps."""

import statistics
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from tft_utils import models, reading, stats
from tft_utils.architectures import ARCHITECTURES
from tft_utils.corpora import world
from tft_utils.corpora.lexicon import VOCABULARY, WORLD, Lexicon, Rng
from tft_utils.corpora.pairs import Pair
from tft_utils.course import plots
from tft_utils.course.exercises import Wrong, close, expect_equal, expect_tensor, refuse
from tft_utils.course.plots import GREY, Drawn, Map, arrow, canvas, listed, points, style, write
from tft_utils.course.verdicts import WORDS
from tft_utils.organisms.evaluation import tokenizer
from tft_utils.stats import Estimate
from tft_utils.techniques import patching


def remember(decay, write, read):
    """What is read, y_t = read_t S_t, of S_t = decay_t S_before + write_t: [pos head value].

    decay [pos head key key], a matrix a head; write [pos head key value]; read [pos head key]. The first
    S_before is empty.
    """
    S, outputs = torch.zeros_like(write[0]), []
    for t in range(len(write)):
        S = decay[t] @ S + write[t]
        y = read[t][:, None, :] @ S
        outputs.append(y[:, 0])
    return torch.stack(outputs)


def mamba2(u, step, rate, B, C):
    """Mamba-2, y [pos head value]: S_t = exp(step_t rate) S_before + step_t B_t u_t, y_t = C_t S_t.

    u [pos head value]; step [pos head], positive; rate [head], negative; B, C [pos head key].
    """
    kept = torch.exp(step * rate)
    decay = kept[..., None, None] * torch.eye(B.shape[-1])
    write = step[..., None, None] * B[..., :, None] * u[..., None, :]
    return remember(decay, write, C)


def rg_lru(u, r, i, L):
    """Griffin, h [pos channel]: h_t = a_t h_before + sqrt(1 - a_t^2) i_t u_t, but h_0 = i_0 u_0.

    a_t = exp(-8 softplus(L) r_t). u, r, i [pos channel]: input, recurrence gate, input gate; L [channel].
    """
    a = torch.exp(-8 * F.softplus(L) * r)
    share = torch.sqrt(1 - a**2)
    share[0] = 1
    write = (share * i * u)[..., None, None]
    return remember(a[..., None, None], write, torch.ones_like(u)[..., None])[..., 0]


def mlstm(q, k, v, i, f):
    """xLSTM, y [pos head value]: C_t = f_t C_before + i_t k_t v_t, n_t = f_t n_before + i_t k_t and y_t =
    q_t C_t / max(|q_t n_t|, 1).

    q, k [pos head key]; v [pos head value]; i, f [pos head]: input and forget gate.
    """
    decay = f[..., None, None] * torch.eye(k.shape[-1])
    counted = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)  # the last value is always 1
    write = i[..., None, None] * k[..., :, None] * counted[..., None, :]
    y = remember(decay, write, q)
    return y[..., :-1] / y[..., -1:].abs().clamp(min=1)


def rwkv(k, v, w, bonus):
    """RWKV, y [pos channel]: the average of all values: v_s of earlier words with weight
    exp(k_s - (t-1-s) w), and the present v_t with weight exp(k_t + bonus).

    k, v [pos channel]; w [channel], positive; bonus [channel].
    """
    counted = torch.stack([v, torch.ones_like(v)], dim=-1)  # [pos channel 2]
    decay = torch.exp(-w).expand_as(k)[..., None, None]
    write = torch.exp(k)[..., None, None] * counted[..., None, :]
    after = remember(decay, write, torch.ones_like(k)[..., None])
    before = torch.cat([torch.zeros_like(after[:1]), after[:-1]])
    total = before + torch.exp(k + bonus)[..., None] * counted
    return total[..., 0] / total[..., 1]


def gated_delta(q, k, v, a, e):
    """Gated DeltaNet, y [pos head value]: S_t = a_t S_before + e_t k_t (v_t - k_t a_t S_before).

    q, k [pos head key], k of length 1; v [pos head value]; a, e [pos head]: decay, share erased.
    """
    erased = e[..., None, None] * k[..., :, None] * k[..., None, :]
    decay = a[..., None, None] * (torch.eye(k.shape[-1]) - erased)
    write = e[..., None, None] * k[..., :, None] * v[..., None, :]
    return remember(decay, write, q)


def lstm(drive, U):
    """An LSTM's h [pos channel] from the drive W x + b [pos 4*channel] and U [4*channel channel].

    i, f, g, o: the four parts of drive_t + U h_before, in this order. c_t = sigmoid(f) c_before +
    sigmoid(i) tanh(g); h_t = sigmoid(o) tanh(c_t). The first h_before and c_before are 0.
    """
    h = c = drive.new_zeros(U.shape[1])
    outputs = []
    for word in drive:
        i, f, g, o = (word + U @ h).chunk(4)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        outputs.append(h)
    return torch.stack(outputs)


def by_halves(decay, write):
    """All states S_t = decay_t S_before + write_t [pos channel], in as few rounds as pos can be halved.

    decay, write [pos channel]. No loop over words: each round combines every stretch of words with the
    equally long one before it.
    """
    reach = 1
    while reach < len(write):
        write_before = F.pad(write[:-reach], (0, 0, reach, 0))
        decay_before = F.pad(decay[:-reach], (0, 0, reach, 0), value=1.0)
        write = write + decay * write_before
        decay = decay * decay_before
        reach = 2 * reach
    return write


def survival(decay, planted):
    """What is left of a planted state after each word that follows, as a share of its length: [pos head].

    decay [pos head key key], of the words that follow; planted [head key value].
    """
    left, shares = planted, []
    for D in decay:
        left = D @ left
        shares.append(left.norm(dim=(-2, -1)) / planted.norm(dim=(-2, -1)))
    return torch.stack(shares)


def recalled(logits, at, wanted):
    """The share of right answers of each document [doc]: the wanted word is the likeliest one.

    logits [doc pos vocab]; at [doc n]: where the answers stand; wanted [doc n]: their token ids.
    """
    rows = torch.arange(len(logits))[:, None]
    guesses = logits[rows, at - 1].argmax(-1)
    return (guesses == wanted).float().mean(-1)


# --------------------------------------------------------------------------------------------------
# Checks


def _draws(*shapes: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=g) for shape in shapes]


def check_remember(attempt) -> None:
    decay, write, read = _draws((4, 2, 3, 3), (4, 2, 3, 5), (4, 2, 3))
    y = expect_tensor(attempt(decay, write, read), (4, 2, 5), "what is read [pos head value]")
    late = _shifted(remember(decay, write, read.roll(-1, 0)))
    mistakes = {
        "you read before you write: y_t reads S_t, which holds the word itself": late,
        "you let the new word decay as well: only S_before is multiplied": remember(
            decay, decay @ write, read
        ),
        "each of your states knows one word alone: hand S on": torch.einsum("thk,thkv->thv", read, write),
        "the decay is a matrix, from the left: decay_t @ S_before": remember(
            torch.diag_embed(decay.diagonal(dim1=-2, dim2=-1)), write, read
        ),
        "you multiply by the transpose of the decay: decay_t @ S_before": remember(decay.mT, write, read),
    }
    if not close(y, remember(decay, write, read)):
        refuse(
            y, mistakes, "expected S_t = decay_t @ S_before + write_t, then read_t @ S_t, head by head"
        )


def check_mamba2(attempt) -> None:
    u, raw, B, C, rate = _draws((4, 2, 3), (4, 2), (4, 2, 5), (4, 2, 5), (2,))
    step, rate = raw.exp(), -rate.exp()
    mistakes = {
        "the step size is missing from what is written: a word with step 0 must leave no trace": remember(
            torch.exp(step * rate)[..., None, None] * torch.eye(5), B[..., None] * u[..., None, :], C
        ),
        "the step size is missing from the decay: a word with step 0 must change nothing": mamba2(
            step[..., None] * u, torch.ones_like(step), rate, B, C
        ),
        "B and C are exchanged: B says where it is written, C where it is read": mamba2(
            u, step, rate, C, B
        ),
        "old memories grow: rate is negative already, so the sign in exp(step rate) is a plus": mamba2(
            u, step, -rate, B, C
        ),
    }
    expect_equal(
        attempt(u, step, rate, B, C),
        mamba2(u, step, rate, B, C),
        "what is read [pos head value]",
        mistakes,
        "expected remember(exp(step rate) times the identity, step B u, C): check the three one by one",
    )


def check_rg_lru(attempt) -> None:
    u, r, i, L = _draws((5, 3), (5, 3), (5, 3), (3,))
    r, i = r.sigmoid(), i.sigmoid()
    a, one = torch.exp(-8 * F.softplus(L) * r), torch.ones_like(u)[..., None]

    def written(share: Tensor, kept: Tensor = a) -> Tensor:
        return remember(kept[..., None, None], (share * i * u)[..., None, None], one)[..., 0]

    share = torch.sqrt(1 - a**2)
    first = torch.cat([torch.ones_like(share[:1]), share[1:]])
    mistakes = {
        "the first word is written whole: its share is 1, and yours is sqrt(1 - a^2)": written(share),
        "the share sqrt(1 - a^2) is missing: what is written must make room for what is kept": written(
            torch.ones_like(u)
        ),
        "the share is sqrt(1 - a^2), and yours is 1 - a": written(
            torch.cat([torch.ones_like(a[:1]), 1 - a[1:]])
        ),
        "the 8 is missing: a = exp(-8 softplus(L) r)": rg_lru(u, r / 8, i, L),
        "the softplus is missing: a = exp(-8 softplus(L) r)": written(first, torch.exp(-8 * L * r)),
    }
    given = u.clone()
    h = attempt(u, r, i, L)
    if not torch.equal(given, u):
        raise Wrong("you change u in place; set the first row of a new tensor instead")
    expect_equal(h, rg_lru(u, r, i, L), "h [pos channel]", mistakes, "check decay and write one by one")


def check_mlstm(attempt) -> None:
    q, k, v, i, f = _draws((6, 2, 3), (6, 2, 3), (6, 2, 4), (6, 2), (6, 2))
    i, f = i.exp(), (f + 2).sigmoid()

    def parts(weight: Tensor) -> tuple[Tensor, Tensor]:
        decay = f[..., None, None] * torch.eye(3)
        counted = torch.cat([v, torch.ones_like(v[..., :1])], -1)
        y = remember(decay, weight[..., None, None] * k[..., None] * counted[..., None, :], q)
        return y[..., :-1], y[..., -1:]

    y, n = parts(i)
    mistakes = {
        "the normaliser is missing: divide by max(|q n|, 1)": y,
        "the normaliser may not be smaller than 1": y / n.abs(),
        "the normaliser's sign does not count: |q n|": y / n.clamp(min=1),
        "the input gate is missing from what is written": parts(torch.ones_like(i))[0]
        / parts(torch.ones_like(i))[1].abs().clamp(min=1),
        "the input gate is missing from the normaliser, which counts what is written": y
        / parts(torch.ones_like(i))[1].abs().clamp(min=1),
    }
    expect_equal(
        attempt(q, k, v, i, f),
        mlstm(q, k, v, i, f),
        "what is read [pos head value]",
        mistakes,
        "C and n share decay and read: write v and a 1 side by side",
    )


def check_rwkv(attempt) -> None:
    k, v, w, bonus = _draws((6, 3), (6, 3), (3,), (3,))
    w = w.exp()
    truth = rwkv(k, v, w, bonus)
    counted = torch.stack([v, torch.ones_like(v)], -1)
    whole = remember(
        torch.exp(-w).expand_as(k)[..., None, None],
        k.exp()[..., None, None] * counted[..., None, :],
        torch.ones_like(k)[..., None],
    )
    total = whole + torch.exp(k + bonus)[..., None] * counted
    mistakes = {
        "the present word is in twice: what is read of the past is S_before": total[..., 0]
        / total[..., 1],
        "the bonus is missing: the present word has the weight exp(k + bonus)": rwkv(k, v, w, 0 * bonus),
        "you return the sum of weighted values: an average divides by the sum of weights": (
            truth * _weights_of_rwkv(k, v, w, bonus)
        ),
        "the present word is missing: add exp(k + bonus) times its value, and to the weights": _shifted(
            whole[..., 0] / whole[..., 1]
        ),
        "old weights grow: each word that passes multiplies them by exp(-w)": rwkv(k, v, -w, bonus),
    }
    expect_equal(
        attempt(k, v, w, bonus),
        truth,
        "the average [pos channel]",
        mistakes,
        "let remember sum weighted values and weights, shift by one word, add the present, divide",
    )


def _weights_of_rwkv(k: Tensor, v: Tensor, w: Tensor, bonus: Tensor) -> Tensor:
    """The sum of weights that the average divides by [pos channel]."""
    t = torch.arange(len(k))
    apart = (t[:, None] - 1 - t)[..., None]  # [pos source 1]
    weights = torch.exp(k[None] - apart * w).masked_fill(apart < 0, 0.0)
    return weights.sum(1) + torch.exp(k + bonus)


def _shifted(x: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(x[:1]), x[:-1]])


def check_gated_delta(attempt) -> None:
    q, k, v, a, e = _draws((5, 2, 3), (5, 2, 3), (5, 2, 4), (5, 2), (5, 2))
    k, a, e = F.normalize(k, dim=-1), (a + 1).sigmoid(), e.sigmoid()
    eye, outer = torch.eye(3), k[..., :, None] * k[..., None, :]
    write = e[..., None, None] * k[..., :, None] * v[..., None, :]

    def with_decay(decay: Tensor, written: Tensor = write) -> Tensor:
        return remember(decay, written, q)

    mistakes = {
        "nothing is erased: the decay must take away what stands under k": with_decay(
            a[..., None, None] * eye
        ),
        "you erase all that stands under k, whatever e says": with_decay(
            a[..., None, None] * (eye - outer)
        ),
        "e is missing from what is written": with_decay(
            a[..., None, None] * (eye - e[..., None, None] * outer), write / e[..., None, None]
        ),
        "what is erased has decayed, too: a stands before the whole matrix": with_decay(
            a[..., None, None] * eye - e[..., None, None] * outer
        ),
        "nothing fades: a is missing from the decay": gated_delta(q, k, v, torch.ones_like(a), e),
    }
    expect_equal(
        attempt(q, k, v, a, e),
        gated_delta(q, k, v, a, e),
        "what is read [pos head value]",
        mistakes,
        "the decay is a (1 - e k k^T), a matrix; the write is e k v^T",
    )


def check_lstm(attempt) -> None:
    drive, U = _draws((5, 12), (12, 3))
    h = expect_tensor(attempt(drive, U), (5, 3), "h [pos channel]", "one h for each word")
    i, f, g, o = drive.chunk(4, -1)
    c = by_halves(f.sigmoid(), i.sigmoid() * g.tanh())
    swapped = torch.cat([f, i, g, o], -1)
    order = torch.arange(12).view(4, 3)[[1, 0, 2, 3]].flatten()
    mistakes = {
        "your gates do not see h: add U @ h to the word's drive": o.sigmoid() * c.tanh(),
        "input and forget gate are exchanged: i, f, g, o in this order": lstm(swapped, U[order]),
        "you return the cells c; the outputs are h": _cells(drive, U),
        "the last tanh is missing: h = sigmoid(o) tanh(c)": _cells(drive, U, squash=False),
    }
    truth = lstm(drive, U)
    if not close(h, truth):
        refuse(h, mistakes, "expected the two lines of the docstring at each word, h and c handed on")


def _cells(drive: Tensor, U: Tensor, squash: bool | None = None) -> Tensor:
    """c [pos channel] of an LSTM; squash False: h where h = sigmoid(o) c."""
    h = c = drive.new_zeros(U.shape[1])
    outputs = []
    for word in drive:
        i, f, g, o = (word + U @ h).chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * (c if squash is False else c.tanh())
        outputs.append(c if squash is None else h)
    return torch.stack(outputs)


def check_by_halves(attempt) -> None:
    for pos in (1, 2, 5, 8):
        decay, write = _draws((pos, 3), (pos, 3))
        decay = decay.sigmoid()
        truth, state = [], torch.zeros(3)
        for d, w in zip(decay, write, strict=True):
            state = d * state + w
            truth.append(state)
        S = expect_tensor(attempt(decay.clone(), write.clone()), (pos, 3), "states [pos channel]")
        if close(S, torch.stack(truth)):
            continue
        once = write + decay * _shifted(write)
        mistakes = {
            "you combine neighbours once: double the reach until it covers the text": once,
            "nothing decays": write.cumsum(0),
        }
        refuse(S, mistakes)
        near = next(t for t in range(pos) if not close(S[t], truth[t]))
        raise Wrong(
            f"of {pos} words, state {near} is the first to be wrong; each round the write takes in the "
            "one `reach` words before, times the decay; then the decay becomes the product of both"
        )


def check_survival(attempt) -> None:
    decay, planted = _draws((4, 2, 3, 3), (2, 3, 5))
    shares = expect_tensor(attempt(decay, planted), (4, 2), "shares [pos head]", "one for each head")
    truth, left = survival(decay, planted), planted
    lengths, single = [], []
    for D in decay:
        left = D @ left
        lengths.append(left.norm(dim=(-2, -1)))
        single.append((D @ planted).norm(dim=(-2, -1)) / planted.norm(dim=(-2, -1)))
    mistakes = {
        "these are lengths; divide by the length of what was planted": torch.stack(lengths),
        "each of your shares knows one word: what is left passes through all words": torch.stack(single),
        "the first share is that after the first word, not before it": torch.cat(
            [torch.ones(1, 2), truth[:-1]]
        ),
    }
    if not close(shares, truth):
        refuse(
            shares, mistakes, "hand on what is left, decay @ left, and compare its length head by head"
        )


def check_recalled(attempt) -> None:
    (logits,) = _draws((3, 7, 10))
    at = torch.tensor([[2, 5], [3, 6], [1, 4]])
    best = logits.argmax(-1)
    wanted = best.gather(1, at - 1)
    wanted[1, 0] = (wanted[1, 0] + 1) % 10
    wanted[2] = (wanted[2] + 1) % 10
    shares = expect_tensor(
        attempt(logits, at, wanted), (3,), "shares [doc]", "a mean over each one's answers"
    )
    late = (best.gather(1, at) == wanted).float().mean(-1)
    mistakes = {
        "the logits at a position are about the next word: ask one position earlier": late,
        "you count answers; take the mean": 2 * recalled(logits, at, wanted),
    }
    if not close(shares, recalled(logits, at, wanted)):
        refuse(shares, mistakes, "an answer is right where the likeliest of all words is the wanted one")


# --------------------------------------------------------------------------------------------------
# What the lesson asks the models


def random_model(model_type: str, seed: int = 0) -> models.Model:
    """A small model with random weights; no bias is zero, nor any weight that training starts at zero."""
    logging.set_verbosity_error()  # of each kernel that only a GPU has, it would say that it is missing
    config = ARCHITECTURES[model_type].tiny()
    config.vocab_size = len(VOCABULARY)
    torch.manual_seed(seed)
    hf = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            if name.endswith("bias") or not parameter.any():
                parameter += 0.1 * torch.randn_like(parameter)
    models.prepare(hf)
    return models.Model(hf.eval(), tokenizer())


def recall_document(
    rng: Rng, n: int, gap: int = 0, changed: bool = False, lexicon: Lexicon = WORLD
) -> world.Document:
    """n names, each with a colour (role 'item'); `gap` other words; then all names in another order, each
    with its colour, which is asked for there (role 'value').

    changed: before the questions the first name gets another colour ('change'), and is asked for first.
    """
    names, colours = rng.sample(list(lexicon.names), n), rng.sample(list(lexicon.colours), n + changed)
    draft, others = world.Draft(lexicon), [*lexicon.things, *lexicon.places]
    draft.fill(lexicon.opening)

    def state(i: int, role: str) -> None:
        draft.add(names[i], role="key")
        draft.add(colours[i], role=role)
        draft.add(".")

    for i in range(n):
        state(i, "item")
    for _ in range(gap):
        draft.add(rng.choice(others))
    if changed:
        colours[0] = colours[n]
        state(0, "change")
    for i in range(n) if changed else rng.sample(range(n), n):
        state(i, "value")
    return draft.document("recall")


def recall_pair(rng: Rng, n: int, lexicon: Lexicon = WORLD) -> Pair:
    """n names with colours, then the first name again; corrupt: its colour and the next are exchanged."""
    names, colours = rng.sample(list(lexicon.names), n), rng.sample(list(lexicon.colours), n)
    documents = []
    for shown in (colours, [colours[1], colours[0], *colours[2:]]):
        draft = world.Draft(lexicon)
        draft.fill(lexicon.opening)
        for name, colour in zip([*names, names[0]], [*shown, shown[0]], strict=True):
            draft.add(name, role="key")
            draft.add(colour, role="value")
            draft.add(".")
        documents.append(draft.document("recall"))
    at = documents[0].positions("value")[-1]
    return Pair(*documents, at, *(lexicon.spoken(document.words[at].text) for document in documents))


def places(documents: Sequence[world.Document], role: str) -> Tensor:
    """Where words of a role stand, of which each document has equally many [doc n]."""
    return torch.tensor([document.positions(role) for document in documents])


def inside(model, layer: int, x: Tensor) -> dict:
    """What goes through a block's named points when it reads x [1 pos d_model] (that axis is cut off)."""
    found = {}

    def put(name, value, t=None):
        batched = isinstance(value, Tensor) and value.shape[:1] == x.shape[:1]
        found[name] = value[0] if batched else value
        return value

    model.block(layer, x, put)
    return found


def instead(point: str, new: Tensor) -> Callable:
    """A `put` that gives one point of a block other numbers."""

    def put(name, value, t=None):
        return new.view_as(value) if name == point else value

    return put


def recurrent(model) -> list[int]:
    """The layers that carry a state of their own from word to word."""
    return [layer for layer in range(model.n_layers) if "carry" in model.kind(layer).stepwise]


@torch.no_grad()
def planted(model, streams: Tensor, at: int, seed: int = 0) -> dict[int, Tensor]:
    """How much of a random change of the state after the word at `at` is left after each later word.

    streams [depth batch pos d_model] of a run. For each layer that has a state of its own, shares of the
    change's length [batch later]. The change is a tenth as long as the state.
    """
    left = {}
    for layer in recurrent(model):
        carried, draws = [], torch.Generator().manual_seed(seed + layer)

        def put(name, value, t=None, carried=carried, draws=draws):
            if name != "carry" or t < at:
                return value
            half = len(value) // 2
            if t == at:
                noise = torch.randn(value[half:].shape, generator=draws).to(value)
                size = 0.1 * value[half:].flatten(1).norm(dim=1) / noise.flatten(1).norm(dim=1)
                noise = noise * size.view(-1, *(1,) * (value.dim() - 1))
                value = torch.cat([value[:half], value[half:] + noise])
            carried.append((value[half:] - value[:half]).flatten(1).norm(dim=1))
            return value

        put.stepwise, put.points = True, ("carry",)
        model.block(layer, streams[layer].repeat(2, 1, 1), put)
        left[layer] = torch.stack([c / carried[0] for c in carried[1:]], 1)
    return left


def fades(model, ids: Tensor, at: int, words: Sequence[int]) -> Tensor:
    """What is left of a change planted after the word at `at` so many words later, a mean over layers
    [words text], in texts of ids [text pos]."""
    left = torch.stack([*planted(model, reading.streams(model, ids), at).values()]).mean(0)
    return left[:, [n - 1 for n in words]].T


def misread(machine: Callable, n: int, key: int, again: bool, seed: int = 0) -> list[float]:
    """Squared error of what is read under n random keys of length 1, in 20 tables, one number a table.

    machine: (keys [pos table key], values [pos table value], on [pos table]) -> what is read [pos table
    value]; it writes where on is 1. Values are directions of their own, of length 1. again: every key
    is written a second time, with another value, which is the one that should be read.
    """
    draw = torch.Generator().manual_seed(seed)
    keys = F.normalize(torch.randn(n, 20, key, generator=draw), dim=-1)
    told = torch.cat([keys, keys]) if again else keys
    values = torch.eye(len(told))[:, None].expand(-1, 20, -1)
    on = torch.ones(len(told), 20)
    asked = torch.cat([told, keys]), torch.cat([values, 0 * values[:n]]), torch.cat([on, 0 * on[:n]])
    error = (machine(*asked)[-n:] - values[-n:]).square().sum(-1)
    return error.mean(0).tolist()


def decays(core) -> Tensor:
    """The decay of a frozen recurrence as matrices [batch pos head key key], with what it erases."""
    eye = torch.eye(core.k.shape[-1], dtype=core.k.dtype)
    decay = core.decay[..., None, :] * eye if core.decay.shape[-1] > 1 else core.decay[..., None] * eye
    if core.erase is None:
        return decay
    return (eye - core.erase[..., None, None] * core.k[..., :, None] * core.k[..., None, :]) @ decay


@torch.no_grad()
def carried(model, asked: reading.Asked, layers: Sequence[int]) -> Estimate:
    """The share of the answer that mixers of these blocks bring to the last word: what clean runs lose
    when they write there what they write in the corrupt ones."""
    clean, corrupt = (reading.streams(model, ids) for ids in (asked.ids, asked.corrupt))
    last = reading.at_positions(asked, asked.last)
    puts = {
        k: patching.replace(model, k, "mixer", last, patching.held(model, corrupt[k], k, "mixer"))
        for k in layers
    }
    whole, none, cut = (
        asked.score(reading.finish(model, x[0], 0, asked.last, given))
        for x, given in ((clean, {}), (corrupt, {}), (clean, puts))
    )
    share = stats.ratio(whole - cut, whole - none)
    low, high = sorted(share[2:])  # where a model answers wrong, what lies between is negative
    return share._replace(low=low, high=high)


def five_sentences(rows: Sequence[Mapping], known: Sequence[str]) -> str:
    """What a board says, as a list in Markdown; known: the architectures that it could hold."""
    judged = [row for row in rows if row["verdict"]]
    of = {name: [r for r in judged if r["architecture"] == name] for name in known}
    there = [name for name, found in of.items() if found]
    seeds = sorted({len(row["seeds"]) for row in judged})
    counts = "; ".join(
        f"{name}: " + ", ".join(f"{n} {word}" for word in WORDS if (n := _count(of[name], word)))
        for name in there
    )
    widths = [row["ratio"]["high"] - row["ratio"]["low"] for row in judged if row["ratio"]]
    lessons = {row["lesson"] for row in judged}
    missing = ", ".join(name for name in known if name not in there) or "none"
    return "\n".join(
        (
            f"1. It compares {', '.join(there) or 'nothing'} with the Transformer: {len(judged)} scores "
            f"from {' or '.join(map(str, seeds))} seeds an architecture.",
            f"2. Its words are {counts or 'none'}.",
            f"3. The {_count(judged, 'no basis')} without a basis say nothing about either: "
            "there the Transformer's own effect may be chance, or its seeds differ too much.",
            f"4. Half of the intervals are wider than {statistics.median(widths):.2f} of the "
            f"Transformer's effect, and {len(lessons)} lessons on the same models are not independent."
            if widths
            else "4. No ratio has a basis.",
            f"5. About these it says nothing, since no lesson has run on them: {missing}.",
        )
    )


def _count(rows: Sequence[Mapping], word: str) -> int:
    return sum(row["verdict"] == word for row in rows)


# --------------------------------------------------------------------------------------------------
# Figures


def one_step() -> Drawn:
    """One step of the recurrence, from S_before to y_t."""
    figure, (axis,) = canvas((8.6, 3.0), (-0.8, 9.6), (-1.2, 3.0))
    for x, text in ((0.4, "S before"), (3.0, "× decay"), (5.4, "+ write"), (8.0, "S")):
        write(axis, x, 1.5, text, fontsize=13, edge=GREY)
    for x in (1.1, 3.7, 6.15):
        arrow(axis, (x, 1.5), (x + 1.05, 1.5))
    arrow(axis, (8.0, 1.1), (8.0, 0.1))
    write(axis, 8.0, -0.35, "y = read · S", fontsize=13, edge=GREY)
    below = {3.0: "how much stays,\nand for how long", 5.4: "what comes in,\nand where"}
    for x, text in below.items():
        arrow(axis, (x, 0.1), (x, 1.1))
        write(axis, x, -0.35, text, fontsize=11)
    write(axis, 4.2, 2.65, "the present word sets decay, write and read; no one looks back", fontsize=11)
    return (
        figure,
        "One step: the state before, times a decay, plus a write, is the new state, and is read.",
    )


def recall_curves(
    found: Mapping[str, Mapping[str, Mapping[int, Estimate]]], control: Mapping, known: Mapping[str, int]
) -> Drawn:
    """A panel for each way to make recall harder: each model's share right; grey, the highest control;
    dotted, how far training went."""
    lines = {
        title: dict(series) | {"another name's colour, highest of all": control[title]}
        for title, series in found.items()
    }

    def look(_: str, name: str, at: int) -> dict:
        return (
            {"color": GREY, "linewidth": 1, "marker": "^", "linestyle": "-"}
            if "," in name
            else style(name)
        )

    size = {"size": (4.9, 4.2), "sharex": False}
    figure, axes = plots.curves(lines, "", "share of colours right", look, (-0.03, 1.03), **size)
    for axis, title in zip(axes, found, strict=True):
        axis.set(xlabel=title, title="", xticks=list(control[title]))
        axis.axvline(known[title], color=GREY, linestyle=":", linewidth=1.5)
    ends = {
        title: {name: list(line.values())[-1] for name, line in series.items()}
        for title, series in found.items()
    }
    return figure, f"Share of colours right at the right end of each panel. {listed(ends, '.2f')}."


def memories(found: Mapping[str, Mapping[str, Mapping[int, Estimate]]], key: int) -> Drawn:
    """A panel for each task: squared error of what is read against the number of keys; dotted: numbers in
    a key; at 1 one might as well read nothing."""
    figure, axes = plots.curves(found, "keys written", "squared error of what is read", ylim=(-0.05, 2.6))
    for axis in axes:
        axis.axvline(key, color=GREY, linestyle=":", linewidth=1.5)
        axis.axhline(1, color=GREY, linewidth=1)
    ends = {title: {name: line[16] for name, line in series.items()} for title, series in found.items()}
    return figure, f"Squared error of what is read with 16 keys. {listed(ends, '.2f')}."


def fading(found: Mapping[str, Mapping[str, Mapping[int, Estimate]]]) -> Drawn:
    """Panels: what is left of a planted change after so many words, each architecture."""
    label = "words since it was planted"
    figure, axes = plots.curves(found, label, "share of its length left", ylim=(0, 1.0))
    ticks = list(next(iter(next(iter(found.values())).values())))
    for axis in axes:
        axis.set_xscale("log", base=2)
        axis.set_xticks(ticks, map(str, ticks))
    middle = {
        title: {name: line[ticks[-2]] for name, line in series.items()} for title, series in found.items()
    }
    return figure, f"Of a planted change is left after {ticks[-2]} words. {listed(middle, '.2f')}."


def by_block(found: Mapping[str, Mapping[str, Sequence[Estimate]]], attends: Mapping) -> Drawn:
    """A panel for each model: what each block's mixer brings to the last word, for each question; blocks
    that attend stand on grey."""
    wide = 2.2 + 0.24 * max(map(len, attends.values()))
    figure, axes = plots.titled(found, "block", "share of the answer", (wide, 3.6), sharex=False)
    looks = (style("transformer") | {"marker": "o"}, style("mamba") | {"marker": "s"})
    for axis, (name, series) in zip(axes, found.items(), strict=True):
        for look, (what, values), shift in zip(looks, series.items(), (-0.12, 0.12), strict=True):
            at = [k + shift for k in range(len(values))]
            points(axis, at, values, upright=True, label=what, **look)
        for k, attending in enumerate(attends[name]):
            if attending:
                axis.axvspan(k - 0.5, k + 0.5, color="#E4E4E4", zorder=0)
        axis.set_xticks(range(len(attends[name])))
    plots.legend(figure)
    most = {
        name: {
            what: f"block {max(range(len(v)), key=lambda k: v[k].value)}" for what, v in series.items()
        }
        for name, series in found.items()
    }
    return figure, f"The block whose mixer brings most to the last word. {listed(most, str)}."


def board_map(rows: Sequence[Mapping]) -> Drawn:
    """The scoreboard: a row for each technique and metric, a column for each architecture, the verdict in
    each cell; its colour is the ratio, white where there is none."""
    judged = [row for row in rows if row["verdict"]]
    what = list(dict.fromkeys((row["technique"], row["metric"]) for row in judged))
    who = list(dict.fromkeys(row["architecture"] for row in judged))
    values, cells = torch.full((len(what), len(who)), torch.nan), [[""] * len(who) for _ in what]
    for row in judged:
        y, x = what.index((row["technique"], row["metric"])), who.index(row["architecture"])
        if row["ratio"]:
            cells[y][x] = row["verdict"]
            values[y, x] = min(1.0, max(0.0, row["ratio"]["value"]))
    names = [f"{technique}: {metric}"[:64] for technique, metric in what]
    size = (5.6 + 1.3 * len(who), 1.2 + 0.27 * len(what))
    shown = {"": Map(values, rows=names, columns=who, cells=cells)}
    figure, (axis,) = plots.maps(shown, "ratio to the Transformer's effect", "architecture", size=size)
    for y, x in values.isnan().nonzero().tolist():
        word = next(
            (
                r["verdict"]
                for r in judged
                if (r["technique"], r["metric"], r["architecture"]) == (*what[y], who[x])
            ),
            "not run",
        )
        write(axis, x, y, word, fontsize=8.5, color=GREY)
    counts = {
        name: {w: _count([r for r in judged if r["architecture"] == name], w) for w in WORDS}
        for name in who
    }
    return figure, f"How many scores got which verdict. {listed(counts, str)}."
