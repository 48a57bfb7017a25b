"""Layers as slow loops over numpy arrays, for the references of feature objectives."""

import math

import numpy as np


def conv(maps, weight, bias=None, padding=0):
    """Convolution with stride 1 of maps [batch, channels, height, width]."""
    batch, _, height, width = maps.shape
    outputs, _, rows, columns = weight.shape
    padded = np.pad(maps, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    out = np.zeros((batch, outputs, height + 2 * padding - rows + 1, width + 2 * padding - columns + 1))
    for i in range(out.shape[2]):
        for j in range(out.shape[3]):
            patch = padded[:, :, i : i + rows, j : j + columns]
            for o in range(outputs):
                out[:, o, i, j] = (patch * weight[o]).sum((1, 2, 3)) + (0 if bias is None else bias[o])
    return out


def batch_norm(maps, state, name, eps=1e-5):
    """BatchNorm in eval mode."""
    shape = (1, -1) + (1,) * (maps.ndim - 2)
    mean, variance = state[f"{name}.running_mean"].reshape(shape), state[f"{name}.running_var"].reshape(shape)
    return (maps - mean) / np.sqrt(variance + eps) * state[f"{name}.weight"].reshape(shape) + state[f"{name}.bias"].reshape(shape)


def mean_pool(maps, height, width):
    """Mean over areas, whose borders are rounded outwards where sizes don't divide."""
    out = np.zeros((*maps.shape[:2], height, width))
    for i in range(height):
        for j in range(width):
            top, bottom = i * maps.shape[2] // height, math.ceil((i + 1) * maps.shape[2] / height)
            left, right = j * maps.shape[3] // width, math.ceil((j + 1) * maps.shape[3] / width)
            out[:, :, i, j] = maps[:, :, top:bottom, left:right].mean((2, 3))
    return out


def nearest(maps, height, width):
    """Nearest-neighbour interpolation."""
    out = np.zeros((*maps.shape[:2], height, width))
    for i in range(height):
        for j in range(width):
            out[:, :, i, j] = maps[:, :, i * maps.shape[2] // height, j * maps.shape[3] // width]
    return out


def bilinear(maps, height, width):
    """Linear interpolation between the centres of positions; what lies outside of the outermost centres is as they are."""

    def between(index, size, old):
        place = min(max((index + 0.5) * old / size - 0.5, 0.0), old - 1.0)
        low = min(math.floor(place), old - 1)
        return low, min(low + 1, old - 1), place - low

    out = np.zeros((*maps.shape[:2], height, width))
    for i in range(height):
        top, bottom, down = between(i, height, maps.shape[2])
        for j in range(width):
            left, right, along = between(j, width, maps.shape[3])
            upper = (1 - along) * maps[:, :, top, left] + along * maps[:, :, top, right]
            lower = (1 - along) * maps[:, :, bottom, left] + along * maps[:, :, bottom, right]
            out[:, :, i, j] = (1 - down) * upper + down * lower
    return out


def resize(maps, height, width):
    """The mean over areas along the sides that shrink, then interpolation along those that grow."""
    return bilinear(mean_pool(maps, min(height, maps.shape[2]), min(width, maps.shape[3])), height, width)


def smaller(student, teacher):
    """Both maps at the smaller of both sizes, side by side."""
    height, width = (min(student.shape[side], teacher.shape[side]) for side in (2, 3))
    return mean_pool(student, height, width), mean_pool(teacher, height, width)


def as_list(features):
    return features if isinstance(features, list) else [features]


def length(vector):
    return math.sqrt(sum(float(entry) ** 2 for entry in vector))
