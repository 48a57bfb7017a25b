"""Every job that looks for a network's last layer finds the one that makes its outputs, whatever the network is like, or says it can't."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import transfuse
from transfuse.core.protocols import Silent
from transfuse.core.types import ModelRequest
from transfuse.errors import ModelError, RecipeError, TransfuseError
from transfuse.jobs import check, extract, finetune
from transfuse.jobs.context import Live
from transfuse.jobs.deliver import finish
from transfuse.models import rebuild
from transfuse.recipe.load import from_values

STEPS = {"steps": 3, "batch_size": 32, "precision": "fp32", "optimizer": {"adamw": {"lr": 0.01}}}


@pytest.fixture(autouse=True)
def without_page(monkeypatch):
    """Drawing takes longer than these jobs."""
    monkeypatch.setattr(finish, "report", lambda context: None)


class Zoo(nn.Module):
    """A body of columns and a head, registered in this order unless a kind says otherwise."""

    def __init__(self, outputs=4):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU())
        self.make(outputs)

    def make(self, outputs):
        self.head = nn.Linear(8, outputs)

    def forward(self, inputs):
        return self.head(self.body(inputs))


class Tuple(Zoo):
    """A class and a side task, the side task's layer registered last."""

    def make(self, outputs):
        self.head, self.side = nn.Linear(8, outputs), nn.Linear(8, 3)

    def forward(self, inputs):
        hidden = self.body(inputs)
        return self.head(hidden), self.side(hidden)


class Named(Tuple):
    def forward(self, inputs):
        hidden = self.body(inputs)
        return {"side": self.side(hidden), "logits": self.head(hidden)}


class First(Zoo):
    """The head is registered first, and a projection without use last; it runs last, too."""

    def __init__(self, outputs=4):
        nn.Module.__init__(self)
        self.head = nn.Linear(8, outputs)
        self.body, self.projection = nn.Sequential(nn.Linear(6, 8), nn.ReLU()), nn.Linear(8, 16)

    def forward(self, inputs):
        hidden = self.body(inputs)
        outputs = self.head(hidden)
        self.projection(hidden)
        return outputs


class Sequence(Zoo):
    """Ends in a one-dimensional convolution over several positions."""

    def make(self, outputs):
        self.head = nn.Conv1d(8, outputs, 1)

    def forward(self, inputs):
        hidden = self.body(inputs)
        return self.head(torch.stack([hidden, hidden.square(), hidden.roll(1, 1)], 2)).mean(2)


class Map(Zoo):
    """Ends in a 1x1 convolution that is pooled."""

    def make(self, outputs):
        self.head = nn.Conv2d(2, outputs, 1)

    def forward(self, inputs):
        return self.head(self.body(inputs).reshape(-1, 2, 2, 2)).mean((2, 3))


class Shared(Zoo):
    """One layer under two names."""

    def make(self, outputs):
        self.other = self.head = nn.Linear(8, outputs)


class Twins(Zoo):
    """The mean of two heads."""

    def make(self, outputs):
        self.head, self.twin = nn.Linear(8, outputs), nn.Linear(8, outputs)

    def forward(self, inputs):
        hidden = self.body(inputs)
        return (self.head(hidden) + self.twin(hidden.square())) / 2


KINDS = [Zoo, Tuple, Named, First, Sequence, Map, Shared, Twins]
HEADS = ("head", "twin", "other")  # paths of heads of the main output


def columns(seed, rows=90):
    inputs = torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed))
    return inputs, inputs[:, :4].argmax(1)


@pytest.fixture
def settings(tmp_path):
    return {"out": tmp_path / "run", "cache": {"dir": str(tmp_path / "cache")}, "samples": False}


DATA = (columns(0), columns(1, 40))


def finetuned(network, settings, policy="full", **changes):
    values = {"train": STEPS, "control": "none", **settings, **changes}
    return transfuse.finetune(DATA, network, policy, **values)


def moved(network, run):
    """Names of the parameters that are not those of the network that was given, as they are in the run's folder."""
    before, after = network.state_dict(), load_file(run.path / "student.safetensors")
    return {name for name in after if name not in before or not torch.equal(before[name], after[name])}


def is_head(name):
    return name.split(".")[0] in HEADS


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", ["probe", "lp_ft"])
def test_the_head_alone_learns_while_the_body_is_frozen(kind, policy, settings):
    torch.manual_seed(0)
    network = kind()
    found = finetuned(network, settings, policy)
    changed = moved(network, found)
    assert changed, "something has learnt"
    assert any(is_head(name) for name in changed)
    assert any(name.startswith("body") for name in changed) == (policy == "lp_ft")
    assert all(is_head(name) or name.startswith("body") for name in changed), "what makes no output of the task stays"


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_with_other_outputs_is_replaced_in_student_and_control(kind, settings):
    network = kind(7)
    found = finetuned(network, settings, control="train")
    assert found.summary["models"].keys() == {"student", "control"}
    for part in ("student", "control/student"):
        state = load_file(found.path / f"{part}.safetensors")
        assert state["head.weight"].shape[0] == 4
        assert state["head.bias"].shape == (4,)
    assert "predicts 7 values, the data have 4 classes" in (found.path / "reasons.json").read_text()
    again = kind(7)
    transfuse.models.load_weights(again, found.path / "student.safetensors")
    with np.load(found.path / "predictions/student.npz") as kept, torch.no_grad():
        outputs = again.eval()(DATA[1][0])
        outputs = outputs["logits"] if isinstance(outputs, dict) else outputs[0] if isinstance(outputs, tuple) else outputs
        np.testing.assert_allclose(kept["outputs"], outputs.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [Tuple, First, Sequence, Map, Shared])
def test_features_are_those_in_front_of_the_head_and_the_new_head_stands_there(kind, settings):
    network = kind(7)
    found = transfuse.extract(DATA, network, head="ridge", control="none", map="none", **settings)
    assert found.summary["extract"]["taps"] == [f"{'other' if kind is Shared else 'head'}@input"]
    with np.load(found.path / "predictions/student.npz") as kept, torch.no_grad():
        np.testing.assert_allclose(kept["outputs"], found.student(DATA[1][0]).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [Tuple, Sequence, First])
@pytest.mark.parametrize("term", ["co_tuning", "l2_sp"])
def test_objectives_that_hold_on_to_the_start_find_its_head(kind, term, settings):
    found = finetuned(kind(7), settings, objectives=["cross_entropy", term])
    assert found.summary["finetune"]["groups"][-1] == "head"


class Headless(nn.Module):
    """A 1x1 stem, and a 3x3 convolution that makes the outputs."""

    def __init__(self, outputs=4):
        super().__init__()
        self.stem, self.last = nn.Conv2d(1, 8, 1), nn.Conv2d(8, outputs, 3, padding=1)

    def forward(self, inputs):
        return self.last(self.stem(inputs[:, None, :, None]).relu()).mean((2, 3))


@pytest.mark.parametrize(
    ("job", "network", "words"),
    [
        (
            "probe",
            Headless(),
            ("model.head", "can't find the last layer of Headless; its outputs are made by last", "stem (Conv2d"),
        ),
        ("full", Headless(7), ("model.head", "predicts 7 values, the data have 4 classes", "its outputs are made by last", "stem (Conv2d")),
        ("extract", Headless(), ("model: ", "can't find the last layer", "stem (Conv2d 1 -> 8)")),
        ("extract", Twins(), ("model: ", "made by 2 last layers: head, twin")),
    ],
    ids=["probe", "other outputs", "features", "features of twins"],
)
def test_what_makes_outputs_and_is_no_head_is_named_with_the_candidates(job, network, words, settings):
    with pytest.raises(TransfuseError) as caught:
        transfuse.extract(DATA, network, **settings) if job == "extract" else finetuned(network, settings, job)
    assert all(word in str(caught.value) for word in words)
    assert not settings["out"].exists()


class Listener(Silent):
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


@pytest.mark.parametrize(("job", "verb"), [("finetune", finetune), ("extract", extract)])
def test_who_is_refused_reads_the_reason_alone_and_else_all_notes(job, verb, settings):
    listener = Listener()
    values = {"job": job, "data": "bundled:digits", "model": "builtin:mlp", **settings, "out": str(settings["out"])}
    with pytest.raises(TransfuseError, match="no trained weights"):
        verb.check(from_values(values), listener, Live())
    assert listener.lines == []
    verb.check(from_values({**values, "model": "live:Small", "control": "none"}), listener, Live(student=Pixels()))
    assert listener.lines


class Pixels(nn.Module):
    def __init__(self):
        super().__init__()
        self.flat, self.head = nn.Flatten(), nn.Linear(64, 10)

    def forward(self, inputs):
        return self.head(self.flat(inputs))


OTHER = (columns(2), columns(3, 40))


@pytest.mark.parametrize("job", ["together", "adapt"])
def test_students_of_two_sets_take_a_head_by_name_and_one_that_fits_by_themselves(job, settings):
    def run(student, out):
        return getattr(transfuse, job)(OTHER, DATA, student, train=STEPS, control="none", **{**settings, "out": out})

    found = run({"source": First(7), "head": {"mlp": {"widths": [5]}}}, settings["out"])
    assert load_file(found.path / "student.safetensors")["head.2.weight"].shape == (4, 5)
    found = run(First(7), settings["out"].with_name("other"))
    assert load_file(found.path / "student.safetensors")["head.weight"].shape == (4, 8)


@pytest.mark.parametrize("job", ["distill", "together", "adapt", "finetune"])
def test_a_network_with_nothing_to_train_is_refused_before_the_folder_is_made(job, settings):
    frozen = Zoo().requires_grad_(False)
    values = {"train": STEPS, "control": "none", **settings}
    calls = {
        "distill": lambda: transfuse.distill(student=frozen, data=DATA, objectives=["cross_entropy"], **values),
        "together": lambda: transfuse.together(OTHER, DATA, frozen, **values),
        "adapt": lambda: transfuse.adapt(OTHER, DATA, frozen, **values),
        "finetune": lambda: transfuse.finetune(DATA, frozen, **values),
    }
    key = "model" if job == "finetune" else "student"
    with pytest.raises(RecipeError, match=rf"^{key}: every parameter of live:Zoo is frozen"):
        calls[job]()
    assert not settings["out"].exists()


class Picky(Pixels):
    """Asserts the size of its pictures, as transformers do."""

    def forward(self, inputs):
        assert inputs.shape[-1] == 16, f"Input width ({inputs.shape[-1]}) doesn't match model (16)"
        return super().forward(inputs[..., ::2, ::2])


@pytest.mark.parametrize("job", ["finetune", "extract", "distill"])
def test_pictures_of_another_size_than_the_network_asserts_are_refused_by_key(job, settings):
    values = {"job": job, "data": "bundled:digits", **settings, "out": str(settings["out"])}
    values |= {"student": "live:Picky", "objectives": ["cross_entropy"]} if job == "distill" else {"model": "live:Picky"}
    key = "student" if job == "distill" else "model"
    with pytest.raises(ModelError) as caught:
        check.run(from_values(values), live=Live(student=Picky()))
    assert caught.value.where == f"{key}.preprocess"
    assert "Input width (8) doesn't match model (16)" in caught.value.what
    assert f"{key}.preprocess={{size: 224" in str(caught.value.fix)
    values[key] = {"source": "live:Picky", "preprocess": {"size": 16}}
    check.run(from_values(values), live=Live(student=Picky()))


def test_weights_of_another_architecture_are_refused_by_key_with_both_names(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(rebuild, "variants", lambda: ("resnet8", "resnet14", "vgg8", "mlp"))  # making all of them takes seconds
    network = transfuse.models.open_model("builtin:resnet8", ModelRequest(outputs=7, input_shape=(1, 8, 8))).network
    torch.save(network.state_dict(), tmp_path / "small.pt")
    model = {"source": f"file:{tmp_path / 'small.pt'}", "architecture": "builtin:resnet14"}
    with pytest.raises(ModelError) as caught:
        transfuse.finetune("bundled:digits", model, **settings)
    assert caught.value.where == "model.architecture"
    assert "small.pt: the weights don't fit builtin:resnet14" in caught.value.what
    assert "layer1.1.conv1.weight" in caught.value.what
    assert caught.value.fix == "builtin:resnet8 has these names and shapes"
    assert not settings["out"].exists()
