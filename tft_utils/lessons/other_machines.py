"""Lesson 09a, other_machines: one recurrence under many names, and the LSTM, which is another."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tft_utils import reading
from tft_utils.course.exercises import Wrong, close, expect_equal, expect_tensor, refuse
from tft_utils.course.plots import GREY, Drawn, arrow, canvas, write


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


def looking_back(q, k, v, a):
    """The same y [pos head value] without a state: y_t sums v_s over all words s up to t, each times
    q_t k_s and the decays of all words after s, t among them.

    q, k [pos head key]; v [pos head value]; a [pos head]: each word's decay, above 0.
    """
    total = a.log().cumsum(0)
    left = torch.exp(total[:, None] - total[None, :])  # [query source head]
    to_come = torch.ones(len(q), len(q)).triu(1).bool()
    weights = torch.einsum("thk,shk->tsh", q, k) * left
    weights = weights.masked_fill(to_come[..., None], 0)
    return torch.einsum("tsh,shv->thv", weights, v)


def mamba(u, step, rate, B, C):
    """Mamba, y [pos channel]: S_t = exp(step_t rate) S_before + step_t u_t B_t, y_t = C_t S_t.

    Each channel has a state of its own, [entry]. u, step [pos channel]; rate [channel entry], negative;
    B, C [pos entry], the same for all channels.
    """
    decay = torch.diag_embed(torch.exp(step[..., None] * rate))
    write = (step * u)[..., None, None] * B[:, None, :, None]
    read = C[:, None].expand(-1, u.shape[1], -1)
    return remember(decay, write, read)[..., 0]


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


def guessed(drive, U, rounds):
    """The h [pos channel] of an LSTM after so many rounds, each for all words at once: every word's gates
    read the h before it as the last round left it; before the first round all h are 0.

    drive [pos 4*channel], U [4*channel channel]: as `lstm` takes them.
    """
    h = drive.new_zeros(len(drive), U.shape[1])
    for _ in range(rounds):
        before = F.pad(h[:-1], (0, 0, 1, 0))
        i, f, g, o = (drive + before @ U.T).chunk(4, -1)
        c = by_halves(torch.sigmoid(f), torch.sigmoid(i) * torch.tanh(g))
        h = torch.sigmoid(o) * torch.tanh(c)
    return h


# --------------------------------------------------------------------------------------------------
# Checks

READ = "what is read [pos head value]"


def draws(*shapes: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    """A tensor of normal numbers for each shape."""
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=g) for shape in shapes]


def _shifted(x: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(x[:1]), x[:-1]])


def check_remember(attempt) -> None:
    decay, write, read = draws((4, 2, 3, 3), (4, 2, 3, 5), (4, 2, 3))
    y = expect_tensor(attempt(decay, write, read), (4, 2, 5), "what is read [pos head value]")
    diagonal = torch.diag_embed(decay.diagonal(dim1=-2, dim2=-1))
    late, new = _shifted(remember(decay, write, read.roll(-1, 0))), remember(decay, decay @ write, read)
    twice = torch.cat([write[:1] + decay[:1] @ write[:1], write[1:]])
    mistakes = {
        "you read before you write: y_t reads S_t, which holds the word itself": late,
        "you let the new word decay as well: only S_before is multiplied": new,
        "each of your states knows one word alone: hand S on": torch.einsum("thk,thkv->thv", read, write),
        "the decay is a matrix, from the left: decay_t @ S_before": remember(diagonal, write, read),
        "you multiply by the transpose of the decay: decay_t @ S_before": remember(decay.mT, write, read),
        "nothing decays: multiply S_before by decay_t": remember(torch.eye(3) + 0 * decay, write, read),
        "the first S_before is empty: start from zeros, not from the first write": remember(
            decay, twice, read
        ),
        "your decay is one word late: S_t takes the decay of its own word": remember(
            decay.roll(1, 0), write, read
        ),
    }
    if not close(y, remember(decay, write, read)):
        refuse(
            y, mistakes, "expected S_t = decay_t @ S_before + write_t, then read_t @ S_t, head by head"
        )


def check_looking_back(attempt) -> None:
    q, k, v, a = draws((5, 2, 3), (5, 2, 3), (5, 2, 4), (5, 2))
    a = a.sigmoid()
    own, last = looking_back(q, k * a[..., None], v, a), looking_back(q, k, v, a.roll(-1, 0))
    total = a.log().cumsum(0)
    all_words = torch.einsum("thk,shk,tsh->tsh", q, k, torch.exp(total[:, None] - total))

    def summed(weights: Tensor) -> Tensor:
        return torch.einsum("tsh,shv->thv", weights, v)

    past = torch.ones(5, 5).tril()[..., None]
    ahead, blind = summed(all_words), past - torch.eye(5)[..., None]
    soft = (all_words * past).masked_fill(past == 0, -torch.inf).softmax(1)
    mistakes = {
        "you look ahead: a word weighs itself and those before it, no others": ahead,
        "nothing fades: multiply by the decays": looking_back(q, k, v, torch.ones_like(a)),
        "a word's own decay acts on what it writes: only words after s make s fade": own,
        "the decays are one word late: all words after s count, t among them": last,
        "old words grow: subtract the source's total from the query's": looking_back(q, k, v, 1 / a),
        "a word reads itself, too: the mask begins above the diagonal, `triu(1)`": summed(
            all_words * blind
        ),
        "you keep the words to come and leave out those before": summed(all_words * past.transpose(0, 1)),
        "there is no softmax here: a weight is a product, and weights need not sum to 1": summed(soft),
    }
    hint = "the weight of s at t is q_t k_s times exp(total_t - total_s), and 0 where s comes after t"
    expect_equal(attempt(q, k, v, a), looking_back(q, k, v, a), READ, mistakes, hint)


def _mistakes(machine: Callable, u: Tensor, step: Tensor, *rest: Tensor) -> dict[str, Tensor]:
    """Of a machine with a step size, by the hint."""
    rate, B, C = rest
    wide, one = step.view(*step.shape, *(1,) * (u.dim() - step.dim())), torch.ones_like(step)
    unwritten, unfaded = machine(u / wide, step, *rest), machine(u * wide, one, *rest)
    return {
        "the step size is missing from what is written: a word with step 0 leaves no trace": unwritten,
        "the step size is missing from the decay: a word with step 0 must change nothing": unfaded,
        "B and C are exchanged: B says where it is written, C where it is read": machine(
            u, step, rate, C, B
        ),
        "old memories grow: rate is negative already, so exp(step rate) has a plus": machine(
            u, step, -rate, B, C
        ),
        "you read with B, too: C says where it is read": machine(u, step, rate, B, B),
        "you write with C, too: B says where it is written": machine(u, step, rate, C, C),
        "u is missing from what is written": machine(torch.ones_like(u), step, rate, B, C),
        "rate is given as it is used: no exp of it alone": machine(u, step, -rate.exp(), B, C),
    }


def check_mamba(attempt) -> None:
    u, step, rate, B, C = draws((4, 3), (4, 3), (3, 5), (4, 5), (4, 5))
    given = u, step.exp(), -rate.exp(), B, C
    u, step, rate, B, C = given
    write, read = (step * u)[..., None, None] * B[:, None, :, None], C[:, None].expand(-1, 3, -1)
    bare = remember(torch.diag_embed(step[..., None] * rate), write, read)[..., 0]
    mistakes = _mistakes(mamba, *given) | {"the exp is missing: the decay is exp(step rate)": bare}
    hint = "a channel is a head with `entry` keys and one value; its decay stands on a diagonal"
    expect_equal(attempt(*given), mamba(*given), "y [pos channel]", mistakes, hint)


def check_mamba2(attempt) -> None:
    u, step, rate, B, C = draws((4, 2, 3), (4, 2), (2,), (4, 2, 5), (4, 2, 5))
    given = u, step.exp(), -rate.exp(), B, C
    u, step, rate, B, C = given
    write, grown = step[..., None, None] * B[..., None] * u[..., None, :], (step * rate)[..., None, None]
    mistakes = _mistakes(mamba2, *given) | {
        "the exp is missing: the decay is exp(step rate)": remember(grown * torch.eye(5), write, C),
        "your decay mixes the table's rows: a number a is the matrix a times the identity": remember(
            grown.exp().expand(-1, -1, 5, 5), write, C
        ),
    }
    hint = "expected remember(exp(step rate) times the identity, step B u, C): check the three one by one"
    expect_equal(attempt(*given), mamba2(*given), READ, mistakes, hint)


def check_rg_lru(attempt) -> None:
    u, r, i, L = draws((5, 3), (5, 3), (5, 3), (3,))
    r, i = r.sigmoid(), i.sigmoid()
    a, one = torch.exp(-8 * F.softplus(L) * r), torch.ones_like(u)

    def written(share: Tensor, kept: Tensor = a, first: bool = True) -> Tensor:
        share = torch.cat([one[:1], share[1:]]) if first else share
        return remember(kept[..., None, None], (share * i * u)[..., None, None], one[..., None])[..., 0]

    room = torch.sqrt(1 - a**2)
    unlike = written(room, torch.exp(-8 * L * r))
    mistakes = {
        "the first word is written whole: its share is 1": written(room, first=False),
        "the share sqrt(1 - a^2) is missing: what is written must make room": written(one),
        "the share is sqrt(1 - a^2), and yours is 1 - a": written(1 - a),
        "the 8 is missing: a = exp(-8 softplus(L) r)": rg_lru(u, r / 8, i, L),
        "the softplus is missing: a = exp(-8 softplus(L) r)": unlike,
        "the root is missing: the share is sqrt(1 - a^2)": written(1 - a**2),
        "the two gates are exchanged: r sets the decay, i what is written": rg_lru(u, i, r, L),
        "the input gate i is missing from what is written": rg_lru(u, r, one, L),
    }
    given = u.clone()
    h = attempt(u, r, i, L)
    if not torch.equal(given, u):
        raise Wrong("you change u in place; set the first row of a new tensor instead")
    expect_equal(h, rg_lru(u, r, i, L), "h [pos channel]", mistakes, "check decay and write one by one")


def check_mlstm(attempt) -> None:
    q, k, v, i, f = draws((6, 2, 3), (6, 2, 3), (6, 2, 4), (6, 2), (6, 2))
    i, f = i.exp(), (f + 2).sigmoid()

    def parts(weight: Tensor) -> tuple[Tensor, Tensor]:
        counted = torch.cat([v, torch.ones_like(v[..., :1])], -1)
        write = weight[..., None, None] * k[..., None] * counted[..., None, :]
        y = remember(f[..., None, None] * torch.eye(3), write, q)
        return y[..., :-1], y[..., -1:]

    (y, n), (bare, m) = parts(i), parts(torch.ones_like(i))
    mistakes = {
        "the normaliser is missing: divide by max(|q n|, 1)": y,
        "the normaliser may not be smaller than 1": y / n.abs(),
        "the normaliser's sign does not count: |q n|": y / n.clamp(min=1),
        "the input gate is missing from what is written": bare / m.abs().clamp(min=1),
        "the input gate is missing from the normaliser": y / m.abs().clamp(min=1),
        "the gates are exchanged: f is the decay, i stands before what is written": mlstm(q, k, v, f, i),
        "nothing fades: f is the decay": mlstm(q, k, v, i, torch.ones_like(f)),
        "the normaliser is the larger of |q n| and 1, not their sum": y / (n.abs() + 1),
        "k is scaled already: take it as it is": mlstm(q, k / 3**0.5, v, i, f),
    }
    hint = "C and n share decay and read: write v and a 1 side by side"
    expect_equal(attempt(q, k, v, i, f), mlstm(q, k, v, i, f), READ, mistakes, hint)


def check_rwkv(attempt) -> None:
    k, v, w, bonus = draws((6, 3), (6, 3), (3,), (3,))
    w = w.exp()
    counted, one = torch.stack([v, torch.ones_like(v)], -1), torch.ones_like(k)[..., None]
    write, present = k.exp()[..., None] * counted, torch.exp(k + bonus)[..., None] * counted
    whole = remember(torch.exp(-w).expand_as(k)[..., None, None], write[..., None, :], one)
    twice, total, past = whole + present, _shifted(whole) + present, _shifted(whole)
    linear = remember(
        torch.exp(-w).expand_as(k)[..., None, None], (k[..., None] * counted)[..., None, :], one
    )
    linear = _shifted(linear) + present
    mistakes = {
        "the present word is in twice: what is read of the past is S_before": twice[..., 0]
        / twice[..., 1],
        "the bonus is missing, or all words have it: the present one alone weighs exp(k + bonus)": rwkv(
            k, v, w, 0 * bonus
        ),
        "you return the sum of weighted values: an average divides by the sum of weights": total[..., 0],
        "the present word is missing: add its value, and its weight": past[..., 0] / past[..., 1],
        "old weights grow: each word that passes multiplies them by exp(-w)": rwkv(k, v, -w, bonus),
        "w is positive already: the decay is exp(-w)": rwkv(k, v, w.exp(), bonus),
        "the decay is exp(-w), and yours is w": rwkv(k, v, -w.log(), bonus),
        "earlier words weigh exp(k), and yours weigh k": linear[..., 0] / linear[..., 1],
        "this is what `remember` reads, after the write: shift it by a word, add the present": whole[
            ..., 0
        ]
        / whole[..., 1],
    }
    hint = "let remember sum weighted values and weights, shift by one word, add the present, divide"
    expect_equal(attempt(k, v, w, bonus), rwkv(k, v, w, bonus), "y [pos channel]", mistakes, hint)


def check_gated_delta(attempt) -> None:
    q, k, v, a, e = draws((5, 2, 3), (5, 2, 3), (5, 2, 4), (5, 2), (5, 2))
    k, a, e = F.normalize(k, dim=-1), (a + 1).sigmoid(), e.sigmoid()
    outer, kept, share = k[..., None] * k[..., None, :], a[..., None, None], e[..., None, None]
    write = share * k[..., None] * v[..., None, :]
    whole = remember(kept * (torch.eye(3) - outer), write, q)
    unfaded = remember(kept * torch.eye(3) - share * outer, write, q)
    bare = remember(kept * (torch.eye(3) - share * outer), write / share, q)
    mistakes = {
        "nothing is erased: the decay takes away what is under k": remember(
            kept * torch.eye(3), write, q
        ),
        "you erase all that stands under k, whatever e says": whole,
        "e is missing from what is written": bare,
        "what is erased has decayed, too: a stands before the whole matrix": unfaded,
        "nothing fades: a is missing from the decay": gated_delta(q, k, v, torch.ones_like(a), e),
        "you read with k: q reads": gated_delta(k, k, v, a, e),
        "the whole table fades by 1 - e: take away only what stands under k, e k k^T": remember(
            kept * (1 - share) * torch.eye(3), write, q
        ),
        "what is written does not fade: a stands before S_before alone": remember(
            kept * (torch.eye(3) - share * outer), kept * write, q
        ),
        "you add what stands under k once more: the matrix is 1 minus e k k^T": remember(
            kept * (torch.eye(3) + share * outer), write, q
        ),
    }
    hint = "the decay is a (1 - e k k^T), a matrix; the write is e k v^T"
    expect_equal(attempt(q, k, v, a, e), gated_delta(q, k, v, a, e), READ, mistakes, hint)


def check_lstm(attempt) -> None:
    drive, U = draws((5, 12), (12, 3))
    i, f, g, o = drive.chunk(4, -1)
    blind = o.sigmoid() * by_halves(f.sigmoid(), i.sigmoid() * g.tanh()).tanh()
    swapped = lstm(torch.cat([f, i, g, o], -1), U.view(4, 3, 3)[[1, 0, 2, 3]].reshape(12, 3))
    before = _shifted(lstm(drive, U))
    i, f, g, o = (drive + before @ U.T).chunk(4, -1)
    cells = by_halves(f.sigmoid(), i.sigmoid() * g.tanh())

    def unlike(order: str = "ifgo", tanh_g: Callable = torch.tanh, by_c: bool = False) -> Tensor:
        h = c = drive.new_zeros(3)
        outputs = []
        for word in drive:
            gates = dict(zip(order, (word + U @ (c if by_c else h)).chunk(4), strict=True))
            c = gates["f"].sigmoid() * c + gates["i"].sigmoid() * tanh_g(gates["g"])
            h = gates["o"].sigmoid() * c.tanh()
            outputs.append(h)
        return torch.stack(outputs)

    mistakes = {
        "your gates read the cells c: they read h": unlike(by_c=True),
        "g comes third and o last: i, f, g, o in this order": unlike("ifog"),
        "the candidate g goes through tanh, not through sigmoid": unlike(tanh_g=torch.sigmoid),
        "the candidate's tanh is missing: sigmoid(i) tanh(g)": unlike(tanh_g=lambda g: g),
        "your gates do not see h: add U @ h to the word's drive": blind,
        "input and forget gate are exchanged: i, f, g, o in this order": swapped,
        "you return the cells c; the outputs are h": cells,
    }
    hint = "expected the two lines of the docstring at each word, h and c handed on"
    expect_equal(attempt(drive, U), lstm(drive, U), "h [pos channel]", mistakes, hint)


def _halved(decay: Tensor, write: Tensor, times: int, late: bool = True) -> Tensor:
    """`by_halves` that stops where the reach times this covers the text; late: decays change last."""
    reach = 1
    while reach * times < len(write):
        earlier = F.pad(write[:-reach], (0, 0, reach, 0))
        product = decay * F.pad(decay[:-reach], (0, 0, reach, 0), value=1.0)
        write = write + (decay if late else product) * earlier
        decay, reach = product, 2 * reach
    return write


def check_by_halves(attempt) -> None:
    for pos in (1, 2, 5, 8):
        decay, write = draws((pos, 3), (pos, 3))
        decay = decay.sigmoid()
        truth = remember(decay[..., None, None], write[..., None, None], torch.ones(pos, 3, 1))[..., 0]
        S = expect_tensor(attempt(decay.clone(), write.clone()), (pos, 3), "states [pos channel]")
        if close(S, truth):
            continue
        once = write + decay * _shifted(write)
        mistakes = {
            "you combine neighbours once: double the reach until it covers the text": once,
            "nothing decays": write.cumsum(0),
            "one round is missing: double the reach until it covers the text": _halved(decay, write, 2),
            "the write needs the decay of before this round: renew the decay last": _halved(
                decay, write, 1, late=False
            ),
        }
        refuse(S, mistakes)
        near = next(t for t in range(pos) if not close(S[t], truth[t]))
        raise Wrong(
            f"of {pos} words, state {near} is the first to be wrong; each round the write takes in the "
            "one `reach` words before, times the decay; then the decay becomes the product of both"
        )


def _rolled(drive: Tensor, U: Tensor, rounds: int) -> Tensor:
    """`guessed` where the last word's h comes before the first word."""
    h = drive.new_zeros(len(drive), U.shape[1])
    for _ in range(rounds):
        i, f, g, o = (drive + h.roll(1, 0) @ U.T).chunk(4, -1)
        h = o.sigmoid() * by_halves(f.sigmoid(), i.sigmoid() * g.tanh()).tanh()
    return h


def check_guessed(attempt) -> None:
    drive, U = draws((6, 12), (12, 3))
    for rounds in (0, 1, 2, 6):
        own = drive.new_zeros(6, 3)
        for _ in range(rounds):
            i, f, g, o = (drive + own @ U.T).chunk(4, -1)
            own = o.sigmoid() * by_halves(f.sigmoid(), i.sigmoid() * g.tanh()).tanh()
        mistakes = {
            "your words read their own h: shift by one word, zeros first": own,
            "one round too many: after 0 rounds all h are 0": guessed(drive, U, rounds + 1),
            "each of your rounds starts from nothing: hand h on": guessed(drive, U, min(rounds, 1)),
            "one round too few": guessed(drive, U, max(rounds - 1, 0)),
            "this is the LSTM word by word: guess for all words at once, `rounds` times": lstm(drive, U),
            "before the first word h is 0, not that of the last word": _rolled(drive, U, rounds),
        }
        truth, hint = guessed(drive, U, rounds), "in each round: shift h, make all gates, sum by halves"
        expect_equal(attempt(drive, U, rounds), truth, f"h after {rounds} rounds", mistakes, hint)


# --------------------------------------------------------------------------------------------------
# What the lesson asks the models


def inside(model, layer: int, x: Tensor) -> dict:
    """What goes through a block's named points when it reads x [1 pos d_model] (that axis is cut off)."""
    found = {}

    def put(name, value, t=None):
        batched = isinstance(value, Tensor) and value.shape[:1] == x.shape[:1]
        found[name] = value[0] if batched else value
        return value

    model.block(layer, x, put)
    return found


# ---- plant a change in a state, and see how much of it is left -----------------------------------------
# Where later gates read the state, as in an LSTM, a change moves them too, and that counts as well.


def recurrent(model) -> list[int]:
    """The layers that carry a state of their own from word to word."""
    return [layer for layer in range(model.n_layers) if "carry" in model.kind(layer).stepwise]


@torch.no_grad()
def planted(model, streams: Tensor, at: int, seed: int = 0) -> dict[int, Tensor]:
    """How much of a random change of the state after the word at `at` is left after each later word.

    streams [depth batch pos d_model] of a run. For each layer that has a state of its own, shares of the
    change's length [batch later]. The change is a tenth as long as the state.
    Errors: `ValueError` where no word comes after the one at `at`.
    """
    if not 0 <= at < (pos := streams.shape[2]) - 1:
        raise ValueError(f"expected a word with others after it, found {at} of {pos} words")
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


def decays(core) -> Tensor:
    """The decay of a frozen recurrence as matrices [batch pos head key key], with what it erases."""
    eye = torch.eye(core.k.shape[-1], dtype=core.k.dtype)
    decay = core.decay[..., None, :] * eye if core.decay.shape[-1] > 1 else core.decay[..., None] * eye
    if core.erase is None:
        return decay
    return (eye - core.erase[..., None, None] * core.k[..., :, None] * core.k[..., None, :]) @ decay


def instead(point: str, new: Tensor) -> Callable:
    """A `put` that gives one point of a block other numbers."""

    def put(name, value, t=None):
        return new.view_as(value) if name == point else value

    return put


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
