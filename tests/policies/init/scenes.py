"""Networks and scenes for tests of initialisations: random inputs, groups as the tracer finds them."""

import torch
import torch.nn.functional as F

from transfuse.core.types import ModelRequest
from transfuse.fusion.alignment.tracing import trace
from transfuse.jobs.parts.initialisation import moments_of
from transfuse.models import open_model
from transfuse.policies.init._scene import Scene


def network(source, shape=(3, 16, 16), seed=0, outputs=5, **options):
    return open_model(source, ModelRequest(outputs=outputs, input_shape=shape, options=options, seed=seed)).network.eval()


def inputs(shape=(3, 16, 16), count=48):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(1))


def scene(given, labels=None):
    rows = F.one_hot(torch.arange(len(given)) % 5, 5).float() if labels is None else labels

    def batches(samples):
        yield given[:samples], given[:samples], rows[:samples]

    return Scene(batches, lambda net: trace(net, given[:2]).groups, lambda net: moments_of(net, [given]))


def widened(small, large):
    """The large network with the small one inside: its first units compute the same, the others have no weights and say nothing."""
    state = {name: torch.zeros_like(value) for name, value in large.state_dict().items()}
    for name, value in small.state_dict().items():
        if name.endswith("running_var"):
            state[name].fill_(1.0)
        state[name][tuple(slice(size) for size in value.shape)] = value
    large.load_state_dict(state)
    return large


def trained_norms(module, seed=0):
    """Statistics and scales other than those of a fresh BatchNorm."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        if "bn" in name or "norm" in name:
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5) if value.is_floating_point() else None
    return module
