"""Teacher-free distillation with a virtual teacher: Yuan et al. (2020), equations 9 to 11."""

from tests.reference.distributions import kl, softmax


def tf_kd_reference(student_logits, labels, correct, temperature, soften_student):
    values = []
    for student, label in zip(student_logits, labels, strict=True):
        classes = len(student)
        virtual = [correct if c == label else (1 - correct) / (classes - 1) for c in range(classes)]
        q = softmax(student, temperature if soften_student else 1.0)
        values.append(kl(softmax(virtual, temperature), q) * (temperature**2 if soften_student else 1))
    return values
