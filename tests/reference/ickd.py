"""Inter-channel correlation: Liu et al. (2021), equations 2 to 4, and the normalised form of the authors' code."""

from tests.reference.geometry import dot, length


def correlations(sample, form):
    flat = [channel.reshape(-1) for channel in sample]
    matrix = [[dot(one, other) for other in flat] for one in flat]
    return matrix if form == "paper" else [[value / length(row) for value in row] for row in matrix]


def ickd_reference(student_features, teacher_features, state, form):
    if "bridge.weight" in state:  # 1x1 convolution: every pixel's channels times a matrix
        weight = state["bridge.weight"]
        mapped = []
        for sample in student_features:
            mapped.append([sum(weight[o, c, 0, 0] * sample[c] for c in range(len(sample))) for o in range(len(weight))])
        student_features = mapped
    values = []
    for student, teacher in zip(student_features, teacher_features, strict=True):
        g_student, g_teacher = correlations(student, form), correlations(teacher, form)
        channels = len(g_teacher)
        total = sum((g_student[a][b] - g_teacher[a][b]) ** 2 for a in range(channels) for b in range(channels))
        values.append(total / (channels if form == "code" else channels**2))
    return values
