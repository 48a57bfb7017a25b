"""DELTA: Li et al. (2019), equations 4 and 5, channel by channel, scaled by channels over pixels and halved."""


def delta_reference(student_features, teacher_features, state):
    if not isinstance(student_features, list):
        student_features, teacher_features = [student_features], [teacher_features]
    values = [0.0] * len(student_features[0])
    for tap, (student, teacher) in enumerate(zip(student_features, teacher_features, strict=True)):
        channels = len(state[f"attention_{tap}"])
        attention = [value / channels for value in state[f"attention_{tap}"]]  # the paper's W, which sums to 1
        for i in range(len(student)):
            for c in range(channels):
                gaps = (student[i][c] - teacher[i][c]).reshape(-1)
                values[i] += 0.5 * channels * attention[c] * sum(gap**2 for gap in gaps) / len(gaps)
    return values
