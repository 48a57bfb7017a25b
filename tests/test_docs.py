"""What README and docs say can be run, and figures in them stand in a result file."""

import json
import re
from pathlib import Path

import pytest

from transfuse.recipe.load import from_text
from transfuse.recipe.resolve import DEFAULT_VIEWS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]


def blocks(language: str) -> list:
    found = []
    for page in PAGES:
        for number, text in enumerate(re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.S)):
            found.append(pytest.param(text, id=f"{page.name}-{number}"))
    return found


@pytest.mark.parametrize("code", blocks("python"))
def test_python_in_the_docs_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRANSFUSE_CACHE", str(tmp_path / "cache"))
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("recipe", blocks("yaml"))
def test_recipes_in_the_docs_are_valid(recipe):
    from_text(recipe, "README.md", [])


def test_commands_in_the_docs_exist():
    from transfuse.cli.main import main

    verbs = set(main.list_commands(None))
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
            for verb in re.findall(r"(?:^|/)transfuse ([a-z-]+)", block, re.M):
                assert verb in verbs, f"{page.name}: transfuse {verb}"


def test_links_in_the_docs_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_demos_figures_are_those_of_its_result_file():
    spreads = json.loads((ROOT / "benchmarks/results/demo_seeds.json").read_text())["test, over seeds"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in ("teacher", "student", "control", "gain"):
        mean, std = (f"{100 * spreads[name][part]:.2f}" for part in ("mean", "std"))
        assert f"{mean} ± {std}" in text, name


def test_the_figures_on_mnist_are_those_of_their_result_file():
    errors = json.loads((ROOT / "benchmarks/results/hinton_mnist.json").read_text())["test errors of 10,000"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in ("large", "small", "distilled", "distilled on 16 moved views", "no 3s", "no 3s, bias corrected"):
        assert f"| {errors[name]['mean']:.0f} ± {errors[name]['std']:.0f} |" in text, name


def test_the_speeds_beside_peers_are_those_of_their_result_file():
    timed = json.loads((ROOT / "benchmarks/results/versus_peers.json").read_text())["timed"]
    speeds = {size: {row["name"]: row["times_torchdistills_speed"]["median"] for row in timed[size]["rows"]} for size in timed}
    speed = speeds["middle"]
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    warm, compiled = speed["transfuse, warm cache"], speed["transfuse, warm cache, compiled"]
    assert f"{warm:.1f} times torchdistill's speed as documented and {compiled:.1f} times with `train.compile`" in text
    assert f"the student alone is {speed['student alone']:.1f} times as fast, compiled {speed['student alone, compiled']:.1f}" in text
    steps = {row["name"]: row["in_steps_of_the_student_alone"]["median"] for row in timed["middle"]["rows"]}
    taken = [steps["transfuse, warm cache"], steps["transfuse, warm cache, compiled"]]
    assert f"It takes {taken[0]:.2f} times the student's alone, {taken[1]:.2f} times where both are compiled." in text
    large, small = (speeds[size]["transfuse, warm cache"] for size in ("large", "small"))
    assert f"Under a large teacher (ResNet-32x4) it is {large:.1f} times, under a small one (ResNet-20) {small:.1f}." in text
    page = " ".join((ROOT / "docs/cache.md").read_text(encoding="utf-8").split())
    assert f"gives {warm:.1f} times torchdistill's speed under ResNet-56 and {large:.1f} times under ResNet-32x4" in page
    rows = json.loads((ROOT / "benchmarks/results/versus_peers_fp32.json").read_text())["timed"]["middle"]["rows"]
    warm = next(row for row in rows if row["name"] == "transfuse, warm cache")
    steps, times = warm["in_steps_of_the_student_alone"]["median"], warm["times_torchdistills_speed"]["median"]
    assert f"a step takes {steps:.2f} times the student's alone, which is {times:.1f} times torchdistill's speed" in text


def test_the_speeds_of_updates_and_of_kept_memory_are_those_of_their_result_files():
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    times = [row["times_as_fast"]["median"] for row in json.loads((ROOT / "benchmarks/results/updates.json").read_text())["rows"]]
    assert f"{min(times):.1f} to {max(times):.1f} times as fast as torch's optimisers make it by default" in text
    cases = json.loads((ROOT / "benchmarks/results/allocator.json").read_text())["cases"]
    shares = {case["case"]: case["kept in units of given back"]["median"] for case in cases}
    compiled = shares.pop("ResNet-20, 128 pictures of 32x32, compiled")
    assert f"then takes {compiled:.2f} of its time; other steps" in text
    assert all(abs(share - 1) < 0.06 for share in shares.values())


def test_the_default_number_of_views_follows_from_the_study_that_the_page_quotes():
    study = json.loads((ROOT / "benchmarks/results/views_study.json").read_text())["long"]["choosing, minus fresh"]
    harmless = [int(views) for views, row in study.items() if row["low"] <= 0 <= row["high"] and row["mean"] > -0.002]
    assert min(harmless) == DEFAULT_VIEWS
    text = (ROOT / "docs/cache.md").read_text(encoding="utf-8").replace("−", "-")
    for views, row in study.items():
        assert f" {100 * row['mean']:+.2f} ({100 * row['low']:+.2f} to {100 * row['high']:+.2f}) |\n" in text, views


def test_the_figures_of_digits_for_mnist_are_those_of_their_result_file():
    rows = json.loads((ROOT / "benchmarks/results/digits_mnist.json").read_text())["rows"]
    found = {row["labels per class"]: row for row in rows if row["policy"] == "fine-tuned, full"}
    few, many = found[5], found[100]
    text = " ".join((ROOT / "docs/extract.md").read_text(encoding="utf-8").split())
    low, high = (f"{bound:.2f}" for bound in few["gain_interval"])
    assert f"gains {few['gain']:.2f} points ({low} to {high} over five seeds)" in text
    low, high = (f"{bound:.2f}" for bound in many["gain_interval"])
    assert f"it gains {many['gain']:.2f} ({low} to {high})" in text
    low, high = (f"{-bound:.2f}" for bound in reversed(many["its interval"]))
    assert f"loses {-many['gain over that']:.2f} ({low} to {high})" in text
    assert many["verdict on that"] == "negative transfer"


def test_the_figures_of_initialisations_are_those_of_their_result_file():
    tasks = json.loads((ROOT / "benchmarks/results/initialisation.json").read_text())["tasks"]
    text = (ROOT / "docs/initialise.md").read_text(encoding="utf-8")
    for task, name in [("MNIST, MLP 400-200-100 to 40-20-10", "select norm"), ("CIFAR-10, ResNet-56 to ResNet-20", "drop_layers spread")]:
        reached = [f"{100 * tasks[task]['test'][name][f'after {epoch} epochs']['mean']:.1f}" for epoch in (0, 1, 10)]
        assert f" | {' | '.join(reached)} |" in text, name
