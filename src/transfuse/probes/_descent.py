"""Torch heads are fitted here, on features in memory: a fit of seconds, which needs none of what the training loop is for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transfuse.core.card import TaskName
from transfuse.core.seeds import generator
from transfuse.probes.problem import Problem


def label_loss(outputs: Tensor, labels: Tensor, task: TaskName) -> Tensor:
    """Per sample: cross-entropy, the sum over classes of binary cross-entropies, or the sum of halved squared errors."""
    if task == "classification":
        return F.cross_entropy(outputs, labels, reduction="none")
    if task == "multilabel":
        return F.binary_cross_entropy_with_logits(outputs, labels, reduction="none").sum(1)
    return 0.5 * (outputs - labels).square().sum(1)


def tensors_of(problem: Problem, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Features and labels as torch has them."""
    labels = torch.from_numpy(np.ascontiguousarray(problem.labels))
    return torch.from_numpy(problem.features).to(dtype), labels if problem.task == "classification" else labels.to(dtype)


def newton_like(layer: nn.Linear, problem: Problem, penalty: float, iterations: int) -> None:
    """Minimises sum_i loss_i + penalty/2 |W|^2 by L-BFGS in float64; the bias is free, and the solution doesn't depend on the start."""
    layer.double()
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    features, labels = tensors_of(problem, torch.float64)
    optimizer = torch.optim.LBFGS(
        layer.parameters(), max_iter=iterations, tolerance_grad=1e-8, tolerance_change=1e-11, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (label_loss(layer(features), labels, problem.task).sum() + penalty / 2 * layer.weight.square().sum()) / len(features)
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    layer.float().requires_grad_(False)


def descend(network: nn.Module, problem: Problem, rate: float, decay: float, steps: int, batch_size: int) -> None:
    """AdamW with a cosine schedule over shuffled batches, which are a function of the problem's seed."""
    features, labels = tensors_of(problem, torch.float32)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=decay)
    size = min(batch_size, len(features))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order: Sequence[Tensor] = ()
    network.train()
    with torch.enable_grad():
        per_epoch = -(-len(features) // size)
        for step in range(steps):
            epoch, place = divmod(step, per_epoch)
            if place == 0:
                order = torch.randperm(len(features), generator=generator(problem.seed, "head", epoch)).split(size)
            rows = order[place]
            optimizer.zero_grad()
            label_loss(network(features[rows]), labels[rows], problem.task).mean().backward()
            optimizer.step()
            schedule.step()
    network.eval().requires_grad_(False)
