"""What a student learns from, as one pool of samples."""

from __future__ import annotations

from transfuse.core.types import DataSet, Samples
from transfuse.data.samples import concat, relabel


def training_pool(data: DataSet) -> Samples:
    """Labelled and unlabelled training samples in one; regression labels in standard deviations from the mean."""
    pool = data.train if data.unlabelled is None else concat(data.train, data.unlabelled)
    return standardised(pool, data)


def standardised(samples: Samples, data: DataSet) -> Samples:
    """The samples with regression labels as networks predict them: (y - mean) / std."""
    if data.target is None:
        return samples
    labels = samples.labels
    return relabel(samples, (labels - labels.new_tensor(data.target.mean)) / labels.new_tensor(data.target.std))
