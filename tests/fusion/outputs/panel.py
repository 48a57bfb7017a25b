"""Sources that are made up: some are right more often than others, one is far too sure of itself."""

import torch

CLASSES = 4
SKILLS = (3.0, 2.0, 0.3)  # how far the true class stands out
LOUD = (1.0, 4.0, 1.0)  # factors on the logits


def said(samples=400, seed=0, task="classification"):
    """(outputs [3, samples, 4] float64, labels)."""
    random = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(SKILLS), samples, CLASSES, generator=random, dtype=torch.float64) * 1.3
    if task == "regression":
        labels = torch.randn(samples, 2, generator=random, dtype=torch.float64)
        spread = torch.tensor([0.3, 0.6, 2.0], dtype=torch.float64)[:, None, None]
        return labels + noise[:, :, :2] * spread, labels
    if task == "multilabel":
        labels = (torch.rand(samples, CLASSES, generator=random) < 0.4).long()
        signs = (2 * labels - 1).double()
        return torch.stack([noise[s] + skill / 2 * signs for s, skill in enumerate(SKILLS)]), labels
    labels = torch.randint(0, CLASSES, (samples,), generator=random)
    for source, skill in enumerate(SKILLS):
        noise[source, torch.arange(samples), labels] += skill
    return noise * torch.tensor(LOUD, dtype=torch.float64)[:, None, None], labels


def fitted(rule, outputs, labels):
    rule.fit(outputs, labels)
    return rule
