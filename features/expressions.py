"""Expressions over the fields of an event: "distance_km / minutes", "status == 'refunded' and amount > 100".

They are parsed once, checked against the fields, and evaluated with NumPy over whole columns. A missing value makes the
result missing, except where the other side of `and` / `or` already decides, in the branch that `where` does not take,
and in `isnull` and `coalesce`. What has no finite value (a division by zero, the root of a negative number, an
overflow) is missing too.

Conditions are float64 columns of 1, 0 and NaN; times are seconds since the Unix epoch.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.errors import PipelineError
from features.plan import Floats
from features.schema import Kind, nearest

ValueKind = Literal["number", "condition", "text"]

# Longer ones are programs, and a program belongs where the event is made.
MAX_LENGTH = 1_000

CONDITION = 'a condition such as "amount > 100" or "status == \'paid\'", or a boolean field'


class Columns(Protocol):
    """Where an expression finds its columns."""

    def number(self, field: str) -> Floats:
        """float64[n]: numbers, booleans as 0 and 1, times in seconds; NaN where missing."""
        ...

    def text(self, field: str) -> pa.StringArray:
        """The text column of n values."""
        ...


_Evaluate = Callable[[Columns], Any]


@dataclass(frozen=True)
class Expression:
    """A checked expression. `names` are the columns it reads, in order of appearance; `source` is its normal form."""

    source: str
    kind: ValueKind
    names: tuple[str, ...]
    texts: frozenset[str]  # those of `names` that are read as text
    _evaluate: _Evaluate

    def evaluate(self, columns: Columns) -> Floats:
        """float64[n], NaN where missing."""
        with np.errstate(all="ignore"):  # what is not finite becomes NaN at each operation
            values: Floats = self._evaluate(columns)
        return values


@dataclass(frozen=True)
class _Node:
    kind: ValueKind
    evaluate: _Evaluate


def parse_expression(text: object, kinds: Mapping[str, Kind], place: str) -> Expression:
    """Parse and check an expression over columns of these kinds.

    Raises PipelineError for what is no expression, for unknown names and functions, and for kinds that do not fit.

    Example:
        >>> class Two:
        ...     def number(self, field): return np.array([10.0, np.nan]) if field == "a" else np.array([0.0, 2.0])
        >>> parse_expression("a / b", {"a": "number", "b": "number"}, "here").evaluate(Two())
        array([nan, nan])
        >>> parse_expression("coalesce(a, 0) + b", {"a": "number", "b": "number"}, "here").evaluate(Two())
        array([10.,  2.])
    """
    if not isinstance(text, str) or not text.strip() or len(text) > MAX_LENGTH:
        seen = (
            f"{len(text)} characters"
            if isinstance(text, str) and text.strip()
            else f"{text!r} is no expression"
        )
        raise PipelineError(place, seen, f"an expression of at most {MAX_LENGTH} characters, such as 'a / b'")
    try:
        tree = ast.parse(text.strip(), mode="eval")
        builder = _Builder(kinds, place)
        node = builder.build(tree.body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise PipelineError(
            place, f"{text!r} cannot be read ({reason})", "an expression such as 'a / b'"
        ) from error
    if not builder.names:
        raise PipelineError(place, f"{text!r} reads no field", "an expression of the event's fields")
    if node.kind == "text":
        raise PipelineError(place, f"{text!r} is a text", "a number or a condition")
    return Expression(
        ast.unparse(tree), node.kind, tuple(builder.names), frozenset(builder.texts), node.evaluate
    )


class _Builder:
    """Turns the syntax tree into functions of columns, and notes which columns they read."""

    def __init__(self, kinds: Mapping[str, Kind], place: str) -> None:
        self.kinds = kinds
        self.place = place
        self.names: dict[str, None] = {}
        self.texts: set[str] = set()

    def refuse(self, tree: ast.AST, expected: str, why: str = "is not understood here") -> PipelineError:
        return PipelineError(self.place, f"{ast.unparse(tree)!r} {why}", expected)

    def build(self, tree: ast.expr) -> _Node:
        match tree:
            case ast.Constant(value=value):
                return self.constant(tree, value)
            case ast.Name(id=name):
                return self.column(name)
            case ast.BinOp(op=op) if type(op) in _ARITHMETIC:
                return _finite(_ARITHMETIC[type(op)], self.number(tree.left), self.number(tree.right))
            case ast.UnaryOp(op=ast.USub()):
                return _finite(np.negative, self.number(tree.operand))
            case ast.UnaryOp(op=ast.UAdd()):
                return self.number(tree.operand)
            case ast.UnaryOp(op=ast.Not()):
                return _Node("condition", _apply(lambda value: 1.0 - value, self.condition(tree.operand)))
            case ast.BoolOp(op=op, values=values):
                join = _and if isinstance(op, ast.And) else _or
                conditions = [self.condition(value) for value in values]
                return _Node("condition", _apply(lambda *parts: reduce(join, parts), *conditions))
            case ast.Compare(left=left, ops=ops, comparators=rights):
                pairs = zip([left, *rights[:-1]], ops, rights, strict=True)
                compared = [self.comparison(a, op, b) for a, op, b in pairs]
                return (
                    compared[0]
                    if len(compared) == 1
                    else _Node("condition", _apply(lambda *parts: reduce(_and, parts), *compared))
                )
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                return self.call(tree, name, arguments)
        raise self.refuse(
            tree, f"fields, numbers, texts in quotes, + - * / // % **, comparisons, and or not, {_KNOWN}"
        )

    def constant(self, tree: ast.Constant, value: object) -> _Node:
        if isinstance(value, bool):
            return _Node("condition", _constant(np.float64(value)))
        if isinstance(value, int | float):
            if not np.isfinite(number := np.float64(value)):
                raise self.refuse(tree, "a finite number", "is out of range")
            return _Node("number", _constant(number))
        if isinstance(value, str):
            return _Node("text", _constant(pa.scalar(value, pa.string())))
        raise self.refuse(
            tree, "a number, a text in quotes, True or False (for a missing value: isnull(field))"
        )

    def column(self, name: str) -> _Node:
        if name not in self.kinds:
            hint = (
                " (a text stands in quotes)"
                if name not in _FUNCTIONS
                else " (a function is called: " + name + "(…))"
            )
            raise PipelineError(self.place, f"unknown name {name!r}{hint}", nearest(name, self.kinds))
        self.names[name] = None
        if self.kinds[name] == "text":
            self.texts.add(name)
            return _Node("text", lambda columns: columns.text(name))
        kind: ValueKind = "condition" if self.kinds[name] == "boolean" else "number"
        # A strided column may take another path through NumPy's vectorised functions: copy, so that values depend
        # on the row alone and never on how the batch was laid out.
        return _Node(kind, lambda columns: np.ascontiguousarray(columns.number(name)))

    def number(self, tree: ast.expr) -> _Node:
        node = self.build(tree)
        if node.kind == "text":
            raise self.refuse(tree, "a number (a text can only be compared, with == != or in)", "is a text")
        return node

    def condition(self, tree: ast.expr) -> _Node:
        node = self.build(tree)
        if node.kind != "condition":
            raise self.refuse(tree, CONDITION, f"is a {node.kind}")
        return node

    def comparison(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> _Node:
        if isinstance(op, ast.In | ast.NotIn):
            return self.membership(left, right, negated=isinstance(op, ast.NotIn))
        if type(op) not in _COMPARISONS:
            raise self.refuse(
                right, "== != < <= > >= or in (for a missing value: isnull(field))", "is compared by `is`"
            )
        a, b = self.build(left), self.build(right)
        if "text" not in (a.kind, b.kind):
            return _Node("condition", _apply(_compare(_COMPARISONS[type(op)]), a, b))
        if a.kind != b.kind:
            raise self.refuse(right, f"a {a.kind}, as on the left ({ast.unparse(left)})", f"is a {b.kind}")
        if not isinstance(op, ast.Eq | ast.NotEq):
            raise self.refuse(right, "texts compared with == != or in", "is a text")
        equal = isinstance(op, ast.Eq)
        return _Node("condition", _apply(lambda x, y: _text_equal(x, y, equal=equal), a, b))

    def membership(self, left: ast.expr, right: ast.expr, *, negated: bool) -> _Node:
        if not isinstance(right, ast.Tuple | ast.List | ast.Set) or not right.elts:
            raise self.refuse(right, "values in brackets after `in`: (1, 2) or ('a', 'b')")
        options = [self.comparison(left, ast.Eq(), option) for option in right.elts]
        found = _apply(lambda *parts: reduce(_or, parts), *options)
        return _Node("condition", (lambda columns: 1.0 - found(columns)) if negated else found)

    def call(self, tree: ast.Call, name: str, arguments: list[ast.expr]) -> _Node:
        if name not in _FUNCTIONS:
            raise PipelineError(self.place, f"unknown function {name!r}", nearest(name, _FUNCTIONS))
        least, most = _FUNCTIONS[name]
        if not least <= len(arguments) <= most:
            wanted = (
                f"{least}"
                if least == most
                else f"{least} or more"
                if most > least + 1
                else f"{least} or {most}"
            )
            raise self.refuse(tree, f"{wanted} argument(s) of {name}", f"has {len(arguments)}")
        if name == "isnull":
            return _Node("condition", _apply(_isnull, self.build(arguments[0])))
        if name == "where":
            chosen = [self.condition(arguments[0]), self.number(arguments[1]), self.number(arguments[2])]
            return _Node("number", _apply(_where, *chosen))
        nodes = [self.number(argument) for argument in arguments]
        if name == "nullif":
            return _Node("number", _apply(lambda a, b: np.where(a == b, np.nan, a), *nodes))
        if name == "coalesce":
            return _Node("number", _apply(lambda *parts: reduce(_first_present, parts), *nodes))
        if name in ("min", "max"):
            fold = np.minimum if name == "min" else np.maximum
            return _Node("number", _apply(lambda *parts: reduce(fold, parts), *nodes))
        return _finite(_UNARY[name], *nodes)


_ARITHMETIC: Mapping[type[ast.operator], Callable[..., Any]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.FloorDiv: np.floor_divide,
    ast.Mod: np.mod,
    ast.Pow: np.power,
}
_COMPARISONS: Mapping[type[ast.cmpop], Callable[..., Any]] = {
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
}
_UNARY: Mapping[str, Callable[..., Any]] = {
    "abs": np.abs,
    "log": np.log,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "exp": np.exp,
    "sin": np.sin,
    "cos": np.cos,
    "floor": np.floor,
}
_MANY = 20
_FUNCTIONS: Mapping[str, tuple[int, int]] = {  # the least and the greatest number of arguments
    **dict.fromkeys(_UNARY, (1, 1)),
    "min": (2, _MANY),
    "max": (2, _MANY),
    "where": (3, 3),
    "isnull": (1, 1),
    "coalesce": (2, _MANY),
    "nullif": (2, 2),
}
_KNOWN = "and the functions " + ", ".join(_FUNCTIONS)


def _constant(value: Any) -> _Evaluate:
    return lambda _columns: value


def _apply(function: Callable[..., Any], *nodes: _Node) -> _Evaluate:
    evaluates = [node.evaluate for node in nodes]
    return lambda columns: function(*[evaluate(columns) for evaluate in evaluates])


def _finite(function: Callable[..., Any], *nodes: _Node) -> _Node:
    """The operation, with everything that is not finite made missing before anybody can compare with it."""

    def evaluate(*parts: Any) -> Any:
        result = function(*parts)
        return np.where(np.isfinite(result), result, np.nan)

    return _Node("number", _apply(evaluate, *nodes))


def _compare(operator: Callable[..., Any]) -> Callable[[Any, Any], Any]:
    return lambda a, b: np.where(np.isnan(a) | np.isnan(b), np.nan, operator(a, b))


def _and(a: Any, b: Any) -> Any:
    return np.where((a == 0) | (b == 0), 0.0, np.where(np.isnan(a) | np.isnan(b), np.nan, 1.0))


def _or(a: Any, b: Any) -> Any:
    return np.where((a == 1) | (b == 1), 1.0, np.where(np.isnan(a) | np.isnan(b), np.nan, 0.0))


def _where(condition: Any, then: Any, otherwise: Any) -> Any:
    return np.where(np.isnan(condition), np.nan, np.where(condition == 1, then, otherwise))


def _first_present(a: Any, b: Any) -> Any:
    return np.where(np.isnan(a), b, a)


def _isnull(value: Any) -> Any:
    if isinstance(value, pa.Array):
        return _as_floats(pc.is_null(value))
    return np.isnan(value).astype(np.float64)


def _text_equal(a: Any, b: Any, *, equal: bool) -> Any:
    if not isinstance(a, pa.Array):
        a, b = b, a
    if not isinstance(a, pa.Array):  # two texts in quotes
        return np.float64((a == b) == equal)
    return _as_floats(pc.equal(a, b) if equal else pc.not_equal(a, b))


def _as_floats(values: pa.BooleanArray) -> Floats:
    """1, 0, and NaN where null."""
    floats: Floats = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return floats
