"""Every metric against scikit-learn or a slow loop, and what is undefined."""

import warnings

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from transfuse.core.types import Target
from transfuse.errors import DataError, NumericsError, RecipeError
from transfuse.evaluate import metrics


def softmax(logits):
    shifted = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def classification(n=400, classes=7, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=n)
    labels[:classes] = np.arange(classes)
    logits = random.normal(size=(n, classes)).astype(np.float32) * 2
    logits[np.arange(n), labels] += 2
    return logits, labels


def multilabel(n=300, classes=5, seed=1):
    random = np.random.default_rng(seed)
    labels = (random.random((n, classes)) < 0.3).astype(np.float32)
    return (random.normal(size=(n, classes)) * 2 + 3 * labels - 1.5).astype(np.float32), labels


def close(found, expected):
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_classification_agrees_with_scikit_learn(classes):
    logits, labels = classification(classes=classes)
    found = metrics.compute("classification", logits, labels)
    predicted, probabilities, every = logits.argmax(1), softmax(logits), list(range(classes))
    close(found["accuracy"], sk.accuracy_score(labels, predicted))
    close(found["precision"], sk.precision_score(labels, predicted, average="macro"))
    close(found["recall"], sk.recall_score(labels, predicted, average="macro"))
    close(found["f1"], sk.f1_score(labels, predicted, average="macro"))
    close(found["balanced_accuracy"], sk.balanced_accuracy_score(labels, predicted))
    close(found["nll"], sk.log_loss(labels, probabilities, labels=every))
    if classes == 2:
        close(found["auroc"], sk.roc_auc_score(labels, probabilities[:, 1]))
        close(found["brier"], sk.brier_score_loss(labels, probabilities[:, 1]))
    else:
        close(found["auroc"], sk.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro"))
    if classes >= 6:
        close(found["top5_accuracy"], sk.top_k_accuracy_score(labels, logits, k=5, labels=every))
    assert ("top5_accuracy" in found) == (classes >= 6)


def test_brier_is_the_sum_over_classes_of_squared_differences():
    logits, labels = classification(n=50)
    slow = 0.0
    for row, label in zip(softmax(logits), labels, strict=True):
        slow += sum((p - (c == label)) ** 2 for c, p in enumerate(row))
    close(metrics.compute("classification", logits, labels)["brier"], slow / 50)


def test_a_single_logit_is_the_pair_of_zero_and_itself():
    random = np.random.default_rng(3)
    logit, labels = random.normal(size=(200, 1)), random.integers(2, size=200)
    found = metrics.compute("classification", logit, labels)
    assert found == metrics.compute("classification", np.concatenate([np.zeros((200, 1)), logit], 1), labels)
    p = 1 / (1 + np.exp(-logit[:, 0]))
    close(found["nll"], sk.log_loss(labels, p))
    close(found["brier"], sk.brier_score_loss(labels, p))
    close(found["auroc"], sk.roc_auc_score(labels, p))


def test_a_class_missing_from_the_labels_is_averaged_as_scikit_learn_does():
    logits, labels = classification(classes=4)
    labels[labels == 3] = 0  # class 3 is now predicted, and never right
    found = metrics.compute("classification", logits, labels)
    predicted = logits.argmax(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        close(found["f1"], sk.f1_score(labels, predicted, average="macro", zero_division=0))
        close(found["recall"], sk.recall_score(labels, predicted, average="macro", zero_division=0))
        close(found["balanced_accuracy"], sk.balanced_accuracy_score(labels, predicted))
    assert found["auroc"] is None
    assert "class 3" in metrics.reasons("classification", logits, labels)["auroc"]


def test_top5_gives_no_credit_for_saying_the_same_of_all_classes():
    labels = np.arange(100)
    assert metrics.compute("classification", np.zeros((100, 100)), labels)["top5_accuracy"] == pytest.approx(0.05)


def test_any_k_counts_labels_among_the_k_likeliest_where_there_are_more_classes():
    logits, labels = classification(classes=7)
    found = metrics.with_reasons("classification", metrics.outcomes("classification", logits, labels), (1, 3, 7))[0]
    assert found["top1_accuracy"] == found["accuracy"]
    close(found["top3_accuracy"], sk.top_k_accuracy_score(labels, logits, k=3, labels=list(range(7))))
    assert "top7_accuracy" not in found
    assert "top5_accuracy" not in found
    assert metrics.score("classification", "top3_accuracy", logits, labels) == found["top3_accuracy"]
    with pytest.raises(RecipeError, match="no metric"):
        metrics.higher_is_better("multilabel", "top3_accuracy")


def test_multilabel_agrees_with_scikit_learn():
    logits, labels = multilabel()
    found = metrics.compute("multilabel", logits, labels)
    predicted, p = logits > 0, 1 / (1 + np.exp(-logits.astype(np.float64)))
    for name, function in {"f1": sk.f1_score, "precision": sk.precision_score, "recall": sk.recall_score}.items():
        close(found[name], function(labels, predicted, average="macro"))
    close(found["accuracy"], sk.accuracy_score(labels, predicted))
    close(found["hamming"], sk.hamming_loss(labels, predicted))
    close(found["nll"], np.mean([sk.log_loss(labels[:, c], p[:, c]) for c in range(5)]))
    close(found["auroc"], sk.roc_auc_score(labels, logits, average="macro"))
    close(found["map"], sk.average_precision_score(labels, logits, average="macro"))


def test_ranking_metrics_agree_with_scikit_learn_on_ties():
    logits, labels = multilabel()
    logits = np.round(logits)
    found = metrics.compute("multilabel", logits, labels)
    close(found["auroc"], sk.roc_auc_score(labels, logits, average="macro"))
    close(found["map"], sk.average_precision_score(labels, logits, average="macro"))


def test_a_class_without_positives_leaves_the_ranking_undefined():
    logits, labels = multilabel()
    labels[:, 2] = 0
    found, why = metrics.compute("multilabel", logits, labels), metrics.reasons("multilabel", logits, labels)
    assert found["auroc"] is None
    assert found["map"] is None
    assert "class 2" in why["map"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        close(found["f1"], sk.f1_score(labels, logits > 0, average="macro", zero_division=0))


@pytest.mark.parametrize("targets", [1, 3])
def test_regression_agrees_with_scikit_learn(targets):
    random = np.random.default_rng(0)
    labels = random.normal(size=(150, targets)) * [1, 10, 100][:targets] + 1e4
    predictions = labels + random.normal(size=labels.shape)
    found = metrics.compute("regression", predictions, labels, Target(["y"] * targets, [0.0] * targets, [1.0] * targets))
    close(found["rmse"], sk.root_mean_squared_error(labels, predictions))
    close(found["mae"], sk.mean_absolute_error(labels, predictions))
    close(found["r2"], sk.r2_score(labels, predictions))
    if targets == 1:
        assert metrics.compute("regression", predictions[:, 0], labels[:, 0]) == found


def test_r2_of_a_constant_target_is_undefined_and_says_so():
    found = metrics.compute("regression", np.arange(5.0), np.full(5, 2.0))
    assert found["r2"] is None
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean((np.arange(5) - 2) ** 2)))
    assert "same value" in metrics.reasons("regression", np.arange(5.0), np.full(5, 2.0))["r2"]


def test_unlabelled_samples_are_left_out():
    logits, labels = classification()
    with_gaps = np.where(np.arange(400) % 4 == 0, -1, labels)
    kept = with_gaps >= 0
    assert metrics.compute("classification", logits, with_gaps) == metrics.compute("classification", logits[kept], labels[kept])
    values = np.array([1.0, np.nan, 3.0])
    assert metrics.compute("regression", [1.0, 2.0, 4.0], values)["mae"] == pytest.approx(0.5)


def test_tensors_of_any_precision_are_taken():
    logits, labels = classification()
    half = torch.from_numpy(logits).bfloat16()
    expected = metrics.compute("classification", half.float().numpy(), labels)
    assert metrics.compute("classification", half.requires_grad_(), torch.from_numpy(labels)) == expected


def test_outputs_that_are_not_finite_have_no_metrics():
    logits, labels = classification()
    logits[3, 2] = np.nan
    found = metrics.compute("classification", logits, labels)
    assert set(found.values()) == {None}
    assert metrics.reasons("classification", logits, labels)["accuracy"] == "1 of 400 samples have no finite output"
    with pytest.raises(NumericsError, match="no finite output"):
        metrics.quick("classification", logits, labels)


def test_a_probability_of_zero_is_an_answer_and_makes_only_the_likelihood_infinite():
    probabilities = np.array([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.2, 0.0, 0.8]])
    logits = np.where(probabilities > 0, np.log(np.maximum(probabilities, 0.1)), -np.inf)
    fine = metrics.compute("classification", logits, [0, 1, 2])
    close(fine["nll"], -(np.log(0.5) + np.log(0.8)) / 3)
    found = metrics.compute("classification", logits, [0, 1, 1])
    assert found["nll"] is None
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert "probability 0" in metrics.reasons("classification", logits, [0, 1, 1])["nll"]


def test_labels_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="out of range"):
        metrics.compute("classification", np.zeros((2, 3)), [0, 3])
    with pytest.raises(DataError, match="don't fit"):
        metrics.compute("classification", np.zeros((2, 3)), [0, 1, 2])
    with pytest.raises(DataError, match="don't fit"):
        metrics.compute("multilabel", np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(DataError, match="one class number"):
        metrics.compute("classification", np.zeros((2, 3)), np.zeros((2, 3)))


def test_no_samples_have_no_metrics():
    assert set(metrics.compute("classification", np.zeros((2, 3)), [-1, -1]).values()) == {None}
    assert set(metrics.compute("regression", np.zeros((0, 1)), np.zeros((0, 1))).values()) == {None}


def test_score_and_quick_are_the_same_numbers_as_compute():
    cases = {"classification": classification(), "multilabel": multilabel(), "regression": (np.arange(5.0), np.arange(5.0) ** 2)}
    names = {"classification": {"accuracy", "nll"}, "multilabel": {"f1", "nll"}, "regression": {"rmse", "mae", "r2"}}
    for task, (outputs, labels) in cases.items():
        full, quick = metrics.compute(task, outputs, labels), metrics.quick(task, outputs, labels)
        assert set(quick) == names[task]
        assert quick == {name: full[name] for name in quick}
        assert all(metrics.score(task, name, outputs, labels) == value for name, value in full.items())


def test_an_unknown_metric_suggests_the_near_one():
    with pytest.raises(RecipeError, match="did you mean 'accuracy'"):
        metrics.score("classification", "acuracy", *classification())
    assert metrics.higher_is_better("regression", "mae") is False


def test_primary_metrics_are_accuracy_f1_and_rmse():
    assert [metrics.primary(task) for task in ("classification", "multilabel", "regression")] == [
        ("accuracy", True),
        ("f1", True),
        ("rmse", False),
    ]


def test_large_outputs_are_handled_in_parts(monkeypatch):
    logits, labels = classification()
    whole = metrics.compute("classification", logits, labels)
    monkeypatch.setattr("transfuse.evaluate.outcomes._CHUNK", 50)
    assert metrics.compute("classification", logits, labels) == pytest.approx(whole, abs=1e-12)
