"""Several teachers: mean of probabilities, of logits, of losses; weights as in CA-MKD (equation 4) and EBKD."""

import math

from tests.reference.distributions import kl, predictions, softmax


def weights_of(teachers, labels, sample, confidence):
    count = len(teachers)
    independent = labels.dtype.kind == "f"
    if confidence == "labels":
        losses = []
        for logits in teachers:
            own = predictions(logits[sample], labels, 1.0)
            if independent:
                losses.append(-sum(math.log(own[c][0]) if labels[sample][c] > 0.5 else math.log(own[c][1]) for c in range(len(own))))
            else:
                losses.append(-math.log(own[0][labels[sample]]))
        return [(1 - share) / (count - 1) for share in softmax(losses)]
    if confidence == "entropy":
        entropies = [-sum(value * math.log(value) for p in predictions(logits[sample], labels, 1.0) for value in p) for logits in teachers]
        return [(1 - entropy / sum(entropies)) / (count - 1) for entropy in entropies]
    return [1 / count] * count


def many_teachers_reference(student_logits, teachers_logits, labels, temperature, combine, confidence):
    values = []
    for sample, student in enumerate(student_logits):
        weights = weights_of(teachers_logits, labels, sample, confidence)
        rows = [logits[sample] for logits in teachers_logits]
        q = predictions(student, labels, temperature)
        softened = [predictions(row, labels, temperature) for row in rows]
        if combine == "losses":
            value = sum(w * sum(kl(p, own) for p, own in zip(one, q, strict=True)) for w, one in zip(weights, softened, strict=True))
        else:
            if combine == "logits":
                merged = predictions(sum(w * row for w, row in zip(weights, rows, strict=True)), labels, temperature)
            else:
                merged = [
                    [sum(w * one[d][c] for w, one in zip(weights, softened, strict=True)) for c in range(len(q[d]))] for d in range(len(q))
                ]
            value = sum(kl(p, own) for p, own in zip(merged, q, strict=True))
        values.append(temperature**2 * value)
    return values
