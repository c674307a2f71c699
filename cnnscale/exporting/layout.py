"""Python code as ``ast`` nodes -> text with lines of readable length.

``ast.unparse`` writes everything on one line; here a call that is too long has its arguments on lines of their own,
arguments which repeat become one, and layers of a list that are called one after the other a loop.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence

from .constructing import Argument
from .statements import Fixed, differences, parsed
from .unifying import Blocks, Layer

__all__ = ["assigned_text", "class_text", "code", "forward_text"]

_WIDTH = 100


def class_text(
    name: str, base: str, docstring: str, parameters: Sequence[Argument], init: Sequence[ast.stmt], forward: str
) -> str:
    """The source of a class."""
    lines = [f"class {name}({base}):", f'    """{docstring}"""']
    if init:
        defaults = [p.arg + (f"={code(p.default)}" if p.default is not None else "") for p in parameters if p.arg]
        lines += ["", *_signature("__init__", defaults)]
        lines += [_statement(each, 8) for each in init]
    return "\n".join(lines) + (f"\n\n{forward}" if forward else "")


def forward_text(parameters: Sequence[str], body: Sequence[ast.stmt], lists: Mapping[str, Sequence[str]]) -> str:
    """The source of a class's forward; ``lists`` of its layers: ``{"self.blocks": ["self.blocks[0]", ...]}``."""
    lines = [_statement(each, 8) for each in _returned(body)]
    return "\n".join([*_signature("forward", parameters), *_looped(lines, lists)])


def assigned_text(name: str, value: ast.expr) -> str:
    """The statement of a function that assigns the value."""
    return _statement(ast.Assign([ast.Name(name)], value, lineno=0), 4)


def _signature(name: str, parameters: Sequence[str]) -> list[str]:
    line = f"    def {name}({', '.join(['self', *parameters])}):"
    if len(line) <= _WIDTH:
        return [line]
    return [f"    def {name}(", *(f"        {part}," for part in ("self", *parameters)), "    ):"]


def code(node: ast.AST) -> str:
    """The node on one line."""
    return _unparsed(_Plain().visit(node))


def _unparsed(node: ast.AST) -> str:
    """As ``ast.unparse``, with strings in double quotes as formatters have them, where that is safe."""
    text = ast.unparse(node)
    return text if '"' in text or "\\" in text else text.replace("'", '"')


class _Plain(ast.NodeTransformer):
    """Calls as Python has them."""

    def visit_Layer(self, node: Layer) -> ast.Call:
        return self.visit_Call(node)

    def visit_Blocks(self, node: Blocks) -> ast.Call:
        return self.visit_Call(node)

    def visit_Fixed(self, node: Fixed) -> ast.Constant:
        return ast.Constant(node.value)

    def visit_Call(self, node: ast.Call) -> ast.Call:
        args: list[ast.expr] = list(node.args)
        keywords: list[ast.keyword] = []
        for each in node.keywords:
            if isinstance(each, Argument):
                if each.default is not None and differences(each.value, each.default) == []:
                    continue
                if each.first and not keywords:
                    args.append(each.value)
                    continue
            keywords.append(ast.keyword(each.arg, each.value))
        return ast.Call(
            self.visit(node.func), _repeated([self.visit(a) for a in args]), [self.visit(k) for k in keywords]
        )

    def visit_List(self, node: ast.List) -> ast.expr:
        items = _repeated([self.visit(item) for item in node.elts])
        if len(items) == 1 and isinstance(items[0], ast.Starred):
            return items[0].value
        return ast.List(items, ast.Load())


def _repeated(items: Sequence[ast.expr]) -> list[ast.expr]:
    """Items that make modules, equal neighbours as one comprehension."""
    found: list[ast.expr] = []
    start = 0
    while start < len(items):
        stop = start + 1
        while stop < len(items) and _makes(items[start]) and differences(items[start], items[stop]) == []:
            stop += 1
        if stop - start > 1:
            repeated = parsed(f"[{_unparsed(items[start])} for _ in range({stop - start})]")
            found.append(ast.Starred(repeated, ast.Load()))
        else:
            found.append(items[start])
        start = stop
    return found


def _makes(node: ast.expr) -> bool:
    """Whether the call makes a module."""
    function = node.func if isinstance(node, ast.Call) else None
    return isinstance(function, ast.Name) or (function is not None and _unparsed(function).startswith("nn."))


def _statement(node: ast.stmt, indent: int) -> str:
    """The statement, over as many lines as it takes."""
    plain = _Plain().visit(node)
    line = " " * indent + _unparsed(plain).replace("\n", "\n" + " " * indent)
    if len(line) <= _WIDTH or isinstance(plain, ast.If):
        return line
    if isinstance(plain, ast.Assign):
        return " " * indent + f"{_unparsed(plain.targets[0])} = " + _broken(plain.value, indent)
    if isinstance(plain, ast.Expr):
        return " " * indent + _broken(plain.value, indent)
    if isinstance(plain, ast.Return) and plain.value is not None:
        return " " * indent + "return " + _broken(plain.value, indent)
    return line


def _broken(node: ast.expr, indent: int, used: int = 30) -> str:
    """The expression with its parts on lines of their own, where it is long."""
    text = _unparsed(node)
    if indent + used + len(text) <= _WIDTH:
        return text
    inner = indent + 4
    if isinstance(node, ast.Call) and (node.args or node.keywords):
        only = node.args[0] if len(node.args) == 1 and not node.keywords else None
        if isinstance(only, (ast.List, ast.Dict)):
            return f"{_unparsed(node.func)}({_broken(only, indent, _WIDTH)})"
        parts: list[ast.expr | ast.keyword] = [*node.args, *node.keywords]
        together = ", ".join(map(ast.unparse, parts))
        if inner + len(together) <= _WIDTH and not any(isinstance(n, ast.Call) for p in parts for n in ast.walk(p)):
            return f"{_unparsed(node.func)}(\n{' ' * inner}{together}\n{' ' * indent})"
        broken = "".join(" " * inner + _part(part, inner) + ",\n" for part in parts)
        return f"{_unparsed(node.func)}(\n{broken}{' ' * indent})"
    if isinstance(node, (ast.List, ast.Tuple)) and node.elts:
        opening, closing = "[]" if isinstance(node, ast.List) else "()"
        lines = [" " * inner + _part(item, inner) + ",\n" for item in node.elts]
        return f"{opening}\n{''.join(lines)}{' ' * indent}{closing}"
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        lines = [f"{' ' * inner}{_unparsed(k)}: {_broken(v, inner)},\n" for k, v in pairs if k is not None]
        return "{\n" + "".join(lines) + " " * indent + "}"
    return text


def _part(node: ast.expr | ast.keyword, indent: int) -> str:
    if isinstance(node, ast.keyword):
        return f"{node.arg}={_broken(node.value, indent, len(node.arg or '') + 2)}"
    if isinstance(node, ast.Starred) and isinstance(node.value, ast.ListComp):
        (generator,) = node.value.generators
        rest = f" for _ in {_unparsed(generator.iter)}]"
        return f"*[{_broken(node.value.elt, indent, len(rest) + 3)}{rest}"
    return _broken(node, indent, 1)


def _returned(body: Sequence[ast.stmt]) -> list[ast.stmt]:
    """``x = f(x)``, ``return x`` as ``return f(x)``."""
    *rest, end = body
    if rest and isinstance(end, ast.Return) and isinstance(end.value, ast.Name) and isinstance(rest[-1], ast.Assign):
        target = rest[-1].targets[0]
        if isinstance(target, ast.Name) and target.id == end.value.id:
            return [*rest[:-1], ast.Return(rest[-1].value)]
    return list(body)


def _looped(lines: Sequence[str], lists: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """The lines; where all layers of a list are called, one after the other, a loop."""
    at = 0
    while at < len(lines):
        for name, members in lists.items():
            like = [lines[at].replace(f"{members[0]}(", f"{member}(") for member in members]
            if len(set(like)) > 1 and list(lines[at : at + len(like)]) == like:
                yield f"        for layer in {name}:"
                yield "    " + lines[at].replace(f"{members[0]}(", "layer(")
                at += len(like)
                break
        else:
            yield lines[at]
            at += 1
