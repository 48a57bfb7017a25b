"""Batch spectral shrinkage: Chen et al. (2019), equation 4, by eigenvalues of the smaller Gram matrix."""

import numpy as np

from tests.reference.geometry import dot, pooled


def bss_reference(student_features, k):
    rows = pooled(student_features)
    if len(rows) > len(rows[0]):
        rows = list(zip(*rows, strict=True))
    gram = np.array([[dot(one, other) for other in rows] for one in rows])
    return sum(sorted(np.linalg.eigvalsh(gram))[:k])
