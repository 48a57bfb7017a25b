"""Attention transfer: Zagoruyko and Komodakis (2017), equation 2, and the authors' attention_transfer/utils.py."""

from tests.reference.features import as_list, length, smaller


def attention(maps, power):
    channels, height, width = maps.shape
    summed = [sum(abs(float(maps[c, i, j])) ** power for c in range(channels)) for i in range(height) for j in range(width)]
    return [entry / length(summed) for entry in summed]


def attention_transfer_reference(student_features, teacher_features, form, power):
    pairs = [smaller(*pair) for pair in zip(as_list(student_features), as_list(teacher_features), strict=True)]
    values = []
    for sample in range(len(pairs[0][0])):
        value = 0.0
        for student, teacher in pairs:
            a, b = attention(student[sample], power), attention(teacher[sample], power)
            gaps = [x - y for x, y in zip(a, b, strict=True)]
            value += sum(gap**2 for gap in gaps) / len(gaps) if form == "code" else length(gaps)
        values.append(value)
    return values
