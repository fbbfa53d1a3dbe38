"""What is counted. Every function takes the files of a package and returns the places."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from pathlib import Path

from torch.nn import functional

from tests.house import graph
from tests.house.source import File, is_private, parameters
from tests.private_names import PYTHONS, uses_of, without_overrides

# Where the record of a set is read, and what it and its parts are called there. A string key that
# is looked up in something of another name is counted in the wider figure only.
RECORD_FOLDERS = ("hub", "evaluation", "cli", "distiller")
RECORD_NAMES = {
    *("record", "recipe", "transform", "images", "source", "results", "protocol", "evaluations"),
    *("about", "config", "versions", "files", "metadata", "entries", "scores", "row", "noted"),
}
# Names for how a value came to be, instead of for what it is.
PARTICIPLES = ("found", "made", "given", "own", "there")
RUN = 6


def long_files(files: list[File], limit: int) -> list[str]:
    found = sorted((f for f in files if f.lines > limit), key=lambda f: -f.lines)
    return [f"{f.path.as_posix()} {f.lines}" for f in found]


def long_functions(files: list[File], limit: int) -> list[str]:
    """Over so many lines of code; docstring, comments and blank lines are none."""
    found = [(file.length(n), file.at(n), n.name) for file in files for n in file.functions()]
    return [f"{at} {name} {length}" for length, at, name in sorted(found)[::-1] if length > limit]


def _torchs_parameters(name: str) -> list[str] | None:
    """The parameters of a function of `torch.nn.functional`; None if there is none of that name."""
    function = getattr(functional, name, None)
    if function is None:
        return None
    try:
        return list(inspect.signature(function).parameters)
    except ValueError:  # written in C++: its docstring begins with its signature
        text = re.match(rf"\s*{name}\((.*?)\) ->", function.__doc__ or "", re.DOTALL)
        return re.findall(r"(\w+)(?:=[^,]*)?(?:,|$)", text[1]) if text else None


def _autograd_functions(file: File) -> list[ast.ClassDef]:
    return [
        node
        for node in file.walk()
        if isinstance(node, ast.ClassDef)
        and any(ast.unparse(base).rpartition(".")[2] == "Function" for base in node.bases)
    ]


def _decided_by_torch(file: File) -> set[ast.AST]:
    """The functions whose parameters torch decides.

    What stands in for a function of `torch.nn.functional`, by its name and with its parameters; and
    the methods of a `torch.autograd.Function`, which get one argument for each of its inputs.
    """
    stand_ins = {
        node
        for node in file.functions()
        if parameters(node) == _torchs_parameters(node.name.removeprefix("_"))
    }
    return stand_ins.union(*(node.body for node in _autograd_functions(file)))


def many_parameters(files: list[File]) -> list[str]:
    """Functions with over seven, `self` left out, where torch does not decide it."""
    found = [
        (len(parameters(node)), file.at(node), node.name)
        for file in files
        for node in set(file.functions()) - _decided_by_torch(file)
    ]
    return [f"{at} {name} {count}" for count, at, name in sorted(found)[::-1] if count > 7]


def many_positional(files: list[File]) -> list[str]:
    """Calls of the package's own functions and classes with over four positional arguments.

    A function that takes any number of them, ``*names``, has them by position in any case, and so
    has a `torch.autograd.Function`.
    """
    own = {n.name for file in files for n in file.walk() if isinstance(n, ast.ClassDef)}
    own |= {n.name for file in files for n in file.functions() if n.args.vararg is None}
    found = []
    for file in files:
        by_position = {f"{node.name}.apply" for node in _autograd_functions(file)}
        for node in file.walk():
            if isinstance(node, ast.Call) and len(node.args) > 4:
                if ast.unparse(node.func) in by_position:
                    continue
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                if name in own or name == "__init__":
                    found.append(f"{file.at(node)} {name} {len(node.args)}")
    return found


def _defined(file: File) -> set[str]:
    found = set()
    for node in file.walk():
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.id if isinstance(node, ast.Name) else node.attr)
    return {name for name in found if is_private(name)}


def private_elsewhere(files: list[File]) -> list[str]:
    """Uses of private names of the package in another file than the one that defines them."""
    defined = {file.path: _defined(file) for file in files}
    everywhere = set().union(*defined.values()) - PYTHONS
    found = []
    for file in files:
        for node in file.walk():
            names = []
            if isinstance(node, ast.Attribute):
                names = [node.attr]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(file.package):
                names = [alias.name for alias in node.names]
            foreign = set(names) & everywhere - defined[file.path]
            found += [f"{file.at(node)} {name}" for name in sorted(foreign)]
    return found


def _key(node: ast.AST) -> ast.expr | None:
    """What a constant string is looked up in."""
    if isinstance(node, ast.Subscript):
        key: ast.expr = node.slice
        where = node.value
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
        if node.func.attr not in ("get", "pop", "setdefault"):
            return None
        key, where = node.args[0], node.func.value
    else:
        return None
    is_text = isinstance(key, ast.Constant) and isinstance(key.value, str)
    return where if is_text else None


def string_keys(files: list[File], *, of_record: bool) -> list[str]:
    """Lookups by a constant string where the record is read, in anything or in parts of it."""
    found = []
    for file in files:
        if file.part not in RECORD_FOLDERS:
            continue
        for node in file.walk():
            if (where := _key(node)) is None:
                continue
            names = {getattr(n, "id", getattr(n, "attr", None)) for n in ast.walk(where)}
            if not of_record or names & RECORD_NAMES:
                found.append(f"{file.at(node)} {ast.unparse(node)}")
    return found


def type_ignores(files: list[File]) -> list[str]:
    return [
        f"{file.path.as_posix()}:{number}"
        for file in files
        for number, line in enumerate(file.text.splitlines(), 1)
        if re.search(r"#\s*type:\s*ignore", line)
    ]


def duplicates(files: list[File]) -> list[str]:
    """Runs of six lines of code or more that stand somewhere else before; imports are left out."""
    seen: dict[tuple[str, ...], str] = {}
    found = []
    for file in files:
        imports: set[int] = set()
        for node in file.walk():
            if isinstance(node, ast.Import | ast.ImportFrom):
                imports.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        kept = [(n, line) for n, line in sorted(file.code.items()) if n not in imports]
        inside = False
        for place in range(len(kept) - RUN + 1):
            window = tuple(line for _, line in kept[place : place + RUN])
            at = f"{file.path.as_posix()}:{kept[place][0]}"
            first = seen.setdefault(window, at)
            if first != at and not inside:
                found.append(f"{at} as {first}")
            inside = first != at
    return found


def participles(files: list[File]) -> list[str]:
    """Places where a variable or parameter of such a name gets its value."""
    found = []
    for file in files:
        for node in file.walk():
            name = node.arg if isinstance(node, ast.arg) else None
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                name = node.id
            if name in PARTICIPLES:
                found.append(f"{file.at(node)} {name}")
    return found


def _module_of(test: Path, modules: set[str]) -> str | None:
    """The module that a file ``test_<module>.py`` or ``test_<module>_<topic>.py`` is about.

    Of several that fit, the one with the longest name.
    """
    name = test.stem.removeprefix("test_")
    fitting = [m for m in modules if name == m or name.startswith(f"{m}_")]
    return max(fitting, key=len, default=None)


def _mirrored(files: list[File], tests: Path) -> list[tuple[str, Path, str | None]]:
    """Every file of tests in a folder that mirrors one of the package, and its module."""
    modules: dict[str, set[str]] = {}
    for file in files:
        modules.setdefault(file.folder, set()).add(file.path.stem.strip("_"))
    return [
        (folder, test, _module_of(test, modules[folder]))
        for folder in sorted(modules)
        for test in sorted((tests / folder).glob("test_*.py"))
    ]


def without_test(files: list[File], tests: Path) -> list[str]:
    """Modules without a file of tests at the place that mirrors theirs."""
    tested = {(folder, module) for folder, _, module in _mirrored(files, tests)}
    return [
        file.path.as_posix()
        for file in files
        if not file.path.name.startswith("__")
        and (file.folder, file.path.stem.strip("_")) not in tested
    ]


def without_module(files: list[File], tests: Path) -> list[str]:
    """Files of tests in a folder that mirrors one of the package, which mirror no module.

    Those in a folder ``together`` are about several modules of a part, and right there.
    """
    return [
        test.relative_to(tests).as_posix()
        for folder, test, module in _mirrored(files, tests)
        if module is None and folder != "."
    ]


def foreign_private(folder: Path) -> tuple[list[str], list[str], list[str]]:
    """Uses of names that other libraries do not promise to keep, the files with one, and overrides.

    A method that overrides one of torch's has to stand in its class. Such methods are counted by
    themselves, where `tests.private_names` has a reason for them.
    """
    everything = uses_of(folder)
    uses = {path: without_overrides(path, names) for path, names in everything.items()}
    listed = [f"{path} {name}" for path in uses for name in sorted(uses[path])]
    overrides = [
        f"{path} {name}"
        for path, names in everything.items()
        for name in sorted(names - uses[path])
    ]
    return listed, sorted(path for path, names in uses.items() if names), overrides


def places(files: list[File], folder: Path, tests: Path) -> dict[str, list[str]]:
    """Everything that is counted: its name in the table, and where it is."""
    foreign, foreign_files, overrides = foreign_private(folder)
    imports = graph.import_graph(files)
    parts: dict[str, set[str]] = {}
    for module, others in imports.items():
        mine = module.split(".")[1]
        parts.setdefault(mine, set()).update({o.split(".")[1] for o in others} - {mine})
    in_circles = [" ".join(sorted(circle)) for circle in graph.circles(imports)]
    counted: dict[str, Callable[[], list[str]]] = {
        "files over 300 lines": lambda: long_files(files, 300),
        "files over 400 lines": lambda: long_files(files, 400),
        "functions over 60 lines": lambda: long_functions(files, 60),
        "functions over seven parameters": lambda: many_parameters(files),
        "positional calls with over four arguments": lambda: many_positional(files),
        "private names used outside of their file": lambda: private_elsewhere(files),
        "private names of other libraries": lambda: foreign,
        "files with private names of other libraries": lambda: foreign_files,
        "overrides of private methods of torch": lambda: overrides,
        "string keys of the record": lambda: string_keys(files, of_record=True),
        "string keys where the record is read": lambda: string_keys(files, of_record=False),
        "imports past a part's __init__": lambda: graph.past_init(files),
        "circles of imports": lambda: in_circles,
        "modules in circles": lambda: [m for circle in in_circles for m in circle.split()],
        "two-way imports": lambda: graph.two_way(imports),
        "circles of parts": lambda: [" ".join(sorted(c)) for c in graph.circles(parts)],
        "type: ignore": lambda: type_ignores(files),
        "duplicated runs of six lines": lambda: duplicates(files),
        "variables named by participles": lambda: participles(files),
        "modules without a test file": lambda: without_test(files, tests),
        "test files without a module": lambda: without_module(files, tests),
    }
    return {name: find() for name, find in counted.items()}
