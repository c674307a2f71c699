"""Products of matrices: linear layers, contractions, attention."""

from __future__ import annotations

from typing import Any

from cnnscale.shapes import Context, Sym, broadcast
from cnnscale.symbolic import Poly

from .arguments import flat, owner
from .table import rule, unknown

__all__ = ["linear"]


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
