"""Steps with a source and a target domain in unequal numbers, and what adversaries do to gradients."""

from dataclasses import replace

import torch

from transfuse.core.types import Signals, Step
from transfuse.objectives.domains._adversary import strength_at
from transfuse.testing import Particulars, Sizes, build, example_step


def two_domains(sizes: Sizes) -> Step:
    """No teacher, one tapped feature; every third sample is of the source, the others of the target."""
    step = example_step(sizes, teachers=0, taps=1)
    return with_domains(step, (torch.arange(sizes.batch) % 3 != 0).long())


def with_domains(step: Step, domains: torch.Tensor) -> Step:
    return replace(step, batch=replace(step.batch, domains=domains))


def with_feature(step: Step, feature: torch.Tensor) -> Step:
    return replace(step, student=Signals(step.student.logits, {"stage1": feature}))


def alike(step: Step) -> Step:
    """Source and target hold the same samples, the target each of them twice."""
    rows = torch.tensor([0, 1, 2, 0, 0, 1, 1, 2, 2])
    return with_domains(step.select(rows), torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 1]))


def moved(step: Step) -> Step:
    """One vector added to all features of both domains."""
    feature = step.student.features["stage1"]
    return with_feature(step, feature + torch.linspace(-2, 2, feature.shape[1], dtype=feature.dtype)[:, None, None])


def target_moved(step: Step) -> Step:
    """Another vector added to the target's features only."""
    feature, domains = step.student.features["stage1"], step.batch.domains
    assert domains is not None
    return with_feature(step, feature + 3 * domains[:, None, None, None].to(feature.dtype))


def other_domain(step: Step) -> Step:
    """Source and target change places."""
    assert step.batch.domains is not None
    return with_domains(step, 1 - step.batch.domains)


def only_source(step: Step) -> Step:
    return with_domains(step, torch.zeros(len(step.batch), dtype=torch.int64))


def prepared(objective, step):
    """As a job prepares an objective that is sized by the number of classes."""
    if hasattr(objective, "set_outputs"):
        objective.set_outputs(step.student.logits.shape[-1])
    build(objective, step)


def turned_round(objective, step, objective_0, step_0):
    """The adversary descends its value; the feature climbs it times the strength; logits have no gradient."""
    strength = strength_at(step_0.progress, objective.highest, objective.rise)
    feature_only = replace(step, student=Signals(step_0.student.logits, step.student.features))
    return objective(step_0) - strength * objective_0(feature_only)


def adversarial(function) -> Particulars:
    return Particulars(prepare=prepared, surrogate=turned_round, function=function)
