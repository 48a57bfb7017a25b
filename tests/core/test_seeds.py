"""Fresh weights leave torch's generator alone."""

import pytest
import torch

from transfuse.core.seeds import fresh_weights


def test_the_generator_is_as_it_was_also_after_an_error():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError), fresh_weights(3):
        torch.rand(3).view(2)
    assert torch.equal(torch.get_rng_state(), state)
