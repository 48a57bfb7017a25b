"""The run's README: the numbers of the summary, and text that can't format it."""

import json

from tests.report.runs import write_run
from transfuse.report import card, words


def test_the_card_tells_verdict_table_and_use(tmp_path):
    summary = write_run(tmp_path / "run", n=120)
    text = card.write(tmp_path / "run").read_text()
    assert text.startswith("---\nlibrary_name: transfuse\n")
    assert "\n---\n\n# builtin:resnet8\n" in text
    for model in summary["models"].values():
        assert words.metric("accuracy", model["metrics"]["accuracy"]) in text
    assert words.verdict(summary).sentence.replace("~", "") in text
    assert f"run:{tmp_path / 'run'}" in text
    assert "- Classes: airplane, automobile" in text


def test_the_table_has_as_many_cells_in_every_row(tmp_path):
    write_run(tmp_path / "run", n=120)
    lines = [line for line in card.write(tmp_path / "run").read_text().splitlines() if line.startswith("|")]
    assert len(lines) == 5
    assert len({line.count("|") for line in lines}) == 1


def test_names_can_not_format_the_card(tmp_path):
    write_run(tmp_path / "run", n=120, names=["<img src=x>", "a|b", "*bold*", "`code`"])
    (tmp_path / "run" / "reasons.json").write_text(json.dumps({"auto": {}, "notes": ["[link](javascript:x)\n# heading"]}))
    text = card.write(tmp_path / "run").read_text()
    assert r"\<img src=x\>, a\|b, \*bold\*, \`code\`" in text
    assert r"- \[link\](javascript:x) \# heading" in text


def test_a_bare_summary_is_enough(tmp_path):
    write_run(tmp_path / "full", n=120)
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "summary.json").write_bytes((tmp_path / "full" / "summary.json").read_bytes())
    assert "| student |" in card.write(tmp_path / "bare").read_text()
