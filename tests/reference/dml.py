"""Deep mutual learning: Zhang, Xiang, Hospedales, Lu (2018), equation (8), and the DML_e of section 3.3 (the mean of the peers)."""

from tests.reference.distributions import kl, predictions


def dml_reference(student_logits, peers_logits, labels, temperature, combine):
    values = []
    for sample, student in enumerate(student_logits):
        own = predictions(student, labels, temperature)
        said = [predictions(logits[sample], labels, temperature) for logits in peers_logits]
        value = 0.0
        for d, q in enumerate(own):
            if combine == "losses":
                value += sum(kl(one[d], q) for one in said) / len(said)
            else:
                value += kl([sum(one[d][c] for one in said) / len(said) for c in range(len(q))], q)
        values.append(temperature**2 * value)
    return values
