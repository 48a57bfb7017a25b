"""Gaussian kernels between all samples of a batch, of several widths at once."""

import torch
from jaxtyping import Float
from torch import Tensor


def square_distances(rows: Float[Tensor, "batch width"]) -> Float[Tensor, "batch batch"]:
    """|x_i - x_j|^2. Rows are centred first, without which fp32 would lose distances that are small beside the features' mean."""
    rows = rows - rows.detach().mean(0)
    squares = rows.square().sum(1)
    return (squares[:, None] + squares[None, :] - 2 * rows @ rows.T).clamp(min=0)


def multi_kernel(
    rows: Float[Tensor, "batch width"], widths: tuple[float, ...], mean_square: Float[Tensor, ""] | None = None
) -> Float[Tensor, "batch batch"]:
    """sum_a exp(-|x_i - x_j|^2 / (2 a m)) over the widths a, m the mean of |x_i - x_j|^2 over all pairs of the batch, held fixed."""
    distances = square_distances(rows)
    return kernel_of(distances, widths, distances.detach().mean() if mean_square is None else mean_square)


def kernel_of(distances: Float[Tensor, "*pairs"], widths: tuple[float, ...], mean_square: Float[Tensor, ""]) -> Float[Tensor, "*pairs"]:
    """sum_a exp(-d / (2 a m)) of squared distances d; m = 0, where all samples are the same, counts as 1."""
    scale = torch.where(mean_square > 0, mean_square, 1.0)
    return torch.stack([torch.exp(-distances / (2 * width * scale)) for width in widths]).sum(0)


def mean_square_distance(rows: Float[Tensor, "batch width"]) -> Float[Tensor, ""]:
    """The mean of |x_i - x_j|^2 over all pairs, i = j among them, without gradient: twice the mean of |x_i - mean|^2, in linear time."""
    return 2 * (rows.detach() - rows.detach().mean(0)).square().sum(1).mean()
