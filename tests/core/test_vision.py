"""torchvision is imported where it is healthy, mended where its operators are missing, and left alone where anything else is wrong."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

HEALTHY = "MODELS = 'ready'\n"
BROKEN = """
import torch
import torchvision.extension

@torch.library.register_fake("torchvision::nms")
def fake_nms(dets, scores, threshold):
    return dets

@torch.library.register_fake("torchvision::qnms")
def fake_qnms(dets, scores, threshold):
    return dets

MODELS = "ready"
"""


def in_new_process(code: str, path: Path | None = None) -> str:
    """What the code prints, with a folder in front of the import path."""
    first = f"import sys; sys.path.insert(0, {str(path)!r})\n" if path else ""
    done = subprocess.run([sys.executable, "-W", "error", "-c", first + textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def write_torchvision(folder: Path, text: str) -> Path:
    package = folder / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(text)
    (package / "extension.py").write_text("import torch\n")
    return folder


OPERATORS = """
import torch
def has(name):
    try:
        torch._C._dispatch_find_schema_or_throw(f"torchvision::{name}", "")
        return True
    except RuntimeError:
        return False
"""


def test_the_installed_torchvision_gives_networks_and_timm_imports_after_it():
    printed = in_new_process("""
        from transfuse.core.vision import import_torchvision
        torchvision = import_torchvision()
        assert import_torchvision() is torchvision
        import timm
        print(torchvision.models.get_model("resnet18", weights=None).fc.out_features, timm.is_model("resnet18"))
    """)
    assert printed == "1000 True"


def test_missing_operators_are_defined_once_and_the_import_tried_again(tmp_path):
    write_torchvision(tmp_path, BROKEN)
    printed = in_new_process(
        OPERATORS
        + textwrap.dedent("""
        from transfuse.core.vision import import_torchvision
        try:
            import torchvision
        except RuntimeError as error:
            print(str(error).splitlines()[0])
        print(has("nms"), has("qnms"))
        first = import_torchvision()
        print(first.MODELS, import_torchvision() is first, has("nms"), has("qnms"))
        """),
        tmp_path,
    )
    assert printed.splitlines() == ["operator torchvision::nms does not exist", "False False", "ready True True True"]


def test_a_healthy_installation_gets_no_definitions(tmp_path):
    write_torchvision(tmp_path, HEALTHY)
    printed = in_new_process(
        OPERATORS + "from transfuse.core.vision import import_torchvision\nprint(import_torchvision().MODELS, has('nms'), has('qnms'))",
        tmp_path,
    )
    assert printed == "ready False False"


def test_other_failures_pass_through_and_define_nothing(tmp_path):
    for number, error in enumerate(("RuntimeError('no CUDA driver')", "OSError('disk')", "ModuleNotFoundError('x', name='numpy')")):
        (tmp_path / str(number)).mkdir()
        write_torchvision(tmp_path / str(number), f"raise {error}")
    printed = in_new_process(
        OPERATORS
        + textwrap.dedent(f"""
        import sys
        from transfuse.core.vision import import_torchvision
        for number in range(3):
            sys.path.insert(0, {str(tmp_path)!r} + f"/{{number}}")
            try:
                import_torchvision()
            except Exception as error:
                print(type(error).__name__, has("nms"))
        """),
    )
    assert printed.splitlines() == ["RuntimeError False", "OSError False", "ModuleNotFoundError False"]


def test_a_missing_package_names_its_extra(monkeypatch):
    from transfuse.core.vision import import_torchvision
    from transfuse.errors import MissingExtra

    class Nothing:
        def find_spec(self, name, path=None, target=None):
            if name == "torchvision":
                raise ModuleNotFoundError("No module named 'torchvision'", name="torchvision")

    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Nothing(), *sys.meta_path])
    with pytest.raises(MissingExtra, match=r"transfuse\[vision\]"):
        import_torchvision()
