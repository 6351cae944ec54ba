"""Mutants of a module: its source with one small change each. Pure.

Only the bodies of functions change. Texts stay as they are, and so do calls that write logs: their wording is no
promise. `__repr__` and `__str__` are for people who debug.
"""

import ast
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Add,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_LOGS = ("log", "logger", "logging", "warnings")
_SKIPPED = ("__repr__", "__str__")

Function = ast.FunctionDef | ast.AsyncFunctionDef
#: What a change replaces, its new text, and a description.
Change = tuple[ast.expr | ast.stmt, str, str]


@dataclass(frozen=True)
class Mutant:
    """One change. Its name has no line number, which any edit above it would change."""

    name: str
    source: str
    #: Lines of the original, one of which a test has to reach to notice.
    lines: range


def mutants(source: str) -> Iterator[Mutant]:
    """Yield the mutants of a module, in the order of its source."""
    seen: dict[str, int] = {}
    lines = source.splitlines(keepends=True)
    for function, node in _functions(ast.parse(source)):
        for statement in _statements(node):
            for place, text, description in _changes(statement):
                name = f"{function}: {description}"
                count = seen[name] = seen.get(name, 0) + 1
                yield Mutant(
                    name if count == 1 else f"{name} [{count}]",
                    _replaced(lines, place, text),
                    range(min(statement.lineno, place.lineno), (place.end_lineno or place.lineno) + 1),
                )


def _functions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef):
            if isinstance(child, Function) and child.name not in _SKIPPED:
                yield prefix + child.name, child
            yield from _functions(child, f"{prefix}{child.name}.")
        else:
            yield from _functions(child, prefix)


def _statements(node: ast.AST) -> Iterator[ast.stmt]:
    """Yield the statements of a function, but not those of functions and classes in it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef):
            continue
        if isinstance(child, ast.stmt):
            yield child
        if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
            yield from _statements(child)


def _changes(statement: ast.stmt) -> Iterator[Change]:
    yield from _of_statement(statement)
    for node in _parts(statement):
        match node:
            case ast.comprehension(ifs=conditions):
                for condition in conditions:
                    yield condition, "True", f"if {ast.unparse(condition)} -> if True"
            case ast.expr():
                for new, description in _of_expression(node):
                    yield node, f"({new})", description


def _parts(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what a statement is made of, without statements in it, texts and annotations."""
    for name, value in ast.iter_fields(node):
        if name == "annotation" or isinstance(node, ast.Assert):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.stmt | ast.JoinedStr) or not isinstance(child, ast.AST):
                continue
            yield child
            yield from _parts(child)


def _of_statement(statement: ast.stmt) -> Iterator[Change]:
    text = ast.unparse(statement).splitlines()[0]
    match statement:
        case ast.If(test=test):
            yield test, "True", f"{text} -> if True"
            yield test, "False", f"{text} -> if False"
        case ast.While(test=test) if not isinstance(test, ast.Constant):
            yield test, "False", f"{text} -> while False"
        case ast.Expr(value=ast.Call() | ast.Await()) if not _writes_a_log(statement):
            yield statement, "pass", f"{text} -> pass"
        case (
            ast.Assign(targets=[ast.Attribute() | ast.Subscript() | ast.Tuple(elts=[ast.Attribute(), *_]), *_])
            | ast.Delete()
            | ast.Raise()
        ):
            yield statement, "pass", f"{text} -> pass"
        case ast.AugAssign():
            yield statement, "pass", f"{text} -> pass"
        case ast.Return(value=ast.expr() as value) if not (isinstance(value, ast.Constant) and value.value is None):
            yield statement, "return None", f"{text} -> return None"
        case ast.Break():
            yield statement, "continue", "break -> continue"
        case ast.Continue():
            yield statement, "break", "continue -> break"


def _of_expression(node: ast.expr) -> Iterator[tuple[str, str]]:
    for new in _variants(node):
        text = ast.unparse(new)
        yield text, f"{ast.unparse(node)} -> {text}"


def _variants(node: ast.expr) -> Iterator[ast.expr]:
    match node:
        case ast.Compare(ops=[operator]) if type(operator) in _COMPARISONS:
            yield _with(node, ops=[_COMPARISONS[type(operator)]()])
        case ast.BoolOp(op=operator):
            yield _with(node, op=ast.Or() if isinstance(operator, ast.And) else ast.And())
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield operand
        case ast.BinOp(op=operator) if type(operator) in _OPERATORS:
            yield _with(node, op=_OPERATORS[type(operator)]())
        case ast.IfExp(body=body, orelse=otherwise):
            yield body
            yield otherwise
        case ast.Constant(value=bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(value=int() | float() as value):
            yield ast.Constant(value + 1)
        case ast.Constant(value=bytes() as value):
            yield ast.Constant(b"?" + value)


def _with(node: ast.expr, **fields: object) -> ast.expr:
    changed = deepcopy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _writes_a_log(statement: ast.stmt) -> bool:
    return ast.unparse(statement).partition(".")[0] in _LOGS


def _replaced(lines: list[str], node: ast.expr | ast.stmt, text: str) -> str:
    """Return the source with other text in the place of a node; columns of `ast` count bytes."""
    assert node.end_lineno is not None
    first, last = node.lineno - 1, node.end_lineno - 1
    before = lines[first].encode()[: node.col_offset].decode()
    after = lines[last].encode()[node.end_col_offset :].decode()
    return "".join([*lines[:first], before, text, after, *lines[last + 1 :]])
