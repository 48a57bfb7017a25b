"""The card's header as a hub reads it."""

import pytest
import yaml

from tests.report.runs import write_run
from transfuse.report import card
from transfuse.report.collect import collect


@pytest.fixture
def written(tmp_path):
    def write(**changes):
        summary = write_run(tmp_path / "run", n=60)
        path = tmp_path / "run" / "recipe.resolved.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes, sort_keys=False))
        return summary, card.render(collect(tmp_path / "run"))

    return write


def test_the_hubs_own_reader_finds_metadata_and_results(written):
    hub = pytest.importorskip("huggingface_hub")
    summary, text = written(
        data={"source": "torchvision:CIFAR10@/home/me/secret"}, student={"source": "timm:mobilenetv3_small_050.lamb_in1k"}
    )
    data = hub.ModelCard(text).data
    assert data.library_name == "transfuse"
    assert "knowledge-distillation" in data.tags
    assert data.datasets == ["cifar10"]
    assert data.base_model == ["timm/mobilenetv3_small_050.lamb_in1k"]
    assert "accuracy" in data.metrics
    results = {result.metric_type: result for result in data.eval_results}
    assert results["accuracy"].metric_value == pytest.approx(summary["models"]["student"]["metrics"]["accuracy"], abs=1e-6)
    assert results["accuracy"].dataset_name == "CIFAR10"


def test_where_data_lie_on_this_machine_is_not_in_the_header(written):
    _, text = written(data={"source": "images:/home/me/secret/photos"})
    header = text.split("---")[1]
    assert "secret" not in header
    assert "datasets" not in yaml.safe_load(header)
    assert yaml.safe_load(header)["model-index"][0]["results"][0]["dataset"]["name"] == "photos"


def test_untrained_beginnings_are_no_base_models(written):
    _, text = written(student={"source": "timm:mobilenetv3_small_050"})
    assert "base_model" not in yaml.safe_load(text.split("---")[1])
