"""Co-Tuning against loops over samples and source classes; where its relationship comes from, and what it refuses."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.objectives.planting import assert_caught
from tests.reference.co_tuning import co_tuning_reference, relationship_reference
from transfuse.core.heads import Ending, read_ending
from transfuse.core.types import Trial
from transfuse.objectives.outputs.co_tuning import CoTuning, co_tuning_loss
from transfuse.testing import Particulars, check_objective, example_step

SOURCES = 7


def one_tap(sizes):
    return example_step(sizes, taps=1)


def ending(width, outputs, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Ending("fc", torch.randn(outputs, width, generator=generator), torch.randn(outputs, generator=generator), torch.zeros(1, width))


def met(objective, step):
    """As a job prepares it: with the start's head, and a relationship from samples."""
    width, classes = step.student.features["stage1"].shape[1], step.student.logits.shape[-1]
    objective.set_outputs(classes)
    objective.meet(ending(width, classes), ending(width, SOURCES, 1))
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(3 * classes) % classes
    objective.relate(torch.randn(3 * classes, SOURCES, generator=generator), labels)


def by_function(objective, step):
    features = step.student.features["stage1"].mean((2, 3))
    return co_tuning_loss(objective.source_head(features), step.batch.labels, objective.relationship)


PARTICULARS = Particulars(prepare=met, function=by_function)


def test_co_tuning_is_proved():
    check_objective(CoTuning, co_tuning_reference, make_step=one_tap, particulars=PARTICULARS)


def test_the_relationship_of_another_class_is_caught():
    def wrong(self, step):
        features = step.student.features["stage1"].mean((2, 3))
        return co_tuning_loss(self.source_head(features), step.batch.labels, self.relationship.flip(0))

    assert_caught(CoTuning, wrong, co_tuning_reference, make_step=one_tap, particulars=PARTICULARS)


def test_the_relationship_is_the_mean_softmax_of_each_class_and_even_where_a_class_is_unseen():
    logits, labels = torch.randn(9, 4, dtype=torch.float64), torch.tensor([0, 0, 2, 2, 2, 0, 2, 0, 0])
    objective = CoTuning(temperature=2.0)
    objective.set_outputs(3)
    objective.meet(ending(5, 3), ending(5, 4))
    objective.relate(logits, labels)
    expected = relationship_reference(logits.tolist(), labels.tolist(), 3, 2.0)
    np.testing.assert_allclose(objective.relationship.numpy(), expected, rtol=1e-6)


def test_the_start_is_asked_about_training_samples_once():
    network = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    inputs, labels = torch.randn(20, 6), torch.arange(20) % 3
    trial = Trial(network.eval(), "classification", lambda count: iter([(inputs[:count], labels[:count])]), lambda outputs, labels: outputs)
    objective = CoTuning()
    objective.set_outputs(3)
    found = read_ending(network, inputs[:1])
    objective.meet(found, found)
    assert "20 training samples" in objective.probe(trial, trial)
    torch.testing.assert_close(objective.relationship, torch.tensor(relationship_reference(network(inputs).tolist(), labels.tolist(), 3)))
    assert torch.equal(objective.source_head.weight, network[1].weight)  # a copy, which learns for itself
    assert objective.source_head.weight is not network[1].weight
    with pytest.raises(ValueError, match="there is none"):
        objective.probe(trial, None)


def test_a_head_of_another_network_is_refused():
    objective = CoTuning()
    with pytest.raises(ValueError, match="widths 5 and 6"):
        objective.meet(ending(5, 3), ending(6, 4))


def test_unlabelled_samples_leave_the_others_as_they_are():
    logits, relationship = torch.randn(3, 4), torch.rand(2, 4)
    whole = co_tuning_loss(logits, torch.tensor([0, 1, 1]), relationship)
    part = co_tuning_loss(logits, torch.tensor([0, -1, 1]), relationship)
    assert torch.equal(whole[[0, 2]], part[[0, 2]])


@pytest.mark.parametrize("outputs", [0, 1])
def test_a_student_with_a_single_output_is_refused(outputs):
    objective = CoTuning()
    objective.set_outputs(outputs)
    objective.meet(ending(5, max(outputs, 1)), ending(5, SOURCES))
    with pytest.raises(ValueError, match="give it one per class"):
        objective.build({"stage1": (1, 5)}, {})
