"""Contrastive distillation: Tian et al. (2020), equations 18 and 19, both ways, with all remembered samples as negatives."""

import math

from tests.reference.geometry import dot, length, pooled


def embed(row, state, model):
    values = [
        dot(weights, row) + bias for weights, bias in zip(state[f"{model}_embedding.weight"], state[f"{model}_embedding.bias"], strict=True)
    ]
    return [value / length(values) for value in values]


def contrast(anchor, positive, bank, constant, temperature):
    noise = max(len(bank), 1) * constant

    def critic(other):
        e = math.exp(dot(anchor, other) / temperature)
        return e / (e + noise)

    return -math.log(critic(positive)) - sum(math.log(1 - critic(other)) for other in bank)


def crd_reference(student_features, teacher_features, ids, labels, state, temperature, bank_size, negatives, form):
    student, teacher = pooled(student_features), pooled(teacher_features)
    constants = [1 / bank_size] * 2 if form == "paper" else [constant if constant > 0 else 1.0 for constant in state["constants"]]
    values = []
    for i, sample in enumerate(ids):
        s, t = embed(student[i], state, "student"), embed(teacher[i], state, "teacher")
        others = [place for place in range(bank_size) if state["owners"][place] not in (-1, sample)]
        if negatives == "classes":
            others = [place for place in others if labels[i] < 0 or state["owner_labels"][place] != labels[i]]
        remembered_teachers = [state["teacher_bank"][place] for place in others]
        remembered_students = [state["student_bank"][place] for place in others]
        forwards = contrast(s, t, remembered_teachers, constants[0], temperature)
        values.append(forwards + contrast(t, s, remembered_students, constants[1], temperature))
    return values
