"""Runs a stranger's Jinja template without letting it out, run on, or fill the memory.

Jinja's immutable sandbox keeps a template from Python's insides. It does not bound work, so this
one adds a budget: turns of loops and calls are steps, and whatever makes text or lists (operators,
calls, output) pays for the characters. What makes large values from small arguments in one go, such
as `center` or `str.format`, is not offered. A list, tuple or dict pays for all that is nested in it
whenever one is made, so none grows, by being held many times over, until to compare it takes for
ever.

Offered beside the usual: `raise_exception`, `strftime_now`, `tojson`, `break`, `continue` and
`{% generation %}`, as in transformers.
"""

import datetime
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from onebit.errors import FormatError, OptionError

MAX_TEMPLATE_CHARS = 1 << 20
MAX_STEPS = 1 << 18
MAX_CHARS = 1 << 25
"""Of everything a template makes on its way. A conversation of a million tokens has some 2^22."""
MAX_NUMBER = 1 << 63


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


FILTERS = _words("""
    abs capitalize count d default dictsort e escape first float forceescape groupby int items
    last length list lower map max min reject rejectattr reverse round safe select selectattr
    sort string title trim unique upper
""")
"""Jinja's own filters that are kept: none makes more than it is given."""

METHODS = {
    str: _words("""
        capitalize casefold count endswith find index isalnum isalpha isascii isdecimal isdigit
        isidentifier islower isnumeric isprintable isspace istitle isupper join lower lstrip
        partition removeprefix removesuffix replace rfind rindex rpartition rsplit rstrip split
        splitlines startswith strip swapcase title upper"""),
    dict: _words("copy get items keys values"),
    list: _words("copy count index"),
    tuple: _words("count index"),
}
"""Methods of plain values that a template may call."""


def run(source: str, variables: dict[str, Any]) -> str:
    """Return what the template writes.

    Raises:
        OptionError: the template itself refuses the variables (`raise_exception`).
        FormatError: it is no valid template, fails, or goes over its budget.
    """
    try:
        if len(source) > MAX_TEMPLATE_CHARS:
            raise SecurityError(f"it is longer than {MAX_TEMPLATE_CHARS} characters")
        sandbox = Sandbox()
        template = sandbox.compile_counted(source)
        return "".join(sandbox.pieces(template.generate(**variables)))
    except OptionError:
        raise
    except jinja2.TemplateSyntaxError as error:
        raise FormatError(f"chat template: line {error.lineno}: {error.message}.") from error
    except Exception as error:  # a template may raise anything that Python can
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise FormatError(
            f"chat template: it fails with {type(error).__name__} ({reason}). "
            "Give a plain prompt, or another template."
        ) from error


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of one run; it holds that run's budget."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # constants are computed under the budget, too
            finalize=self._written,
            extensions=[LoopControlExtension, _Generation],
        )
        self._steps = MAX_STEPS
        self._chars = MAX_CHARS
        self._macro_chars = 0
        offered = {name: self.filters[name] for name in FILTERS}
        self.filters = offered | {
            "tojson": self._to_json,
            "join": self._join,
            "replace": self._replace,
            "indent": self._indent,
            "_turns": self._turns,
            "_paid": self._written,
            "_made": self._made,
        }
        for name in ("lipsum", "cycler", "joiner"):
            del self.globals[name]
        self.globals |= {"raise_exception": _refuse, "strftime_now": _now}

    def compile_counted(self, source: str) -> jinja2.Template:
        """Compile, with every loop and every `~` made to pay."""
        tree = self.parse(source)
        self._macro_chars = sum(map(_literal_chars, tree.find_all((nodes.Macro, nodes.CallBlock))))
        for loop in list(tree.find_all(nodes.For)):
            cost: nodes.Expr = nodes.Const(_literal_chars(loop))
            loop.iter = _filtered(loop.iter, "_turns", [cost])
        _pay_for_concat(tree)
        tree = _Literals().visit(tree)
        tree.set_environment(self)
        code = self.compile(tree)
        return jinja2.Template.from_code(self, code, self.make_globals(None))

    def pieces(self, output: Iterable[str]) -> Iterator[str]:
        """Yield the output; what `_written` did not see is charged here."""
        for piece in output:
            self._pay(len(piece))
            yield piece

    def _step(self) -> None:
        self._steps -= 1
        if self._steps < 0:
            raise SecurityError(f"it takes more than {MAX_STEPS} steps")

    def _pay(self, chars: int) -> None:
        self._chars -= chars
        if self._chars < 0:
            raise SecurityError(f"it makes more than {MAX_CHARS} characters")

    def _weigh(self, value: Any, texts: bool = True) -> None:
        """Pay for a value's text, before that is made; without `texts`, for its parts alone."""
        if isinstance(value, str) and texts:
            self._pay(len(value))
        elif isinstance(value, dict | list | tuple | set | frozenset):
            self._pay(32 * (1 + len(value)))
            for item in value.items() if isinstance(value, dict) else value:
                self._weigh(item, texts)
        else:
            self._pay(8)

    def _written(self, value: Any) -> Any:
        self._weigh(value)
        return value

    def _made(self, value: Any) -> Any:
        """Pay for a list, tuple or dict that was made, and all that is in it but its texts."""
        self._weigh(value, texts=False)
        return value

    def _turns(self, items: Iterable[Any], chars: int) -> Iterator[Any]:
        for item in items:
            self._step()
            self._pay(chars)
            yield item

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute `left operator right`, unless that would be large."""
        self._step()
        if operator == "*":
            for sequence, times in ((left, right), (right, left)):
                if isinstance(sequence, str | list | tuple) and isinstance(times, int):
                    self._pay(len(sequence) * max(times, 0))
                    self._made(sequence)
        elif operator == "+":
            for value in (left, right):
                self._pay(len(value) if isinstance(value, str | list | tuple) else 0)
                self._made(value)
        elif operator == "**" and abs(right) > 64:
            raise SecurityError(f"the power {right!r} is above 64")
        elif operator == "%" and isinstance(left, str):
            raise SecurityError("formatting with % is not offered")
        result = super().call_binop(context, operator, left, right)
        if isinstance(result, int) and abs(result) > MAX_NUMBER:
            raise SecurityError(f"it makes a number above {MAX_NUMBER}")
        return result

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call something that the template may call; a step, paid by the result's size."""
        __self._step()
        owner = getattr(__obj, "__self__", None)
        if owner is not None and not isinstance(owner, Sandbox):
            allowed = next(
                (METHODS[kind] for kind in METHODS if isinstance(owner, kind)), frozenset()
            )
            if __obj.__name__ not in allowed:
                raise SecurityError(f"the method {__obj.__name__} is not offered")
            if __obj.__name__ in ("join", "replace"):
                return getattr(__self, f"_{__obj.__name__}_method")(owner, *args, **kwargs)
        if isinstance(__obj, Macro):
            __self._pay(__self._macro_chars)
        result = super().call(__context, __obj, *args, **kwargs)
        if isinstance(result, str | list | tuple):
            __self._pay(len(result))
        return __self._made(result)

    def wrap_str_format(self, value: Any) -> Any:
        """Refuse `str.format`, whose widths can ask for any size."""
        if super().wrap_str_format(value) is not None:
            raise SecurityError("the method format is not offered")
        return None

    def _join_method(self, separator: str, items: Iterable[str]) -> str:
        return self._join(items, separator)

    def _join(self, items: Iterable[Any], d: str = "", attribute: str | None = None) -> str:
        parts = list(items)
        if attribute is not None:
            parts = [self.getitem(part, attribute) for part in parts]
        for part in parts:
            self._weigh(part)
            self._pay(len(d))
        return d.join(map(str, parts))

    def _replace_method(self, text: str, old: str, new: str, count: int = -1) -> str:
        places = text.count(old)
        self._pay(len(text) + len(new) * (places if count < 0 else min(places, count)))
        return text.replace(old, new, count)

    def _replace(self, value: Any, old: str, new: str, count: int | None = None) -> str:
        self._weigh(value)
        return self._replace_method(str(value), old, new, -1 if count is None else count)

    def _indent(
        self, value: str, width: int | str = 4, first: bool = False, blank: bool = False
    ) -> str:
        margin = width if isinstance(width, str) else " " * min(width, 64)
        lines = value.split("\n")
        self._pay(len(value) + len(lines) * len(margin))
        moved = [margin + line if line or blank else line for line in lines[1:]]
        return "\n".join([margin + lines[0] if first else lines[0], *moved])

    def _to_json(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        self._weigh(value)
        if indent is not None and not 0 <= indent <= 16:
            raise SecurityError(f"tojson(indent={indent}); accepted: 0 to 16")
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )


class _Literals(NodeTransformer):
    """Makes every list, tuple and dict that a template writes down pay when it is made."""

    def visit_List(self, node: nodes.List) -> nodes.Filter:
        return _filtered(self.generic_visit(node), "_made", [])

    visit_Dict = visit_List

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        made = self.generic_visit(node)
        return _filtered(made, "_made", []) if node.ctx == "load" else made


class _Generation(Extension):
    """`{% generation %}`: marks the assistant's words for training; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012  the name and type that Jinja asks for

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _literal_chars(node: nodes.Node) -> int:
    """Count the plain text inside a node, which every turn may write once."""
    return sum(len(data.data) for data in node.find_all(nodes.TemplateData))


def _filtered(value: Any, name: str, args: list[nodes.Expr]) -> nodes.Filter:
    return nodes.Filter(value, name, args, [], None, None, lineno=value.lineno)


def _pay_for_concat(node: nodes.Node) -> None:
    """Make every operand of `~` pay before it is joined."""
    for concat in list(node.find_all(nodes.Concat)):
        concat.nodes = [_filtered(operand, "_paid", []) for operand in concat.nodes]


def _refuse(message: object) -> NoReturn:
    raise OptionError(f"chat: the model's template refuses these messages: {str(message)[:300]}")


def _now(form: str) -> str:
    if len(form) > 100 or re.search(r"%[^A-Za-z%]*\d", form):
        raise SecurityError(f"strftime_now({form[:40]!r}) asks for a width")
    return datetime.datetime.now().strftime(form)
