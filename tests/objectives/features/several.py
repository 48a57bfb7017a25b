"""Steps with features of several teachers, and how a job builds objectives for them."""

from transfuse.testing import Sizes, example_step, shapes_of


def two_teachers(sizes: Sizes):
    return example_step(sizes, teachers=2, taps=1)


def prepare(objective, step):
    """As the engine does: the teachers' shapes by TEACHER:PATH."""
    shapes = {f"{name}:{path}": shape for name, signals in step.teachers.items() for path, shape in shapes_of(signals.features).items()}
    objective.build(shapes_of(step.student.features), shapes)
