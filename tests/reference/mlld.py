"""Multi-level logit distillation: Jin, Wang, Lin (2023), equations 3 to 9, and what their code computes instead."""

from tests.reference.distributions import kl, softmax


def median(values):
    values = sorted(values)
    middle = len(values) // 2
    return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2


def at_most_median(values):
    return sum(value <= median(values) for value in values) / len(values)


def mlld_reference(student_logits, teacher_logits, second_student_logits, second_teacher_logits, temperatures, form):
    temperatures = temperatures or [4, 3, 5, 2, 6]
    samples, classes = student_logits.shape
    sample_share = class_share = 1.0
    if form == "code":
        sure = [softmax(row) for row in teacher_logits]
        sample_share = at_most_median([max(row) for row in sure])
        class_share = at_most_median([sum(row[c] for row in sure) for c in range(classes)])
    total = 0.0
    for number, t in enumerate(temperatures):
        p, q = ([softmax(row, t) for row in logits] for logits in (teacher_logits, student_logits))
        strong_p, strong_q = ([softmax(row, t) for row in logits] for logits in (second_teacher_logits, second_student_logits))
        if form == "code" and number in (3, 4):
            strong_p, strong_q = p, q
        total += sample_share * t**2 * sum(kl(p[i], q[i]) for i in range(samples)) / samples
        total += t**2 * sum(kl(strong_p[i], strong_q[i]) for i in range(samples)) / samples
        for a in range(classes):
            for b in range(classes):
                gap = sum(p[i][a] * p[i][b] for i in range(samples)) - sum(q[i][a] * q[i][b] for i in range(samples))
                total += class_share * gap**2 / classes
        for i in range(samples):
            for j in range(samples):
                gap = sum(p[i][c] * p[j][c] for c in range(classes)) - sum(q[i][c] * q[j][c] for c in range(classes))
                total += sample_share * gap**2 / samples
    return total
