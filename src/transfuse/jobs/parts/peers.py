"""Networks that learn beside the student: opened with seeds of their own, joined with it for training, kept in the run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from transfuse import models
from transfuse.core.types import DataSet, Model, WeightedObjective
from transfuse.engine.steppers.mutual import Cohort, Peer
from transfuse.errors import ModelError, RunError
from transfuse.jobs.context import Context, Live
from transfuse.jobs.parts.networks import count_outputs, initial_seed, open_student, restore
from transfuse.jobs.rundir import RunDir
from transfuse.recipe.schema import DistillRecipe


def open_peers(recipe: DistillRecipe, data: DataSet, live: Live) -> dict[str, Model]:
    """Every peer with its initial weights, which are drawn from a seed of its own: the run's seed and its name.

    Raises:
        ModelError: unknown, or its outputs don't match the data.
    """
    return {name: open_student(block, data, recipe.seed, live.peers.get(name), peer=name) for name, block in recipe.peers.items()}


def refuse_unfit(student: Model, peers: Mapping[str, Model], data: DataSet) -> None:
    """Peers that the student can't learn from.

    Raises:
        ModelError: a peer says another number of values, or begins with the very weights of another network.
    """
    earlier = {"the student": student}
    for name, model in peers.items():
        where = f"peers.{name}"
        ours, theirs = count_outputs(student, data), count_outputs(model, data)
        if ours != theirs:
            raise ModelError(f"{model.source} says {theirs} values, the student {ours}", where, "give both heads of the same size")
        for other, known in earlier.items():
            if same_weights(model, known):
                what = f"{model.source} begins with the very weights of {other}, so both would always say the same"
                raise ModelError(what, where, "give it other initial weights, or another architecture")
        earlier[f"peer '{name}'"] = model


def same_weights(one: Model, other: Model) -> bool:
    """Whether two networks have the same parameters, to the bit."""
    first, second = dict(one.network.named_parameters()), dict(other.network.named_parameters())
    return first.keys() == second.keys() and all(torch.equal(value.cpu(), second[name].cpu()) for name, value in first.items())


def say_where_they_begin(context: Context, recipe: DistillRecipe) -> None:
    """Which seeds the initial weights of student and peers are drawn from, where they are drawn."""
    for name, block in recipe.peers.items():
        if not block.source.startswith("live"):
            own, students = initial_seed(recipe.seed, name), initial_seed(recipe.seed)
            context.say(f"peer '{name}': what is not trained yet is drawn from seed {own}, the student's from seed {students}")


def joined(student: Model, peers: Mapping[str, Model], objectives: Sequence[WeightedObjective]) -> Model:
    """Student and peers as one model, which answers as the student; trained in place."""
    members = {}
    for name, model in peers.items():
        assert model.preprocess is not None
        members[name] = Peer(model.network, model.preprocess)
    alternate = any(getattr(weighted.objective, "update", "") == "alternate" for weighted in objectives)
    return replace(student, module=Cohort(student.network, members, alternate))


def save_peers(rundir: RunDir, recipe: DistillRecipe, peers: Mapping[str, Model], best_step: int) -> None:
    """peers/NAME.safetensors with its .json, for every peer."""
    for name, model in peers.items():
        models.save_model(model, peer_path(rundir, name), {"best_step": best_step, "seed": initial_seed(recipe.seed, name)})


def restore_peers(rundir: RunDir, peers: Mapping[str, Model]) -> None:
    """Puts the trained weights into the peers.

    Raises:
        RunError: a file is missing or damaged.
    """
    for name, model in peers.items():
        try:
            restore(model, peer_path(rundir, name))
        except RunError as error:
            fix = f"delete {rundir.student.name} and resume: student and peers are then trained again, from their last checkpoint"
            raise RunError(error.what, where=error.where, fix=fix) from error


def peer_path(rundir: RunDir, name: str) -> Path:
    """Where a peer is kept."""
    return rundir.path / "peers" / f"{name}.safetensors"
