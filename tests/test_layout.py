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
    "strategies",
    "budgets",
    "publications",
    "rounding",
    "patterns",
    "inputs",
    "formatting",
    "plans",
    "requests",
    "plotting",
    "drawing",
    "records",
    "searching.grid",
    "symbolic",
    "equations",
    "sources",
    "copying",
    "creations",
    "precision",
    "shortcuts",
    "batches",
    "tracing",
    "shapes",
    "scales",
    "ops.table",
    "ops.arguments",
    "ops.sizes",
    "ops.elementwise",
    "ops.cutting",
    "ops.reshaping",
    "ops.windows",
    "ops.convolutions",
    "ops.products",
    "ops.norms",
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
    "parts",
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
    "itineraries",
    "following",
    "parting",
    "growth",
    "initialization",
    "measuring",
    "timing.statistics",
    "timing.rounds",
    "timing.memory",
    "timing.devices",
    "timing.settings",
    "timing.workloads",
    "timing",
    "limits",
    "verification",
    "scaling",
    "transferring",
    "exporting.calls",
    "exporting.statements",
    "exporting.constructing",
    "exporting.unifying",
    "exporting.layout",
    "exporting.sourcing",
    "exporting.running",
    "exporting.python",
    "exporting.formats",
    "exporting",
    "loading",
    "benchmarking.records",
    "benchmarking.environment",
    "benchmarking.layers",
    "benchmarking.variants",
    "benchmarking.comparing",
    "benchmarking.results",
    "benchmarking.regressions",
    "benchmarking.recording",
    "benchmarking.views",
    "benchmarking.exports",
    "benchmarking.charted",
    "benchmarking.svg",
    "benchmarking.page",
    "benchmarking.plots",
    "benchmarking",
    "reference",
    "folders",
    "datasets",
    "training",
    "searching.statistics",
    "searching.halving",
    "searching.candidates",
    "searching.ledger",
    "searching.trials",
    "searching.executors",
    "searching.workers",
    "searching.futures",
    "searching.clusters",
    "searching.engine",
    "searching.pools",
    "searching.result",
    "searching.search",
    "searching.status",
    "searching.forecast",
    "searching.plots",
    "searching.views",
    "searching",
    "studies.paper",
    "studies.variants",
    "studies.study",
    "studies.cam",
    "studies.plots",
    "studies.views",
    "studies",
    "lists",
    "config",
    "terminal",
    "options",
    "bench_options",
    "campaigns",
    "cli",
    "__main__",
    "__init__",
)
ABOVE_INIT = (
    "lists",
    "config",
    "terminal",
    "options",
    "cli",
    "__main__",
)  # programs on top of the public API: __init__ does not import them

PURE = (
    *LAYERS[: LAYERS.index("copying")],
    "derivation",
    "fitting",
    "searching.grid",
    "searching.statistics",
    "searching.halving",
)
PRINTS = ("terminal",)

PUBLIC = [
    "DEPTH",
    "EFFICIENTNET",
    "EFFICIENTNET_V2",
    "FAST",
    "RESNET_RS",
    "RESOLUTION",
    "TINY",
    "WIDTH",
    "Budget",
    "BudgetError",
    "CnnScaleError",
    "Coefficients",
    "Cost",
    "ExportError",
    "ExportWarning",
    "Family",
    "Grid",
    "GrowthError",
    "GrowthWarning",
    "Measurement",
    "ModelError",
    "Multipliers",
    "Plan",
    "PlanError",
    "Preservation",
    "PreserveError",
    "Published",
    "RewriteError",
    "Scaling",
    "SearchError",
    "Strategy",
    "TraceError",
    "UnsupportedOpError",
    "UsageError",
    "Verification",
    "WidthError",
    "apply",
    "family",
    "grow_state",
    "measure",
    "plan",
    "published",
    "scale",
    "search",
    "transfer_ema",
    "transfer_optimizer",
    "verify",
]

FAMILIES = re.compile(
    r"alexnet|convnext|cspnet|darknet|densenet|dla\d|efficientnet|ghostnet|googlenet|hrnet|inception|mnasnet|"
    r"mobilenet|nfnet|regnet|repvgg|res2net|resnest|resnet|resnext|shufflenet|squeezenet|tinynet|vgg\d|\bxception",
    re.IGNORECASE,
)
# Strategies carry the names of the networks that they come from, and the command line's help gives examples.
STRATEGY_NAMES = ("EFFICIENTNET", "EFFICIENTNET_V2", "RESNET_RS")
FAMILIES_ALLOWED = {
    *STRATEGY_NAMES,
    *(f'"{name}"' for name in STRATEGY_NAMES),
    *(f'"{name.lower().replace("_", "-")}"' for name in STRATEGY_NAMES),
}
NAMES_MODELS = ("cli", "campaigns", "publications", "studies.paper")


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """``ops.table`` for ``ops/table.py``; the ``__init__`` of a package inside has the package's name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def package_of(path: Path) -> str:
    return ".".join(("cnnscale", *path.relative_to(PACKAGE).parent.parts))


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


def imports(tree: ast.AST, package: str = "cnnscale") -> Iterator[str]:
    """Absolute dotted names of what a module of ``package`` imports, wherever in it; ``cnnscale.x`` for its own."""
    for node in statements_at_run_time(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = ".".join(filter(None, (package if node.level else "", node.module)))
            own = parent.split(".")[0] == "cnnscale"
            yield from (f"{parent}.{alias.name}" for alias in node.names) if own else (parent,)


def internal(tree: ast.AST, package: str = "cnnscale") -> set[str]:
    """The package's own modules that a module imports; ``from . import x`` of no module x is ``__init__``."""
    known = {name_of(path) for path in modules()}
    found = set()
    for name in imports(tree, package):
        head, _, rest = name.partition(".")
        if head == "cnnscale":
            while rest and rest not in known:
                rest = rest.rpartition(".")[0]
            found.add(rest or "__init__")
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
    assert internal(parse(path), package_of(path)) <= below


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_import_no_torch(name: str):
    """Neither directly nor, because pure modules import pure modules only, through another module."""
    path = PACKAGE / f"{name.replace('.', '/')}.py"
    tree = parse(path)
    assert not {found.split(".")[0] for found in imports(tree)} & {"torch", "torchvision", "timm", "thop", "numpy"}
    assert internal(tree, package_of(path)) <= set(PURE)


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
    ("source", "expected", "package"),
    [
        ("from .errors import UsageError", {"errors"}, "cnnscale"),
        ("from . import ops", {"ops"}, "cnnscale"),
        ("from . import scale", {"__init__"}, "cnnscale"),
        ("import cnnscale.errors", {"errors"}, "cnnscale"),
        ("def f():\n    from cnnscale.errors import UsageError", {"errors"}, "cnnscale"),
        ("if TYPE_CHECKING:\n    from .errors import UsageError", set(), "cnnscale"),
        ("import torch\nfrom torch import nn", set(), "cnnscale"),
        ("from cnnscale.ops.table import rule", {"ops.table"}, "cnnscale"),
        ("from .table import rule", {"ops.table"}, "cnnscale.ops"),
        ("from . import cutting", {"ops.cutting"}, "cnnscale.ops"),
        ("from . import RULES", {"ops"}, "cnnscale.ops"),
    ],
)
def test_the_import_reader_itself(source: str, expected: set[str], package: str):
    assert internal(ast.parse(source), package) == expected
