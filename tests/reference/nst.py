"""NST: Huang and Wang (2017), equations 6 and 7, as sums over pairs of channels."""

from tests.reference.features import length


def rows(maps):
    return [(channel / length(channel.ravel())).ravel() for channel in maps]


def nst_reference(student_features, teacher_features, kernel):
    def k(one, other):
        product = sum(float(a) * float(b) for a, b in zip(one, other, strict=True))
        return product**2 if kernel == "polynomial" else product

    def mean(ones, others):
        return sum(k(one, other) for one in ones for other in others) / (len(ones) * len(others))

    values = []
    for student, teacher in zip(student_features, teacher_features, strict=True):
        x, y = rows(student), rows(teacher)
        values.append(mean(x, x) + mean(y, y) - 2 * mean(x, y))
    return values
