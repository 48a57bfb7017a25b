"""Imports torchvision where its compiled operators don't match the installed torch, so that its networks and readers still work."""

import importlib
import sys
from functools import cache
from types import ModuleType

import torch

from transfuse.errors import MissingExtra

_SYMPTOM = "operator torchvision::nms does not exist"


@cache
def _operator_schemas() -> torch.library.Library:
    """The two operators that torchvision's Python code registers fakes for; cached because they vanish with the Library object."""
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def import_torchvision() -> ModuleType:
    """Imports torchvision; call it before timm too, which imports torchvision.

    A torchvision built for another torch can't load its compiled operators and stops at `operator torchvision::nms does not exist`,
    although networks, transforms and data sets need none of them. Then, and only then, the schemas of the two missing operators are
    defined (calling them still fails) and the import is tried again. Nothing is defined on a healthy installation.

    Raises:
        MissingExtra: torchvision is not installed.
        RuntimeError: any other failure of the import, unchanged.
    """
    try:
        return importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise
        raise MissingExtra("torchvision", "vision", "this model or data source") from error
    except RuntimeError as error:
        if _SYMPTOM not in str(error):
            raise
    for name in [name for name in sys.modules if name == "torchvision" or name.startswith("torchvision.")]:
        del sys.modules[name]
    _operator_schemas()
    return importlib.import_module("torchvision")
