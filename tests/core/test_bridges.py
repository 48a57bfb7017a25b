"""Bridges bring features of any two networks into one shape, keeping positions and samples where they belong."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from transfuse.core.bridges import AttentionFusion, Bridge, as_maps, averaged, make_bridges, resized, same_size, token_grid, tokens_to_maps
from transfuse.errors import ModelError


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


@pytest.mark.parametrize(
    ("student", "teacher", "common"),
    [
        ((2, 3, 8, 8), (2, 5, 8, 8), (2, 5, 8, 8)),
        ((2, 3, 8, 8), (2, 5, 4, 4), (2, 5, 4, 4)),
        ((2, 3, 4, 6), (2, 5, 7, 3), (2, 5, 7, 3)),
        ((2, 7), (2, 9), (2, 9)),
        ((2, 10, 7), (2, 10, 9), (2, 10, 9)),
        ((2, 17, 7), (2, 65, 9), (2, 9, 8, 8)),
        ((2, 3, 8, 8), (2, 17, 9), (2, 9, 4, 4)),
        ((2, 18, 7), (2, 5, 4, 4), (2, 5, 4, 4)),
        ((2, 13, 7), (2, 5, 3, 4), (2, 5, 3, 4)),
        ((2, 3, 8, 8), (2, 9), (2, 9)),
        ((2, 7), (2, 17, 9), (2, 9)),
    ],
)
@pytest.mark.parametrize("norm", [False, True])
def test_any_two_features_get_the_teachers_shape_and_gradient_stays_with_the_student(student, teacher, common, norm):
    student_features, teacher_features = random(*student).requires_grad_(), random(*teacher).requires_grad_()
    bridge = Bridge(student, teacher, norm=norm)
    one, other = bridge(student_features, teacher_features)
    assert one.shape == other.shape == common
    one.square().sum().backward()
    assert student_features.grad is not None
    assert not other.requires_grad
    assert all(parameter.grad is not None for parameter in bridge.parameters())


def test_equal_channels_need_no_layer_and_are_left_as_they_are():
    feature = random(2, 5, 4, 4)
    bridge = Bridge((1, 5, 4, 4), (1, 5, 4, 4), always=False)
    assert list(bridge.parameters()) == []
    assert torch.equal(bridge(feature, feature)[0], feature)


def test_pooling_before_a_projection_is_the_projection_before_pooling():
    feature, bridge = random(2, 3, 8, 8), Bridge((2, 3, 8, 8), (2, 5, 4, 4))
    torch.testing.assert_close(bridge(feature, random(2, 5, 4, 4))[0], F.avg_pool2d(bridge.project(feature), 2))


def test_half_precision_features_are_bridged_in_float32():
    one, other = Bridge((2, 3, 4, 4), (2, 5, 4, 4))(random(2, 3, 4, 4).bfloat16(), random(2, 5, 4, 4).half())
    assert one.dtype == other.dtype == torch.float32


def test_tokens_lie_where_a_vit_took_them_from():
    maps = random(2, 5, 3, 4)
    tokens = torch.cat([random(2, 1, 5), maps.flatten(2).transpose(1, 2)], dim=1)  # a class token, then patches row by row
    assert torch.equal(tokens_to_maps(tokens, (3, 4)), maps)
    assert torch.equal(as_maps(tokens, beside=random(2, 1, 3, 4)), maps)


@pytest.mark.parametrize(("tokens", "grid"), [(196, (14, 14)), (197, (14, 14)), (198, (14, 14)), (201, (14, 14)), (1, (1, 1)), (2, (1, 1))])
def test_patches_are_a_square_behind_class_and_register_tokens(tokens, grid):
    assert token_grid(tokens) == grid


def test_tokens_that_are_no_square_are_refused_unless_a_map_says_how_they_lie():
    with pytest.raises(ModelError, match="can't be laid out"):
        token_grid(13 * 17)
    assert token_grid(13 * 17 + 1, (13, 17)) == (13, 17)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (({}, {"a": (1, 2)}), "no feature of the student is tapped"),
        (({"a": (1, 2)}, {}), "no feature of the teacher is tapped"),
        (({"a": (1, 2), "b": (1, 2)}, {"a": (1, 2)}), r"2 features of the student \(a, b\) and 1 of the teacher \(a\)"),
        (({"a": (1, 2, 3, 4, 5)}, {"a": (1, 2)}), "neither vectors nor tokens nor maps"),
        (({"a": (1, 15 * 15 - 7, 3)}, {"a": (1, 3, 4, 4)}), "can't be laid out"),
    ],
)
def test_what_cannot_be_paired_is_refused_with_the_reason(shapes, message):
    with pytest.raises(ModelError, match=message):
        make_bridges(*shapes)


def test_sizes_meet_at_the_smaller_side():
    one, other = same_size(random(2, 3, 3, 8), random(2, 5, 6, 4))
    assert (one.shape, other.shape) == ((2, 3, 3, 4), (2, 5, 3, 4))
    torch.testing.assert_close(other, F.avg_pool2d(random(2, 5, 6, 4), (2, 1)))


def test_enlarging_interpolates():
    feature = random(2, 3, 4, 4)
    torch.testing.assert_close(resized(feature, (8, 8)), F.interpolate(feature, scale_factor=2, mode="bilinear", align_corners=False))
    assert torch.equal(resized(feature, (4, 4)), feature)


def test_attention_fusion_mixes_by_two_maps_that_are_learnt():
    torch.manual_seed(0)
    fusion = AttentionFusion(3, 4, 5, fuse=True).eval()
    feature, deeper = random(2, 3, 8, 8), random(2, 4, 4, 4)
    assert fusion.attention is not None
    nn.init.zeros_(fusion.attention.weight)
    with torch.no_grad():
        fusion.attention.bias.copy_(torch.tensor([100.0, -100.0]))  # sigmoid: 1 of the feature, 0 of the deeper one
    out, fused = fusion(feature, deeper, (8, 8))
    torch.testing.assert_close(fused, fusion.reduce(feature))
    assert out.shape == (2, 5, 8, 8)
    with torch.no_grad():
        fusion.attention.bias.copy_(torch.tensor([-100.0, 100.0]))
    fused = fusion(feature, deeper, (8, 8))[1]
    torch.testing.assert_close(fused, deeper.repeat_interleave(2, 2).repeat_interleave(2, 3))


@pytest.mark.parametrize(("height", "width", "size"), [(8, 8, (4, 4)), (8, 6, (2, 3)), (7, 7, (3, 2)), (4, 4, (1, 1)), (5, 5, (5, 5))])
def test_maps_are_averaged_over_their_share_of_the_area(height, width, size):
    maps = torch.randn(2, 3, height, width, dtype=torch.float64)
    torch.testing.assert_close(averaged(maps, size), F.adaptive_avg_pool2d(maps, size))
