"""Augmentation as a pure function of (augment.seed, sample, view): the same bytes in every batch, order, process and on every device."""

from transfuse.data.views.batch import BatchViews
from transfuse.data.views.draws import Draws

__all__ = ["BatchViews", "Draws"]
