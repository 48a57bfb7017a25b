"""Soft targets against the formula, its invariances, its limits, and what peers got wrong."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from tests.reference.kd import kd_reference
from tests.reference.teachers import many_teachers_reference
from transfuse.core.numerics import top_k
from transfuse.objectives.outputs._divergence import teacher_weights
from transfuse.objectives.outputs.kd import KD, kd_loss
from transfuse.testing import Particulars, Sizes, check_objective, example_step, reverse_classes, run, shift_student_logits


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(6, 10, generator=generator, dtype=torch.float64), 3 * torch.randn(
        6, 10, generator=generator, dtype=torch.float64
    )


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_is_proved(temperature):
    invariance = {"a softmax ignores shifts": shift_student_logits, "classes have no order": reverse_classes}
    check_objective(KD, kd_reference, {"temperature": temperature}, zero_at_equality=True, invariance=invariance)


def test_kd_is_proved_for_independent_labels():
    check_objective(
        KD,
        kd_reference,
        make_step=partial(example_step, task="multilabel"),
        zero_at_equality=True,
        invariance={"classes have no order": reverse_classes},
        particulars=Particulars(
            function=lambda objective, step: kd_loss(step.student.logits, step.teacher.logits, objective.temperature, "bernoulli"),
            skip={"needs": "auto reads from the labels' type that classes are independent; the values of labels play no part"},
        ),
    )


@pytest.mark.parametrize("task", ["classification", "multilabel"])
@pytest.mark.parametrize("confidence", ["equal", "labels", "entropy"])
@pytest.mark.parametrize("combine", ["probabilities", "logits", "losses"])
def test_several_teachers_are_combined_as_said(combine, confidence, task):
    check_objective(
        KD,
        many_teachers_reference,
        {"combine": combine, "confidence": confidence, "temperature": 2.0},
        make_step=partial(example_step, teachers=3, task=task),
        zero_at_equality=True,
        checks=["value", "equality", "halves", "gradient_flow", "gradient", "float32", "precision", "extreme", "constant", "unlabelled"],
    )


def test_several_teachers_work_compiled_and_in_two_processes():
    check_objective(
        KD,
        many_teachers_reference,
        {"confidence": "labels"},
        make_step=partial(example_step, teachers=2),
        checks=["compiled", "two_processes"],
    )


def test_teachers_of_a_single_logit_count_by_the_label_as_those_of_two_do(logits):
    one = example_step(sizes_of(logits), teachers=2)
    batch = replace(one.batch, labels=torch.tensor([0, 1, 1, 0, 1, 0]))
    single = {name: replace(signals, logits=signals.logits[:, :1]) for name, signals in one.teachers.items()}
    pairs = {name: replace(signals, logits=F.pad(signals.logits, (1, 0))) for name, signals in single.items()}
    for labels in (batch, replace(batch, label_probabilities=torch.rand(6, 2, dtype=torch.float64).softmax(-1))):
        stacks = ([signals.logits for signals in teachers.values()] for teachers in (single, pairs))
        found, expected = (
            teacher_weights(stack, labels, "labels", kind) for stack, kind in zip(stacks, ("bernoulli", "softmax"), strict=True)
        )
        torch.testing.assert_close(found, expected)
        assert len(found.flatten().unique()) > 2


def test_agreeing_teachers_count_like_one(logits):
    one = example_step(sizes_of(logits))
    three = replace(one, teachers=dict.fromkeys(["a", "b", "c"], one.teacher))
    for combine in ("probabilities", "logits", "losses"):
        torch.testing.assert_close(KD(combine=combine, confidence="labels")(three), KD()(one), rtol=1e-6, atol=1e-9)


def sizes_of(logits):
    return Sizes(batch=len(logits[0]), classes=logits[0].shape[1])


def test_a_step_without_teachers_is_refused(logits):
    with pytest.raises(ValueError, match="at least one teacher"):
        KD()(example_step(sizes_of(logits), teachers=0))


def test_the_mean_is_torchs_batchmean_times_the_squared_temperature(logits):
    student, teacher = logits
    for temperature in (1.0, 4.0):
        torchs = F.kl_div(F.log_softmax(student / temperature, -1), F.softmax(teacher / temperature, -1), reduction="batchmean")
        torch.testing.assert_close(kd_loss(student, teacher, temperature).mean(), torchs * temperature**2)


def test_the_value_does_not_shrink_with_classes_that_nobody_finds_possible(logits):
    student, teacher = (torch.cat([values, torch.full((6, 90), -500.0, dtype=torch.float64)], -1) for values in logits)
    torch.testing.assert_close(kd_loss(student, teacher, 4.0), kd_loss(*logits, 4.0))


def test_at_high_temperature_it_matches_centred_logits(logits):
    """Section 2.1 of the paper: for T far above the logits the gradient is that of the squared difference of centred logits / classes."""
    student, teacher = (values - values.mean(-1, keepdim=True) for values in logits)
    expected = (student - teacher).square().sum(-1) / (2 * student.shape[-1])
    torch.testing.assert_close(kd_loss(*logits, 1e4), expected, rtol=2e-3, atol=0)


def test_the_temperature_scales_both_predictions(logits):
    student, teacher = logits
    torch.testing.assert_close(kd_loss(4 * student, 4 * teacher, 4.0), 16 * kd_loss(student, teacher, 1.0))


def test_all_classes_as_top_k_are_the_dense_loss_with_its_gradient(logits):
    student, teacher = logits
    dense, sparse = student.clone().requires_grad_(), student.clone().requires_grad_()
    kd_loss(dense, teacher, 4.0).sum().backward()
    value = kd_loss(sparse, top_k(teacher, 10, 4.0), 4.0)
    value.sum().backward()
    torch.testing.assert_close(value, kd_loss(student, teacher, 4.0))
    torch.testing.assert_close(sparse.grad, dense.grad)


def test_a_top_k_of_another_temperature_is_refused(logits):
    student, teacher = logits
    with pytest.raises(ValueError, match="taken at temperature 1"):
        kd_loss(student, top_k(teacher, 3, 1.0), 4.0)
    with pytest.raises(ValueError, match="independent"):
        kd_loss(student, top_k(teacher, 3, 4.0), 4.0, "bernoulli")


def test_senseless_arguments_are_refused(logits, without_runtime_types):
    student, teacher = logits
    with pytest.raises(ValueError, match="positive"):
        kd_loss(student, teacher, 0.0)
    with pytest.raises(ValueError, match="always 1"):
        kd_loss(student[:, :1], teacher[:, :1])
    with pytest.raises(ValueError, match="differ in their outputs"):
        kd_loss(student[:, :1], teacher, 4.0, "bernoulli")  # torch would broadcast


def test_single_logits_are_compared_as_yes_and_no():
    step = example_step(Sizes())
    single = replace(step, student=replace(step.student, logits=step.student.logits[:, :1]))
    single = replace(single, teachers={"t": replace(step.teacher, logits=step.teacher.logits[:, :1])})
    pairs = [torch.cat([signals.logits, torch.zeros_like(signals.logits)], -1) for signals in (single.student, single.teacher)]
    torch.testing.assert_close(KD(2.0)(single), kd_loss(*pairs, 2.0))
    assert run(KD(), single).values.shape == (6,)
