"""Small untrained networks of several kinds, fused."""

import torch

from transfuse.core.fused import FusedHead, FusedNetwork, Member, Origin, backbone
from transfuse.core.preprocess import Preprocess
from transfuse.core.types import ModelRequest
from transfuse.fusion import features as rules
from transfuse.models import open_model

MEMBERS = (
    ("builtin:convnet", {"widths": [4, 6]}, Preprocess(scale=1 / 255, mean=(0.5,), std=(0.25,))),
    ("builtin:mlp", {"widths": [9]}, Preprocess(scale=1 / 127.5, mean=(1.0,))),
    ("builtin:resnet8", {}, Preprocess(size=(16, 16), scale=1 / 255)),
)


def member_of(number, outputs=5, preprocess=None):
    architecture, options, own = MEMBERS[number]
    model = open_model(architecture, ModelRequest(outputs=outputs, input_shape=(3, 32, 32), options=options))
    network, path = backbone(model.network, (preprocess or own).exact_batch(torch.zeros(1, 3, 32, 32)))
    return Member(network, preprocess or own, True, Origin(architecture, model.options), path).eval()


def fused(rule_name, settings, numbers=(0, 1, 2), outputs=5):
    members = {f"source{number}": member_of(number) for number in numbers}
    with torch.no_grad():
        dims = [member(torch.zeros(1, 3, 32, 32)).shape[1] for member in members.values()]
    torch.manual_seed(0)
    rule = rules.get(rule_name)(**settings)
    rule.build(dims)
    return FusedNetwork(members, FusedHead(dims, rule, outputs, rule_name, settings)).eval()
