"""MLflow: one MLflow run for each run folder; server and experiment are MLflow's own settings ($MLFLOW_TRACKING_URI and its like)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

PACKAGE, EXTRA = "mlflow", "mlflow"


class Tracker:
    """Logs metrics NAME of a training as SERIES/NAME.

    Args:
        folder: the run's.
        name: of the run.
    """

    def __init__(self, folder: Path, name: str):
        import mlflow

        self._client = mlflow.MlflowClient()
        experiment = mlflow.set_experiment(experiment_id=None, experiment_name="transfuse").experiment_id
        self._run = self._client.create_run(experiment, tags={"folder": str(folder)}, run_name=name).info.run_id

    def log(self, series: str, values: Mapping[str, float], step: int) -> None:
        for key, value in values.items():
            self._client.log_metric(self._run, f"{series}/{key}", value, step=step)

    def close(self) -> None:
        self._client.set_terminated(self._run)
