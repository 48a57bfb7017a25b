"""Divergences over dense and top-k predictions, against each other and against plain formulas."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch.distributions import Categorical
from torch.distributions import kl_divergence as torch_kl

from tests.reference.distributions import kl
from transfuse.core.numerics import (
    TopK,
    at_least_fp32,
    bernoulli_kl,
    divergence,
    jensen_shannon,
    kl_divergence,
    log_bernoulli_at,
    log_mixture,
    log_outside,
    log_softmax_at,
    masked_mean,
    reverse_kl_divergence,
    same_events,
    top_k,
    total_variation,
)

MEASURES = {
    "kl": kl_divergence,
    "reverse_kl": reverse_kl_divergence,
    "jensen_shannon": partial(jensen_shannon, share=0.3),
    "total_variation": total_variation,
}
CLASSES = 9


@pytest.fixture
def logits():
    return 2 * torch.randn(2, 7, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_kl_is_torchs_and_the_plain_sum(logits):
    teacher, student = logits
    value = kl_divergence(log_softmax_at(teacher), log_softmax_at(student))
    torch.testing.assert_close(value, torch_kl(Categorical(logits=teacher), Categorical(logits=student)))
    plain = [kl(p.tolist(), q.tolist()) for p, q in zip(teacher.softmax(-1), student.softmax(-1), strict=True)]
    torch.testing.assert_close(value, torch.tensor(plain, dtype=torch.float64))


def test_impossible_classes_add_nothing_and_have_a_gradient_of_zero():
    teacher = torch.tensor([[0.0, -math.inf]]).log_softmax(-1)
    student = torch.tensor([[1.0, 1.0]], requires_grad=True)
    value = kl_divergence(teacher, student.log_softmax(-1))
    value.sum().backward()
    assert value.item() == pytest.approx(math.log(2))
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_network_that_says_nan_or_infinity_is_no_perfect_match(measure, side, value):
    logits = [torch.tensor([[0.3, -0.2, 1.0]]), torch.tensor([[0.1, 0.4, -1.0]])]
    logits[side][0, 1] = value
    assert not measure(*(log_softmax_at(one) for one in logits)).isfinite().any()


def test_what_the_student_finds_impossible_is_infinitely_wrong():
    student = torch.tensor([[0.0, -math.inf]]).log_softmax(-1)
    assert kl_divergence(torch.tensor([[0.0, 0.0]]).log_softmax(-1), student).item() == math.inf


@pytest.mark.parametrize("measure", MEASURES)
def test_a_divergence_is_positive_and_zero_only_at_equality(measure, logits):
    teacher, student = (log_softmax_at(values) for values in logits)
    assert (MEASURES[measure](teacher, student) > 0.01).all()
    assert MEASURES[measure](teacher, teacher).abs().max() < 1e-12


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("measure", MEASURES)
def test_all_classes_as_top_k_are_the_dense_value(measure, temperature, logits):
    teacher, student = logits
    log_q = log_softmax_at(student, temperature)
    sparse = divergence(MEASURES[measure], top_k(teacher, CLASSES, temperature), log_q)
    dense = divergence(MEASURES[measure], log_softmax_at(teacher, temperature), log_q)
    torch.testing.assert_close(sparse, dense)


@pytest.mark.parametrize("measure", MEASURES)
def test_buckets_are_a_lower_bound_that_grows_with_k(measure, logits):
    teacher, student = logits
    log_q = log_softmax_at(student)
    values = [divergence(MEASURES[measure], top_k(teacher, k), log_q) for k in range(1, CLASSES + 1)]
    for fewer, more in pairwise(values):
        assert (fewer <= more + 1e-12).all()
    assert (values[0] >= 0).all()


def test_the_bound_is_tight_where_the_rest_is_shared_out_alike(logits):
    """A student that differs from its teacher only on the kept classes (and in the total of the rest) loses nothing to the bucket."""
    teacher, student = logits
    kept = teacher.topk(3, dim=-1).indices
    alike = teacher.scatter(-1, kept, student.gather(-1, kept))
    dense = kl_divergence(log_softmax_at(teacher), log_softmax_at(alike))
    torch.testing.assert_close(divergence(kl_divergence, top_k(teacher, 3), log_softmax_at(alike)), dense)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("k", [1, 4, CLASSES])
def test_the_gradient_through_buckets_is_the_derivative(measure, k, logits):
    teacher, student = logits
    kept = top_k(teacher, k)
    assert torch.autograd.gradcheck(lambda values: divergence(MEASURES[measure], kept, log_softmax_at(values)), student.requires_grad_())


def test_events_of_both_sides_sum_to_one(logits):
    teacher, student = logits
    for side in same_events(top_k(teacher, 3), log_softmax_at(student)):
        torch.testing.assert_close(side.exp().sum(-1), torch.ones(7, dtype=torch.float64))
    dense = log_softmax_at(teacher)
    assert same_events(dense, dense)[0] is dense


def test_top_k_keeps_the_most_probable_first():
    kept = top_k(torch.tensor([[0.1, 0.6, 0.3]]).log(), 2)
    assert kept.classes.tolist() == [[1, 2]]
    torch.testing.assert_close(kept.log_p.exp(), torch.tensor([[0.6, 0.3]]))
    torch.testing.assert_close(kept.tail_log_p.exp(), torch.tensor([0.1]))
    assert isinstance(kept, TopK)
    assert kept.temperature == 1.0


def test_the_tail_is_exact_where_it_is_tiny():
    """1 minus the sum of the kept probabilities would be 0 in float32."""
    log_p = log_softmax_at(torch.tensor([[40.0, 0.0, 0.0]]))
    assert log_outside(log_p, torch.tensor([[0]])).item() == pytest.approx(-40 + math.log(2), rel=1e-6)


def test_a_mixture_mixes_probabilities():
    p, q = torch.tensor([0.2, 0.8], dtype=torch.float64), torch.tensor([0.6, 0.4], dtype=torch.float64)
    torch.testing.assert_close(log_mixture(p.log(), q.log(), 0.1).exp(), 0.1 * p + 0.9 * q)


def test_bernoulli_kl_is_the_sum_of_two_class_kls(logits):
    teacher, student = logits
    padded = [torch.stack([values, torch.zeros_like(values)], -1) for values in (teacher, student)]
    expected = kl_divergence(*(log_softmax_at(values, 2.0) for values in padded)).sum(-1)
    torch.testing.assert_close(bernoulli_kl(teacher, student, 2.0), expected)
    torch.testing.assert_close(log_bernoulli_at(teacher).exp().sum(-1), torch.ones_like(teacher))


def test_half_precision_is_lifted_and_more_is_kept():
    kept = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.float32: torch.float32, torch.float64: torch.float64}
    for dtype, expected in kept.items():
        assert at_least_fp32(torch.ones(1, dtype=dtype)).dtype == expected
        assert log_softmax_at(torch.ones(1, 2, dtype=dtype)).dtype == expected


def test_a_masked_mean_ignores_nan_outside_of_the_mask():
    values = torch.tensor([1.0, math.nan, 3.0], requires_grad=True)
    mean = masked_mean(values, torch.tensor([True, False, True]))
    mean.backward()
    assert mean.item() == 2.0
    assert values.grad.tolist() == [0.5, 0.0, 0.5]
    assert masked_mean(values, torch.zeros(3, dtype=torch.bool)).item() == 0.0
