"""What is shipped and what the README promises: metadata, wheel, pins, commands, links and examples."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from test_layout import imports, modules, parse

import cnnscale

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "benchmarks").glob("*.md"))]

FOR_USERS = ("torchvision", "timm", "plot", "onnx", "search", "pools", "ray")  # extras

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def blocks(page: Path, language: str) -> Iterator[str]:
    """The fenced code blocks of one language."""
    yield from re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(program: str) -> list[str]:
    """Every line of the shell blocks of all pages, and every command quoted in their text, that runs ``program``."""
    found = []
    for page in PAGES:
        lines = [line.strip() for block in blocks(page, "sh") for line in block.splitlines()]
        lines += re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8"))
        found += [line for line in lines if line.startswith(program + " ")]
    return list(dict.fromkeys(found))


def run(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=600)


# --- metadata -----------------------------------------------------------------------------------------------------


def test_one_version():
    assert cnnscale.__version__ == PROJECT["version"]
    assert PROJECT["version"] in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_what_the_package_imports_is_declared():
    """Third parties that are imported anywhere in the package are dependencies, or those of an extra for users."""
    extras = PROJECT["optional-dependencies"]
    lines = PROJECT["dependencies"] + [line for name in FOR_USERS for line in extras[name]]
    names = {"pillow": "PIL"}
    declared = {names.get(name, name) for name in (Requirement(line).name for line in lines)}
    for path in modules():
        third_parties = {name.split(".")[0] for name in imports(parse(path))} - set(sys.stdlib_module_names)
        assert third_parties <= declared | {"cnnscale"}, path.name


def test_pins_of_the_test_environment_satisfy_the_metadata():
    """And every direct dependency is pinned, so that CI is the same tomorrow."""
    lines = (ROOT / ".ci" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {pin.name: pin for pin in map(Requirement, (line for line in lines if line and not line.startswith("#")))}
    extras = [line for group in PROJECT["optional-dependencies"].values() for line in group]
    wanted = [Requirement(line) for line in PROJECT["dependencies"] + extras]
    for requirement in wanted:
        if requirement.name == "cnnscale" or requirement.marker:
            continue
        (pin,) = pins[requirement.name].specifier
        assert pin.operator == "=="
        assert requirement.specifier.contains(pin.version), f"{requirement} but {pins[requirement.name]}"


def test_the_wheel_holds_the_package_its_types_and_its_licence(tmp_path: Path):
    built = run("-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path))
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    files = (path for kind in ("*.py", "*.css", "*.js") for path in (ROOT / "cnnscale").rglob(kind))
    package = {path.relative_to(ROOT).as_posix() for path in files}
    shipped = {name for name in names if ".dist-info/" not in name}
    assert shipped == package | {"cnnscale/py.typed"}
    assert any(name.endswith("/licenses/LICENSE") for name in names)


# --- what the pages say -------------------------------------------------------------------------------------------


def test_every_command_of_the_pages_parses():
    """Each ``python -m cnnscale ...`` names a command and options that exist, with values that they take."""
    from typer.main import get_command

    from cnnscale.cli import app

    lines = commands("python -m cnnscale")
    assert len(lines) >= 5
    group = get_command(app)
    for line in lines:
        name, *arguments = shlex.split(line, comments=True)[3:]
        if name.startswith("-"):
            continue
        assert name in group.commands, line
        if arguments and "MODEL" not in arguments:  # not only mentioned
            group.commands[name].make_context(name, arguments)  # raises where an option does not exist


def test_every_make_target_of_the_pages_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    used = {word for line in commands("make") for word in shlex.split(line, comments=True)[1:] if "=" not in word}
    assert {"bench", "test"} <= used <= targets


def test_every_program_of_the_pages_exists():
    for line in commands("python"):
        program = shlex.split(line)[1]
        assert program.startswith("-") or (ROOT / program).is_file(), line


@every_page
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


@every_page
def test_python_blocks_run(page: Path, tmp_path: Path):
    """The Python blocks of one page are one program."""
    code = "\n".join(blocks(page, "python"))
    if code:
        program = tmp_path / f"{page.stem}.py"
        program.write_text(code, encoding="utf-8")
        finished = run(str(program), cwd=tmp_path)
        assert finished.returncode == 0, finished.stderr


# --- examples -----------------------------------------------------------------------------------------------------


def test_the_example_is_scaled_from_python():
    finished = run("examples/scale_nas_net.py")
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout in blocks(ROOT / "README.md", "text")


def test_the_example_is_scaled_from_the_command_line(tmp_path: Path):
    net = "examples/nas_net.py:nas_net"
    finished = run("-m", "cnnscale", "scale", net, "--phi", "1", "--strict", "--out", str(tmp_path))
    assert finished.returncode == 0, finished.stderr
    again = run("-m", "cnnscale", "verify", net, "--plan", str(tmp_path / "plan.json"))
    assert again.returncode == 0, again.stderr


def test_the_example_is_benchmarked_from_the_command_line():
    quick = ("--batch-size", "1", "--min-time", "0.05", "--time-limit", "2")
    finished = run("-m", "cnnscale", "bench", "examples/nas_net.py:nas_net", "--phi", "0", "1", *quick)
    assert finished.returncode == 0, finished.stderr
    assert "images/s" in finished.stdout
