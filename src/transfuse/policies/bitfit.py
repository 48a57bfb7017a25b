"""BitFit: biases, normalisation and the head are trained, all matrices and kernels stay."""

from collections.abc import Sequence

from transfuse.core.policy import Group, Phase, Rate, always


class Bitfit:
    """Vectors learn, matrices don't (Ben Zaken, Goldberg, Ravfogel, 2022, ACL, https://arxiv.org/abs/2106.10199).

    The paper trains biases of transformers; here every parameter of at most one dimension counts, so the scales of normalisation layers
    too, without which a convolutional network has hardly a bias.
    """

    def phases(self, groups: Sequence[Group]) -> list[Phase]:
        rates = []
        for group in groups[:-1]:
            vectors = tuple(parameter for parameter in group.parameters if parameter.ndim <= 1)
            if vectors:
                rates.append(Rate(group.name, vectors, always(1.0)))
        return [Phase("", 1.0, (*rates, Rate(groups[-1].name, groups[-1].parameters, always(1.0))))]
