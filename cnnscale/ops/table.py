"""The table of rules, operation by name, and what to say of an operation that is not in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias, TypeVar

from cnnscale.errors import UnsupportedOpError
from cnnscale.shapes import Context

__all__ = ["RULES", "Rule", "operation_name", "rule", "unknown"]


Rule: TypeAlias = Callable[..., Any]


RULES: dict[str, Rule] = {}


_Function = TypeVar("_Function", bound=Rule)


def rule(*names: str) -> Callable[[_Function], _Function]:
    def register(function: _Function) -> _Function:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def unknown(ctx: Context, *args: Any) -> NoReturn:
    """No rule: named, never guessed."""
    raise UnsupportedOpError(
        f"no width rule for {ctx.where}; open an issue with this line, or keep the part out by scaling a submodule"
    )


def operation_name(target: Any) -> str:
    """The name under which ``RULES`` knows a node's target."""
    if isinstance(target, str):
        return target if target in RULES else target.rstrip("_")
    name = getattr(target, "__name__", str(target))
    module = getattr(target, "__module__", None) or ""
    if module.split(".")[0] in ("torch", "_operator", "builtins", ""):
        return name if name in RULES else name.rstrip("_")
    return f"{module}.{name}"
