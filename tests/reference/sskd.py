"""SSKD: Xu, Liu, Li and Loy (2020), equations 1 to 7, sample by sample; what the teacher gets wrong is sorted out as in section 3.3."""

import math

from tests.reference.geometry import cosine, dot, pooled

TURNS = ("turned_90_", "turned_180_", "turned_270_")


def softmax(scores, temperature):
    highest = max(scores)
    raised = [math.exp((score - highest) / temperature) for score in scores]
    return [value / sum(raised) for value in raised]


def kl(p, q):
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True) if a > 0)


def embedded(row, state, name):
    hidden = [max(0.0, dot(weights, row) + bias) for weights, bias in zip(state[f"{name}.0.weight"], state[f"{name}.0.bias"], strict=True)]
    return [dot(weights, hidden) + bias for weights, bias in zip(state[f"{name}.2.weight"], state[f"{name}.2.bias"], strict=True)]


def likenesses(upright, turned, state, name):
    """For each turned picture its cosines with all upright ones."""
    upright = [embedded(row, state, name) for row in pooled(upright)]
    return [[cosine(embedded(row, state, name), other) for other in upright] for features in turned for row in pooled(features)]


def kept_rows(scores, right, share):
    """Numbers of the rows that teach: those with the right answer first, and the share of the others where it stands highest."""
    placed = []
    for number, (row, answer) in enumerate(zip(scores, right, strict=True)):
        rank = sum(score > row[answer] for score in row)
        placed.append((rank, -softmax(row, 1.0)[answer], number))
    placed.sort()
    wrong = sum(rank > 0 for rank, _, _ in placed)
    return [number for _, _, number in placed[: len(placed) - wrong + math.floor(wrong * share + 1e-9)]]


def mean(values):
    return sum(values) / max(len(values), 1)


def sskd_reference(
    student_logits, teacher_logits, student_features, teacher_features,
    turned_90_student_logits, turned_180_student_logits, turned_270_student_logits,
    turned_90_teacher_logits, turned_180_teacher_logits, turned_270_teacher_logits,
    turned_90_student_features, turned_180_student_features, turned_270_student_features,
    turned_90_teacher_features, turned_180_teacher_features, turned_270_teacher_features,
    labels, state, upright, turned, likeness, temperature, likeness_temperature, kept_turned, kept_likeness,
):  # fmt: skip
    def divergences(students, teachers, heat):
        return [kl(softmax(list(t), heat), softmax(list(s), heat)) for s, t in zip(students, teachers, strict=True)]

    students = [row for logits in (turned_90_student_logits, turned_180_student_logits, turned_270_student_logits) for row in logits]
    teachers = [row for logits in (turned_90_teacher_logits, turned_180_teacher_logits, turned_270_teacher_logits) for row in logits]
    of_turned = divergences(students, teachers, temperature)
    taught = (
        range(len(teachers)) if kept_turned == 1 else kept_rows([list(row / temperature) for row in teachers], [*labels] * 3, kept_turned)
    )
    turned_students = [turned_90_student_features, turned_180_student_features, turned_270_student_features]
    turned_teachers = [turned_90_teacher_features, turned_180_teacher_features, turned_270_teacher_features]
    found = likenesses(student_features, turned_students, state, "student_embedding")
    wanted = likenesses(teacher_features, turned_teachers, state, "teacher_embedding")
    of_likenesses = divergences(found, wanted, likeness_temperature)
    own = [*range(len(student_features))] * 3
    alike = kept_rows([[score / likeness_temperature for score in row] for row in wanted], own, kept_likeness)
    return (
        upright * temperature**2 * mean(divergences(student_logits, teacher_logits, temperature))
        + turned * temperature**2 * mean([of_turned[row] for row in taught])
        + likeness * likeness_temperature**2 * mean([of_likenesses[row] for row in alike])
    )


def preparation_reference(
    teacher_features, turned_90_teacher_features, turned_180_teacher_features, turned_270_teacher_features, state
):  # fmt: skip
    turned = [turned_90_teacher_features, turned_180_teacher_features, turned_270_teacher_features]
    rows = likenesses(teacher_features, turned, state, "teacher_embedding")
    return mean([-math.log(softmax(row, 1.0)[number % len(teacher_features)]) for number, row in enumerate(rows)])
