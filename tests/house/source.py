"""The files of a package, parsed, and small questions about their syntax."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef
_DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _docstring(node: ast.AST) -> ast.Expr | None:
    if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
        first = node.body[0]
        assert isinstance(first, ast.Expr)
        return first
    return None


def _span(node: ast.stmt) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


@dataclass(frozen=True)
class File:
    """A file of the package; `path` is relative to the package's folder."""

    path: Path
    text: str
    package: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def lines(self) -> int:
        return len(self.text.splitlines())

    @property
    def module(self) -> str:
        """The dotted name."""
        parts = [self.package, *self.path.with_suffix("").parts]
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def folder(self) -> str:
        """``.`` for a file that lies beside the parts."""
        return self.path.parent.as_posix()

    @property
    def part(self) -> str:
        """The part of the package that it belongs to: a folder, or a file beside the folders."""
        return self.path.parts[0].removesuffix(".py")

    @cached_property
    def code(self) -> dict[int, str]:
        """Lines with code by their number: no docstrings, no comments, no blank ones."""
        left_out: set[int] = set()
        for node in ast.walk(self.tree):
            if (text := _docstring(node)) is not None:
                left_out.update(_span(text))
        lines = self.text.splitlines()
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type == tokenize.COMMENT:
                row, column = token.start
                lines[row - 1] = lines[row - 1][:column]
        numbered = enumerate((line.strip() for line in lines), 1)
        return {number: line for number, line in numbered if line and number not in left_out}

    def walk(self) -> Iterator[ast.AST]:
        return ast.walk(self.tree)

    def functions(self) -> Iterator[Function]:
        return (node for node in self.walk() if isinstance(node, Function))

    def length(self, function: Function) -> int:
        """Lines of code of a function with its signature, without docstring and comments."""
        return sum(number in self.code for number in _span(function))

    def at(self, node: ast.AST) -> str:
        return f"{self.path.as_posix()}:{getattr(node, 'lineno', 1)}"


def files_of(folder: Path) -> list[File]:
    """All files of a package."""
    paths = sorted(p for p in folder.rglob("*.py") if "__pycache__" not in p.parts)
    return [File(p.relative_to(folder), p.read_text("utf-8"), folder.name) for p in paths]


def parameters(function: Function) -> list[str]:
    """The names of the parameters; `self`, `cls`, ``*args`` and ``**more`` are not among them."""
    found = function.args
    names = [a.arg for a in (*found.posonlyargs, *found.args, *found.kwonlyargs)]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def modules_imported(file: File, modules: set[str]) -> Iterator[tuple[ast.stmt, str]]:
    """The modules of the package that a file imports, those under ``TYPE_CHECKING`` too.

    ``from a.b import c`` is the module `a.b.c` where there is one, and `a.b` otherwise.
    """
    for node in file.walk():
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in modules:
                    yield node, inner
                elif node.module in modules:
                    yield node, node.module
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in modules:
                    yield node, alias.name
