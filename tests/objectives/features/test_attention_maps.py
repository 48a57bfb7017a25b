"""Attention maps against the formulas, and read from a transformer."""

from dataclasses import replace

import pytest
import torch

from tests.objectives.features.steps import reverse_channels
from tests.reference.attention_maps import attention_maps_reference
from transfuse.core.taps import Taps
from transfuse.core.vision import import_torchvision
from transfuse.errors import ModelError
from transfuse.objectives.features.attention_maps import AttentionMaps, attention_maps_loss
from transfuse.testing import QUICK, Particulars, check_objective, example_step, map_tensors

PROBABILITIES = Particulars(skip={"extreme": "probabilities lie between 0 and 1"})
HEADS = {"heads have no order": reverse_channels}


def attention_step(sizes):
    step = example_step(replace(sizes, student_spatial=(4, 4), teacher_spatial=(4, 4)), taps=1)
    return map_tensors(step, lambda path, tensor: tensor.softmax(-1) if ".features." in path else tensor)


def test_attention_maps_is_proved():
    check_objective(
        AttentionMaps,
        attention_maps_reference,
        make_step=attention_step,
        zero_at_equality=True,
        invariance=HEADS,
        particulars=PROBABILITIES,
    )


@pytest.mark.parametrize("distance", ["kl", "mse"])
def test_the_mean_over_heads_is_proved(distance):
    arguments = {"distance": distance, "heads": "mean"}
    check_objective(AttentionMaps, attention_maps_reference, arguments, attention_step, True, HEADS, QUICK, PROBABILITIES)


def test_probabilities_that_were_rounded_to_zero_cost_a_finite_amount():
    student = torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]], requires_grad=True)
    value = attention_maps_loss(student, torch.tensor([[[[0.0, 1.0], [0.5, 0.5]]]]))
    value.sum().backward()
    assert 5 < value.item() < 10  # half of log(1e7), as the other query agrees
    assert student.grad.isfinite().all()


def test_other_numbers_of_heads_want_their_mean():
    student, teacher = torch.rand(2, 3, 4, 4), torch.rand(2, 6, 4, 4)
    with pytest.raises(ValueError, match="use heads: mean"):
        attention_maps_loss(student, teacher)
    assert attention_maps_loss(student, teacher, heads="mean").shape == (2,)


def test_what_is_no_attention_map_is_refused():
    with pytest.raises(ModelError, match="an attention map is"):
        AttentionMaps().build({"norm": (1, 17, 24)}, {"norm": (1, 17, 24)})


def test_a_vits_maps_are_tapped():
    import_torchvision()
    import timm

    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=24, num_heads=3)
    for block in vit.blocks:
        block.attn.fused_attn = False
    reader = Taps(vit, ["blocks.1.attn.attn_drop"], torch.randn(1, 3, 32, 32))
    AttentionMaps().build(reader.shapes, reader.shapes)
    maps = reader(torch.randn(2, 3, 32, 32))[1]["blocks.1.attn.attn_drop"]
    torch.testing.assert_close(maps.sum(-1), torch.ones(2, 3, 17))
