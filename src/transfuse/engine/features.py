"""Connects feature objectives to networks: finds what `auto` taps, and lets objectives build their bridges from the features' shapes."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from transfuse.core import taps
from transfuse.core.grafts import grafted_tap, grafts_of, original_tap, regraft
from transfuse.core.heads import last_layer, read_ending
from transfuse.core.norms import norms_before
from transfuse.core.seeds import derive
from transfuse.core.taps import AUTO, Taps
from transfuse.core.types import WeightedObjective
from transfuse.errors import ModelError, RecipeError

Network = tuple[nn.Module, Tensor]
"""A network and one sample as it takes it, [1, ...]."""


def wants_features(weighted: WeightedObjective) -> bool:
    """Whether an objective looks at inner features: it says so, is given taps, or has to see shapes."""
    needed = {"student.features", "teacher.features"} & set(weighted.card.needs)
    return bool(weighted.student_taps or weighted.teacher_taps or needed or hasattr(weighted.objective, "build"))


def connect(
    objectives: Sequence[WeightedObjective],
    student: Network,
    teachers: Mapping[str, Network],
    seed: int,
    fresh: Collection[nn.Parameter] = (),
) -> tuple[list[WeightedObjective], list[str]]:
    """The objectives with the paths of their taps and with bridges, and notes on what was decided.

    Call it once, before the optimiser is made: bridges are trained with the student. Their initial weights are a function of the seed and
    of the objective's name alone. Objectives without features are left as they are.

    Args:
        objectives: as the recipe has them.
        student: with one sample.
        teachers: those that are networks, by name.
        seed: of the bridges' initial weights.
        fresh: the student's parameters that start anew, for objectives on weights.

    Raises:
        ModelError: an unknown path, features that can't be compared, or a head that can't be found; the place is the objective's.
        RecipeError: a feature objective with no teacher or with several.
    """
    connected, notes = [], []
    module, sample = student
    outputs = unwrapped_outputs(module, sample)
    for weighted in objectives:
        try:
            if hasattr(weighted.objective, "set_outputs"):
                with _seeded(derive(seed, "outputs", weighted.name)):
                    weighted.objective.set_outputs(outputs)  # type: ignore[operator]
            if hasattr(weighted.objective, "watch"):
                weighted.objective.watch(*_watched(module, fresh))  # type: ignore[operator]
            if wants_features(weighted):
                _refuse_auto(weighted)
                weighted = _at_the_head(_with_head(weighted, student), student)
                weighted, note = _connect(weighted, student, teachers, derive(seed, "bridges", weighted.name))
                notes.append(note)
        except (ModelError, ValueError) as error:
            what, fix = (error.what, error.fix) if isinstance(error, ModelError) else (str(error), None)
            raise ModelError(what, where=f"objectives.{weighted.name}", fix=fix) from error
        connected.append(weighted)
    return connected, notes


def shipped(
    objectives: Sequence[WeightedObjective], student: Network, fresh: Collection[nn.Parameter] = ()
) -> tuple[list[WeightedObjective], nn.Module]:
    """The network that is trained, evaluated and shipped, which is more than the student where an objective's `export` says so.

    Call it once, after `connect`. Other objectives go on tapping the features that they tapped; the one that exports reads what its own
    layers make of its feature.

    Args:
        objectives: connected.
        student: with one sample; may be changed in place.
        fresh: as in `connect`.

    Raises:
        RecipeError: two objectives that each want to ship a network of their own, or one that learns a last layer that is replaced.
        ModelError: the network can't be run, or not be opened again from its file.
    """
    module, sample = student
    exporting = [weighted for weighted in objectives if hasattr(weighted.objective, "export")]
    if not exporting:
        return list(objectives), module
    if len(exporting) > 1:
        names = " and ".join(weighted.name for weighted in exporting)
        raise RecipeError(f"{names} each ship a network of their own, and a run ships one", where="objectives", fix="keep one of them")
    if reading := [weighted.name for weighted in objectives if "student.head" in weighted.card.needs and weighted is not exporting[0]]:
        what = f"{reading[0]} learns the weights of the student's last layer, in whose place {exporting[0].name} puts its teacher's"
        raise RecipeError(what, where="objectives", fix="keep one of them")
    name, plain, known = exporting[0].name, copy.deepcopy(module), len(grafts_of(module))
    outputs = unwrapped_outputs(module, sample)
    network: nn.Module = exporting[0].objective.export(module)  # type: ignore[operator]
    records = grafts_of(network)[known:]
    regraft(plain, records)
    if plain.state_dict().keys() != network.state_dict().keys():
        what = "what it exports is not the student with `core.grafts` in it, so it could not be opened from its file"
        raise ModelError(what, where=f"objectives.{name}", fix="make it with transfuse.core.grafts.graft")
    try:
        found = unwrapped_outputs(network, sample)
    except RuntimeError as error:
        raise ModelError(f"the network that it exports can't run: {error}", where=f"objectives.{name}") from error
    if found != outputs:
        raise ModelError(f"the network that it exports has {found} outputs, the student {outputs}", where=f"objectives.{name}")
    moved = []
    for weighted in objectives:
        move = grafted_tap if weighted is exporting[0] else original_tap
        moved.append(replace(weighted, student_taps=tuple(move(path, records) for path in weighted.student_taps)))
        if hasattr(weighted.objective, "watch"):
            weighted.objective.watch(*_watched(network, fresh))  # type: ignore[operator]
    return moved, network


def _watched(module: nn.Module, fresh: Collection[nn.Parameter]) -> tuple[dict[str, nn.Parameter], set[str]]:
    """A network's parameters by name, and the names of those that start anew, which are told by identity."""
    parameters, known = dict(module.named_parameters()), {id(parameter) for parameter in fresh}
    return parameters, {name for name, parameter in parameters.items() if id(parameter) in known}


def unwrapped_outputs(module: nn.Module, sample: Tensor) -> int:
    """How many numbers a network predicts per sample."""
    with taps.undisturbed(module):
        return module(sample).shape[-1]


def _connect(weighted: WeightedObjective, student: Network, teachers: Mapping[str, Network], seed: int) -> tuple[WeightedObjective, str]:
    if weighted.compares_several:
        return _connect_several(weighted, student, teachers, seed)
    student_paths, teacher_paths = _paths(student, weighted.student_taps, "student"), []
    teacher_shapes, teacher = {}, None
    if "teacher.features" in weighted.card.needs or weighted.teacher_taps:
        teacher = _only_teacher(weighted, teachers)
        teacher_paths = _paths(teacher, weighted.teacher_taps, "teacher")
        if any(AUTO in (wanted or (AUTO,)) for wanted in (weighted.student_taps, weighted.teacher_taps)):
            student_paths, teacher_paths = taps.paired(student_paths, teacher_paths)
        teacher_shapes = Taps(teacher[0], teacher_paths, teacher[1]).shapes
        compared = ", ".join(f"{one} with {other}" for one, other in zip(student_paths, teacher_paths, strict=False))
        note = f"{weighted.name} compares {compared}"
    else:
        note = f"{weighted.name} looks at {', '.join(student_paths)}"
    if hasattr(weighted.objective, "meet"):
        seen = [student, teacher or _only_teacher(weighted, teachers)]
        read = [Taps(module, paths, example) for (module, example), paths in zip(seen, (student_paths, teacher_paths), strict=True)]
        endings = [read_ending(module, example, looking) for (module, example), looking in zip(seen, read, strict=True)]
        weighted.objective.meet(*endings)  # type: ignore[operator]
    if teacher is not None and hasattr(weighted.objective, "take_norms"):
        weighted.objective.take_norms(norms_before(teacher[0], teacher_paths, teacher[1]))  # type: ignore[operator]
    if hasattr(weighted.objective, "build"):
        shapes = Taps(student[0], student_paths, student[1]).shapes
        with _seeded(seed):
            weighted.objective.build(shapes, teacher_shapes)  # type: ignore[operator]
    return replace(weighted, student_taps=tuple(student_paths), teacher_taps=tuple(teacher_paths)), note


def _refuse_auto(weighted: WeightedObjective) -> None:
    """Taps left to `auto` by an objective whose features it can't find (`named_taps`); stages' last features would be something else."""
    why: str = getattr(weighted.objective, "named_taps", "")
    if not why:
        return
    for key, wanted in (("student_tap", weighted.student_taps), ("teacher_tap", weighted.teacher_taps)):
        if not wanted or AUTO in wanted:
            raise ModelError(f"{key}: {why}", fix="name modules with student_tap and teacher_tap; `transfuse taps MODEL` prints them")


def _connect_several(
    weighted: WeightedObjective, student: Network, teachers: Mapping[str, Network], seed: int
) -> tuple[WeightedObjective, str]:
    """An objective on features of several teachers at once: what every network's last layer is given, unless taps are named.

    Its `build` is told the teachers' shapes by TEACHER:PATH, and each teacher's signals hold its own features.
    """
    student_paths = _paths(student, weighted.student_taps or _at_the_end(student), "student")
    if unknown := [name for name in weighted.teachers if name not in teachers]:
        what = f"teacher '{unknown[0]}' is not a network, so it has no inner features"
        fix = "name teachers that are networks, or use an objective that needs logits only"
        raise RecipeError(what, where=f"objectives.{weighted.name}.teacher", fix=fix)
    if stray := [path for path in weighted.teacher_taps if path.partition(":")[0] not in weighted.teachers]:
        example = f"teacher_tap: [{', '.join(f'{name}:layer3' for name in weighted.teachers)}]"
        raise ModelError(f"teacher_tap: '{stray[0]}' doesn't say whose feature it is", fix=f"write {example}")
    teacher_paths: list[str] = []
    shapes: dict[str, tuple[int, ...]] = {}
    for name in weighted.teachers:
        paths = _paths(teachers[name], weighted.taps_of(name) or _at_the_end(teachers[name]), f"teacher '{name}': teacher")
        found = Taps(teachers[name][0], paths, teachers[name][1]).shapes
        teacher_paths += [f"{name}:{path}" for path in paths]
        shapes |= {f"{name}:{path}": found[path] for path in paths}
    with _seeded(seed):
        weighted.objective.build(Taps(student[0], student_paths, student[1]).shapes, shapes)  # type: ignore[operator]
    note = f"{weighted.name} compares {', '.join(student_paths)} with {', '.join(teacher_paths)}"
    return replace(weighted, student_taps=tuple(student_paths), teacher_taps=tuple(teacher_paths)), note


def _at_the_end(network: Network) -> tuple[str, ...]:
    return (f"{last_layer(*network)}@input",)


def _with_head(weighted: WeightedObjective, student: Network) -> WeightedObjective:
    """Shows the student's head to an objective that has a second one, which then taps what the head is given.

    Raises:
        ModelError: no such module, or the outputs are not what the head makes of its input.
    """
    if not hasattr(weighted.objective, "take_head"):
        return weighted
    if weighted.student_taps:
        raise ModelError("student_tap: the feature is what the head is given", fix="name the head instead: head: PATH")
    module, sample = student
    named: Any = weighted.objective.head
    path = named or read_ending(module, sample).path
    tap = _paths(student, (f"{path}@input",), "student")[0]
    head = copy.deepcopy(taps.unwrapped(module).get_submodule(path))
    with taps.undisturbed(module), torch.no_grad():
        looking = Taps(module, [tap], sample)
        outputs, features = looking(sample)
        head.eval()
        found = head(features[tap].transpose(1, 2) if looking.sequence(tap) else features[tap])
    if isinstance(found, Tensor) and (found.ndim == 4 or looking.sequence(tap)):
        found = found.flatten(2).mean(2)
    if not isinstance(found, Tensor) or found.shape != outputs.shape or not torch.allclose(found, outputs, rtol=1e-3, atol=1e-4):
        what = f"the outputs of {type(module).__name__} are not what '{path}' makes of its input, so it is no head"
        raise ModelError(what, fix="name the module whose outputs are the logits: head: PATH")
    weighted.objective.take_head(path, head)  # type: ignore[operator]
    return replace(weighted, student_taps=(tap,))


def _at_the_head(weighted: WeightedObjective, student: Network) -> WeightedObjective:
    """Objectives on domains look at what the last layer is given, unless taps are named: that is what has to be the same in both."""
    if weighted.student_taps or "domains" not in weighted.card.needs:
        return weighted
    try:
        return replace(weighted, student_taps=(f"{read_ending(*student).path}@input",))
    except ModelError:  # no such layer: the last features
        return weighted


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Inside, random weights are a function of the seed alone; outside, torch's generator is as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _paths(network: Network, wanted: Sequence[str], whose: str) -> list[str]:
    module, example = network
    try:
        return list(Taps(module, list(wanted) or AUTO, example).paths)
    except ModelError as error:
        raise ModelError(f"{whose}_tap: {error.what}", fix=error.fix) from error


def _only_teacher(weighted: WeightedObjective, teachers: Mapping[str, Network]) -> Network:
    where = f"objectives.{weighted.name}.teacher"
    if len(weighted.teachers) != 1:
        given = ", ".join(weighted.teachers) or "none"
        raise RecipeError(f"features are compared with one teacher's, and there are: {given}", where=where, fix="name one: teacher: NAME")
    if weighted.teachers[0] not in teachers:
        what = f"teacher '{weighted.teachers[0]}' is not a network, so it has no inner features"
        raise RecipeError(what, where=where, fix="name a teacher that is a network, or use an objective that needs logits only")
    return teachers[weighted.teachers[0]]
