"""One rule per operation: what a function or tensor method says about the sizes it meets.

``RULES`` maps an operation's name to its rule. A function of torch, a method of Tensor and the in-place form of either
share a name; functions of other packages are listed with theirs. A rule takes the context and the operation's own
arguments, tensors as :class:`~cnnscale.shapes.Sym` and sizes as polynomials. To teach cnnscale an operation, add its
name to a list below or write the few lines that relate its shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeAlias, TypeVar

import torch

from .errors import UnsupportedOpError
from .shapes import Comparison, Context, Lit, Ratio, Split, Sym, broadcast, constant, is_size, symbolic_tensors
from .symbolic import Poly, as_poly, product

__all__ = [
    "RULES",
    "adaptive_pool",
    "channel_axis",
    "channel_norm",
    "channel_shuffle",
    "convolution",
    "depthwise",
    "flatten",
    "integers",
    "interpolate",
    "linear",
    "operation_name",
    "pixel_shuffle",
    "pixel_unshuffle",
    "pool",
    "pool_output",
    "prelu",
    "replaced",
    "transposed",
    "unknown",
]

Rule: TypeAlias = Callable[..., Any]
RULES: dict[str, Rule] = {}
_Function = TypeVar("_Function", bound=Rule)


def rule(*names: str) -> Callable[[_Function], _Function]:
    def register(function: _Function) -> _Function:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


# --- same shape in and out, or broadcast ------------------------------------------------------------------------------

_ELEMENTWISE = """
abs acos asin addcdiv addcmul asinh acosh atan atan2 atanh bernoulli bitwise_and bitwise_not invert bitwise_or ceil celu
clamp clamp_max clamp_min clip clone contiguous copysign cos cosh detach div dropout dropout1d dropout2d dropout3d
alpha_dropout feature_alpha_dropout elu eq erf exp expm1 float floor floordiv floor_divide fmod ge gelu gt half
bfloat16 double hardshrink hardsigmoid hardswish hardtanh imul isub itruediv leaky_relu le lerp log log10 log1p log2
logical_and logical_not logical_or logsigmoid lt masked_fill maximum minimum mish mod mul multiply ne neg negative
nan_to_num normalize ones_like pow rand_like randn_like reciprocal relu relu6 remainder round rrelu rsqrt rsub selu
sigmoid sign silu sin sinh softmax log_softmax softmin softplus softshrink softsign sqrt square sub subtract swish tan
tanh tanhshrink threshold to truediv true_divide type_as where xor zeros_like full_like fill cumsum requires_grad_
roll flip cuda cpu type local_response_norm _weight_norm torchvision.ops.stochastic_depth.stochastic_depth
"""


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


@rule(*_ELEMENTWISE.split())
def elementwise(ctx: Context, *args: Any, **kwargs: Any) -> Any:
    if not symbolic_tensors((args, kwargs)):
        return ctx.node.meta["val"]
    values = (constant(v) if isinstance(v, torch.Tensor) else v for v in (*args, *kwargs.values()))
    return Sym(broadcast(ctx, [tensor.shape for tensor in symbolic_tensors(tuple(values))]))


@rule("add", "iadd")
def add(ctx: Context, input: Any, other: Any, **kwargs: Any) -> Any:
    if isinstance(input, (tuple, list)) and isinstance(other, (tuple, list)):
        return (*input, *other)
    result = elementwise(ctx, input, other)
    if isinstance(input, Sym) and isinstance(other, Sym) and len(input.shape) > 1:
        alike = [dim.hint for dim in input.shape] == [dim.hint for dim in other.shape]
        if alike and ctx.is_channel(result.shape[channel_axis(ctx, result)]):
            ctx.sums.append((ctx.node, result.shape[channel_axis(ctx, result)]))
    return result


def channel_axis(ctx: Context, x: Sym) -> int:
    """The first dimension that has channels, else 1."""
    return next((i for i, dim in enumerate(x.shape) if ctx.is_channel(dim)), 1)


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
    batch = ctx.tensors["input"][0]
    left, right = ((soft(ctx, a) if b == batch else as_poly(a)) for a, b in (args, args[::-1]))
    return left, right


# --- sizes and attributes ---------------------------------------------------------------------------------------------


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


@rule("getitem")
def getitem(ctx: Context, x: Any, index: Any) -> Any:
    if not isinstance(x, Sym):
        if isinstance(index, slice):
            bounds = (index.start, index.stop, index.step)
            index = slice(*(None if b is None else int(b) for b in bounds))
        return x[index]
    indices = list(index) if isinstance(index, (tuple, list)) else [index]
    missing = len(x.shape) - sum(i is not None and i is not Ellipsis for i in indices)
    at = next((k for k, i in enumerate(indices) if i is Ellipsis), len(indices))
    indices[at : at + 1] = [slice(None)] * missing
    dims, shape = iter(x.shape), []
    indices = [Sym((as_poly(len(i)),)) if isinstance(i, (list, tuple)) else i for i in indices]
    tables = [i if isinstance(i, Sym) else constant(i) for i in indices if isinstance(i, (Sym, torch.Tensor))]
    gathered = broadcast(ctx, [table.shape for table in tables])
    if tables and not _adjacent(indices):
        shape, gathered = list(gathered), ()
    for i in indices:
        if i is None:
            shape.append(as_poly(1))
        elif isinstance(i, slice):
            shape.append(sliced(ctx, next(dims), i))
        elif is_size(i):
            dim = next(dims)
            if today_of(i) not in (0, -1):  # the first and the last there always are
                ctx.constant(dim, "it is indexed by a number")
        elif isinstance(i, (Sym, torch.Tensor)):
            ctx.constant(next(dims), "it is indexed by a tensor")
            shape += gathered
            gathered = ()
        else:
            unknown(ctx, x)
    return Sym(tuple(shape))


def _adjacent(indices: list[Any]) -> bool:
    """Whether the tensors among indices stand side by side: then what they gather stands there too, else in front."""
    places = [k for k, i in enumerate(indices) if isinstance(i, (Sym, torch.Tensor)) or is_size(i)]
    return places[-1] - places[0] == len(places) - 1


def sliced(ctx: Context, dim: Poly, index: slice) -> Poly:
    """Length of ``dim[index]``. A literal bound that cuts channels is free to move; one that cuts pixels stays."""
    start, stop, step = index.start, index.stop, index.step or 1
    if start is None and stop is None and step == 1:
        return dim
    if not ctx.is_channel(dim):
        return ctx.call("slice", dim, *(None if b is None else today_of(b) for b in (start, stop, step)))
    if step != 1 or any(b is not None and today_of(b) < 0 for b in (start, stop)):
        length = len(range(ctx.constant(dim, "its channels are sliced with a step or from the end"))[index])
        return as_poly(length)
    low = as_poly(0) if not start else cut(ctx, start, dim)
    if stop is None or today_of(stop) > dim.hint:
        return dim - low
    high = ctx.literal(stop, dim) if today_of(stop) == dim.hint else cut(ctx, stop, dim)
    return high - low


def today_of(value: Poly | int) -> int:
    return value.hint if isinstance(value, Poly) else int(value)


def cut(ctx: Context, bound: Poly | int, whole: Poly) -> Poly:
    """A bound within channels: a literal becomes an unknown, the same one for the same cut of the same whole."""
    if not isinstance(bound, Lit):
        return as_poly(bound)
    whole = ctx.equations.resolve(whole)
    for split in ctx.splits:
        if split.part.hint == bound and ctx.equations.resolve(split.whole) == whole:
            return ctx.literal(bound, split.part)
    part = ctx.equations.atom(f"{ctx.node.name}:{int(bound)}", int(bound), is_width=True)
    ctx.splits.append(Split(part, whole, ctx.node))
    return ctx.literal(bound, part)


# --- shape changes ----------------------------------------------------------------------------------------------------


def flat(sizes: Sequence[Any]) -> list[Any]:
    return list(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else list(sizes)


@rule("view", "reshape")
def view(ctx: Context, x: Sym, *sizes: Any, shape: Any = None) -> Sym:
    """Cut both shapes into the smallest runs of equal product; within a run the products are equal.

    1. A ``-1`` is the quotient; literals beside it stay.
    2. The largest literal is the quotient; other literals stay.
    3. Otherwise the products are equated.
    """
    wanted = flat(sizes) if shape is None else list(shape)
    if wanted and isinstance(wanted[0], torch.dtype):
        return x
    now = list(ctx.node.meta["val"].shape)
    result: list[Poly] = []
    for ins, outs in _runs([d.hint for d in x.shape], now):
        dims = _factors(x.shape[ins]) if len(_numbers(wanted[outs])) > 1 else x.shape[ins]
        for inner, part in _runs([d.hint for d in dims], now[outs]):
            result += _fill(ctx, product(dims[inner]), wanted[outs][part], now[outs][part])
    return Sym(tuple(result))


def _numbers(wanted: Sequence[Any]) -> list[int]:
    """Places of the literals that may move."""
    return [k for k, w in enumerate(wanted) if isinstance(w, Lit) and w > 1]


def _factors(dims: tuple[Poly, ...]) -> tuple[Poly, ...]:
    """Flattened dimensions as those that they were flattened from, where each is a product of unknowns alone."""
    factors: list[Poly] = []
    for dim in dims:
        monomials = list(dim.terms.items())
        if len(monomials) != 1 or monomials[0][1] != 1:
            return dims
        factors += [Poly({(atom,): 1}) for atom in monomials[0][0]] or [dim]
    return tuple(factors)


def _runs(before: list[int], after: list[int]) -> list[tuple[slice, slice]]:
    runs, i, j = [], 0, 0
    while i < len(before) and j < len(after):
        start_i, start_j, a, b = i, j, before[i], after[j]
        i, j = i + 1, j + 1
        while a != b:
            if a < b:
                a, i = a * before[i], i + 1
            else:
                b, j = b * after[j], j + 1
        runs.append((slice(start_i, i), slice(start_j, j)))
    if not runs:
        return [(slice(0, len(before)), slice(0, len(after)))]
    last_i, last_j = runs[-1]
    return [*runs[:-1], (slice(last_i.start, len(before)), slice(last_j.start, len(after)))]


def _fill(ctx: Context, total: Poly, wanted: list[Any], now: list[int]) -> list[Poly]:
    literals = _numbers(wanted)
    open_at = next((k for k, w in enumerate(wanted) if is_size(w) and today_of(w) == -1), None)
    if open_at is None and literals:
        open_at = max(literals, key=lambda k: now[k])
    dims = [as_poly(n if k == open_at else w) for k, (w, n) in enumerate(zip(wanted, now, strict=True))]
    if open_at is None:
        ctx.equate(total, product(dims))
        return dims
    rest = product([d for k, d in enumerate(dims) if k != open_at])
    dims[open_at] = ctx.quotient(total, rest)
    if open_at in literals:
        ctx.literal(wanted[open_at], dims[open_at])
    return dims


@rule("view_as", "reshape_as")
def view_as(ctx: Context, x: Sym, other: Sym) -> Sym:
    return view(ctx, x, other.shape)


@rule("expand_as")
def expand_as(ctx: Context, x: Sym, other: Sym) -> Sym:
    return expand(ctx, x, other.shape)


@rule("expand", "broadcast_to")
def expand(ctx: Context, x: Sym, *sizes: Any) -> Sym:
    wanted = flat(sizes)
    old = [as_poly(1)] * (len(wanted) - len(x.shape)) + list(x.shape)
    shape = []
    for dim, size in zip(old, wanted, strict=True):
        if today_of(size) == -1:
            shape.append(dim)
        elif dim.constant == 1:
            shape.append(as_poly(size))
        else:
            shape.append(ctx.literal(size, dim))
    return Sym(tuple(shape))


@rule("repeat", "tile")
def repeat(ctx: Context, x: Sym, *sizes: Any) -> Sym:
    times = flat(sizes)
    old = [as_poly(1)] * (len(times) - len(x.shape)) + list(x.shape)
    return Sym(tuple(dim * as_poly(n) for dim, n in zip(old, times, strict=True)))


@rule("repeat_interleave")
def repeat_interleave(ctx: Context, x: Sym, repeats: Any, dim: int, **kwargs: Any) -> Sym:
    return replaced(x, dim, x.shape[dim] * as_poly(repeats))


@rule("flatten")
def flatten(ctx: Context, x: Sym, start_dim: int = 0, end_dim: int = -1) -> Sym:
    start, stop = start_dim % len(x.shape), end_dim % len(x.shape) + 1
    return Sym((*x.shape[:start], product(x.shape[start:stop]), *x.shape[stop:]))


@rule("unflatten")
def unflatten(ctx: Context, x: Sym, dim: int, sizes: Any) -> Sym:
    dim %= len(x.shape)
    now = list(ctx.node.meta["val"].shape)[dim : dim + len(sizes)]
    return Sym((*x.shape[:dim], *_fill(ctx, x.shape[dim], list(sizes), now), *x.shape[dim + 1 :]))


@rule("permute")
def permute(ctx: Context, x: Sym, *dims: Any) -> Sym:
    return Sym(tuple(x.shape[d] for d in flat(dims)))


@rule("transpose", "swapaxes")
def transpose(ctx: Context, x: Sym, dim0: int, dim1: int) -> Sym:
    shape = list(x.shape)
    shape[dim0], shape[dim1] = shape[dim1], shape[dim0]
    return Sym(tuple(shape))


@rule("t")
def t(ctx: Context, x: Sym) -> Sym:
    return Sym(x.shape[::-1])


@rule("movedim")
def movedim(ctx: Context, x: Sym, source: int, destination: int) -> Sym:
    shape = list(x.shape)
    shape.insert(destination % len(shape), shape.pop(source))
    return Sym(tuple(shape))


@rule("squeeze")
def squeeze(ctx: Context, x: Sym, dim: int | None = None) -> Sym:
    axes = range(len(x.shape)) if dim is None else [dim % len(x.shape)]
    gone = [i for i in axes if x.shape[i].hint == 1]
    for i in gone:
        ctx.equate(x.shape[i], 1)
    return Sym(tuple(d for i, d in enumerate(x.shape) if i not in gone))


@rule("unsqueeze")
def unsqueeze(ctx: Context, x: Sym, dim: int) -> Sym:
    at = dim % (len(x.shape) + 1)
    return Sym((*x.shape[:at], as_poly(1), *x.shape[at:]))


@rule("cat", "concat", "concatenate")
def cat(ctx: Context, tensors: Sequence[Sym], dim: int = 0) -> Sym:
    dim %= len(tensors[0].shape)
    total = sum((t.shape[dim] for t in tensors[1:]), tensors[0].shape[dim])
    shape = broadcast(ctx, [replaced(t, dim, as_poly(1)).shape for t in tensors])
    return replaced(Sym(shape), dim, total)


@rule("stack")
def stack(ctx: Context, tensors: Sequence[Sym], dim: int = 0) -> Sym:
    return replaced(unsqueeze(ctx, Sym(broadcast(ctx, [t.shape for t in tensors])), dim), dim, as_poly(len(tensors)))


@rule("chunk")
def chunk(ctx: Context, x: Sym, chunks: int, dim: int = 0) -> tuple[Sym, ...]:
    whole = x.shape[dim]
    if ctx.is_channel(whole) and whole.hint % chunks == 0:
        return (replaced(x, dim, ctx.quotient(whole, chunks)),) * chunks
    if not ctx.is_channel(whole):
        size = ctx.call("ceildiv", whole, chunks)
        return pieces(x, dim, size, len(ctx.node.meta["val"]))
    ctx.constant(whole, f"it is cut into {chunks} unequal chunks")
    return parts_of_today(ctx, x, dim)


@rule("split", "split_with_sizes")
def split(ctx: Context, x: Sym, split_size: Any, dim: int = 0) -> tuple[Sym, ...]:
    whole, count = x.shape[dim], len(ctx.node.meta["val"])
    if isinstance(split_size, (tuple, list)):
        return tuple(replaced(x, dim, part) for part in _parts(ctx, whole, split_size))
    if not ctx.is_channel(whole):
        return pieces(x, dim, as_poly(split_size), count)
    if whole.hint % today_of(split_size):
        ctx.constant(whole, "it is split into unequal parts")
        return parts_of_today(ctx, x, dim)
    part = ctx.literal(split_size, ctx.quotient(whole, count))
    return (replaced(x, dim, part),) * count


def _parts(ctx: Context, whole: Poly, wanted: Sequence[Any]) -> list[Poly]:
    """The parts of a split: the first of the largest takes what the others leave."""
    if not ctx.is_channel(whole):
        parts = [as_poly(size) for size in wanted]
        ctx.equate(whole, sum(parts[1:], parts[0]))
        return parts
    largest = max(range(len(wanted)), key=lambda i: today_of(wanted[i]))
    parts = [as_poly(0) if i == largest else cut(ctx, size, whole) for i, size in enumerate(wanted)]
    parts[largest] = ctx.literal(wanted[largest], whole - sum(parts[1:], parts[0]))
    return parts


@rule("unbind")
def unbind(ctx: Context, x: Sym, dim: int = 0) -> tuple[Sym, ...]:
    count = ctx.constant(x.shape[dim], "it is unbound")
    shape = list(x.shape)
    del shape[dim]
    return (Sym(tuple(shape)),) * count


def pieces(x: Sym, dim: int, size: Poly, count: int) -> tuple[Sym, ...]:
    """``count`` pieces of ``size``, the last one being what is left."""
    last = x.shape[dim] - size * (count - 1)
    return (*(replaced(x, dim, size) for _ in range(count - 1)), replaced(x, dim, last))


def parts_of_today(ctx: Context, x: Sym, dim: int) -> tuple[Sym, ...]:
    return tuple(replaced(x, dim, as_poly(part.shape[dim])) for part in ctx.node.meta["val"])


def replaced(x: Sym, dim: int, size: Poly) -> Sym:
    shape = list(x.shape)
    shape[dim] = size
    return Sym(tuple(shape))


@rule("narrow")
def narrow(ctx: Context, x: Sym, dim: int, start: Any, length: Any) -> Sym:
    whole = x.shape[dim]
    if not ctx.is_channel(whole):
        return replaced(x, dim, as_poly(length))
    if today_of(start) not in (0, whole.hint - today_of(length)):
        ctx.constant(whole, "its channels are narrowed in the middle")
        return replaced(x, dim, as_poly(today_of(length)))
    if today_of(start) == 0:
        return replaced(x, dim, cut(ctx, length, whole))
    low = cut(ctx, start, whole)
    return replaced(x, dim, ctx.literal(length, whole - low))


@rule("pad")
def pad(ctx: Context, x: Sym, pad: Sequence[Any], mode: str = "constant", value: Any = None) -> Sym:
    shape = list(x.shape)
    for k in range(0, len(pad), 2):
        axis = -1 - k // 2
        low, high = pad[k], pad[k + 1]
        if ctx.is_channel(shape[axis]) and any(isinstance(p, Lit) and p for p in (low, high)):
            low, high = (soft(ctx, p) for p in (low, high))
        shape[axis] = shape[axis] + as_poly(low) + as_poly(high)
    return Sym(tuple(shape))


def soft(ctx: Context, value: Any) -> Poly:
    """A literal beside channels: it stays unless a channel forces it."""
    if not isinstance(value, Lit) or value == 0:
        return as_poly(value)
    return ctx.literal(value, ctx.equations.atom(f"{ctx.node.name}:{int(value)}", int(value), is_width=True))


@rule("unfold")
def unfold(ctx: Context, x: Sym, *args: Any, **kwargs: Any) -> Sym:
    """``Tensor.unfold(dimension, size, step)``, or ``torch.nn.functional.unfold(x, kernel_size, ...)``."""
    if ctx.node.op == "call_method":
        axis, size, step = (
            kwargs.get(name, value) for name, value in zip(("dimension", "size", "step"), args, strict=False)
        )
        windows = ctx.call("floordiv", x.shape[axis] - as_poly(size), today_of(step)) + 1
        return Sym((*replaced(x, axis, windows).shape, as_poly(size)))
    return columns(ctx, x, *args, **kwargs)


def columns(ctx: Context, x: Sym, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Sym:
    """The patches of an image as columns: (N, C * kernel, patches)."""
    options = [spread(o, 2) for o in (kernel_size, stride, padding, dilation)]
    sides = [
        pool_output(ctx, side, as_poly(k), as_poly(s), as_poly(p), as_poly(d))
        for side, k, s, p, d in zip(x.shape[-2:], *options, strict=True)
    ]
    return Sym((x.shape[0], x.shape[1] * product(list(map(as_poly, options[0]))), product(sides)))


@rule("arange")
def arange(ctx: Context, *args: Any, **kwargs: Any) -> Any:
    """``arange(end)`` or ``arange(start, end)``; other forms are what they are today."""
    start, end = (0, *args, kwargs.get("end"))[:2] if len(args) < 2 else args[:2]
    if len(args) > 2 or not {"start", "step"}.isdisjoint(kwargs) or not isinstance(end, Poly) or not is_size(start):
        return ctx.node.meta["val"]
    return Sym((end - as_poly(start),))


@rule("meshgrid")
def meshgrid(ctx: Context, *tensors: Any, **kwargs: Any) -> Any:
    axes = flat(tensors)
    if not symbolic_tensors(axes):
        return ctx.node.meta["val"]
    sides = [(axis if isinstance(axis, Sym) else constant(axis)).shape[0] for axis in axes]
    return (Sym(tuple(sides)),) * len(axes)


@rule("new_empty", "new_zeros", "new_ones", "new_full", "empty", "zeros", "ones", "rand", "randn", "full")
def made(ctx: Context, *args: Any, **kwargs: Any) -> Sym:
    sizes = args[1:] if isinstance(args[0], Sym) else args
    return Sym(tuple(as_poly(s) for s in (sizes[0] if isinstance(sizes[0], (tuple, list)) else sizes)))


# --- reductions -------------------------------------------------------------------------------------------------------


_REDUCTIONS = """
mean sum amax amin std var prod logsumexp norm all any argmax vector_norm max min var_mean std_mean topk count_nonzero
"""


@rule(*_REDUCTIONS.split())
def reduce(ctx: Context, x: Any, dim: Any = None, *args: Any, keepdim: bool = False, **kwargs: Any) -> Any:
    if not isinstance(x, Sym):
        return ctx.node.meta["val"]
    if isinstance(dim, Sym):
        return elementwise(ctx, x, dim)
    keepdim = keepdim or any(a is True for a in args)
    dims = range(len(x.shape)) if dim is None else dim if isinstance(dim, (tuple, list)) else [dim]
    axes = [d % len(x.shape) for d in dims]
    shape = tuple(as_poly(1) if i in axes else d for i, d in enumerate(x.shape) if keepdim or i not in axes)
    value = ctx.node.meta["val"]
    return tuple(Sym(shape) for _ in value) if isinstance(value, tuple) else Sym(shape)


# --- layers as functions ----------------------------------------------------------------------------------------------


def spread(value: Any, n: int) -> list[Any]:
    """A per-dimension option as a list: an int, or a sequence of n (or of 1)."""
    values = list(value) if isinstance(value, (tuple, list)) else [value]
    return values * n if len(values) == 1 else values


def convolution(
    ctx: Context,
    name: str,
    x: Sym,
    weight: Sym,
    bias: Sym | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Poly | int,
) -> Sym:
    """Input channels = groups * weight.shape[1]; the groups stay and their widths grow, save that depthwise stays
    depthwise: there each channel is its own group."""
    n = len(weight.shape) - 2
    channels, outputs, inner = x.shape[-n - 1], weight.shape[0], weight.shape[1]
    kernel = ctx.kernel(weight.shape[2:])
    if depthwise(channels, inner, groups):
        ctx.equate(outputs, channels * (outputs.hint // today_of(groups)))
    else:
        ctx.equate(channels, inner * groups)
        each = ctx.quotient(outputs, groups)
        if isinstance(groups, Poly):  # one group for each image of the batch, whose kernel is its own
            ctx.produce(name, inner, each)
        else:
            ctx.produce(name, channels, outputs)
    if bias is not None:
        ctx.equate(outputs, bias.shape[0])
    if padding == "same":
        sides = x.shape[-n:]
    else:
        options = [spread(o, n) for o in (stride, 0 if padding == "valid" else padding, dilation)]
        sides = tuple(
            pool_output(ctx, side, k, as_poly(s), as_poly(p), as_poly(d))
            for side, k, s, p, d in zip(x.shape[-n:], kernel, *options, strict=True)
        )
    result = Sym((*x.shape[: -n - 1], outputs, *sides))
    ctx.spend("macs", *result.shape, *weight.shape[1:])
    ctx.spend("activations", *result.shape)
    return result


def owner(ctx: Context, weight: Sym) -> str:
    """The module whose parameter a computed weight comes from (weight standardisation), else the node's name."""
    width = next((atom for atom in ctx.equations.resolve(weight.shape[0]).atoms() if atom.is_width), None)
    tensor = width.name.rpartition(":")[0] if width is not None else ""
    return tensor.rpartition(".")[0] if tensor in ctx.tensors and "." in tensor else ctx.node.name


def depthwise(channels: Poly, inner: Poly, groups: Poly | int) -> bool:
    return 1 < today_of(groups) == channels.hint and inner.hint == 1


def pool_output(
    ctx: Context, side: Poly, kernel: Poly, stride: Poly, padding: Poly, dilation: Poly, ceil_mode: bool = False
) -> Poly:
    """Output side of a sliding window (torch.nn.Conv2d's formula)."""
    if ceil_mode and stride.constant != 1:
        return ctx.call("ceil_pool", side, *(p.hint for p in (kernel, stride, padding, dilation)))
    reach = side + padding * 2 - dilation * (kernel - 1) - 1
    return reach + 1 if stride.constant == 1 else ctx.call("floordiv", reach, stride.hint) + 1


@rule("conv1d", "conv2d", "conv3d")
def conv(
    ctx: Context,
    input: Sym,
    weight: Sym,
    bias: Sym | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
) -> Sym:
    _follow(ctx, input, weight, groups)
    return convolution(ctx, owner(ctx, weight), input, weight, bias, stride, padding, dilation, groups)


def _follow(ctx: Context, x: Sym, weight: Sym, groups: Any) -> None:
    """The number of groups of a depthwise convolution is its number of channels."""
    channels = x.shape[1 - len(weight.shape)]
    if depthwise(channels, weight.shape[1], groups):
        ctx.literal(groups, channels)


def transposed(
    ctx: Context,
    name: str,
    x: Sym,
    weight: Sym,
    bias: Sym | None,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: int,
    dilation: Any,
) -> Sym:
    """Transposed convolution; the weight is (in, out / groups, *kernel)."""
    n = len(weight.shape) - 2
    channels, inner = x.shape[-n - 1], weight.shape[1]
    kernel = ctx.kernel(weight.shape[2:])
    ctx.equate(channels, weight.shape[0])
    if depthwise(channels, inner, groups):
        outputs = channels
    else:
        outputs = inner * groups
        if groups > 1:
            ctx.quotient(channels, groups)
        ctx.produce(name, channels, outputs)
    if bias is not None:
        ctx.equate(outputs, bias.shape[0])
    options = [spread(o, n) for o in (stride, padding, output_padding, dilation)]
    sides = tuple(
        (side - 1) * s - 2 * p + d * (k - 1) + o + 1
        for side, k, s, p, o, d in zip(x.shape[-n:], kernel, *options, strict=True)
    )
    result = Sym((*x.shape[: -n - 1], outputs, *sides))
    ctx.spend("macs", *x.shape, *weight.shape[1:])
    ctx.spend("activations", *result.shape)
    return result


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def conv_transpose(
    ctx: Context,
    input: Sym,
    weight: Sym,
    bias: Sym | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: Any = 1,
    dilation: Any = 1,
) -> Sym:
    _follow(ctx, input, weight, groups)
    return transposed(ctx, owner(ctx, weight), input, weight, bias, stride, padding, output_padding, groups, dilation)


@rule("linear")
def linear_function(ctx: Context, input: Sym, weight: Sym, bias: Sym | None = None) -> Sym:
    return linear(ctx, owner(ctx, weight), input, weight, bias)


def linear(ctx: Context, name: str, x: Sym, weight: Sym, bias: Sym | None) -> Sym:
    outputs, inputs = weight.shape
    ctx.equate(x.shape[-1], inputs)
    if bias is not None:
        ctx.equate(outputs, bias.shape[0])
    ctx.produce(name, x.shape[-1], outputs)
    result = Sym((*x.shape[:-1], outputs))
    ctx.spend("macs", *result.shape, inputs)
    return result


@rule("matmul", "bmm", "mm")
def matmul(ctx: Context, input: Sym, other: Sym) -> Sym:
    if len(input.shape) < 2 or len(other.shape) < 2:
        unknown(ctx, input, other)
    batch = broadcast(ctx, [input.shape[:-2], other.shape[:-2]])
    result = Sym((*batch, input.shape[-2], other.shape[-1]))
    ctx.contract(input.shape[-1], other.shape[-2], *result.shape)
    return result


@rule("mv")
def matrix_vector(ctx: Context, input: Sym, vec: Sym) -> Sym:
    ctx.equate(input.shape[-1], vec.shape[0])
    return Sym(input.shape[:-1])


@rule("dot", "vdot")
def dot(ctx: Context, input: Sym, other: Sym) -> Sym:
    ctx.equate(input.shape[0], other.shape[0])
    return Sym(())


@rule("einsum")
def einsum(ctx: Context, equation: str, *operands: Any) -> Sym:
    """Each letter is one size. Of two operands torch makes a batched matrix product, which costs the product of its
    letters, after it has summed what one operand alone has."""
    tensors = flat(operands)
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if not arrow or "." in equation or len(tensors) > 2 or any(len(set(term)) < len(term) for term in terms):
        unknown(ctx, tensors)
    dims: dict[str, list[tuple[Poly, ...]]] = {}
    for term, tensor in zip(terms, tensors, strict=True):
        for letter, dim in zip(term, tensor.shape, strict=True):
            dims.setdefault(letter, []).append((dim,))
    sizes = {letter: broadcast(ctx, same)[0] for letter, same in dims.items()}
    common = set.intersection(*map(set, terms)) - set(output) if len(terms) == 2 else set()
    if common:
        for letter in sorted(common):
            ctx.contractions.append((ctx.node, sizes[letter]))
        ctx.spend("macs", *(sizes[letter] for letter in sorted(common | set(output))))
    return Sym(tuple(sizes[letter] for letter in output))


@rule("scaled_dot_product_attention")
def attention(ctx: Context, query: Sym, key: Sym, value: Sym, attn_mask: Sym | None = None, *_: Any, **__: Any) -> Sym:
    """softmax(query @ key.T) @ value; its products are not counted by torch's counter on every device, but here."""
    ctx.equate(key.shape[-2], value.shape[-2])
    batch = broadcast(ctx, [query.shape[:-2], key.shape[:-2], value.shape[:-2]])
    scores = (*batch, query.shape[-2], key.shape[-2])
    if attn_mask is not None:
        broadcast(ctx, [scores, attn_mask.shape])
    ctx.contract(query.shape[-1], key.shape[-1], *scores)
    ctx.spend("macs", *scores, value.shape[-1])
    return Sym((*batch, query.shape[-2], value.shape[-1]))


@rule("batch_norm", "instance_norm")
def channel_norm(ctx: Context, x: Sym, *args: Any, **kwargs: Any) -> Sym:
    for vector in symbolic_tensors((args, kwargs)):
        ctx.equate(x.shape[1], vector.shape[0])
    return x


@rule("group_norm")
def group_norm(
    ctx: Context, x: Sym, num_groups: Any, weight: Sym | None = None, bias: Sym | None = None, eps: float = 0
) -> Sym:
    if today_of(num_groups) == x.shape[1].hint:
        ctx.literal(num_groups, x.shape[1])
    else:
        ctx.quotient(x.shape[1], num_groups)
    return channel_norm(ctx, x, weight, bias)


@rule("layer_norm", "rms_norm")
def layer_norm(ctx: Context, x: Sym, normalized_shape: Any, *args: Any, **kwargs: Any) -> Sym:
    tail = x.shape[-len(normalized_shape) :]
    for size, dim in zip(normalized_shape, tail, strict=True):
        ctx.literal(size, dim)
    for weight in symbolic_tensors((args, kwargs)):
        for size, dim in zip(weight.shape, tail, strict=True):
            ctx.equate(dim, size)
    return x


@rule("prelu")
def prelu(ctx: Context, x: Sym, weight: Sym) -> Sym:
    if weight.shape[0].constant != 1:
        ctx.equate(x.shape[1], weight.shape[0])
    return x


@rule("max_pool1d", "max_pool2d", "max_pool3d")
def max_pool(
    ctx: Context,
    input: Sym,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Sym:
    return pool(ctx, input, kernel_size, stride, padding, dilation, ceil_mode)


@rule("avg_pool1d", "avg_pool2d", "avg_pool3d")
def avg_pool(
    ctx: Context,
    input: Sym,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    *args: Any,
    **kwargs: Any,
) -> Sym:
    return pool(ctx, input, kernel_size, stride, padding, 1, ceil_mode)


def pool(ctx: Context, x: Sym, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Sym:
    several = isinstance(kernel_size, (tuple, list)) and len(kernel_size) > 1
    n = len(kernel_size) if several else len(x.shape) - 2
    options = [spread(o, n) for o in (kernel_size, kernel_size if stride in (None, []) else stride, padding, dilation)]
    sides = tuple(
        pool_output(ctx, side, as_poly(k), as_poly(s), as_poly(p), as_poly(d), ceil_mode)
        for side, k, s, p, d in zip(x.shape[-n:], *options, strict=True)
    )
    return Sym((*x.shape[:-n], *sides))


@rule(
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
)
def adaptive_pool(ctx: Context, x: Sym, output_size: Any, return_indices: bool = False) -> Sym:
    n = len(x.shape) - 2
    sizes = spread(output_size, n)
    return Sym((*x.shape[:2], *(dim if s is None else as_poly(s) for s, dim in zip(sizes, x.shape[2:], strict=True))))


@rule("interpolate", "upsample")
def interpolate(ctx: Context, input: Sym, size: Any = None, scale_factor: Any = None, *args: Any, **kwargs: Any) -> Sym:
    n = len(input.shape) - 2
    if size is not None:
        return Sym((*input.shape[:2], *(as_poly(s) for s in spread(size, n))))
    factors = spread(scale_factor, n)
    sides = [
        dim * int(f) if float(f).is_integer() else ctx.call("scale", dim, float(f))
        for dim, f in zip(input.shape[2:], factors, strict=True)
    ]
    return Sym((*input.shape[:2], *sides))


@rule("pixel_shuffle")
def pixel_shuffle(ctx: Context, x: Sym, upscale_factor: int) -> Sym:
    n, c, h, w = x.shape
    r = upscale_factor
    return Sym((n, ctx.quotient(c, r * r), h * r, w * r))


@rule("pixel_unshuffle")
def pixel_unshuffle(ctx: Context, x: Sym, downscale_factor: int) -> Sym:
    n, c, h, w = x.shape
    r = downscale_factor
    return Sym((n, c * (r * r), ctx.call("floordiv", h, r), ctx.call("floordiv", w, r)))


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(ctx: Context, x: Sym, groups: int) -> Sym:
    ctx.quotient(x.shape[1], groups)
    return x


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
