"""What each objective adds to a step, in time and memory, and what the obvious broadcast formulation of three of them would.

    python -m benchmarks.objectives                  measures everything, writes benchmarks/results/objectives.json
    python -m benchmarks.objectives kd crd           measures these only and keeps the rest of the file

Forward and backward of the objective alone, on signals that are there already; the unit is the student's own bare step (forward,
cross-entropy, backward): ResNet-20 on 64 pictures of 32x32, ResNet-50 on 32 of 224x224, whose first stage gives maps of 56x56x256.
fp32 on one core. No pass of a network is counted: not the teacher's, and not those that some methods add (another view, turned pictures,
peers, further updates), which are a matter of counting; docs/objectives.md says in the row what they are.

Times are ratios within blocks that alternate with a yardstick, so that a machine whose speed drifts slows both. Memory is the largest
sum of live tensor bytes while the step runs, from torch's own record of every allocation, so it does not depend on what the allocator
keeps; the signals themselves are not counted, the gradients that go back into the student's are.
"""

from __future__ import annotations

import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile

from benchmarks import broadcast, results
from transfuse import models, objectives
from transfuse.core.taps import Taps
from transfuse.core.types import Batch, ModelRequest, Signals, Step, Trial, WeightedObjective
from transfuse.engine.features import connect, shipped
from transfuse.errors import TransfuseError

Shape = tuple[int, ...]
BLOCKS = 7
SHORTEST = 0.02  # seconds that a block lasts at least: a clock's own jitter is then nothing


@dataclass(frozen=True)
class Scale:
    """How large the signals are.

    Attributes:
        unit: the bare step that is 1, in words.
        batch, classes, side: of logits and pictures.
        taps: paths of the tapped features; empty: what a job would tap by itself.
        attention: an attention map per sample, for objectives on those.
    """

    unit: str
    batch: int
    classes: int
    side: int
    taps: tuple[str, ...]
    attention: Shape


SCALES = {
    "cifar": Scale("ResNet-20, 64 pictures of 32x32", 64, 100, 32, (), (3, 65, 65)),
    "large": Scale("ResNet-50, 32 pictures of 224x224", 32, 1000, 224, ("blocks.1", "blocks.2"), (12, 197, 197)),
}
TWO_LAYERS = ("fsp",)  # what compares two layers of one model; others get the last of the large scale's taps alone
AT_THE_END = ("cat_kd", "simkd")  # what reads the features in front of the last layer; the large network ends with its first stage there
SETTINGS: dict[str, dict[str, Any]] = {"hidden_cosine": {"tokens": "mean"}}
PROBING = ("co_tuning", "ewc")  # have to look at samples before they can run
POOL = 50000  # samples that ids are drawn from


class Bench:
    """One scale's networks, and what a step of theirs would hand to an objective.

    Args:
        scale_name: a key of SCALES.
    """

    def __init__(self, scale_name: str):
        self.scale = SCALES[scale_name]
        self.name, self.sample = scale_name, torch.randn(1, 3, self.scale.side, self.scale.side)

    @cached_property
    def pair(self) -> tuple[nn.Module, nn.Module]:
        """Student and teacher of all objectives but those that need a network to end at the scale's features."""
        return self.networks()

    def networks(self, stages: int = 4) -> tuple[nn.Module, nn.Module]:
        """ResNet-20 and ResNet-56, or ResNet-50 twice, with its first stages."""
        if self.name == "large":
            return broadcast.ResNet50(self.scale.classes, stages), broadcast.ResNet50(self.scale.classes, stages)
        request = ModelRequest(outputs=self.scale.classes, input_shape=(3, self.scale.side, self.scale.side))
        student, teacher = (models.open_model(f"builtin:resnet{depth}", request).network for depth in (20, 56))
        return student, teacher

    def connected(self, name: str) -> tuple[WeightedObjective, nn.Module, nn.Module]:
        """The objective with its taps and bridges, as a job makes it, the network that it trains, and one teacher."""
        card = objectives.card(name)
        objective = objectives.get(name)(**SETTINGS.get(name, {}))
        if name == "attention_maps":
            tap = ("attention",)
            return WeightedObjective(name, objective, card, lambda progress: 1.0, ("teacher",), tap, tap), *self.pair
        teachers = (("teacher", "second") if card.teachers == "several" else ("teacher",)) if card.asks_teachers else ()
        student_taps, teacher_taps = self.taps(name, teachers)
        weighted = WeightedObjective(name, objective, card, lambda progress: 1.0, teachers, student_taps, teacher_taps)
        own, teacher = self.networks(stages=1) if name in AT_THE_END else self.pair
        student = (copy.deepcopy(own), self.sample)
        [weighted], _ = connect([weighted], student, dict.fromkeys(("teacher", "second"), (teacher, self.sample)), seed=0)
        [weighted], network = shipped([weighted], student)
        if name in PROBING:
            weighted.objective.probe(self.trial(network), self.trial(teacher))  # type: ignore[operator]
        return weighted, network, teacher

    def taps(self, name: str, teachers: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What is tapped in student and teachers; a second head is given what the head is given, and can't be told otherwise."""
        card = objectives.card(name)
        if hasattr(objectives.get(name), "take_head") or not {"student.features", "teacher.features"} & set(card.needs):
            return (), ()
        paths = self.scale.taps if name in TWO_LAYERS else self.scale.taps[-1:]
        if "teacher.features" not in card.needs:
            return paths, ()
        return paths, tuple(f"{teacher}:{path}" for teacher in teachers for path in paths) if len(teachers) > 1 else paths

    def trial(self, network: nn.Module) -> Trial:
        """A network with two random samples to try it on."""
        inputs, labels = torch.randn(2, *self.sample.shape[1:]), torch.tensor([0, 1])
        return Trial(network.eval(), "classification", lambda samples: iter([(inputs, labels)]), F.cross_entropy)

    def shapes(self, network: nn.Module, paths: tuple[str, ...]) -> dict[str, Shape]:
        if paths == ("attention",):
            return {"attention": self.scale.attention}
        found = Taps(network, paths, self.sample).shapes if paths else {}
        return {path: tuple(shape[1:]) for path, shape in found.items()}

    def step(self, weighted: WeightedObjective, network: nn.Module, teacher: nn.Module) -> Step:
        """Random signals of the right shapes; the student's are leaves that ask for a gradient."""
        card, scale, generator = weighted.card, self.scale, torch.Generator().manual_seed(0)
        seen = self.shapes(network, weighted.student_taps)
        teachers = {name: self.shapes(teacher, weighted.taps_of(name)) for name in weighted.teachers}
        if "classification" in card.tasks:
            labels = torch.randint(scale.classes, (scale.batch,), generator=generator)
        else:
            labels = (torch.randn(scale.batch, scale.classes, generator=generator) > 0).float()
        ids = torch.randperm(POOL, generator=generator)[: scale.batch]
        domains = torch.arange(scale.batch) % 2 if "domains" in card.needs else None
        batch = Batch(
            torch.zeros(scale.batch, 1), ids, torch.zeros_like(ids), labels, torch.ones_like(ids, dtype=torch.bool), domains=domains
        )

        def said(features: dict[str, Shape], asks: bool) -> Signals:
            made = {path: torch.randn((scale.batch, *shape), generator=generator).relu_() for path, shape in features.items()}
            logits = 2 * torch.randn(scale.batch, scale.classes, generator=generator)
            return Signals(logits.requires_grad_(asks), {path: feature.requires_grad_(asks) for path, feature in made.items()})

        def view() -> Step:
            answers = {name: said(features, False) for name, features in teachers.items()}
            step = Step(batch, said(seen, True), answers, progress=0.5)
            return replace(step, peers={"peer": said({}, False)}) if "peers" in card.needs else step

        step = replace(view(), parameters=dict(network.named_parameters()))
        if "rotations" in card.needs:
            step = replace(step, rotations=(view(), view(), view()))
        return replace(step, second=view()) if "two_views" in card.needs else step


def work_of(objective: nn.Module, step: Step) -> Callable[[], None]:
    """Forward and backward of one objective."""
    views = [one for one in (step, step.second, *step.rotations) if one is not None]
    leaves = [leaf for one in views for leaf in (one.student.logits, *one.student.features.values())]
    trained = [*objective.parameters(), *step.parameters.values()]

    def work() -> None:
        for leaf in [*leaves, *trained]:
            leaf.grad = None
        objective(step).mean().backward()

    return work


def bare_step(scale_name: str) -> Callable[[], None]:
    """Forward, cross-entropy and backward of the student."""
    bench = Bench(scale_name)
    network = bench.pair[0].to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    inputs = torch.randn(bench.scale.batch, *bench.sample.shape[1:]).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(bench.scale.classes, (bench.scale.batch,))

    def work() -> None:
        network.zero_grad(set_to_none=True)
        F.cross_entropy(network(inputs), labels).backward()

    return work


def peak_bytes(work: Callable[[], None]) -> int:
    """The most bytes that tensors made by `work` held at one time, by torch's record of allocations and releases on the CPU.

    Releases of what was there before are left out, by address: torch reports some of them, with the size of an earlier tenant.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        recorded.export_chrome_trace(file.name)
        events = json.loads(Path(file.name).read_text())["traceEvents"]
    held: dict[int, int] = {}
    live = most = 0
    for event in sorted((event for event in events if event.get("name") == "[memory]"), key=lambda event: event["ts"]):
        size, address = event["args"]["Bytes"], event["args"]["Addr"]
        if size > 0:
            held[address] = size
        else:
            size = -held.pop(address, 0)
        live += size
        most = max(most, live)
    return most


def seconds(work: Callable[[], None], repeats: int) -> float:
    began = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - began) / repeats


def times_of(work: Callable[[], None], yardstick: Callable[[], None], blocks: int = BLOCKS) -> tuple[float, float, float]:
    """How often `yardstick` fits into `work`: median and quartiles over alternating blocks, the order swapped each time."""
    work()
    repeats = [max(1, round(SHORTEST / max(seconds(one, 1), 1e-6))) for one in (work, yardstick)]
    ratios = []
    for block in range(blocks):
        pair = [(work, repeats[0]), (yardstick, repeats[1])]
        taken = {one: seconds(one, count) for one, count in (pair if block % 2 else reversed(pair))}
        ratios.append(taken[work] / taken[yardstick])
    quartiles = statistics.quantiles(ratios, n=4)
    return statistics.median(ratios), quartiles[0], quartiles[2]


@dataclass
class Unit:
    """One scale's bare step: how long in yardsticks, how large, in bytes."""

    in_yardsticks: float
    bytes: int


def measure(name: str, bench: Bench, unit: Unit, yardstick: Callable[[], None]) -> dict[str, Any]:
    """One objective at one scale."""
    weighted, network, teacher = bench.connected(name)
    work = work_of(weighted.objective.train(), bench.step(weighted, network, teacher))
    work()  # banks and lazily made buffers are there from now on
    peak = peak_bytes(work)
    middle, low, high = (value / unit.in_yardsticks for value in times_of(work, yardstick))
    return {
        "time": _figures(middle),
        "time_quartiles": [_figures(low), _figures(high)],
        "memory": _figures(peak / unit.bytes),
        "megabytes": _figures(peak / 1e6),
    }


def _figures(value: float) -> float:
    return float(f"{value:.3g}")


def units(yardstick: Callable[[], None]) -> dict[str, Unit]:
    """The bare steps. The yardstick is the smaller one: the larger takes many seconds, too long to alternate with everything."""
    found = {}
    for scale_name in SCALES:
        work = bare_step(scale_name)
        times = 1.0 if scale_name == "cifar" else times_of(work, yardstick, 5)[0]
        found[scale_name] = Unit(times, peak_bytes(work))
        print(scale_name, found[scale_name], flush=True)
    return found


def against_broadcast() -> dict[str, Any]:
    """nst, fsp and crd beside the formulation that pairs everything with everything in memory: times faster, times leaner."""
    rows = {}
    for label, (ours, obvious) in broadcast.cases().items():
        middle, low, high = times_of(obvious, ours, 5)
        peaks = [peak_bytes(work) for work in (ours, obvious)]
        rows[label] = {
            "times_faster": _figures(middle),
            "quartiles": [_figures(low), _figures(high)],
            "times_leaner": _figures(peaks[1] / peaks[0]),
            "megabytes": [_figures(peak / 1e6) for peak in peaks],
        }
        print(label, rows[label], flush=True)
    return rows


@click.command(help=__doc__)
@click.argument("only", nargs=-1)
def main(only: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    kept: dict[str, Any] = {}
    path = results.FOLDER / "objectives.json"
    if only and path.exists():
        kept = json.loads(path.read_text())
    yardstick = bare_step("cifar")
    yardstick()
    if kept:
        found = {name: Unit(entry["in_yardsticks"], entry["bytes"]) for name, entry in kept["units"].items()}
    else:
        found = units(yardstick)
    rows, unmeasured = dict(kept.get("objectives", {})), dict(kept.get("unmeasured", {}))
    benches = {scale_name: Bench(scale_name) for scale_name in SCALES}
    for name in only or objectives.names():
        measured, reasons = {}, {}
        for scale_name, bench in benches.items():
            try:
                measured[scale_name] = measure(name, bench, found[scale_name], yardstick)
            except (TransfuseError, ValueError) as error:
                reasons[scale_name] = str(error).splitlines()[0]
        rows[name], unmeasured[name] = measured, reasons
        print(name, measured, reasons, flush=True)
    figures = {
        "units": {
            name: {"step": SCALES[name].unit, "in_yardsticks": _figures(unit.in_yardsticks), "bytes": unit.bytes}
            for name, unit in found.items()
        },
        "blocks": BLOCKS,
        "objectives": dict(sorted(rows.items())),
        "unmeasured": {name: reasons for name, reasons in sorted(unmeasured.items()) if reasons},
        "against_broadcast": kept["against_broadcast"] if kept else against_broadcast(),
    }
    print(results.write("objectives", figures))


if __name__ == "__main__":
    main()
