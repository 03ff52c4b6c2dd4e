"""Public functions say what they take, give and raise."""

import ast
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from tests.paths import ROOT

SOURCE = ROOT / "src/coinfer"
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Public(NamedTuple):
    where: str
    node: Function

    @property
    def docstring(self) -> str:
        return ast.get_docstring(self.node) or ""

    @property
    def parameters(self) -> list[str]:
        arguments = self.node.args
        some = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        return [one.arg for one in some if one and one.arg not in ("self", "cls")]


def functions(tree: ast.AST, where: str) -> Iterator[Public]:
    """Module-level functions and methods of public classes; commands have help texts instead, and what a library calls
    by its name (a validator, a method that overrides one) is described there."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from functions(node, f"{where}.{node.name}")
        elif isinstance(node, Function) and not node.name.startswith("_"):
            decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
            by_library = any(
                word in one for one in decorators for word in ("override", "command", "callback", "validator")
            )
            if not by_library and "typer.Option" not in ast.unparse(node.args):
                yield Public(f"{where}:{node.lineno} {node.name}", node)


PUBLIC = [
    public
    for path in sorted(SOURCE.rglob("*.py"))
    for public in functions(ast.parse(path.read_text(encoding="utf-8")), str(path.relative_to(SOURCE)))
]


def test_enough_is_looked_at():
    assert len(PUBLIC) > 900


def test_every_module_says_what_it_is_for():
    silent = [p for p in SOURCE.rglob("*.py") if not ast.get_docstring(ast.parse(p.read_text(encoding="utf-8")))]
    assert silent == []


@pytest.mark.parametrize("section", ["Args", "Raises"])
def test_public_functions_have_the_section(section: str):
    lacking = []
    for public in PUBLIC:
        if section == "Args":
            said = public.docstring.partition("Args:")[2]
            missing = [name for name in public.parameters if name not in said]
        else:
            raised = [n.exc for n in ast.walk(public.node) if isinstance(n, ast.Raise) and isinstance(n.exc, ast.Call)]
            missing = [ast.unparse(one.func) for one in raised if "Raises:" not in public.docstring]
        if missing:
            lacking.append(f"{public.where}: {', '.join(missing)}")
    assert lacking == []


def test_public_functions_have_a_docstring():
    assert [public.where for public in PUBLIC if not public.docstring] == []
