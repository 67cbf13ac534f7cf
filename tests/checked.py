"""Signatures checked at every call: types by beartype, shapes by jaxtyping.

jaxtyping's own import hook (`--jaxtyping-packages`) decorates functions inside functions anew
whenever the outer one runs, and checks parameters twice where there is a return value: tests took
five times as long. Here functions inside functions are left alone, and parameters and return value
are checked once, in one scope of axis names.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any, TypeVar

from beartype import beartype
from jaxtyping import jaxtyped

_DECORATOR = "__checked__"


Checkable = TypeVar("Checkable", bound=Callable[..., Any])


def checked(made: Checkable) -> Checkable:
    """A function whose calls are checked, or a dataclass that is when one is made.

    Types, and that an axis has the same size in all shapes of a signature.
    """
    if isinstance(made, type):
        own: Any = vars(made).get("__init__")
        if is_dataclass(made) and own is not None and not hasattr(own, "__wrapped__"):
            made.__init__ = checked(own)  # type: ignore[misc]  # of any class
        return made
    # a shape is a string, `Float[Tensor, "task row"]`; without one there are no sizes to compare
    hints = " ".join(map(str, made.__annotations__.values()))
    found = beartype(made)  # which puts what they stand for in the place of annotations
    return jaxtyped(found, typechecker=None) if "'" in hints or '"' in hints else found


class _Decorate(ast.NodeTransformer):
    """Decorates the functions and classes of a module, and the methods of the classes."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        # innermost, as `property`, `cached_property` and others hide the annotations
        node.decorator_list.append(ast.copy_location(ast.Name(_DECORATOR, ast.Load()), node))
        return node  # and not into it

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        self.generic_visit(node)
        # outermost: `dataclass` makes the `__init__`
        node.decorator_list.insert(0, ast.copy_location(ast.Name(_DECORATOR, ast.Load()), node))
        return node


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        """Compiled anew: what Python keeps in `__pycache__` is without checks."""
        path = self.get_filename(fullname)
        tree = _Decorate().visit(ast.parse(self.get_data(path), path))
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        vars(module)[_DECORATOR] = checked
        super().exec_module(module)


class _Finder(MetaPathFinder):
    def __init__(self, packages: Sequence[str]) -> None:
        self._packages = packages

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not any(f"{fullname}.".startswith(f"{package}.") for package in self._packages):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(fullname, spec.loader.path)
        return spec


def check_signatures(*packages: str) -> None:
    """Check every call of a function of these packages; to be called before they are imported."""
    if found := sorted(set(packages) & set(sys.modules)):
        raise RuntimeError(f"Already imported, so it cannot be checked: {', '.join(found)}")
    sys.meta_path.insert(0, _Finder(packages))
