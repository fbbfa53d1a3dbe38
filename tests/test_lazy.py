"""`dd_plugin.lazy`: packages whose names are imported on first use, as type checkers see them."""

import ast
import importlib
import inspect
import subprocess
import sys

import pytest

LAZY = ("dd_plugin", "dd_plugin.data", "dd_plugin.distiller", "dd_plugin.hub")


@pytest.mark.parametrize("package", LAZY)
def test_every_public_name_is_the_one_of_its_module(package):
    module = importlib.import_module(package)
    assert set(module.__all__) - {"__version__"} == set(module._HOMES)
    for name, home in module._HOMES.items():
        value = getattr(module, name)
        assert value is getattr(importlib.import_module(home), name)
        assert vars(module)[name] is value  # the next use finds it at once
        assert name in dir(module)
        if inspect.isclass(value):  # as a pickle names it
            assert value.__module__ == home or package == "dd_plugin"


@pytest.mark.parametrize("package", LAZY)
def test_type_checkers_see_the_same_names(package):
    module = importlib.import_module(package)
    tree = ast.parse(inspect.getsource(module))
    block = next(
        n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"
    )
    seen = {
        alias.asname or alias.name: statement.module
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert set(seen) == set(module._HOMES)
    for name, home in seen.items():  # a part's door, or the module itself
        assert module._HOMES[name].startswith(home)


@pytest.mark.parametrize("package", LAZY)
def test_another_name_is_an_attribute_error(package):
    module = importlib.import_module(package)
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        _ = module.nothing
    assert not hasattr(module, "nothing")


def test_parts_are_imported_without_torch():
    code = f"import sys\nimport {', '.join(LAZY)}\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
