"""Slow loops that several references are made of: pooled vectors, dot products, lengths."""

import math


def pooled(feature):
    """One list per sample; maps are averaged over space, pixel by pixel."""
    if feature.ndim == 2:
        return [list(row) for row in feature]
    rows = []
    for sample in feature:
        channels = []
        for channel in sample:
            pixels = [value for line in channel for value in line]
            channels.append(sum(pixels) / len(pixels))
        rows.append(channels)
    return rows


def dot(one, other):
    return sum(a * b for a, b in zip(one, other, strict=True))


def length(values):
    return math.sqrt(dot(values, values))


def minus(one, other):
    return [a - b for a, b in zip(one, other, strict=True)]


def cosine(one, other):
    scale = length(one) * length(other)
    return dot(one, other) / scale if scale else 0.0


def smooth_l1(one, other):
    gap = abs(one - other)
    return 0.5 * gap**2 if gap < 1 else gap - 0.5
