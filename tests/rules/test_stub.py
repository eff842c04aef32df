"""kernels/cpu.pyi, which mypy believes, says what the native module has."""

import ast
import re
from pathlib import Path

from onebit.kernels import cpu

STUB = Path(__file__).parents[2] / "src/onebit/kernels/cpu.pyi"


def stated(body):
    """Name -> parameters of a function, members of a class, or None for a value."""
    found = {}
    for node in body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = parameters(node)
        elif isinstance(node, ast.ClassDef):
            found[node.name] = stated(node.body)
        elif isinstance(node, ast.AnnAssign):
            found[node.target.id] = None
    return found


def parameters(function):
    """The names, with a question mark where there is a default. A property has none."""
    if any(isinstance(d, ast.Name) and d.id == "property" for d in function.decorator_list):
        return None
    names = [argument.arg for argument in function.args.args]
    required = len(names) - len(function.args.defaults)
    return [name + "?" * (place >= required) for place, name in enumerate(names)]


def real(owner):
    """The same of the module or of a class of it, from the signatures that it carries."""
    found = {}
    for name, value in vars(owner).items():
        if hasattr(value, "__nb_signature__"):
            found[name] = signature(value)
        elif isinstance(value, type):
            found[name] = real(value)
        elif isinstance(value, property):
            found[name] = None
    return found


def signature(function):
    ((text, _, _),) = function.__nb_signature__
    while "[" in text:  # types are no Python
        text = re.sub(r"\[[^\[\]]*\]", "", text)
    text = re.sub(r"= \\\d+", "= None", text)
    (node,) = ast.parse(text + ": ...").body
    return parameters(node)


def test_the_stub_says_what_the_module_has():
    assert stated(ast.parse(STUB.read_text("utf-8")).body) == real(cpu)
