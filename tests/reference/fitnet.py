"""FitNets: Romero et al. (2015), equation 3; the regressor is a 1x1 convolution."""

from tests.reference.features import conv, resize


def fitnet_reference(student_features, teacher_features, state, form):
    if "bridges.0.project.weight" in state:
        student_features = conv(student_features, state["bridges.0.project.weight"], state["bridges.0.project.bias"])
    student_features = resize(student_features, *teacher_features.shape[2:])
    values = []
    for student, teacher in zip(student_features, teacher_features, strict=True):
        squares = [float(s - t) ** 2 for s, t in zip(student.ravel(), teacher.ravel(), strict=True)]
        values.append(sum(squares) / len(squares) if form == "mean" else 0.5 * sum(squares))
    return values
