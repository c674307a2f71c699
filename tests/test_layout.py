"""How the package is laid out: layers, pure modules, who prints, what is public. Nothing here imports torch."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import cnnscale

PACKAGE = Path(__file__).parent.parent / "cnnscale"

# From the bottom up. A module imports only modules that stand before it.
LAYERS = (
    "errors",
    "coefficients",
    "rounding",
    "patterns",
    "formatting",
    "plans",
    "drawing",
    "records",
    "symbolic",
    "equations",
    "sources",
    "tracing",
    "shapes",
    "scales",
    "ops",
    "kernels",
    "layers",
    "inference",
    "stages",
    "surgery",
    "mixtures",
    "schedules",
    "fans",
    "concatenation",
    "derivation",
    "analysis",
    "roles",
    "widths",
    "opening",
    "projections",
    "reading",
    "costs",
    "fitting",
    "planning",
    "attributes",
    "rewriting",
    "comparison",
    "recognition",
    "orders",
    "recipes",
    "running",
    "weighted",
    "identities",
    "samples",
    "following",
    "parting",
    "growth",
    "initialization",
    "measuring",
    "verification",
    "scaling",
    "loading",
    "benchmarking",
    "cli",
    "__main__",
    "__init__",
)
ABOVE_INIT = ("cli", "__main__")  # programs on top of the public API: __init__ does not import them

PURE = (*LAYERS[: LAYERS.index("tracing")], "derivation", "fitting")
PRINTS = ("cli",)

PUBLIC = [
    "EFFICIENTNET",
    "CnnScaleError",
    "Coefficients",
    "Cost",
    "GrowthError",
    "GrowthWarning",
    "ModelError",
    "Multipliers",
    "Plan",
    "PlanError",
    "Preservation",
    "PreserveError",
    "RewriteError",
    "Scaling",
    "TraceError",
    "UnsupportedOpError",
    "UsageError",
    "Verification",
    "WidthError",
    "apply",
    "measure",
    "plan",
    "scale",
    "verify",
]

FAMILIES = re.compile(
    r"alexnet|convnext|cspnet|darknet|densenet|dla\d|efficientnet|ghostnet|googlenet|hrnet|inception|mnasnet|"
    r"mobilenet|nfnet|regnet|repvgg|res2net|resnest|resnet|resnext|shufflenet|squeezenet|tinynet|vgg\d|\bxception",
    re.IGNORECASE,
)
# The paper's coefficients carry its network's name, and the command line's help gives examples.
FAMILIES_ALLOWED = {"EFFICIENTNET", '"EFFICIENTNET"'}
NAMES_MODELS = ("cli",)


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


every_module = pytest.mark.parametrize("path", modules(), ids=name_of)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def statements_at_run_time(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node, except those below ``if TYPE_CHECKING:``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            continue
        yield node
        yield from statements_at_run_time(node)


def imports(tree: ast.AST) -> Iterator[str]:
    """Absolute dotted names of what a module imports, wherever in it; ``cnnscale.x`` for its own package."""
    for node in statements_at_run_time(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = ".".join(filter(None, ("cnnscale" if node.level else "", node.module)))
            yield from (f"{parent}.{alias.name}" for alias in node.names) if parent == "cnnscale" else (parent,)


def internal(tree: ast.AST) -> set[str]:
    """The package's own modules that a module imports; ``from . import x`` of no module x is ``__init__``."""
    known = {name_of(path) for path in modules()}
    found = set()
    for name in imports(tree):
        head, _, rest = name.partition(".")
        if head == "cnnscale":
            found.add(rest.split(".")[0] if rest.split(".")[0] in known else "__init__")
    return found


def test_every_module_has_its_layer():
    assert {name_of(path) for path in modules()} == set(LAYERS)
    assert len(set(LAYERS)) == len(LAYERS)


@every_module
def test_imports_point_down_only(path: Path):
    name = name_of(path)
    below = set(LAYERS[: LAYERS.index(name)])
    if name in ABOVE_INIT:
        below.add("__init__")
    elif name == "__init__":
        below.difference_update(ABOVE_INIT)
    assert internal(parse(path)) <= below


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_import_no_torch(name: str):
    """Neither directly nor, because pure modules import pure modules only, through another module."""
    tree = parse(PACKAGE / f"{name}.py")
    assert not {found.split(".")[0] for found in imports(tree)} & {"torch", "torchvision", "timm", "thop", "numpy"}
    assert internal(tree) <= set(PURE)


@every_module
def test_one_module_prints(path: Path):
    if name_of(path) in PRINTS:
        return
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in {"print", "sys.stdout.write", "sys.stderr.write"}, (
                f"{path.name}:{node.lineno} prints"
            )


def test_no_module_is_named_like_a_public_function():
    """``cnnscale.scale`` must stay the function, whichever module is imported when."""
    assert not {name_of(path) for path in modules()} & set(cnnscale.__all__)


def test_public_surface_is_pinned():
    assert sorted(cnnscale.__all__) == sorted(PUBLIC)
    assert all(hasattr(cnnscale, name) for name in cnnscale.__all__)


@every_module
def test_every_module_says_what_it_is_for(path: Path):
    assert ast.get_docstring(parse(path))


@every_module
def test_every_module_lists_its_names(path: Path):
    """``__all__`` holds no private name, and is there wherever another module could import something."""
    tree = parse(path)
    lists = [node for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"]
    if name_of(path) == "__main__":
        assert not lists
        return
    assert len(lists) == 1
    names = ast.literal_eval(lists[0].value)
    assert not [name for name in names if name.startswith("_")]
    assert len(set(names)) == len(names)


@every_module
def test_no_zoo_model_is_named_in_code(path: Path):
    """The rules are general: a model's name belongs in a comment or a docstring, as an example."""
    if name_of(path) in NAMES_MODELS:
        return
    source = path.read_text(encoding="utf-8")
    docstrings = set(docstring_lines(ast.parse(source)))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT or token.start[0] in docstrings or token.string in FAMILIES_ALLOWED:
            continue
        assert not FAMILIES.search(token.string), f"{path.name}:{token.start[0]} names a model: {token.string}"


def docstring_lines(tree: ast.Module) -> Iterator[int]:
    """Lines of all strings that stand alone as statements: docstrings, also those of attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield from range(node.lineno, (node.end_lineno or node.lineno) + 1)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from .errors import UsageError", {"errors"}),
        ("from . import ops", {"ops"}),
        ("from . import scale", {"__init__"}),
        ("import cnnscale.errors", {"errors"}),
        ("def f():\n    from cnnscale.errors import UsageError", {"errors"}),
        ("if TYPE_CHECKING:\n    from .errors import UsageError", set()),
        ("import torch\nfrom torch import nn", set()),
    ],
)
def test_the_import_reader_itself(source: str, expected: set[str]):
    assert internal(ast.parse(source)) == expected
