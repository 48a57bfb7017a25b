"""Steps keep together what belongs to a sample."""

from dataclasses import replace

import torch

from transfuse.testing import Sizes, example_step


def test_selected_samples_keep_their_domains_and_the_student_its_parameters():
    step = example_step(Sizes(batch=4))
    weights = torch.ones(3)
    step = replace(step, batch=replace(step.batch, domains=torch.tensor([0, 1, 1, 0])), parameters={"fc.weight": weights})
    chosen = step.select(torch.tensor([1, 3]))
    assert chosen.batch.domains is not None
    assert chosen.batch.domains.tolist() == [1, 0]
    assert chosen.parameters["fc.weight"] is weights


def test_a_batch_without_domains_is_selected_from_all_the_same():
    assert example_step(Sizes(batch=4)).batch.select(slice(0, 2)).domains is None
