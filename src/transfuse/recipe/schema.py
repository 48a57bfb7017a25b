"""What every recipe has, and the recipe of a distillation; strict: an unknown key is an error."""

from __future__ import annotations

import warnings
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from transfuse.core.registry import did_you_mean
from transfuse.engine import trackers
from transfuse.recipe.augment import AugmentBlock
from transfuse.recipe.blocks import BudgetBlock, CacheBlock, DataBlock, LearnerBlock, ModelBlock, TeacherBlock, TrainBlock, source_string
from transfuse.recipe.delivery import Targets
from transfuse.recipe.forms import entry_names
from transfuse.recipe.methods import Auto, Block, ObjectiveBlock, parse_objective
from transfuse.recipe.problems import raise_all, under

Seed = Annotated[int, Field(ge=0)]
PeerName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]*$", max_length=64)]  # names files, too
MOST_SEEDS = 1000


class ValidateBlock(Block):
    folds: Annotated[int, Field(ge=2)] = 5
    """into how many parts the training samples are dealt, stratified; each is held out once"""


with warnings.catch_warnings():
    warnings.filterwarnings("ignore", 'Field name "validate"')  # see there

    class Recipe(Block):
        """What every job's recipe has."""

        written: ClassVar[dict[str, str]] = {}
        """recipe key -> the lines that `transfuse new` writes for it, where a comment with the default would not do"""

        short_keys: ClassVar[dict[str, str]] = {}
        """short key -> what it is short for"""

        data_keys: ClassVar[tuple[str, ...]] = ("data",)
        """keys whose value is a data source"""

        grows_from: ClassVar[str | None] = None
        """the job whose recipes this one's verb takes too, with more keys from the command line"""

        folded: ClassVar[str | None] = None
        """the key of the data that `validate` makes folds of; None: folds would say nothing of the job"""

        not_folded: ClassVar[str] = "nothing is trained here"
        """why they wouldn't"""

        not_the_controls: ClassVar[tuple[str, ...]] = ()
        """keys that the control doesn't depend on, beside those that it never does"""

        job: Any
        seed: Seed = 0
        """of initialisation, order and dropout"""
        seeds: Annotated[int, Field(ge=1, le=MOST_SEEDS)] | Annotated[list[Seed], Field(min_length=1)] | None = None
        """run the whole job once for each seed and sum up: a number (seed, seed + 1, ...) or a list"""
        validate: ValidateBlock | None = None  # pyright: ignore  pydantic's method of this name is deprecated, and nobody calls it
        """{folds: 5}: run the whole job on each of five folds of the training part and sum up, then once more on all of it"""
        track: list[str] = Field(default=[])
        """trackers that are told what metrics.jsonl is told: tensorboard, trackio, mlflow, wandb; none by default"""
        out: str | None = None
        """the run folder; null: runs/JOB-DATE-TIME"""

        @field_validator("seeds")
        @classmethod
        def _no_seed_twice(cls, value: Any) -> Any:
            if isinstance(value, list) and len(set(value)) < len(value):
                raise ValueError("a seed is there twice, and would give the same run twice")
            return value

        @field_validator("track")
        @classmethod
        def _known_trackers(cls, value: list[str]) -> list[str]:
            known = trackers.names()
            unknown = [name for name in value if name not in known]
            if unknown:
                raise ValueError(f"unknown tracker '{unknown[0]}'{did_you_mean(unknown[0], known)}; known: {', '.join(known)}")
            return value

        @field_validator("validate")
        @classmethod
        def _folds_of_something(cls, value: Any) -> Any:
            if value is not None and cls.folded is None:
                raise ValueError(f"this job can't be run on folds: {cls.not_folded}")
            return value

        @property
        def data_blocks(self) -> dict[str, Any]:
            """Recipe key -> data block, of the data that the job is given; the last one is what its network is for."""
            found = {key: getattr(self, key) for key in self.data_keys}
            return {key: block for key, block in found.items() if block is not None}

        def seed_list(self) -> list[int]:
            """The seeds of a job that is run several times; empty for a single run."""
            if isinstance(self.seeds, list):
                return self.seeds
            return list(range(self.seed, self.seed + (self.seeds or 0)))


def objective_list(value: Any) -> Any:
    """The forms in which people write `objectives` as a list of blocks with names; for a `before` validator of a recipe that has them."""
    if value == "auto":
        return value
    if isinstance(value, dict):
        value = [{name: settings} for name, settings in value.items()]
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        raise ValueError("objectives is a list such as [cross_entropy, {kd: {temperature: 4}}]")
    blocks, problems = [], []
    for index, item in enumerate(value):
        try:
            blocks.append(parse_objective(item))
        except ValidationError as error:
            problems.extend(under((index,), error))
    raise_all("objectives", problems)
    names = entry_names(block["method"] for block in blocks)
    return [{**block, "name": name} for block, name in zip(blocks, names, strict=True)]


class TaughtRecipe(Recipe):
    """What recipes have in which teachers teach a student."""

    short_keys: ClassVar[dict[str, str]] = {"teacher": "short for `teachers: {teacher: ...}`"}
    folded: ClassVar[str | None] = "data"

    data: Annotated[DataBlock, BeforeValidator(source_string)]
    """where the samples come from"""
    teachers: dict[str, Annotated[TeacherBlock, BeforeValidator(source_string)]] = Field(default={})
    """name -> model; `teacher: X` is short for `teachers: {teacher: X}`"""
    student: Annotated[LearnerBlock, BeforeValidator(source_string)]
    """the model that is trained and shipped"""
    peers: dict[PeerName, Annotated[ModelBlock, BeforeValidator(source_string)]] = Field(default={})
    """name -> model that learns beside the student, from labels and by dml from the others; it may start untrained"""
    objectives: Annotated[list[ObjectiveBlock], Field(min_length=1)] | Auto = "auto"
    """terms of the loss; auto: the task's label loss (0.1) and soft targets (0.9); with peers and no teacher: labels (1) and dml (1)"""
    augment: AugmentBlock = AugmentBlock()
    """random changes of the inputs, the same for student and teacher"""
    train: TrainBlock = TrainBlock()
    """how the student (and the control) is trained"""
    control: str = "reuse"
    """the same student from labels only: reuse a stored one, train anew, none, or the PATH of a run"""
    cache: CacheBlock = CacheBlock()
    """teachers' answers on disk"""
    budget: BudgetBlock = BudgetBlock()
    """what the student may cost; the report says met or missed"""
    samples: bool = True
    """keep a few raw inputs in the run folder for galleries"""
    export: Targets = Field(default=[])
    """formats in which the student is shipped at the end, each run and compared: onnx, {onnx_int8: {...}} (transfuse ls targets)"""

    @model_validator(mode="before")
    @classmethod
    def _one_teacher(cls, values: Any) -> Any:
        if isinstance(values, dict) and "teacher" in values:
            if "teachers" in values:
                raise ValueError("`teacher` and `teachers` are both given; keep one")
            values = dict(values)
            values["teachers"] = {"teacher": values.pop("teacher")}
        return values

    @field_validator("objectives", mode="before")
    @classmethod
    def _objectives(cls, value: Any) -> Any:
        return objective_list(value)


class DistillRecipe(TaughtRecipe):
    """A teacher (or several) teaches a student."""

    written: ClassVar[dict[str, str]] = {
        "job": "job: distill",
        "data.source": "  source: bundled:digits",
        "teachers": "teacher:\n  source: builtin:mlp\n"
        "  train: {epochs: 30}  # on the labels; remove it where the source has trained weights",
        "student.source": "  source: builtin:mlp",
        "objectives": "objectives:  # terms of the loss: transfuse ls objectives\n"
        "  - cross_entropy: {weight: 0.1}\n  - kd: {weight: 0.9, temperature: 4}",
    }

    job: Literal["distill"] = "distill"
