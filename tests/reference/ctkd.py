"""Curriculum temperature: Li et al. (2023), equations 5 and 6, with one temperature for all samples or one for each."""

import math

from tests.reference.distributions import kl, softmax


def predicted(student, teacher, state):
    """The network of two layers over both predictions."""
    seen = [math.log(p) for logits in (student, teacher) for p in softmax(logits)]
    first, bias = state["network.0.weight"], state["network.0.bias"]
    hidden = [max(sum(w * x for w, x in zip(row, seen, strict=True)) + b, 0.0) for row, b in zip(first, bias, strict=True)]
    return sum(w * h for w, h in zip(state["network.2.weight"][0], hidden, strict=True)) + float(state["network.2.bias"][0])


def ctkd_reference(student_logits, teacher_logits, state, lowest, span, form):
    values = []
    for student, teacher in zip(student_logits, teacher_logits, strict=True):
        raw = float(state["raw"]) if form == "global" else predicted(student, teacher, state)
        temperature = lowest + span / (1 + math.exp(-raw))
        values.append(temperature**2 * kl(softmax(teacher, temperature), softmax(student, temperature)))
    return values
