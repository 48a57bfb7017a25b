"""A sweep's study: Optuna decides which values come next and which trial is stopped; a journal in the sweep's folder remembers.

Each trial's sampler is seeded with the study's seed and the trial's number, so that a sweep that was killed and resumed tries the same
values as one that was not.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import warnings
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfuse.core.seeds import derive
from transfuse.errors import MissingExtra
from transfuse.recipe.space import Entry
from transfuse.recipe.sweep import SweepRecipe

if TYPE_CHECKING:
    import optuna
    from optuna.trial import Trial

JOURNAL = "study.journal"


def require_optuna() -> None:
    """
    Raises:
        MissingExtra: Optuna is not installed.
    """
    if importlib.util.find_spec("optuna") is None:
        raise MissingExtra("optuna", "sweep", "a sweep")


@contextmanager
def quietly() -> Iterator[None]:
    """Optuna's own lines on stderr are left out: the console says what it does."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"optuna\..*")
            yield
    finally:
        optuna.logging.set_verbosity(level)


class Trials:
    """The trials of a sweep, begun or gone on with.

    Args:
        folder: of the sweep.
        recipe: of the sweep, resolved.
        higher_is_better: of the validation metric.
        whole: keys of ranges from which only whole numbers are drawn.
    """

    def __init__(self, folder: Path, recipe: SweepRecipe, higher_is_better: bool, whole: Container[str] = ()):
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        self._recipe, self._space, self._whole = recipe, recipe.entries, whole
        (folder / f"{JOURNAL}.lock").unlink(missing_ok=True)  # of a killed process; nobody else writes here
        self._study: optuna.Study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
            study_name="sweep",
            direction="maximize" if higher_is_better else "minimize",
            pruner=_pruner(recipe),
            load_if_exists=True,
        )

    def each(self) -> Iterator[tuple[int, Trial, dict[str, Any]]]:
        """(number, trial, values) of every trial that is not over, in order; one that was under way comes first."""
        from optuna.trial import Trial, TrialState

        for frozen in self._study.get_trials(states=(TrialState.RUNNING,)):
            self._study.sampler = self._sampler(frozen.number)
            trial = Trial(self._study, frozen._trial_id)  # the way back to a trial that a killed process had asked for
            yield frozen.number, trial, self._values(trial)
        while True:
            # one that a killed process had lined up and not begun is what `ask` gives first
            waiting = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
            number = waiting[0].number if waiting else len(self._study.get_trials(deepcopy=False))
            if number >= self._recipe.count:
                return
            self._study.sampler = self._sampler(number)
            if self._recipe.search == "grid" and not waiting:
                self._study.enqueue_trial(self._combination(number))
            trial = self._study.ask()
            yield trial.number, trial, self._values(trial)

    def over(self, number: int, state: str, value: float | None = None) -> None:
        """Notes how a trial ended: finished with its validation value, pruned, or failed."""
        from optuna.trial import TrialState

        states = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
        self._study.tell(number, value, state=states[state])

    def keep(self, trial: Trial, name: str, value: Any) -> None:
        """Remembers a fact about a trial that its run folder doesn't hold."""
        trial.set_user_attr(name, value)

    def known(self) -> list[dict[str, Any]]:
        """What the journal holds of each trial: number, state, values, attributes."""
        from optuna.trial import TrialState

        states = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
        return [
            {
                "number": trial.number,
                "state": states.get(trial.state, "running"),
                "values": {key: _opened(self._space[key], value) for key, value in trial.params.items()},
                "attributes": dict(trial.user_attrs),
            }
            for trial in self._study.get_trials(deepcopy=False)
        ]

    def _sampler(self, number: int) -> Any:
        from optuna.samplers import RandomSampler, TPESampler

        seed = derive(self._recipe.seed, "sweep", number) % 2**31
        return TPESampler(seed=seed) if self._recipe.search == "tpe" else RandomSampler(seed=seed)

    def _combination(self, number: int) -> dict[str, Any]:
        """The grid's combination with this number, as the journal holds it; the last key changes fastest."""
        lists = [entry for entry in self._space.values() if isinstance(entry, list)]
        chosen = next(itertools.islice(itertools.product(*lists), number, None))
        return {key: json.dumps(value) for key, value in zip(self._space, chosen, strict=True)}

    def _values(self, trial: Trial) -> dict[str, Any]:
        return {key: _opened(entry, _suggested(trial, key, entry, key in self._whole)) for key, entry in self._space.items()}


def _suggested(trial: Trial, key: str, entry: Entry, whole: bool) -> Any:
    """Optuna's value: of a list its text, since a journal holds no lists."""
    if isinstance(entry, list):
        return trial.suggest_categorical(key, [json.dumps(value) for value in entry])
    low, high, log, step = entry["low"], entry["high"], bool(entry.get("log")), entry.get("step")
    if whole:
        return trial.suggest_int(key, low, high, step=step or 1, log=log)
    return trial.suggest_float(key, low, high, step=step, log=log)


def _opened(entry: Entry, value: Any) -> Any:
    return json.loads(value) if isinstance(entry, list) else value


def _pruner(recipe: SweepRecipe) -> Any:
    from optuna.pruners import MedianPruner, NopPruner

    return NopPruner() if recipe.prune is None else MedianPruner(n_startup_trials=recipe.prune.startup)


def front(points: Mapping[str, tuple[float | None, ...]]) -> list[str]:
    """Names of the points that no other one beats: as good in everything and better in something. Greater is better.

    A point with a value that isn't known is never on the front.
    """
    known = {name: values for name, values in points.items() if not any(value is None or math.isnan(value) for value in values)}

    def beaten(name: str) -> bool:
        own = known[name]
        return any(
            all(a >= b for a, b in zip(other, own, strict=True)) and other != own  # type: ignore[operator]
            for other in known.values()
        )

    return [name for name in known if not beaten(name)]
