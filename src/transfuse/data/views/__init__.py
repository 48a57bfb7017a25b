"""Augmentation as a pure function of (augment.seed, sample, view): the same bytes in every batch, order, process and on every device.

`draws.py` computes the random numbers, `batch.py` applies what a recipe asks for to whole batches; the other files are the operations. One
is a frozen dataclass, called with (pictures, draws) -> pictures, whose fields are part of the key of teachers' cached answers. Everything
that decides a pixel is whole-number arithmetic, or floats that hold every intermediate value exactly, so neither the order of additions
nor a device's fused operations can change a bit.
"""

from transfuse.data.views.batch import BatchViews, Operation
from transfuse.data.views.colour import Colour
from transfuse.data.views.draws import Draws
from transfuse.data.views.erasing import Erasing
from transfuse.data.views.mixing import Mixing
from transfuse.data.views.placement import ResizedCrop, Rotation
from transfuse.data.views.randaugment import RandAugment

__all__ = ["BatchViews", "Colour", "Draws", "Erasing", "Mixing", "Operation", "RandAugment", "ResizedCrop", "Rotation"]
