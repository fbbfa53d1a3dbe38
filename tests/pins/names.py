"""The public names: `__all__` of every part, signatures, and the paths that pages name."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.docs.pages import PAGES, ROOT, blocks

FILE = Path(__file__).with_name("golden") / "names.yaml"
# What a user may import from. `text` and the like are not among them.
PARTS = (
    "dd_plugin",
    "dd_plugin.bilevel",
    "dd_plugin.bn",
    "dd_plugin.cli",
    "dd_plugin.convnet",
    "dd_plugin.data",
    "dd_plugin.distiller",
    "dd_plugin.evaluation",
    "dd_plugin.hub",
    "dd_plugin.models",
    "dd_plugin.networks",
    "dd_plugin.recipes",
)
# Made by users, and called by the package alone.
_INNER = ("BilevelProblem", "FunctionalModel", "Learnable", "Networks")
_DIRECTIVE = re.compile(r"^::: (dd_plugin[\w.]+)$", re.MULTILINE)
_LINK = re.compile(r"\]\[(dd_plugin[\w.]+)\]")
_WORD = re.compile(r"(?<![\w/.-])dd_plugin(?:\.[A-Za-z_]\w*)+")


def public_names(part: str) -> list[str]:
    """`__all__`, or what a module without one defines itself."""
    module = importlib.import_module(part)
    if hasattr(module, "__all__"):
        return sorted(module.__all__)
    return sorted(
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == part
    )


def resolved(path: str) -> Any:
    """What a dotted path names: a module, or a name in one, or an attribute of that.

    Raises:
        ImportError: it is gone; the message says which part of the path.
    """
    parts = path.split(".")
    value: Any = importlib.import_module(parts[0])
    depth = 1
    # As far as there are modules, whatever else a package has by the name of one.
    while depth < len(parts):
        here = ".".join(parts[: depth + 1])
        try:
            value = importlib.import_module(here)
        except ModuleNotFoundError as error:
            if error.name != here:  # it is there and lacks something itself
                raise
            break
        depth += 1
    for count, name in enumerate(parts[depth:], depth + 1):
        if not hasattr(value, name):
            raise ImportError(f"{path} is gone: there is no {'.'.join(parts[:count])}")
        value = getattr(value, name)
    return value


# --- signatures ----------------------------------------------------------------------------------


def _default(value: Any) -> str:
    if inspect.isroutine(value) or inspect.isclass(value):
        return str(value.__name__)
    text = repr(value)
    return type(value).__name__ if " at 0x" in text else text


def signature(function: Any) -> str:
    """Names, kinds and defaults of the parameters; annotations may become better and are not."""
    everything = inspect.signature(function).parameters.values()
    parameters = [p for p in everything if not p.name.startswith("_")]
    texts = []
    for place, parameter in enumerate(parameters):
        if parameter.kind is parameter.KEYWORD_ONLY and not any(
            p.kind in (p.VAR_POSITIONAL, p.KEYWORD_ONLY) for p in parameters[:place]
        ):
            texts.append("*")
        several = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        star = ("*" if parameter.kind is parameter.VAR_POSITIONAL else "**") if several else ""
        given = "" if parameter.default is parameter.empty else f"={_default(parameter.default)}"
        texts.append(f"{star}{parameter.name}{given}")
        following = parameters[place + 1 : place + 2]
        if parameter.kind is parameter.POSITIONAL_ONLY and (
            not following or following[0].kind is not parameter.POSITIONAL_ONLY
        ):
            texts.append("/")
    return f"({', '.join(texts)})"


def _members(kind: type) -> Iterator[tuple[str, str]]:
    """Public methods with their parameters and properties, those of our own base classes too."""
    own = [base for base in kind.__mro__ if base.__module__.startswith("dd_plugin")]
    for name in sorted({n for base in own for n in vars(base) if not n.startswith("_")}):
        value = inspect.getattr_static(kind, name)
        if isinstance(value, property):
            yield name, "property"
        elif isinstance(value, staticmethod | classmethod) or inspect.isfunction(value):
            yield name, signature(getattr(kind, name))


def described(value: Any) -> Any:
    """What is pinned of a public name: a text, or a dictionary of a class."""
    if inspect.isclass(value):
        bases = [base for base in value.__mro__[1:] if not base.__module__.startswith("dd_plugin")]
        foreign = [base.__name__ for base in bases]
        found: dict[str, Any] = {} if foreign[0] == "object" else {"is": foreign[0]}
        # Exceptions are caught; how they are made is nobody's business.
        if not issubclass(value, BaseException) and "Protocol" not in foreign:
            found["made with"] = signature(value)
        return found if value.__name__.startswith(_INNER) else {**found, **dict(_members(value))}
    if inspect.isroutine(value):
        return signature(value)
    if isinstance(value, str | int | float):
        return "version" if value == importlib.import_module("dd_plugin").__version__ else value
    return type(value).__name__


def signatures() -> dict[str, dict[str, Any]]:
    """Of every part; a name that the package itself offers too is described once, there."""
    found: dict[str, dict[str, Any]] = {}
    seen: dict[int, str] = {}
    for part in PARTS:
        found[part] = {}
        for name in public_names(part):
            value = resolved(f"{part}.{name}")
            if part != "dd_plugin" and seen.get(id(value)) == f"dd_plugin.{name}":
                found[part][name] = f"see dd_plugin.{name}"
                continue
            seen[id(value)] = f"{part}.{name}"
            found[part][name] = described(value)
    return found


# --- what pages name -----------------------------------------------------------------------------


def _imports(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dd_plugin"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith("dd_plugin"))


def documented_paths() -> list[str]:
    """The paths that README, docs/ and examples/ import, describe, link to or write out."""
    found: set[str] = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        found.update(_DIRECTIVE.findall(text), _LINK.findall(text), _WORD.findall(text))
        for code in blocks(page, "python"):
            found.update(_imports(code))
    for example in sorted((ROOT / "examples").rglob("*.py")):
        found.update(_imports(example.read_text(encoding="utf-8")))
    # A file's name ends like a path.
    return sorted(p for p in found if not p.endswith((".py", ".egg", ".md")) and p != "dd_plugin")


# --- the file ------------------------------------------------------------------------------------


def stored() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return content


def write() -> None:
    """Write the file anew. Paths are added and never taken away: do that by hand, on purpose."""
    before = stored()["paths"] if FILE.exists() else []
    content = {
        "names": {part: public_names(part) for part in PARTS},
        "paths": sorted({*before, *documented_paths()}),
        "signatures": signatures(),
    }
    FILE.parent.mkdir(exist_ok=True)
    text = yaml.safe_dump(content, sort_keys=False, width=98, default_flow_style=False)
    FILE.write_text("# Written by `python -m tests.pins --write`.\n" + text, encoding="utf-8")
