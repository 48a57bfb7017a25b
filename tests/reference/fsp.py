"""FSP: Yim et al. (2017), equations 1 and 2; maps of one size."""


def flow(first, second):
    height, width = first.shape[1:]
    places = [(i, j) for i in range(height) for j in range(width)]
    return [[sum(float(a[place]) * float(b[place]) for place in places) / len(places) for b in second] for a in first]


def halved(maps, pooling):
    """2x2 blocks to their maximum or mean."""
    channels, height, width = maps.shape
    blocks = maps.reshape(channels, height // 2, 2, width // 2, 2)
    return blocks.max((2, 4)) if pooling == "max" else blocks.mean((2, 4))


def matched(first, second, pooling):
    if first.shape[1] == 2 * second.shape[1]:
        return halved(first, pooling), second
    return first, second


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
