"""What all pictures share: matplotlib, an optional package, without pyplot and its state; files; colours.

The same data give the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from .errors import CnnScaleError, UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "FAINT", "SUFFIXES", "check_folder", "check_picture", "need_matplotlib", "new_figure", "save"]

SUFFIXES: Final = (".png", ".svg", ".pdf")
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, which people with any colour vision can tell apart."""
FAINT: Final = "#767676"
_DPI = 150


def need_matplotlib() -> None:
    """Make sure that it is there.

    Raises:
        CnnScaleError: it is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise CnnScaleError("pictures need matplotlib: pip install 'cnnscale[plot]'") from error


def check_picture(path: str | Path) -> None:
    """Make sure that a picture can be made and has a known format, before any work is done.

    Raises:
        UsageError: the suffix is none of :data:`SUFFIXES`.
        CnnScaleError: matplotlib is not installed, or the folder does not exist.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"cannot draw {path}: the file's suffix must be one of {', '.join(SUFFIXES)}")
    if not path.absolute().parent.is_dir():
        raise CnnScaleError(f"cannot write {path}: there is no folder {path.parent}")
    need_matplotlib()


def check_folder(folder: str | Path) -> None:
    """Make sure that pictures can be written into a folder, which is made, before any work is done.

    Raises:
        CnnScaleError: matplotlib is not installed, or the folder cannot be made.
    """
    need_matplotlib()
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CnnScaleError(f"cannot write into {folder}: {error.strerror or error}") from error


def new_figure(width: float = 7.0, height: float = 4.2) -> Figure:
    """An empty figure of this size in inches, whose parts keep clear of each other."""
    need_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure in the format that the suffix names.

    Raises:
        CnnScaleError: the file cannot be written.
    """
    import matplotlib as mpl

    kind = Path(path).suffix.lower()[1:]
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    try:
        with mpl.rc_context({"svg.hashsalt": "cnnscale"}):
            figure.savefig(path, format=kind, dpi=_DPI, metadata=undated)
    except OSError as error:
        raise CnnScaleError(f"cannot write {path}: {error.strerror or error}") from error
