"""A gate: weights of the sources for each sample anew, from how sure each of them is."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from transfuse.core.card import Card, TaskName
from transfuse.core.numerics import log_softmax_at
from transfuse.fusion.output_rule import OutputRule, Outputs, of_label

CARD = Card(
    title="Gate (mixture of experts over finished sources)",
    paper="Jacobs, Jordan, Nowlan, Hinton, 1991, Neural Computation 3",
    link="https://doi.org/10.1162/neco.1991.3.1.79",
    needs=("labels",),
    cost="sources x (2 x sources + 1) numbers are fitted, in seconds",
)


def gate(
    outputs: Outputs, weight: Float[Tensor, "sources signs"], bias: Float[Tensor, "sources"]
) -> tuple[Float[Tensor, "samples outputs"], Float[Tensor, "samples sources"]]:
    """log sum_s g_s(x) p_s(x) with g(x) = softmax(W h(x) + b); h(x) are signs of how sure each source is of this sample.

    Args:
        outputs: logits [sources, samples, outputs].
        weight: [sources, 2 * sources].
        bias: [sources].

    Returns:
        The log-probabilities, and log g.
    """
    log_p = log_softmax_at(outputs)
    log_gate = log_softmax_at(signs(log_p) @ weight.T + bias)
    return torch.logsumexp(log_p + log_gate.T[:, :, None], 0), log_gate


def signs(log_p: Float[Tensor, "sources samples outputs"]) -> Float[Tensor, "samples signs"]:
    """Two numbers per source, both between 0 and 1: its largest probability, and its entropy as a share of the largest possible."""
    entropy = -(log_p.exp() * log_p.clamp(min=-80)).sum(-1) / torch.log(torch.tensor(float(max(log_p.shape[-1], 2))))
    return torch.cat([log_p.amax(-1).exp(), entropy]).T


class Gate(OutputRule):
    """Weights of the sources per sample, a linear softmax gate on their confidences, fitted by penalised NLL.

    L(W, b) = -mean_i log sum_s g_s(x_i) p_s(y_i | x_i) + penalty * (|W|^2 + |b|^2), minimised from W = b = 0, where the gate is the plain
    mean, by L-BFGS in float64. Not convex; the start and the method are fixed, so the result is too.

    Deviation from the paper: the experts are finished and stay as they are, and the gate reads their confidences rather than the inputs,
    so that a few hundred labels do.

    Args:
        task: classification.
        calibrate: fit a temperature to each source first.
        penalty: how strongly the gate is held to the plain mean.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, task: TaskName = "classification", calibrate: bool = False, penalty: float = 0.001):
        super().__init__(task, calibrate)
        if penalty < 0:
            raise ValueError("penalty is at least 0")
        self.penalty = penalty

    def prepare(self, sources: int, outputs: int) -> None:
        self.register_buffer("weight", torch.zeros(sources, 2 * sources))
        self.register_buffer("bias", torch.zeros(sources))

    def learn(self, outputs: Outputs, labels: Tensor) -> None:
        log_p = log_softmax_at(outputs)
        true, inputs = of_label(log_p, labels, self.task), signs(log_p)
        weight = torch.zeros(self.weight.shape, dtype=torch.float64, requires_grad=True)
        bias = torch.zeros(self.bias.shape, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            log_gate = log_softmax_at(inputs @ weight.T + bias)
            value = -torch.logsumexp(true + log_gate.T, 0).mean() + self.penalty * (weight.square().sum() + bias.square().sum())
            value.backward()
            return value

        optimizer.step(loss)
        self.weight.copy_(weight.detach())
        self.bias.copy_(bias.detach())

    def join(self, outputs: Outputs) -> Float[Tensor, "samples outputs"]:
        return gate(outputs, self.weight.to(outputs), self.bias.to(outputs))[0]
