"""Attention against its formula, and against PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F

from tests.fusion.features.proof import DIMS, built, features_of, prove, refuses_what_it_was_not_built_for
from tests.reference.fusion import attention_reference
from transfuse.errors import ModelError
from transfuse.fusion.features.attention import Attention


@pytest.mark.parametrize("projection", ["linear", "mlp"])
def test_attention_is_proved(projection):
    prove(Attention(6, 2, projection, "gelu"), attention_reference, activation="gelu")


def test_it_is_pytorchs_attention_of_the_query_times_the_number_of_sources():
    rule, features = built(Attention(6, 3, activation="none")), features_of(DIMS)
    tokens = torch.stack([project(one) for project, one in zip(rule.projections, features, strict=True)], 1) + rule.marks

    def by_head(values):
        return values.unflatten(2, (3, 2)).transpose(1, 2)

    queries = rule.queries[None, :, None].expand(4, -1, -1, -1)
    expected = F.scaled_dot_product_attention(queries, by_head(rule.keys(tokens)), by_head(rule.values(tokens)))
    torch.testing.assert_close(rule(features), 3 * expected.flatten(1))


def test_shares_begin_equal_and_always_add_up_to_one():
    features = features_of(DIMS)
    torch.testing.assert_close(built(Attention(8), moved=False).shares(features), torch.full((4, 3), 1 / 3, dtype=torch.float64))
    torch.testing.assert_close(built(Attention(8)).shares(features).sum(1), torch.ones(4, dtype=torch.float64))


def test_heads_divide_the_width():
    with pytest.raises(ModelError, match="3 heads don't divide 8"):
        Attention(8, 3).build(DIMS)


def test_attention_refuses_what_it_was_not_built_for():
    refuses_what_it_was_not_built_for(Attention())
