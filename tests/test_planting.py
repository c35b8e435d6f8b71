"""What is left of a change in a state: what the decays alone say, and what a second run says."""

import pytest
import torch
from toys import toy

from tft_utils import reading
from tft_utils.lessons import other_machines
from tft_utils.lessons.other_machines import inside

TEXT, AT = "anna red . bob blue . luca teal . anna red . bob blue .", 3


def streams_of(model) -> torch.Tensor:
    return reading.streams(model, reading.tokens(model, [TEXT, TEXT.replace("red", "jade")]).ids)


@pytest.mark.parametrize("kind", ["mamba2", "xlstm", "qwen3_next"])
def test_a_change_fades_as_the_product_of_the_decays(kind):
    model = toy(kind)
    streams = streams_of(model)
    left = other_machines.planted(model, streams, AT)
    assert list(left) == other_machines.recurrent(model)
    for layer, shares in left.items():
        points = inside(model, layer, streams[layer][:1])
        D, width = other_machines.decays(points["mixing"])[0], points["read-out"].shape[-1]
        noise = torch.randn(len(streams[0]), *D.shape[1:3], width, generator=seeded(layer)).to(D)[0]
        change, wanted = noise, []
        for decay in D[AT + 1 :]:
            change = decay @ change
            wanted.append(change.norm() / noise.norm())
        assert torch.allclose(shares[0], torch.stack(wanted), atol=1e-6)
        assert shares[0, -1] < shares[0, 0]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_only_blocks_with_a_state_of_their_own_hold_a_change():
    model = toy("recurrent_gemma")  # recurrent, recurrent, attention
    assert other_machines.recurrent(model) == [0, 1]
    assert list(other_machines.planted(model, streams_of(model), AT)) == [0, 1]
    assert other_machines.recurrent(toy("gpt_neox")) == []


def test_what_is_left_is_a_mean_over_layers():
    model = toy("lstm")
    ids = reading.tokens(model, [TEXT]).ids
    left = other_machines.planted(model, reading.streams(model, ids), AT)
    found = other_machines.fades(model, ids, AT, (1, 4))
    assert found.shape == (2, 1)
    for row, n in zip(found, (1, 4), strict=True):
        assert torch.allclose(row, torch.stack([shares[:, n - 1] for shares in left.values()]).mean(0))


def test_a_change_needs_words_after_it():
    model = toy("mamba")
    streams = streams_of(model)
    n = streams.shape[2]
    with pytest.raises(ValueError, match=f"a word with others after it, found {n - 1} of {n} words"):
        other_machines.planted(model, streams, n - 1)
