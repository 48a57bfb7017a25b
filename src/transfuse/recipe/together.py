"""The recipe of learning from several labelled sets at once: L = L_target + sum of lambda_k L_k over the sources."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from transfuse.core.registry import did_you_mean
from transfuse.recipe.augment import AugmentBlock
from transfuse.recipe.blocks import BudgetBlock, CacheBlock, DataBlock, LearnerBlock, TrainBlock, source_string
from transfuse.recipe.delivery import Targets
from transfuse.recipe.methods import TABLES, one_method
from transfuse.recipe.schema import PeerName, Recipe

NotNegative = Annotated[float, Field(ge=0)]
Head = Literal["auto", "shared", "own"]
SOURCE, TARGET = "source", "target"


class TogetherRecipe(Recipe):
    """A network learns from the labels of one or several sources and of a target at once, and is shipped for the target."""

    data_keys: ClassVar[tuple[str, ...]] = ("source", "target")
    folded: ClassVar[str | None] = "target"
    not_the_controls: ClassVar[tuple[str, ...]] = ("heads", "source_weight")
    written: ClassVar[dict[str, str]] = {
        "job": "job: together",
        "source.source": "  source: idx:./mnist",
        "target.source": "  source: bundled:digits",
        "student.source": "  source: builtin:convnet",
        "source_weight": "source_weight: [0, 0.1, 0.3, 1]  # lambda in L_target + lambda L_source; of a list, validation chooses",
    }

    job: Literal["together"] = "together"
    source: Annotated[DataBlock | None, BeforeValidator(source_string)] = None
    """a labelled set from elsewhere, or of another task; short for `sources: {source: ...}`"""
    sources: dict[PeerName, Annotated[DataBlock, BeforeValidator(source_string)]] = Field(default={})
    """name -> a labelled set from elsewhere, or of another task; any number of them"""
    target: Annotated[DataBlock, BeforeValidator(source_string)]
    """the labelled set that the network is shipped for; its validation part selects, its test part is what is reported"""
    heads: Head | dict[str, Head] = "auto"
    """shared: the target's last layer serves a source, too, which takes the same classes; own: a last layer of its own, opened as
    run:PATH#head:NAME; auto: shared where the classes are the same; or {NAME: one of these}"""
    source_weight: NotNegative | Annotated[list[NotNegative], Field(min_length=1)] | Literal["uncertainty"] | dict[str, Any] = 1.0
    """lambda in L_target + lambda L_source, for each source or {NAME: lambda}; a list: the target's validation part chooses;
    {linear: {start: 1, end: 0}}: changes over the run; uncertainty: all terms have weights that are learnt (Kendall, Gal, Cipolla, 2018)"""
    target_share: Annotated[float, Field(gt=0, lt=1)] | Literal["size"] = 0.5
    """the target's share of each batch, whatever the sizes of the sets; the sources share the rest evenly; size: as the sets have it"""
    student: Annotated[LearnerBlock, BeforeValidator(source_string)]
    """the network that is trained and shipped; its head is replaced where it has other outputs than the target"""
    augment: AugmentBlock = AugmentBlock()
    """random changes of the inputs of all sets"""
    train: TrainBlock = TrainBlock()
    """how the student (and the control) is trained; an epoch is over when all sets were passed through. gradients: pcgrad lets the
    terms give way to each other"""
    control: str = "reuse"
    """the same student from the target alone: reuse a stored one, train anew, none, or the PATH of a run"""
    cache: CacheBlock = CacheBlock()
    """where controls are kept"""
    budget: BudgetBlock = BudgetBlock()
    """what the student may cost; the report says met or missed"""
    samples: bool = True
    """keep a few raw inputs of the target's test part in the run folder for galleries"""
    export: Targets = Field(default=[])
    """formats in which the student is shipped at the end, each run and compared: onnx, {onnx_int8: {...}} (transfuse ls targets)"""

    @model_validator(mode="before")
    @classmethod
    def _one_form(cls, values: Any) -> Any:
        """`source: X` is short for `sources: {source: X}`, so that is read as `source: X`."""
        if not isinstance(values, dict) or not values.get("sources"):
            return values
        if values.get("source") is not None:
            raise ValueError("`source` and `sources` are both given; keep one")
        named = values["sources"]
        if isinstance(named, dict) and list(named) == [SOURCE]:
            values = {**values, "source": named[SOURCE], "sources": {}}
        return values

    @field_validator("sources")
    @classmethod
    def _names_of_sources(cls, value: dict[str, Any]) -> dict[str, Any]:
        """Names that would mean two things: terms of the loss go by them, and `source_weight` tells them from schedules."""
        taken = {TARGET, *TABLES["weight"]}
        for name in value:
            if name in taken:
                raise ValueError(f"a set can't be called '{name}': that means something else here; choose another name")
        return value

    @field_validator("heads")
    @classmethod
    def _heads(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, dict):
            _refuse_other_names(value, _names(info))
        return value

    @field_validator("source_weight", mode="before")
    @classmethod
    def _weight(cls, value: Any, info: ValidationInfo) -> Any:
        names = _names(info)
        if isinstance(value, dict) and set(value) & {*names}:  # by source, else a schedule
            _refuse_other_names(value, names)
            if missing := [name for name in names if name not in value]:
                raise ValueError(f"nothing is said about '{missing[0]}'; name every source: {', '.join(names)}")
            return {name: _weight_of(name, value[name]) for name in names}
        for entry in value if isinstance(value, list) else [value]:
            _refuse_negative(entry)
        if isinstance(value, list) and len(set(map(str, value))) < len(value):
            raise ValueError("a value is there twice")
        if isinstance(value, dict) or (isinstance(value, str) and value != "uncertainty"):
            return one_method(value, "weight")
        return value

    @model_validator(mode="after")
    def _some_source(self) -> TogetherRecipe:
        if not self.labelled:
            raise ValueError("source: is missing: a labelled set such as idx:./mnist; of several, sources: {NAME: ..., NAME: ...}")
        return self

    @property
    def labelled(self) -> dict[str, DataBlock]:
        """The sources by name."""
        return {SOURCE: self.source} if self.source is not None else self.sources

    @property
    def data_blocks(self) -> dict[str, DataBlock]:
        """Recipe key -> data block, the target's last."""
        named = {SOURCE: self.source} if self.source is not None else {f"sources.{name}": block for name, block in self.sources.items()}
        return {**named, TARGET: self.target}

    @field_validator("student")
    @classmethod
    def _own_weights(cls, value: LearnerBlock) -> LearnerBlock:
        if value.init is not None:
            raise ValueError("init: the control begins as the student does, so give the network with the weights to begin with: run:PATH")
        return value

    @property
    def candidates(self) -> list[float]:
        """The values that validation chooses among; empty where there is nothing to choose."""
        return list(self.source_weight) if isinstance(self.source_weight, list) else []

    def head_of(self, name: str) -> str:
        """What the recipe says about a source's head: auto, shared or own."""
        return self.heads.get(name, "auto") if isinstance(self.heads, dict) else self.heads

    def weights(self, value: Any) -> dict[str, Any]:
        """Each source's weight or schedule where `source_weight` has this value; that of `uncertainty` is 1, as it begins."""
        if isinstance(value, dict) and set(value) == set(self.labelled):
            return dict(value)
        return dict.fromkeys(self.labelled, 1.0 if value == "uncertainty" else value)


def _names(info: ValidationInfo) -> list[str]:
    """The sources that were read before a key that speaks of them."""
    return [SOURCE] if info.data.get("source") is not None else list(info.data.get("sources") or {})


def _weight_of(name: str, value: Any) -> Any:
    """One source's weight in a mapping."""
    if isinstance(value, list):
        raise ValueError(f"{name}: a list is chosen from for all sources at once; give a number or a schedule here, or the list alone")
    if value == "uncertainty":
        raise ValueError(f"{name}: uncertainty weighs all terms against each other; write source_weight: uncertainty")
    if isinstance(value, (dict, str)):
        return one_method(value, "weight")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name}: {value!r} is no weight; give a number from 0 on, or a schedule such as {{linear: {{start: 1, end: 0}}}}")
    _refuse_negative(value)
    return float(value)


def _refuse_negative(value: Any) -> None:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value < 0:
        raise ValueError(f"{value:g} is negative: the source's loss would be raised; 0 leaves the source out")


def _refuse_other_names(given: Collection[str], names: list[str]) -> None:
    for name in given:
        if name not in names:
            raise ValueError(f"there is no source '{name}'{did_you_mean(str(name), names)}; there are: {', '.join(names)}")
