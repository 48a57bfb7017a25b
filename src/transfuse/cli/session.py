"""One call of the command: its console, the run folder it works in, and how a verb starts a job."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transfuse.cli.console import Console
    from transfuse.recipe.schema import Recipe


class Session:
    """What a verb and the exit path share.

    Attributes:
        folder: the run folder, once it is known; where a traceback goes, and what an interrupted user is told to resume.
    """

    def __init__(self) -> None:
        self.folder: Path | None = None
        self._console: Console | None = None

    @property
    def console(self) -> Console:
        if self._console is None:
            from transfuse.cli.console import Console

            self._console = Console()
        return self._console

    def close(self) -> None:
        """Ends a progress bar that is still on the screen, so that a message begins on a line of its own."""
        if self._console is not None:
            self._console.close()

    def start(self, recipe: Recipe, text: str | None) -> None:
        """Runs a recipe's job.

        Args:
            recipe: validated.
            text: the user's YAML, if there is a file.

        Raises:
            RecipeError: several processes would each choose a run folder of their own.
        """
        import os
        from pathlib import Path

        from transfuse.errors import RecipeError
        from transfuse.jobs.rundir import default_out
        from transfuse.jobs.runner import runner_of

        if recipe.out is None:
            if int(os.environ.get("WORLD_SIZE", "1")) > 1:
                raise RecipeError("several processes need one run folder", where="out", fix="name it: out=FOLDER")
            recipe = recipe.model_copy(update={"out": default_out(recipe.job)})
        self.folder = Path(str(recipe.out))
        runner_of(recipe).run(recipe, self.console, text)
        self.close()


def recipe_text(file: str | None, overrides: Sequence[str]) -> str | None:
    """The user's file word for word, with what the command line changed as a comment at its end."""
    from pathlib import Path

    if file is None:
        return None
    text = Path(file).read_text(encoding="utf-8-sig")
    if not overrides:
        return text
    return text.rstrip("\n") + "\n\n# changed on the command line:\n" + "".join(f"#   {entry}\n" for entry in overrides)
