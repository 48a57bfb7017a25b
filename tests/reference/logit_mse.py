"""Logit matching: Ba, Caruana (2014), equation 2, without its factor 1/2."""


def logit_mse_reference(student_logits, teachers_logits, over):
    values = []
    for sample, student in enumerate(student_logits):
        squares = []
        for c in range(len(student)):
            teacher = sum(logits[sample][c] for logits in teachers_logits) / len(teachers_logits)
            squares.append((student[c] - teacher) ** 2)
        values.append(sum(squares) / (len(squares) if over == "mean" else 1))
    return values
