"""Mutual learning against the paper's formula, and against kd, which it is where the one peer is a teacher."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from tests.objectives.planting import assert_caught
from tests.reference.dml import dml_reference
from transfuse.objectives.outputs.dml import DML, dml_loss
from transfuse.objectives.outputs.kd import kd_loss
from transfuse.testing import QUICK, Particulars, Sizes, check_objective, example_step, reverse_classes, shift_student_logits

INVARIANCE = {"a softmax ignores shifts": shift_student_logits, "classes have no order": reverse_classes}


def test_dml_is_proved():
    check_objective(DML, dml_reference, zero_at_equality=True, invariance=INVARIANCE)


@pytest.mark.parametrize("combine", ["losses", "probabilities"])
@pytest.mark.parametrize("peers", [2, 3])
def test_several_peers_are_averaged_as_said(combine, peers):
    check_objective(
        DML,
        dml_reference,
        {"combine": combine, "temperature": 2.0},
        make_step=partial(example_step, teachers=0, peers=peers),
        zero_at_equality=True,
        invariance=INVARIANCE,
        checks=QUICK,
    )


@pytest.mark.parametrize("combine", ["losses", "probabilities"])
def test_dml_is_proved_for_independent_labels(combine):
    check_objective(
        DML,
        dml_reference,
        {"combine": combine},
        make_step=partial(example_step, task="multilabel", teachers=0, peers=2),
        zero_at_equality=True,
        checks=QUICK,
        particulars=Particulars(
            function=lambda objective, step: dml_loss(
                step.student.logits, [peer.logits for peer in step.peers.values()], 1.0, "bernoulli", combine
            ),
            skip={"needs": "auto reads from the labels' type that classes are independent; the values of labels play no part"},
        ),
    )


def test_one_peer_teaches_as_a_teacher_does():
    student, peer = torch.randn(2, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(dml_loss(student, [peer], 3.0), kd_loss(student, peer, 3.0))
    torch.testing.assert_close(dml_loss(student, [peer, peer], combine="probabilities"), kd_loss(student, peer, 1.0))


def test_the_loss_against_the_mean_prediction_is_at_most_the_mean_of_the_losses():
    """KL is convex in its first argument."""
    student, *peers = torch.randn(4, 50, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    together, each = (dml_loss(student, peers, combine=combine) for combine in ("probabilities", "losses"))
    assert bool((together < each).all())


def test_a_step_without_peers_is_refused():
    with pytest.raises(ValueError, match="at least one peer"):
        DML()(example_step(Sizes(), teachers=1))


def logits_of(step):
    return [peer.logits for peer in step.peers.values()]


def summed(objective, step):
    return sum(kd_loss(step.student.logits, peer, objective.temperature) for peer in logits_of(step))


def swapped(objective, step):
    return sum(kd_loss(peer, step.student.logits, objective.temperature) for peer in logits_of(step)) / 2


def undetached(objective, step):
    (peer,) = logits_of(step)
    return F.kl_div(step.student.logits.log_softmax(-1), peer.softmax(-1), reduction="none").sum(-1)


def test_the_proof_catches_what_others_get_wrong():
    two_peers = partial(example_step, teachers=0, peers=2)
    assert_caught(DML, summed, dml_reference, make_step=two_peers)
    assert_caught(DML, swapped, dml_reference, make_step=two_peers)
    assert_caught(DML, undetached, dml_reference, check="gradient_flow")
