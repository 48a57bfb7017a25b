"""Deep CORAL: Sun and Saenko (2016), equations 1 to 3."""

from tests.reference.domains import mean, split
from tests.reference.geometry import pooled


def covariance(rows):
    means = [mean(column) for column in zip(*rows, strict=True)]
    width = len(means)
    return [[sum((row[a] - means[a]) * (row[b] - means[b]) for row in rows) / (len(rows) - 1) for b in range(width)] for a in range(width)]


def coral_reference(student_features, domains):
    source, target = (covariance(rows) for rows in split(pooled(student_features), domains))
    width = len(source)
    return sum((source[a][b] - target[a][b]) ** 2 for a in range(width) for b in range(width)) / (4 * width**2)
