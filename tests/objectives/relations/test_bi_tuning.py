"""Bi-Tuning against loops over keys; its memory: in turn, bounded, without what has no label."""

from dataclasses import replace

import pytest
import torch

from tests.objectives.features.endings import head
from tests.objectives.planting import assert_caught
from tests.reference.bi_tuning import bi_tuning_reference
from transfuse.objectives.relations.bi_tuning import BiTuning, bi_tuning_loss
from transfuse.testing import Particulars, Sizes, check_objective, example_step
from transfuse.testing.steps import cast

SMALL = {"queue": 3, "temperature": 0.5, "dimensions": 4}


def two_views(sizes=None):
    sizes = sizes or Sizes()
    step = example_step(sizes, taps=1, teachers=0, two_views=True)
    parameters = {"linear.weight": head(sizes, 1), "linear.bias": torch.linspace(-1, 1, sizes.classes, dtype=torch.float64)}
    return replace(step, parameters=parameters, second=replace(step.second, parameters=parameters))


def remembering(objective, step):
    """As a job builds it, with a memory in which some classes are full and some are empty."""
    objective.set_outputs(step.student.logits.shape[-1])
    objective.take_head("linear", torch.nn.Identity())
    objective.build({"stage1": tuple(step.student.features["stage1"].shape)}, {})
    objective.train()
    other = two_views(Sizes(batch=9, classes=step.student.logits.shape[-1], channels=step.student.features["stage1"].shape[1], seed=5))
    with torch.no_grad():
        features = objective._embedded(cast(other, torch.float32).student)
    objective._remember(other.batch.labels, *features)


def keys_of(objective, step):
    own, projected = objective._embedded(step.student)
    _, projections = objective._embedded(step.second.student)
    prototypes, labels = objective._prototypes(step), step.batch.labels
    remembered = (prototypes[labels] @ objective.features[:-1].T).detach()
    prototype_logits = torch.cat([(own * prototypes[labels]).sum(1, keepdim=True), remembered], 1) / objective.temperature
    return objective._instances(projected, projections.detach()), prototype_logits, *objective._which(labels)


def by_function(objective, step):
    return bi_tuning_loss(*keys_of(objective, step))


def with_fixed_keys(objective, step, objective_0, step_0):
    """What the gradient is of: keys and prototypes stay where they are."""
    own, projected = objective._embedded(step.student)
    _, projections = objective_0._embedded(step_0.second.student)
    prototypes, labels = objective_0._prototypes(step_0), step.batch.labels
    remembered = prototypes[labels] @ objective_0.features[:-1].T
    prototype_logits = torch.cat([(own * prototypes[labels]).sum(1, keepdim=True), remembered], 1) / objective.temperature
    return bi_tuning_loss(objective_0._instances(projected, projections), prototype_logits, *objective_0._which(labels))


PARTICULARS = Particulars(prepare=remembering, function=by_function, surrogate=with_fixed_keys)


def made(step=None):
    objective = BiTuning(**SMALL)
    remembering(objective, step or two_views())
    return objective.double()


def test_bi_tuning_is_proved():
    check_objective(BiTuning, bi_tuning_reference, SMALL, two_views, particulars=PARTICULARS)


def test_a_loss_without_the_prototypes_is_caught():
    def wrong(self, step):
        instances, _, positives, present = keys_of(self, step)
        return bi_tuning_loss(instances, instances, positives, present)

    assert_caught(BiTuning, wrong, bi_tuning_reference, arguments=SMALL, make_step=two_views, particulars=PARTICULARS)


def test_an_empty_memory_contrasts_a_sample_with_itself_alone():
    objective = BiTuning(**SMALL)
    step = two_views()
    objective.set_outputs(5)
    objective.take_head("linear", torch.nn.Identity())
    objective.build({"stage1": tuple(step.student.features["stage1"].shape)}, {})
    assert torch.equal(objective.double().eval()(step), torch.zeros(6, dtype=torch.float64))


def test_the_memory_is_filled_in_turn_and_never_grows():
    objective = made()
    objective.filled.zero_()
    labels = torch.tensor([1, 1, 0, 1, 1, -1])
    features = torch.arange(6.0, dtype=torch.float64)[:, None].expand(-1, objective.features.shape[1]).clone()
    projections = features[:, :1].expand(-1, 4).clone()
    objective._remember(labels, features, projections)
    assert objective.filled.tolist() == [1, 4, 0, 0, 0, 0]
    assert objective.projections[0:3, 0].tolist()[0] == 2.0  # class 0: its one sample first
    assert objective.projections[3:6, 0].tolist() == [4.0, 1.0, 3.0]  # class 1: the fourth takes the first one's place
    assert objective.projections.shape == (5 * 3 + 1, 4)
    assert not objective.projections[-1].any()


def test_the_memory_stays_as_it_is_in_eval_mode():
    objective = made().eval()
    before = {name: value.clone() for name, value in objective.named_buffers()}
    objective(two_views())
    assert all(torch.equal(value, before[name]) for name, value in objective.named_buffers())


def test_heads_and_keys_take_no_gradient():
    step = two_views()
    for tensor in (*step.parameters.values(), step.second.student.features["stage1"]):
        tensor.requires_grad_(True)
    step.student.features["stage1"].requires_grad_(True)
    made(step)(step).sum().backward()
    assert step.student.features["stage1"].grad is not None
    assert all(tensor.grad is None for tensor in (*step.parameters.values(), step.second.student.features["stage1"]))


def test_a_student_with_one_output_is_refused():
    objective = BiTuning()
    objective.set_outputs(1)
    with pytest.raises(ValueError, match="single output"):
        objective.build({"stage1": (1, 4)}, {})
