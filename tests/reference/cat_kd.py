"""CAT-KD: Guo et al. (2023), equations 2 to 4: class activation maps position by position, pooled, normalised, compared."""

from tests.reference.features import length, mean_pool


def class_activation(feature, weights):
    """sum_k w_k f_k at every position, for one class."""
    total = 0.0
    for weight, channel in zip(weights, feature, strict=True):
        total = total + weight * channel
    return total


def cat_kd_reference(student_features, teacher_features, parameters, state, resolution, normalize, form):
    student_head, teacher_head = parameters["linear.weight"], state["teacher_head"]
    values = []
    for student, teacher in zip(student_features, teacher_features, strict=True):
        total = 0.0
        for own, other in zip(student_head, teacher_head, strict=True):
            maps = []
            for feature, weights in ((student, own), (teacher, other)):
                pooled = mean_pool(class_activation(feature, weights)[None, None], resolution, resolution).ravel()
                maps.append(pooled / length(pooled) if normalize else pooled)
            total += sum((s - t) ** 2 for s, t in zip(*maps, strict=True))
        values.append(total / len(student_head) / (resolution**2 if form == "mean" else 1))
    return values
