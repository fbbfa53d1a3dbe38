"""What `dd_plugin` uses of other libraries that they do not promise to keep, found in its source.

Used by `test_private_names.py`. Found are, of torch, torchvision, timm, transformers, datasets,
accelerate and huggingface_hub:

- imports and attribute chains with a part that begins with an underscore (``torch._C``);
- attributes of any object with such a name that the package does not define (``layer._buffers``),
  read, written or patched;
- methods that override one of torch's (``override _apply``), with their calls of what they
  override: these are in `OVERRIDES`, since they have to stand in the class;
- the same as strings: dotted paths, and every string that could be such a name;
- options of calls with such a name;
- modules looked up in `sys.modules` or imported by name.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from torch import nn

LIBRARIES = (
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "datasets",
    "accelerate",
    "huggingface_hub",
)
# Of Python itself.
PYTHONS = {
    *("_asdict", "_fields", "_make", "_replace"),
    "_exit",  # documented beside its public neighbors
    *("_HelpAction", "_actions", "_add_action", "_getframe", "_lru_cache_wrapper"),
}
# Strings of this package: keys of its own notes on a layer, and endings of longer names. The last
# is how torch's documentation of pruning names what it puts in the place of a parameter.
_STRINGS = {
    *("_correction", "_dd_plugin_converted", "_like", "_resets_parameters", "_stock_buffer_order"),
    "_orig",
    "_dir",  # what the names of settings that hold folders end with
}
_NAME = re.compile(r"_[a-z]\w*(\.\w+)?")
_PATH = re.compile(rf"({'|'.join(LIBRARIES)})(\.\w+)+")


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


# What torch's own modules have by such names, so that a definition of one is an override.
TORCHS = {
    name
    for module in (nn.Module(), nn.SyncBatchNorm(1), nn.BatchNorm2d(1))
    for name in dir(module)
    if is_private(name)
}


# File to the methods of torch that a class there overrides, and why by a private name. What torch
# must have of them is checked with the other names, in `dd_plugin.private`.
OVERRIDES: dict[str, dict[str, str]] = {
    "bn/policy.py": {
        "_apply": "The one place through which a module's tensors are moved and converted.",
        "_load_from_state_dict": "Torch says of it that a class may override it, and has no other.",
        "_save_to_state_dict": "Torch says of it that a class may override it, and has no other.",
    },
}


def defined_names(tree: ast.AST) -> set[str]:
    """Names that a file gives to things of its own."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
        ):
            found.add(node.attr)
    return found - TORCHS


class Scanner(ast.NodeVisitor):
    """Collects `found`, the uses in one file; `own` are the names that the package defines."""

    def __init__(self, own: set[str]) -> None:
        self.own = own | PYTHONS
        self.found: set[str] = set()
        self.aliases: dict[str, str] = {}
        self.overrides: list[str] = []

    def visit_Import(self, node: ast.Import) -> None:
        for item in node.names:
            root = item.name.partition(".")[0]
            if root in LIBRARIES:
                self.aliases[item.asname or root] = item.name if item.asname else root
                self._path(item.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if (node.module or "").partition(".")[0] in LIBRARIES:
            for item in node.names:
                path = f"{node.module}.{item.name}"
                self.aliases[item.asname or item.name] = path
                self._path(path)

    def visit_Assign(self, node: ast.Assign) -> None:
        path = self._resolved(node.value)
        if path is not None:
            for target in node.targets:
                if isinstance(target, ast.Name):
                    self.aliases[target.id] = path
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        path = self._resolved(node)
        if path is not None:
            self._path(path)
            return
        overridden = self.overrides[-1:] == [node.attr] and ast.unparse(node.value) == "super()"
        if is_private(node.attr) and node.attr not in self.own and not overridden:
            self.found.add(f".{node.attr}")
        self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for part in node.body:
            if isinstance(part, ast.FunctionDef) and part.name in TORCHS:
                self.found.add(f"override {part.name}")
                self.overrides.append(part.name)
                self.generic_visit(part)
                self.overrides.pop()
            else:
                self.visit(part)
        for other in (*node.bases, *node.keywords, *node.decorator_list):
            self.visit(other)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name in TORCHS:
            self.found.add(f"def {node.name}")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
        for keyword in node.keywords:
            if keyword.arg is not None and is_private(keyword.arg) and keyword.arg not in self.own:
                self.found.add(f"{keyword.arg}=")
        looks_up_modules = ast.unparse(node.func) in ("sys.modules.get", "sys.modules.pop")
        if looks_up_modules or name in ("import_module", "__import__"):
            arguments = [a.value for a in node.args if isinstance(a, ast.Constant)]
            self._modules([a for a in arguments if isinstance(a, str)])
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if ast.unparse(node.value) == "sys.modules" and isinstance(node.slice, ast.Constant):
            self._modules([str(node.slice.value)])
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            if _PATH.fullmatch(node.value):
                self._path(node.value)
            elif _NAME.fullmatch(node.value) and node.value not in self.own | _STRINGS:
                self.found.add(f'"{node.value}"')

    def _modules(self, names: list[str]) -> None:
        for name in names:
            if name.partition(".")[0] in LIBRARIES:
                self.found.add(f"module {name}")

    def _path(self, path: str) -> None:
        if any(is_private(part) for part in path.split(".")):
            self.found.add(path)

    def _resolved(self, node: ast.AST) -> str | None:
        """The dotted path of a chain that begins at something imported from a library."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name) or node.id not in self.aliases:
            return None
        return ".".join([self.aliases[node.id], *reversed(parts)])


def uses_in(source: str, own: set[str] | None = None) -> set[str]:
    """The uses in a piece of source."""
    tree = ast.parse(source)
    scanner = Scanner(defined_names(tree) if own is None else own)
    scanner.visit(tree)
    return scanner.found


def uses_of(folder: Path) -> dict[str, set[str]]:
    """The uses in every file of a package, by its path; files without any are left out."""
    sources = {path: path.read_text("utf-8") for path in sorted(folder.rglob("*.py"))}
    own = set().union(*(defined_names(ast.parse(source)) for source in sources.values()))
    found = {path: uses_in(source, own) for path, source in sources.items()}
    return {str(path.relative_to(folder)): names for path, names in found.items() if names}


def without_overrides(file: str, names: set[str]) -> set[str]:
    """The uses in a file without the overrides that are explained in `OVERRIDES`."""
    return names - {f"override {name}" for name in OVERRIDES.get(file, ())}
