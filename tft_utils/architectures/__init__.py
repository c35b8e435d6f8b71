"""One file per architecture. Each answers the same questions, so no technique names one.

    prepare(hf, readable)   called once on a bare transformers model, before nnsight wraps it
    embedding(model)        the module whose output is the residual stream before the first block
    blocks(model)           the blocks; a block's output is the residual stream after it
    mixer(block)            the module through which a block's positions exchange information
    final_norm(model)       the norm before the unembedding
    unembedding(model)      the module that turns the normed residual stream into logits
    state(cache, layer)     what a layer carries from past positions: name -> live tensor
    CACHE                   the keyword under which the model takes and returns that cache
    COMPRESSED              which parts of a state have one size at every length
    step(model, layer, x, past, mask)  a block on the next word alone, see below
    output_projection(mixer)  the module that writes the mixer's units into the residual stream
    units(mixer)            how many units (heads, channels) that module reads, side by side
    mixing(mixer)           in a trace: what the mixer does to this input, as the file's `Mixing`
    RULES, RULE_SETS        names of the relevance rules, and of the sets they make (first: default)
    relevance_rules(model, name, without)  what runs in place of which modules' forward, by a set
    relevance_leak(name)    what a set loses in a mixer (a function), or None; `tft_utils.techniques.relevance`
    LORA_TARGETS            modules that a LoRA adapter is put on; `tft_utils.organisms.quirky`
    COMPONENTS, STEPWISE    what patching may replace in a block; what exists only step by step
    run_block(model, layer, x, put, stepwise)  one block, open to edits, see below
    memory(block)           the linear module whose weight a factual edit changes

A `Mixing` is a mixer frozen on one input, where it is linear in its values: unit u of query t gets
sum_s weights[u,t,s] values[u,s], and the projections of all units add up, with a constant, to the
mixer's output. `tft_utils.techniques.attention` asks it for

    projection              [unit width d_model]
    weights(level, queries, units), values(level, units), constant()
    mix(values), read_out(mixed)   the first level applied to any values; then to the output
    project(direction)      each source's signed contribution along a direction
    row(i, length)          one sequence of the batch
    unit, levels            the unit's name; the names of the levels, the last one 'operator'
    spread                  positions after a word's own where first-level values still hold it
    normalised              whether first-level weights sum to one over the sources

`step` runs one block for one more word, in several variants of each prompt, from what the block
carries: x and its result [prompt variant d_model]; past holds the tensors of `state` with a variant
axis, of any or of size 1, after the first: [prompt variant ...]; mask [prompt pos] of the words before,
0 at padding. `past` is not changed. `tft_utils.techniques.steering` asks for it.

`run_block` computes a block on x [batch pos d_model] without padding on the left, cache or mask, and
hands each component to `put(name, value)`, which returns what to go on with: value [batch pos ...],
or, for a STEPWISE one, put(name, value, t) with the value [batch ...] of step t. Those are asked for
by `stepwise`, which is slower. `tft_utils.techniques.patching` asks for it.

`model` is a transformers model or its nnsight wrapper: both have the same attribute paths. To add
an architecture, write its file and its line in `ARCHITECTURES`.
"""

from types import ModuleType

from tft_utils.architectures import gpt_neox, mamba

ARCHITECTURES: dict[str, ModuleType] = {  # by transformers' `model_type`
    "gpt_neox": gpt_neox,
    "mamba": mamba,
}
