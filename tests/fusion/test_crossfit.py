"""Cross-fitting: nobody is judged on what it was fitted on."""

import torch

from tests.fusion.outputs.panel import said
from transfuse.fusion.crossfit import folds, out_of_fold
from transfuse.fusion.outputs.stacking import Stacking


class Memory:
    """Knows every sample that it has been fitted on by heart, and nothing else."""

    def fit(self, outputs, labels):
        self.known = {tuple(row.tolist()): int(label) for row, label in zip(outputs[0], labels, strict=True)}

    def fuse(self, outputs):
        rows = [self.known.get(tuple(row.tolist()), 0) for row in outputs[0]]
        return torch.nn.functional.one_hot(torch.tensor(rows), 4).double()


def test_a_rule_that_learns_by_heart_gains_nothing():
    outputs, labels = said(200)
    labels = labels.clamp(min=1)  # never what it says about strangers
    memory = Memory()
    memory.fit(outputs, labels)
    assert (memory.fuse(outputs).argmax(1) == labels).all()
    assert (out_of_fold(Memory, outputs, labels, "classification").argmax(1) != labels).all()


def test_every_sample_is_held_out_once_and_classes_are_spread_evenly():
    labels = torch.arange(100) % 4
    held = [out for _, out in folds(labels, "classification")]
    assert torch.equal(torch.cat(held).sort().values, torch.arange(100))
    for fitting, out in folds(labels, "classification"):
        assert not set(fitting.tolist()) & set(out.tolist())
        assert torch.bincount(labels[out]).tolist() == [5, 5, 5, 5]


def test_answers_stand_at_their_samples_and_the_same_seed_gives_the_same():
    outputs, labels = said(150)
    first = out_of_fold(Stacking, outputs, labels, "classification", seed=3)
    assert torch.equal(first, out_of_fold(Stacking, outputs, labels, "classification", seed=3))
    fitting, held = next(folds(labels, "classification", 3))
    rule = Stacking()
    rule.fit(outputs[:, fitting], labels[fitting])
    assert torch.allclose(first[held], rule.fuse(outputs[:, held]).float())


def test_regressions_and_classes_with_one_sample_are_split_as_far_as_possible():
    assert len(list(folds(torch.randn(10, 2), "regression"))) == 5
    assert len(list(folds(torch.tensor([0, 0, 0, 1, 2]), "classification"))) == 5
