"""Formulas of a table: numbers, names, + − * / and parentheses, and nothing else."""

import ast
import operator
from collections.abc import Callable, Mapping

_OPERATIONS: dict[type, Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def names(text: str) -> set[str]:
    """The names in a formula.

    Raises:
        ValueError: if the text is not a formula.
    """
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, TypeError, ValueError):
        raise ValueError(f"{text}: is no formula, such as 100 * (sgd - sam) / sgd") from None
    _refuse_others(tree)
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def value(text: str, given: Mapping[str, float]) -> float | None:
    """The value of a formula at these values of its names; None where it divides by 0."""
    try:
        return _value(ast.parse(text, mode="eval").body, given)
    except ZeroDivisionError:
        return None


def _refuse_others(node: ast.expr) -> None:
    match node:
        case ast.Constant(value=int() | float()) | ast.Name():
            return
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
            _refuse_others(left)
            _refuse_others(right)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            _refuse_others(operand)
        case _:
            raise ValueError(f"{ast.unparse(node)}: has no place in a formula; it is of numbers, names, + - * / and ()")


def _value(node: ast.expr, given: Mapping[str, float]) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.Name(id=name):
            return given[name]
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATIONS[type(op)](_value(left, given), _value(right, given))
        case ast.UnaryOp(operand=operand):
            return -_value(operand, given)
    raise AssertionError(ast.dump(node))
