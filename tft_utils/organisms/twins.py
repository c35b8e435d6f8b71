"""Twins of a published character model, small enough to train in a minute: two layers and a pool.

    python -m tft_utils.organisms.twins     trains them all, writes data/twins.safetensors and its card

`Cells` is the published shape: an embedding, two LSTMs, and an attention pool over the embedding and both
layers' outputs of all characters so far, which predicts the next one (textgenrnn 2.0.0, Woolf 2020).
`Looks` has two blocks of a Transformer instead. Both read the same titles, and both say what each of
their numbers is at every character: `put` sees and may replace them.

The weights of an LSTM lie as in the published file, in the layout of CuDNN (`lstm_tensors` reads it).
"""

import json
import math
import sys
import time
from collections.abc import Callable

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tft_utils.corpora import titles
from tft_utils.files import DATA, LoadError, explain, read_json, replace_file, sha256

FILE, CARD = DATA / "twins.safetensors", DATA / "twins.json"
SEEDS = {"transformer": range(4), "lstm": range(8)}
STEPS = {"transformer": 2000, "lstm": 800}  # a Transformer learns late which mark to look for
BATCH, RATE = 64, 4e-3
REPAIR = "restore it with `git checkout -- data`, or train again: python -m tft_utils.organisms.twins"

Put = Callable[[int, int, Tensor], Tensor]  # (layer, position, numbers [text number]) -> numbers


class Cells(nn.Module):
    """Two LSTMs under an attention pool. The numbers of a character are the cells c_t of each layer."""

    def __init__(self, vocab: int = len(titles.CHARACTERS), width: int = 24, cells: int = 48) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab, width)
        self.layers = nn.ModuleList(nn.LSTM(d, cells, batch_first=True) for d in (width, cells))
        self.pool = nn.Parameter(torch.zeros(width + 2 * cells))
        self.output = nn.Linear(width + 2 * cells, vocab)

    def forward(self, ids: Tensor, put: Put | None = None) -> Tensor:
        """Log-probabilities of the next character [text pos vocab] after ids [text pos]."""
        stream = [self.embedding(ids)]
        for at, layer in enumerate(self.layers):
            stream.append(layer(stream[-1])[0] if put is None else stepwise(layer, at, stream[-1], put))
        seen = torch.cat(stream, -1)
        weight = (seen @ self.pool).exp()[..., None]
        pooled = (weight * seen).cumsum(1) / weight.cumsum(1)
        return self.output(pooled).log_softmax(-1)


def stepwise(lstm: nn.LSTM, at: int, x: Tensor, put: Put) -> Tensor:
    """What a layer gives for x [text pos d], character by character; its cells go through `put`."""
    h = c = x.new_zeros(len(x), lstm.hidden_size)
    outputs = []
    drive = x @ lstm.weight_ih_l0.T + lstm.bias_ih_l0 + lstm.bias_hh_l0
    for t in range(x.shape[1]):
        i, f, g, o = (drive[:, t] + h @ lstm.weight_hh_l0.T).chunk(4, -1)
        c = put(at, t, f.sigmoid() * c + i.sigmoid() * g.tanh())
        h = o.sigmoid() * c.tanh()
        outputs.append(h)
    return torch.stack(outputs, 1)


class Looks(nn.Module):
    """Two blocks of attention. The numbers of a character are its stream after the first block: what the
    second one writes reaches no later character."""

    def __init__(self, vocab: int = len(titles.CHARACTERS), width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab, width)
        self.places = nn.Parameter(0.1 * torch.randn(titles.LONGEST + 1, width))
        self.heads = heads
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "before": nn.LayerNorm(width),
                    "queries": nn.Linear(width, 3 * width),
                    "write": nn.Linear(width, width),
                    "middle": nn.LayerNorm(width),
                    "up": nn.Linear(width, 4 * width),
                    "down": nn.Linear(4 * width, width),
                }
            )
            for _ in range(2)
        )
        self.norm, self.output = nn.LayerNorm(width), nn.Linear(width, vocab)

    def forward(self, ids: Tensor, put: Put | None = None) -> Tensor:
        """Log-probabilities of the next character [text pos vocab] after ids [text pos]."""
        x = self.embedding(ids) + self.places[: ids.shape[1]]
        for at, block in enumerate(self.blocks):
            parts = block["queries"](block["before"](x)).unflatten(-1, (3, self.heads, -1))
            q, k, v = parts.permute(2, 0, 3, 1, 4)  # [text head pos d]
            mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + block["write"](mixed.transpose(1, 2).flatten(2))
            x = x + block["down"](nn.functional.gelu(block["up"](block["middle"](x))))
            if put is not None and at < len(self.blocks) - 1:
                x = torch.stack([put(at, t, x[:, t]) for t in range(x.shape[1])], 1)
        return self.output(self.norm(x)).log_softmax(-1)


KINDS = {"transformer": Looks, "lstm": Cells}  # names as in the course's figures


def loss_of(model: nn.Module, ids: Tensor) -> Tensor:
    """Nats per character; the end of a title is not counted, a full stop says it."""
    said = model(ids[:, :-1]).gather(-1, ids[:, 1:, None])[..., 0]
    return -said[ids[:, 1:] > 0].mean()


def trained(kind: str, seed: int) -> nn.Module:
    """A twin; its seed draws weights and titles. No title of a seed of 1000 or more is among them."""
    torch.manual_seed(seed)
    model = KINDS[kind]()
    steps = STEPS[kind]
    ids = titles.encode(titles.titles(steps * BATCH // 4, seed))
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    fade = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1, step / 50) * (0.02 + 0.98 * math.cos(math.pi * step / steps / 2) ** 2),
    )
    for step in range(steps):
        if step % (steps // 4) == 0:  # four rounds, each in another order
            order = torch.randperm(len(ids)).view(-1, BATCH)
        loss = loss_of(model, ids[order[step % (steps // 4)]])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        fade.step()
    return model.eval()


# --------------------------------------------------------------------------------------------------
# The file


def packed(weight: Tensor) -> Tensor:
    """A matrix of PyTorch's LSTM [4*cells d] as CuDNN's layout has it [d 4*cells]: of each gate the
    numbers in their order, in a table of d rows, and the four tables side by side."""
    return torch.cat([gate.reshape(gate.shape[1], -1) for gate in weight.chunk(4)], 1)


def unpacked(table: Tensor) -> Tensor:
    """The matrix of PyTorch's LSTM [4*cells d] that lies in a table [d 4*cells] of CuDNN's layout."""
    return torch.cat([gate.reshape(-1, table.shape[0]) for gate in table.chunk(4, 1)])


def stored(model: nn.Module) -> dict[str, Tensor]:
    """The weights by the names of the published file where it has them, in float16."""
    found = {}
    for name, value in model.state_dict().items():
        layer, _, part = name.rpartition(".")
        if part in ("weight_ih_l0", "weight_hh_l0"):
            found[f"{layer}.{'kernel' if 'ih' in part else 'recurrent_kernel'}"] = packed(value)
        elif part == "bias_ih_l0":
            both = value, model.get_submodule(layer).bias_hh_l0.detach()
            found[f"{layer}.bias"] = torch.cat(both)
        elif part != "bias_hh_l0":
            found[name] = value
    return {name: value.half().contiguous() for name, value in found.items()}


def lstm_tensors(kernel: Tensor, recurrent_kernel: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    """PyTorch's weight_ih, weight_hh, bias_ih and bias_hh from three tables in CuDNN's layout."""
    return unpacked(kernel), unpacked(recurrent_kernel), *bias.chunk(2)


def restored(tables: dict[str, Tensor], read_layer: Callable = lstm_tensors) -> dict[str, Tensor]:
    """What `stored` wrote, as a model of ours takes it; read_layer: see `lstm_tensors`."""
    found = {name: value.float() for name, value in tables.items()}
    for layer in [name.removesuffix(".kernel") for name in tables if name.endswith(".kernel")]:
        three = [found.pop(f"{layer}.{part}") for part in ("kernel", "recurrent_kernel", "bias")]
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        found |= {f"{layer}.{name}": x for name, x in zip(names, read_layer(*three), strict=True)}
    return found


def tables(kind: str, seed: int) -> dict[str, Tensor]:
    """The stored weights of one twin.

    Errors: `LoadError` where the file is not the one of the card, or holds no such twin.
    """
    expected = read_json(CARD, REPAIR).get("sha256", "")
    found = sha256(FILE) if FILE.is_file() else "no file"
    if found != expected:
        raise LoadError(f"expected {FILE} with SHA-256 {expected[:12]}..., found {found[:12]}; {REPAIR}")
    prefix = f"{kind}/{seed}/"
    with explain(f"weights in {FILE}", REPAIR):
        whole = load_file(FILE)
    mine = {k.removeprefix(prefix): value for k, value in whole.items() if k.startswith(prefix)}
    if not mine:
        known = sorted({name.rpartition("/")[0] for name in whole})
        raise LoadError(f"expected a twin of {', '.join(known)}, found {prefix[:-1]}; use one of them")
    return mine


def twin(kind: str, seed: int, read_layer: Callable = lstm_tensors) -> nn.Module:
    """A stored twin: 'lstm' or 'transformer', of a seed of its `SEEDS`; read_layer: as in `restored`."""
    model = KINDS[kind]()
    model.load_state_dict(restored(tables(kind, seed), read_layer))
    return model.eval().requires_grad_(False)


def write(whole: dict[str, Tensor], losses: dict[str, float]) -> None:
    """All twins into one file, and its card."""
    replace_file(FILE, lambda part: save_file(whole, part))
    card = {
        "what": "twins of a published character model, trained on titles of our own",
        "made by": "python -m tft_utils.organisms.twins",
        "sha256": sha256(FILE),
        "parameters": {kind: sum(p.numel() for p in made().parameters()) for kind, made in KINDS.items()},
        "steps": STEPS,
        "batch": BATCH,
        "held-out nats per character": losses,
    }
    replace_file(CARD, lambda part: part.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8"))


def main() -> None:
    whole, losses = {}, {}
    held = titles.encode(titles.titles(500, 1000))
    for kind in KINDS:
        for seed in SEEDS[kind]:
            start = time.monotonic()
            model = trained(kind, seed)
            with torch.no_grad():
                losses[f"{kind}/{seed}"] = round(loss_of(model, held).item(), 4)
            whole |= {f"{kind}/{seed}/{name}": value for name, value in stored(model).items()}
            said = f"{losses[f'{kind}/{seed}']:.3f} nats in {time.monotonic() - start:.0f} s"
            print(f"{kind}/{seed}: {said}", file=sys.stderr)
    write(whole, losses)


if __name__ == "__main__":
    main()
