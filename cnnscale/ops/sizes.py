"""Numbers: arithmetic and comparisons on sizes, rounding, attributes of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cnnscale.shapes import Comparison, Context, Ratio, Sym, is_size
from cnnscale.symbolic import Poly, as_poly, product

from .arguments import soft
from .table import rule

__all__ = ["integers"]


def divide(ctx: Context, a: Poly, b: Poly) -> Poly:
    """``a // b``: exact where it is so today and ``a`` has channels, a function of the input size otherwise."""
    if ctx.is_channel(a) and a.hint % b.hint == 0:
        return ctx.quotient(a, b)
    exact = ctx.equations.resolve(a).exact_quotient(ctx.equations.resolve(b))
    if exact is not None:
        return exact
    if ctx.is_channel(a) or b.constant is None:
        return as_poly(ctx.constant(a, "it is divided with a remainder") // ctx.constant(b, "it divides"))
    return ctx.call("floordiv", a, b.constant)


def remainder(ctx: Context, a: Poly, b: Poly) -> Poly:
    return a - divide(ctx, a, b) * b


_INTEGERS: dict[str, Callable[[Context, Poly, Poly], Poly]] = {
    "add": lambda ctx, a, b: a + b,
    "sub": lambda ctx, a, b: a - b,
    "mul": lambda ctx, a, b: a * b,
    "floordiv": divide,
    "mod": remainder,
}


_INTEGERS |= {
    "iadd": _INTEGERS["add"],
    "isub": _INTEGERS["sub"],
    "imul": _INTEGERS["mul"],
    "div": _INTEGERS["floordiv"],
}


_COMPARISONS: dict[str, Callable[[int], bool]] = {
    "lt": lambda difference: difference < 0,
    "le": lambda difference: difference <= 0,
    "gt": lambda difference: difference > 0,
    "ge": lambda difference: difference >= 0,
    "eq": lambda difference: difference == 0,
    "ne": lambda difference: difference != 0,
}


def integers(ctx: Context, name: str, args: Sequence[Any]) -> Poly | Ratio | Comparison | None:
    """Arithmetic on sizes, or None where the operation is not such."""
    if len(args) != 2 or not all(is_size(a) for a in args):
        return None
    left, right = _folded(ctx, args) if name in ("mul", "imul") else map(as_poly, args)
    if name in _INTEGERS:
        return _INTEGERS[name](ctx, left, right)
    if name == "truediv":
        return Ratio(left, right)
    return Comparison(left, right, _COMPARISONS[name]) if name in _COMPARISONS else None


def _folded(ctx: Context, args: Sequence[Any]) -> tuple[Poly, Poly]:
    """The factors of a product of sizes. A number times the batch can only be channels, folded into the batch or into
    its groups: it follows them."""
    left, right = ((soft(ctx, a) if b == ctx.batch else as_poly(a)) for a, b in (args, args[::-1]))
    ctx.factors += [factor for factor, other in ((left, right), (right, left)) if other == ctx.batch]
    return left, right


@rule("size")
def size(ctx: Context, x: Sym, dim: int | None = None) -> Any:
    return x.shape if dim is None else x.shape[dim]


@rule("getattr")
def attribute(ctx: Context, x: Any, name: str) -> Any:
    if isinstance(x, Sym):
        return {"shape": x.shape, "T": Sym(x.shape[::-1]), "data": x}.get(name, ctx.node.meta["val"])
    return ctx.node.meta["val"]


_TODAY = """
dim ndimension is_floating_point get_device is_contiguous len isinstance not_ is_ is_not contains format item
str
"""


@rule(*_TODAY.split())
def today(ctx: Context, *args: Any, **kwargs: Any) -> Any:
    return ctx.node.meta["val"]


@rule("_assert")
def asserted(ctx: Context, condition: Any, message: Any = "") -> None:
    """What a model asserts of its sizes must hold for the scaled ones too."""
    if isinstance(condition, Comparison):
        ctx.decide(condition, truth=True)


@rule("math.ceil")
def ceiling(ctx: Context, value: Any) -> Any:
    return rounded(ctx, value, "ceildiv")


@rule("math.floor")
def floor(ctx: Context, value: Any) -> Any:
    return rounded(ctx, value, "floordiv")


def rounded(ctx: Context, value: Any, function: str) -> Any:
    """A ratio of sizes as an integer; one of channels is what it is today, unless it is exact."""
    if not isinstance(value, Ratio):
        return value if isinstance(value, Poly) else ctx.node.meta["val"]
    if ctx.is_channel(value.above) or value.below.constant is None:
        return divide(ctx, value.above, value.below)
    return ctx.call(function, value.above, value.below.constant)


@rule("numel")
def numel(ctx: Context, x: Any) -> Poly:
    return product(x.shape if isinstance(x, Sym) else x)
