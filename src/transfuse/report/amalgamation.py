"""What an amalgamation found, in words: how close the student comes to training on the labels of all classes, and what its sources know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transfuse.report import words

Summary = Mapping[str, Any]
MARGIN = 0.01
"""A loss of one point against joint training counts as none; of a metric between 0 and 1, as those of classification are."""


def verdict(summary: Summary) -> words.Verdict:
    """Does the student come up to joint training on labels, which bounds it from above?"""
    name, transfer, found = summary["primary"]["name"], summary["transfer"], summary["amalgamation"]
    reached = {model: block["metrics"].get(name) for model, block in summary["models"].items()}
    labels = "learns from labels, too," if found["labels"] else "saw no training label"
    sentence = f"The student, which {labels} and has all {found['count']} classes, reaches {words.metric(name, reached['student'])}."
    tone: words.Tone = "none"
    details = [f"What the sources say together, their class sets joined, reaches {words.metric(name, reached['ensemble'])}."]
    if "control" in reached and transfer.get("gain") is not None:
        gain, bounds = transfer["gain"], transfer.get("gain_interval")
        interval = f" (95% interval {words.difference(name, bounds[0])} to {words.difference(name, bounds[1])})" if bounds else ""
        upper = f"{words.metric(name, reached['control'])} of joint training on all labels, the upper bound"
        sentence += f" That is {words.difference(name, gain)}{interval} beside the {upper}."
        if bounds and bounds[0] >= -MARGIN:  # a bound on the loss, since "not clearly below" would reward few test samples
            tone = "good"
    if (spread := found.get("spread")) is not None:
        alike = f"{words.share(spread['agreed'])} of neighbours in the sources' features are predicted alike"
        taught = f"{spread['changed']:,} of {spread['samples']:,} samples were taught as another class than the join says"
        details.append(f"What it was taught was spread among neighbours before: {alike}, and {taught}. No label was looked at for that.")
    for source, classes in found["classes"].items():
        own = summary["sources"][source]["metrics"].get(name)
        details.append(f"{source} knows {', '.join(classes)}: {words.metric(name, own)} among test samples of these classes.")
    return words.Verdict(tone, sentence, details)


def control_is(summary: Summary) -> str:
    """What control and ensemble are, for the sentence that begins with the control."""
    text = "the same student from the same initial weights and batches, trained on the labels of all classes together: an upper bound; "
    return text + "the ensemble is what the sources say once their class sets are joined, which the student learnt"
