"""Every error that transfuse raises on purpose.

An error says what happened, where (recipe key, file, row) and what to do. The command line prints it without a traceback and exits with
`exit_code`: 2, because it is the user's input or environment that has to change.
"""


class TransfuseError(Exception):
    """Base of all errors for the user.

    Args:
        what: what is wrong, in one sentence.
        where: the recipe key, file or row that it concerns.
        fix: what the user can do about it.
    """

    exit_code = 2

    def __init__(self, what: str, where: str | None = None, fix: str | None = None):
        self.what, self.where, self.fix = what, where, fix
        super().__init__(what, where, fix)

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}\n  {self.fix}" if self.fix else head


class RecipeError(TransfuseError):
    """The recipe, or an override of it, does not make sense."""


class DataError(TransfuseError):
    """The data can't be read or can't be learnt from."""


class ModelError(TransfuseError):
    """A model can't be opened, or doesn't fit the data or another model."""


class MissingExtra(TransfuseError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str, needed_for: str):
        from importlib.metadata import version  # slow to import, and seldom needed
        from importlib.util import find_spec

        # with torch named, since an extra alone may bring a newer one and gigabytes with it
        held = f' "torch=={version("torch").partition("+")[0]}"' if find_spec("torch") else ""
        super().__init__(f"{needed_for} needs the package {package}", fix=f'pip install "transfuse[{extra}]"{held}')
        self.package, self.extra = package, extra


class NumericsError(TransfuseError):
    """A loss stopped being a finite number."""


class ExportError(TransfuseError):
    """A student can't be written to the asked-for format, or the written file differs from it."""


class RunError(TransfuseError):
    """A run folder can't be written, read or resumed."""
