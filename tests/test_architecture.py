"""The walls of the house: directions of imports are import-linter's; sizes, names and speed of start-up are held here."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "transfuse"
FILES = sorted(SOURCE.rglob("*.py"))
OBJECTIVES = [path for path in sorted((SOURCE / "objectives").rglob("*.py")) if not path.stem.startswith("_")]


def relative(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def functions(path: Path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_a_file_stays_readable(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
    assert path.stem not in {"utils", "common", "helpers", "misc"}
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), "a file says in its first line why it exists"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_a_function_stays_on_a_screen_and_hides_no_parameters(path):
    for function in functions(path):
        where = f"{relative(path)}:{function.lineno} {function.name}"
        assert (function.end_lineno or 0) - function.lineno <= 60, where
        named = [argument.arg for argument in function.args.args + function.args.kwonlyargs if argument.arg not in ("self", "cls")]
        assert len(named) <= 8, where
        takes_recipe_keys = relative(path) == "jobs/python/api.py"  # its verbs take the recipe's keys, which the schema checks
        assert function.args.kwarg is None or takes_recipe_keys, f"{where} takes **kwargs"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_no_file_keeps_global_state(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Global)]


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_only_the_console_prints(path):
    if relative(path) == "cli/console.py":
        return
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    assert not [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]


@pytest.mark.parametrize("path", OBJECTIVES, ids=relative)
def test_an_objective_is_a_function_a_module_a_card_and_a_test(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    defined = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    assigned = {target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets if isinstance(target, ast.Name)}
    assert f"{path.stem}_loss" in defined
    assert path.stem.replace("_", "") in {name.lower() for name in defined}
    assert "CARD" in assigned
    assert (ROOT / "tests" / "objectives" / path.parent.name / f"test_{path.stem}.py").exists()


@pytest.mark.parametrize("folder", ["models", "data"])
def test_a_source_has_a_test(folder):
    for path in sorted((SOURCE / folder).glob("*.py")):
        if path.stem != "__init__":
            tests = list((ROOT / "tests" / folder).rglob(f"test_{path.stem}*.py"))
            assert tests, f"{relative(path)} has no tests/{folder}/test_{path.stem}.py"


def modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nsys.stderr.write('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_importing_transfuse_imports_no_torch():
    assert not {"torch", "numpy", "pydantic"} & modules_after("import transfuse")


def test_the_command_line_starts_without_torch_and_pydantic():
    loaded = modules_after("from transfuse.cli.main import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass")
    assert not {"torch", "numpy", "pydantic", "rich", "matplotlib"} & loaded


def test_no_file_speaks_of_test_data_but_the_one_that_finds_it():
    rooms = [path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")]  # an environment's files are not ours
    files = [*ROOT.glob("*.py"), *(path for room in rooms for path in room.rglob("*.py"))]
    named = [path for path in files if "TRANSFUSE_TEST_DATA" in path.read_text(encoding="utf-8")]
    assert [path.relative_to(ROOT) for path in named if path != Path(__file__)] == [Path("benchmarks/data.py")]
