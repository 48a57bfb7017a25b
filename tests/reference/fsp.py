"""FSP: Yim et al. (2017), equations 1 and 2; of two neighbouring taps the larger map is pooled."""

import math

import numpy as np


def flow(first, second):
    height, width = first.shape[1:]
    places = [(i, j) for i in range(height) for j in range(width)]
    return [[sum(float(a[place]) * float(b[place]) for place in places) / len(places) for b in second] for a in first]


def pooled(maps, height, width, pooling):
    """The maximum or the mean over areas, whose borders are rounded outwards where sizes don't divide."""

    def area(index, size, old):
        return range(index * old // size, math.ceil((index + 1) * old / size))

    rows, columns = [area(i, height, maps.shape[1]) for i in range(height)], [area(j, width, maps.shape[2]) for j in range(width)]
    summary = max if pooling == "max" else lambda values: sum(values) / len(values)
    found = [[[summary([channel[i, j] for i in inner for j in outer]) for outer in columns] for inner in rows] for channel in maps]
    return np.array(found)


def matched(first, second, pooling):
    height, width = (min(first.shape[side], second.shape[side]) for side in (1, 2))
    return pooled(first, height, width, pooling), pooled(second, height, width, pooling)


def fsp_reference(student_features, teacher_features, pooling, over):
    values = []
    for sample in range(len(student_features[0])):
        value = 0.0
        for tap in range(len(student_features) - 1):
            g = flow(*matched(student_features[tap][sample], student_features[tap + 1][sample], pooling))
            h = flow(*matched(teacher_features[tap][sample], teacher_features[tap + 1][sample], pooling))
            squares = [(g[a][b] - h[a][b]) ** 2 for a in range(len(g)) for b in range(len(g[0]))]
            value += sum(squares) / (len(squares) if over == "mean" else 1)
        values.append(value)
    return values
