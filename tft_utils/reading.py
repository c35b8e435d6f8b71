"""Reading vectors in bulk: what stands at some words of many documents, at every depth, in one run each.

    encode(model, documents)         tokens, and where each word ends among them
    read(model, documents, at)       site -> [n m depth d]: residual stream and mixer outputs
    read_state(model, documents, at, layers)    part -> [n layer size]: what recurrent layers carry
    watch(model, note)               see and replace these values in plain forward passes
    caught(depths(model), pick)      a list of what these modules give in plain forward passes

Lessons read one document by nnsight; a test holds that both ways agree.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from tft_utils.corpora import world

BATCH = 64


def encode(model, documents: Sequence[world.Document]) -> tuple[list[list[int]], list[list[int]]]:
    """Tokens of each document, and where each of its words ends among them."""
    known: dict[str, list[int]] = {}
    tokens, ends = [], []
    for document in documents:
        row, at = [], []
        for i, word in enumerate(document.words):
            text = " " * (i > 0) + word.text
            if text not in known:
                known[text] = model.tokenizer(text, add_special_tokens=False).input_ids
            row += known[text]
            at.append(len(row) - 1)
        tokens.append(row)
        ends.append(at)
    return tokens, ends


def batches(rows: Sequence[Sequence[int]], device, exact: bool = False) -> Iterator[tuple[list, Tensor]]:
    """(indices, tokens [batch pos]) of rows of like length; padded on the right, or of equal length."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    while order:
        part = [i for i in order[:BATCH] if not exact or len(rows[i]) == len(rows[order[0]])]
        order = order[len(part) :]
        ids = torch.zeros(len(part), len(rows[part[-1]]), dtype=torch.long)
        for row, i in enumerate(part):
            ids[row, : len(rows[i])] = torch.tensor(rows[i])
        yield part, ids.to(device)


def depths(model) -> list[torch.nn.Module]:
    """The modules whose output is the residual stream after k = 0 ... n_layers blocks."""
    parts = model.architecture
    return [parts.embedding(model.hf), *parts.blocks(model.hf)]


@contextmanager
def caught(modules: Sequence[torch.nn.Module], pick: Callable) -> Iterator[list]:
    """A list that fills with pick(output) of each module, in the order in which they run."""
    found = []
    with ExitStack() as stack:
        for module in modules:
            hook = module.register_forward_hook(lambda _, inputs, out: found.append(pick(out)))
            stack.callback(hook.remove)
        yield found


@contextmanager
def watch(model, note: Callable[[str, int, Tensor], Tensor | None]) -> Iterator[None]:
    """note(site, depth, value) sees the residual stream at every depth and every mixer's output in
    plain forward passes; what it returns, if anything, takes the value's place."""
    modules = [("residual", k, model._at_depth(k)._module) for k in range(model.n_layers + 1)]
    modules += [("mixer", k, model.mixer(k)._module) for k in range(model.n_layers)]

    def hook(site: str, depth: int) -> Callable:
        def run(module, inputs, output):
            whole = output if isinstance(output, tuple) else (output,)
            changed = note(site, depth, whole[0])
            if changed is None:
                return None
            return (changed, *whole[1:]) if isinstance(output, tuple) else changed

        return run

    with ExitStack() as stack:
        for site, depth, module in modules:
            stack.callback(module.register_forward_hook(hook(site, depth)).remove)
        yield


@torch.no_grad()
def read(model, documents: Sequence[world.Document], at: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """What stands at m words of each document: site -> [n m depth d].

    at: positions of words [n m]. Sites: 'residual' after k = 0 ... L blocks; 'mixer', what block
    k's mixer adds. Models are causal: nothing behind a document's last such word is run.
    """
    tokens, ends = encode(model, documents)
    where = [[end[i] for i in row] for end, row in zip(ends, at, strict=True)]
    tokens = [row[: max(some) + 1] for row, some in zip(tokens, where, strict=True)]
    where = torch.tensor(where)
    n, m, L, d = *where.shape, model.n_layers, model.config.hidden_size
    found = {"residual": torch.zeros(n, m, L + 1, d), "mixer": torch.zeros(n, m, L, d)}
    for part, ids in batches(tokens, model.hf.device):
        rows = torch.arange(len(part))[:, None]

        def note(site, depth, value, part=part, rows=rows):
            found[site][part, :, depth] = value[rows, where[part]].float().cpu()

        with watch(model, note):
            model.hf.base_model(input_ids=ids, use_cache=False)
    return found


@torch.no_grad()
def read_state(
    model, documents: Sequence[world.Document], at: Sequence[int], layers: Sequence[int]
) -> dict[str, Tensor]:
    """What these layers carry once the word at `at` [n] is read: part -> [n layer size].

    Only parts of a fixed size, which all of the past has to share; empty when there are none.
    """
    parts = model.architecture.COMPRESSED
    if not parts:
        return {}
    tokens, ends = encode(model, documents)
    rows = [row[: end[i] + 1] for row, end, i in zip(tokens, ends, at, strict=True)]
    found: dict[str, list] = {part: [None] * len(rows) for part in parts}
    for some, ids in batches(rows, model.hf.device, exact=True):
        cache = model.hf.base_model(input_ids=ids, use_cache=True)[model.architecture.CACHE]
        carried = [model.state(cache, layer) for layer in layers]
        for name in parts:
            stacked = torch.stack([each[name].flatten(1).float().cpu() for each in carried], 1)
            for row, i in zip(stacked, some, strict=True):
                found[name][i] = row
    return {name: torch.stack(rows) for name, rows in found.items()}
