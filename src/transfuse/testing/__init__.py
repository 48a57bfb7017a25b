"""Public conformance kits, with which others prove their own methods and sources.

`check_objective` takes an objective's class and a reference: a slow, independent float64 loop over numpy arrays, written from the paper,
in which every parameter is filled by its name. What a reference can ask for:

- `student_logits`, `teacher_logits` [batch, classes]; `teachers_logits` and `teachers_features`, lists, where there are several teachers;
  `peers_logits`, a list, of the networks that learn beside the student;
- `student_features`, `teacher_features`: the tapped feature, or a list in the recipe's order where there are several;
- the same of the second view with the prefix `second_`, and of the turned pictures with `turned_90_`, `turned_180_` and `turned_270_`;
- `labels`, `labelled`, `label_probabilities`, `ids`, `views`, `inputs` of the batch; `progress`;
- `state`: the objective's own parameters and buffers by name (bridges' weights, a memory bank);
- every constructor argument, defaults included.

It returns one number per sample (level "sample") or one number. A whole test:

    # tests/reference/reverse_kl.py
    def reverse_kl_reference(student_logits, teacher_logits, temperature):
        values = []
        for student, teacher in zip(student_logits, teacher_logits):
            q = np.exp(student / temperature) / np.exp(student / temperature).sum()
            p = np.exp(teacher / temperature) / np.exp(teacher / temperature).sum()
            values.append(temperature**2 * sum(q[c] * np.log(q[c] / p[c]) for c in range(len(p))))
        return values

    # tests/objectives/outputs/test_reverse_kl.py
    def test_reverse_kl_is_proved():
        check_objective(ReverseKL, reference=reverse_kl_reference, arguments={"temperature": 2.0}, zero_at_equality=True,
                        invariance={"a softmax ignores shifts": shift_student_logits})

An objective with features gets one tap per model ([batch, channels, height, width]) unless `make_step` says otherwise; `build` is called
with the features' shapes. References meet maps of unequal sizes, too: where an objective resizes, so has its reference. What is
unusual about an objective goes into `Particulars`.
"""

from transfuse.testing.case import ObjectiveDefect, Particulars, build, run, shapes_of
from transfuse.testing.exporter import ExporterDefect, check_exporter
from transfuse.testing.objective import CHECKS, QUICK, check_objective
from transfuse.testing.processes import processes
from transfuse.testing.steps import (
    Sizes,
    agreeing,
    example_step,
    map_tensors,
    reverse_classes,
    scale_student_logits,
    shift_student_logits,
    unlabelled,
)

__all__ = [
    "CHECKS",
    "QUICK",
    "ExporterDefect",
    "ObjectiveDefect",
    "Particulars",
    "Sizes",
    "agreeing",
    "build",
    "check_exporter",
    "check_objective",
    "example_step",
    "map_tensors",
    "processes",
    "reverse_classes",
    "run",
    "scale_student_logits",
    "shapes_of",
    "shift_student_logits",
    "unlabelled",
]
