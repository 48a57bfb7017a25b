"""Features in the engine: from the forward passes that are made anyway, with bridges that are trained with the student."""

import copy

import jaxtyping
import pytest
import torch
from torch import nn

from transfuse.core.grafts import graft
from transfuse.core.preprocess import Preprocess
from transfuse.core.types import Batch, WeightedObjective
from transfuse.core.vision import import_torchvision
from transfuse.engine.checkpoint import Checkpoints
from transfuse.engine.features import connect, shipped
from transfuse.engine.loop import Loop, Settings
from transfuse.engine.precision import has_cpp_compiler
from transfuse.engine.steppers.supervised import Supervised
from transfuse.engine.teacher_cache.cached import CachedTeacher, Memory
from transfuse.engine.teacher_cache.forms import Dense
from transfuse.engine.teacher_cache.room import Room
from transfuse.engine.teacher_cache.store import Store
from transfuse.engine.teacher_cache.teachers import LiveTeacher, TableTeacher, with_features
from transfuse.errors import ModelError, RecipeError
from transfuse.objectives import card, get

from .conftest import network, weighted

PLAIN = Preprocess()


def tapped(method: str, student: tuple[str, ...] = (), teacher: tuple[str, ...] = (), **arguments) -> WeightedObjective:
    return WeightedObjective(method, get(method)(**arguments), card(method), lambda progress: 2.0, ("teacher",), student, teacher)


def wide() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 24), nn.ReLU(inplace=True), nn.Linear(24, 3))


def live(module: nn.Module, loader) -> LiveTeacher:
    return LiveTeacher(module, PLAIN, loader.fetch)


def fitnet() -> WeightedObjective:
    (objective,), _ = connect(
        [tapped("fitnet", ("2",), ("0",))], (network(), torch.zeros(1, 6)), {"teacher": (wide(), torch.zeros(1, 6))}, 0
    )
    return objective


def test_a_feature_objective_sees_both_networks_features(problem):
    loader, student, teacher, objective = problem.loader(), network(), wide(), fitnet()
    calls = []
    student.register_forward_hook(lambda *_: calls.append("student"))
    stepper = Supervised(student, PLAIN, [weighted("cross_entropy"), objective], {"teacher": live(teacher, loader)})
    batch = next(loader.batches(0, 1))
    stepper.terms(batch, "all", 0.0)  # the first step also looks which features are changed in place
    calls.clear()
    term = stepper.terms(batch, "all", 0.0)[1]
    bridged = objective.objective.bridges[0].project(student[:3](batch.inputs))
    expected = (bridged - teacher[0](batch.inputs)).square().mean(1)  # before the ReLU that works in place
    torch.testing.assert_close(term.values, expected)
    assert calls == ["student"]
    term.values.sum().backward()
    assert student[0].weight.grad is not None
    assert teacher[0].weight.grad is None
    assert student[4].weight.grad is None  # the head lies behind the tap


def test_nothing_tapped_nothing_read(problem):
    loader = problem.loader()
    stepper = Supervised(network(), PLAIN, [weighted("kd", teachers=("teacher",))], {"teacher": live(wide(), loader)})
    stepper.terms(next(loader.batches(0, 1)), "all", 0.0)
    assert stepper._taps is None
    assert stepper._teachers["teacher"].answers(torch.arange(2), torch.zeros(2, dtype=torch.int64)).features == {}


def test_objectives_get_their_own_taps_in_their_own_order(problem):
    seen = {}

    class Looks(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def forward(self, step):
            seen[self.name] = (list(step.student.features), list(step.teacher.features))
            return step.student.logits.sum(1)

    def looks(name, student, teacher):
        return WeightedObjective(name, Looks(name), card("fitnet"), lambda progress: 1.0, ("teacher",), student, teacher)

    loader = problem.loader()
    objectives = [looks("one", ("4", "0"), ("2",)), looks("other", ("2",), ("1", "2")), looks("none", (), ())]
    Supervised(network(), PLAIN, objectives, {"teacher": live(wide(), loader)}).terms(next(loader.batches(0, 1)), "all", 0.0)
    assert seen == {"one": (["4", "0"], ["2"]), "other": (["2"], ["1", "2"]), "none": ([], [])}


def test_a_remembered_teacher_is_asked_live_for_features_that_are_not_kept(problem, tmp_path):
    loader = problem.loader()
    asked = live(wide(), loader)
    form = Dense((3,), "fp32")
    remembered = CachedTeacher(asked, Memory(Store(Room(tmp_path), "key", 50, form.bytes), form))
    ids, views = torch.tensor([3, 7]), torch.zeros(2, dtype=torch.int64)
    assert with_features(remembered, ()) is remembered
    teacher = with_features(remembered, ("0",))
    for _ in range(2):
        answers = teacher.answers(ids, views)
    torch.testing.assert_close(answers.features["0"], asked.module[0](problem.inputs[ids]))
    assert not answers.features["0"].requires_grad
    assert teacher.forwards == remembered.forwards == 4


def test_a_table_has_no_features():
    with pytest.raises(ModelError, match="no inner features"):
        with_features(TableTeacher(torch.arange(3), torch.zeros(3, 2)), ("0",))


def fit(problem, student, objective, folder=None, steps=6, clip=1.0, rate=None):
    loader = problem.loader()
    stepper = Supervised(student, PLAIN, [weighted("cross_entropy"), objective], {"teacher": live(wide(), loader)})
    optimizer = ("sgd", rate or {"lr": 0.1})
    settings = Settings(steps=steps, seed=0, optimizer=optimizer, schedule=("constant", {}), select="last", clip=clip)
    return Loop(stepper, loader, settings, None, Checkpoints(folder)).fit()


def test_bridges_are_trained_with_the_student_and_kept_for_resuming(problem, tmp_path):
    student, objective = network(), fitnet()
    before = {name: value.clone() for name, value in objective.objective.state_dict().items()}
    fit(problem, student, objective, tmp_path / "whole")
    assert all(not torch.equal(value, before[name]) for name, value in objective.objective.state_dict().items())
    assert set(student.state_dict()) == set(network().state_dict())

    halved, again = network(), fitnet()
    fit(problem, halved, again, tmp_path / "halved", steps=3)
    halved, again = network(), fitnet()
    fit(problem, halved, again, tmp_path / "halved")
    pairs = [*zip(student.parameters(), halved.parameters(), strict=True)]
    pairs += zip(objective.objective.parameters(), again.objective.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_student_and_bridges_are_clipped_by_one_norm(problem):
    student, objective = network(), fitnet()
    parts = {"student": student, "bridges": objective.objective}
    before = {name: nn.utils.parameters_to_vector(part.parameters()).clone() for name, part in parts.items()}
    fit(problem, student, objective, steps=1, clip=0.01, rate={"lr": 1.0, "momentum": 0.0, "weight_decay": 0.0})
    moved = {name: (nn.utils.parameters_to_vector(part.parameters()) - before[name]).norm().item() for name, part in parts.items()}
    assert min(moved.values()) > 0
    assert (moved["student"] ** 2 + moved["bridges"] ** 2) ** 0.5 == pytest.approx(0.01, rel=1e-3)


def cnn(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.Flatten(),
        nn.LazyLinear(3),
    )


def image_networks(student_size=8, teacher_size=16):
    networks = [(cnn(width), torch.zeros(1, 1, size, size)) for width, size in ((2, student_size), (4, teacher_size))]
    for module, example in networks:
        module(example)
    return networks[0], {"teacher": networks[1]}


def test_taps_that_are_not_named_are_auto_and_paired_from_the_last():
    student, teachers = image_networks()
    (named, free, alone), notes = connect(
        [tapped("fitnet", ("auto",), ("3",)), tapped("attention_transfer"), tapped("kd")], student, teachers, 0
    )
    assert (named.student_taps, named.teacher_taps) == (("3",), ("3",))
    assert (free.student_taps, free.teacher_taps) == (("1", "3"), ("1", "3"))
    assert (alone.student_taps, alone.teacher_taps) == ((), ())
    assert notes[1].startswith("attention_transfer compares 1 with 1, 3 with 3")
    assert len(notes) == 2


def test_bridges_begin_with_weights_of_the_seed_and_disturb_no_other_draw():
    def weights(seed, draws):
        torch.manual_seed(draws)
        student, teachers = image_networks()
        state = torch.get_rng_state()
        (objective,), _ = connect([tapped("fitnet", ("3",), ("3",))], student, teachers, seed)
        assert torch.equal(torch.get_rng_state(), state)
        return objective.objective.bridges[0].project.weight

    assert torch.equal(weights(0, 0), weights(0, 1))
    assert not torch.equal(weights(0, 0), weights(1, 0))


@pytest.fixture
def transformer():
    import_torchvision()
    import timm

    return timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=4, depth=1, embed_dim=24, num_heads=3, in_chans=1, num_classes=3
    )


@pytest.mark.parametrize("method", ["fitnet", "attention_transfer", "cwd", "ft", "ickd", "mgd", "nst", "vid"])
@pytest.mark.parametrize("student_is", ["cnn", "transformer"])
def test_maps_and_tokens_are_compared_through_whatever_lies_between(problem, transformer, student_is, method):
    networks = [(transformer, torch.zeros(1, 1, 16, 16)), image_networks(student_size=16)[0]]
    (student, example), teacher = networks if student_is == "transformer" else networks[::-1]
    (objective,), _ = connect([tapped(method)], (student, example), {"teacher": teacher}, 0)
    inputs, ids = torch.randn(3, 1, 16, 16), torch.arange(3)
    batch = Batch(inputs, ids, ids, ids, torch.ones(3, dtype=torch.bool))
    answering = LiveTeacher(teacher[0].eval(), PLAIN, lambda ids, views: inputs)
    (term,) = Supervised(student, PLAIN, [objective], {"teacher": answering}).terms(batch, "all", 0.0)
    assert term.values.shape == (3,)
    gradients = torch.autograd.grad(term.values.sum(), list(student.parameters()), allow_unused=True)
    assert any(gradient is not None and gradient.abs().max() > 0 for gradient in gradients)


@pytest.mark.parametrize(
    ("objective", "error", "message"),
    [
        (tapped("fitnet", ("3x",), ("3",)), ModelError, r"^objectives\.fitnet: student_tap: Sequential has no module '3x'"),
        (tapped("fitnet", ("3",), ("8",)), ModelError, r"^objectives\.fitnet: teacher_tap: Sequential has no module '8'"),
        (tapped("fitnet", ("1", "3"), ("3",)), ModelError, r"2 features of the student \(1, 3\) and 1 of the teacher"),
        (tapped("hidden_cosine", ("3",), ("3",)), ModelError, "use tokens: mean"),
    ],
)
def test_what_cannot_be_connected_is_refused_at_its_place_in_the_recipe(objective, error, message):
    with pytest.raises(error, match=message):
        connect([objective], *image_networks(), 0)


def test_features_come_from_one_network():
    student, teachers = image_networks()
    for names, message in (((), "there are: none"), (("teacher", "other"), "there are: teacher, other"), (("table",), "is not a network")):
        objective = WeightedObjective("fitnet", get("fitnet")(), card("fitnet"), lambda progress: 1.0, names, ("3",), ("3",))
        with pytest.raises(RecipeError, match=message):
            connect([objective], student, teachers, 0)


class Ships(nn.Module):
    """Exports what it is told to."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def export(self, student):
        return self.change(student)


def shipping(change, name="ships") -> WeightedObjective:
    return WeightedObjective(name, Ships(change), card("fitnet"), lambda progress: 1.0, (), ("1",), ())


def grown(student):
    graft(student, "1", "after", [nn.Linear(16, 16)])
    return student


@pytest.mark.skipif(not has_cpp_compiler(), reason="inductor builds CPU code with a C++ compiler, and there is none")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own, about torch.jit
def test_a_compiled_student_is_tapped_in_its_compiled_pass(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # else the compiler would have to trace through the checker as well
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    (plain, example), teachers = image_networks(teacher_size=8)
    inputs, ids = torch.randn(4, 1, 8, 8), torch.arange(4)
    batch = Batch(inputs, ids, ids, ids, torch.ones(4, dtype=torch.bool))
    answering = LiveTeacher(teachers["teacher"][0].eval(), PLAIN, lambda ids, views: inputs)
    found = []
    for compiling in (False, True):
        student = copy.deepcopy(plain)
        (objective,), _ = connect([tapped("fitnet", ("1", "3"), ("1", "3"))], (student, example), teachers, 0)
        forward = torch.compile(student) if compiling else None
        stepper = Supervised(student, PLAIN, [objective], {"teacher": answering}, forward=forward)
        values = stepper.terms(batch, "all", 0.0)[0].values
        found.append([values.detach(), *torch.autograd.grad(values.sum(), list(student[:4].parameters()))])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    torch._dynamo.reset()


def test_what_is_shipped_is_trained_in_the_students_place_and_others_tap_as_before():
    student = network()
    other = WeightedObjective("other", nn.Identity(), card("fitnet"), lambda progress: 1.0, (), ("0", "1"), ())
    (ships, moved), found = shipped([shipping(grown), other], (student, torch.zeros(1, 6)))
    assert ships.student_taps == ("1",)
    assert moved.student_taps == ("0", "1.0")
    assert [name for name, _ in found.named_children()] == [name for name, _ in network().named_children()]
    assert "1.1.0.weight" in found.state_dict()


def test_nothing_is_shipped_beside_the_student_where_no_objective_says_so():
    student, objectives = network(), [weighted("cross_entropy")]
    assert shipped(objectives, (student, torch.zeros(1, 6))) == (objectives, student)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda student: nn.Sequential(student, nn.Linear(3, 3)), "could not be opened from its file"),
        (lambda student: graft(student, "1", "after", [nn.Linear(16, 9)]) or student, "can't run"),
        (lambda student: graft(student, "4", "after", [nn.Linear(3, 9)]) or student, "has 9 outputs, the student 3"),
    ],
    ids=["another network", "other widths", "other outputs"],
)
def test_a_network_that_can_not_be_shipped_is_refused(change, words):
    with pytest.raises(ModelError, match=words):
        shipped([shipping(change)], (network(), torch.zeros(1, 6)))


def test_one_run_ships_one_network():
    with pytest.raises(RecipeError, match="one and two each ship"):
        shipped([shipping(grown, "one"), shipping(grown, "two")], (network(), torch.zeros(1, 6)))


def test_weights_that_objectives_make_for_their_outputs_are_a_function_of_the_seed():
    def first(seed):
        objective = tapped("ctkd", form="instance")
        connect([objective], (network(), torch.zeros(1, 6)), {}, seed)
        return objective.objective.network[0].weight

    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))


@pytest.mark.parametrize("name", ["l2_sp", "ewc"])
def test_objectives_on_weights_know_which_of_them_start_anew(name):
    student = network()
    holding = WeightedObjective(name, get(name)(), card(name), lambda progress: 1.0)
    (held,), _ = connect([holding], (student, torch.zeros(1, 6)), {}, 0, tuple(student[4].parameters()))
    kept = {key.partition("/")[2] for key in held.objective.state_dict() if key.startswith("starting/")}
    assert kept == {"0/weight", "0/bias"}
    (moved, _), _ = shipped([held, shipping(grown)], (student, torch.zeros(1, 6)), tuple(student[4].parameters()))
    kept = {key.partition("/")[2] for key in moved.objective.state_dict() if key.startswith("starting/")}
    assert "1/1/0/weight" in kept
    assert not {"4/weight", "4/bias"} & kept
