"""From the text of an expression to closures, compiled once.

Nesting is limited, and chains such as `a + b + c` compile to loops, so that neither
compiling nor evaluating can exhaust the stack. `meters.expressions` says what the
language is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from lark import Tree

from meters.expression_functions import FUNCTIONS, MATH, Pattern
from meters.expression_syntax import bare, constant, listed, parse, quoted, wrong
from meters.expression_values import (
    OPERATORS,
    Failure,
    Table,
    Value,
    elements,
    item_of,
    missing,
    negate,
    read,
    truth,
)

MAX_DEPTH = 50
MAX_STEPS = 10_000
_TEXT_STEP = 64

_ROOT = "properties"
_CHAINS = {"relation", "addition", "multiplication"}
_TAKE_NULL = {"relation_eq", "relation_ne", "relation_in"}
_REFERENCES = {"ident", "member_dot", "member_index"}
_MACROS = {"exists", "exists_one", "all", "filter"}
_RESERVED = {
    *("as", "break", "const", "continue", "else", "for", "function", "if", "import", "let"),
    *("loop", "package", "namespace", "return", "var", "void", "while"),
}

Run = Callable[[object], Value]
"""Takes the scope: the properties, or a `_Bound` inside a macro."""


def compile_expression(text: str) -> tuple[Run, frozenset[str]]:
    """The closure of an expression and the properties that it may read.

    Raises ValueError, "must be ... (got ... at line L, column C)".
    """
    compiler = _Compiler(text)
    return compiler.run, frozenset(compiler.properties)


class _Bound:
    """One element under the variable of a macro, inside the scope `outer`."""

    __slots__ = ("outer", "steps", "value")

    def __init__(self, outer: object, steps: list[int], value: Value) -> None:
        self.outer = outer
        self.steps = steps
        self.value = value


class _Compiler:
    def __init__(self, text: str) -> None:
        self.text = text
        self.properties: set[str] = set()
        self.variables: list[str] = []
        self.depth = 0
        self.run = self.compile(parse(text))

    def source(self, tree: Tree) -> str:
        return self.text[tree.meta.start_pos : tree.meta.end_pos]

    def compile(self, tree: Tree, nullable: bool = False) -> Run:
        """The closure of a tree; `nullable`: a null property is a value, not missing."""
        tree = bare(tree)
        if self.depth == MAX_DEPTH:
            raise wrong(f"nest at most {MAX_DEPTH} levels deep", "more", tree)
        self.depth += 1
        kind = str(tree.data)
        if kind in _CHAINS:
            run = self.chain(tree)
        elif kind in _HANDLERS:
            run = _HANDLERS[kind](self, tree, nullable)
        else:
            raise wrong("be made of values, operators and functions", kind, tree)
        self.depth -= 1
        return run

    def chain(self, tree: Tree) -> Run:
        steps: list[tuple[str, Tree]] = []
        while len(tree.children) == 2:
            operation, right = tree.children
            name = str(operation.data)
            end = operation.meta.end_pos
            if name == "relation_in" and re.match(r"\w", self.text[end : end + 1]):
                raise wrong("have a space after in", repr(self.source(tree)), tree)
            steps.append((name, right))
            tree = operation.children[0]
        steps.reverse()
        if len(steps) == 1 and steps[0][0] == "relation_in" and self.is_root(steps[0][1]):
            return _presence(self.property_run(self.name_in(tree), nullable=False))
        first = self.compile(tree, steps[0][0] in _TAKE_NULL)
        parts = [
            (OPERATORS[name], self.compile(right, name in _TAKE_NULL)) for name, right in steps
        ]
        if len(parts) == 1:
            apply, second = parts[0]
            return lambda scope: apply(first(scope), second(scope))

        def run(scope: object) -> Value:
            value = first(scope)
            for apply, part in parts:
                value = apply(value, part(scope))
            return value

        return run

    def conditional(self, tree: Tree, nullable: bool) -> Run:
        condition = self.compile(tree.children[0])
        then = self.compile(tree.children[1], nullable)
        otherwise = self.compile(tree.children[2], nullable)
        return lambda scope: (then if truth(condition(scope), "?:") else otherwise)(scope)

    def logic(self, tree: Tree, _: bool) -> Run:
        kind = tree.data
        sides: list[Run] = []
        while tree.data == kind and len(tree.children) == 2:
            tree, right = tree.children
            sides.append(self.compile(right))
        sides.append(self.compile(tree))
        sides.reverse()
        decisive = kind == "conditionalor"
        return lambda scope: _decide(((side, scope) for side in sides), decisive)

    def unary(self, tree: Tree, _: bool) -> Run:
        inner = self.compile(tree.children[1])
        if tree.children[0].data == "unary_not":
            return lambda scope: not truth(inner(scope), "!")
        return lambda scope: negate(inner(scope))

    def literal(self, tree: Tree, _: bool) -> Run:
        value = constant(tree.children[0])
        return lambda _: value

    def name_in(self, tree: Tree) -> str:
        """The quoted text that a tree must be."""
        name = quoted(tree)
        if name is None:
            raise wrong("have quoted text here", repr(self.source(tree)), tree)
        return name

    def list_literal(self, tree: Tree, _: bool) -> Run:
        trees = listed(tree.children)
        items = [self.compile(child, nullable=True) for child in trees]
        if all(bare(child).data == "literal" for child in trees):
            built = tuple([item(None) for item in items])
            return self.charged(lambda _: built)
        return self.charged(lambda scope: tuple([item(scope) for item in items]))

    def map_literal(self, tree: Tree, _: bool) -> Run:
        inits = tree.children[0].children if tree.children else []
        pairs: dict[str, Run] = {}
        for key, value in zip(inits[::2], inits[1::2], strict=True):
            name = self.name_in(key)
            if name in pairs:
                raise wrong("give each key once", repr(name), key)
            pairs[name] = self.compile(value, nullable=True)
        return self.charged(lambda scope: Table({key: run(scope) for key, run in pairs.items()}))

    def charged(self, run: Run) -> Run:
        """Inside a macro, `run` costs as many steps as what it gives has elements."""
        if not self.variables:
            return run

        def charge(scope: object) -> Value:
            value = run(scope)
            if isinstance(value, str):
                _spend(scope.steps, len(value) // _TEXT_STEP)  # type: ignore[attr-defined]
            elif isinstance(value, list | tuple | dict):
                _spend(scope.steps, len(value))  # type: ignore[attr-defined]
            return value

        return charge

    def is_root(self, tree: Tree) -> bool:
        tree = bare(tree)
        return tree.data == "ident" and tree.children[0] == _ROOT and _ROOT not in self.variables

    def identifier(self, tree: Tree, nullable: bool) -> Run:
        name = str(tree.children[0])
        if name in self.variables:
            return self.variable_run(name, nullable)
        if name == _ROOT:
            raise wrong('have .name or ["name"] after properties', "none", tree)
        if name in _RESERVED:
            raise wrong(f'use properties["{name}"]', f"the reserved word {name}", tree)
        return self.property_run(name, nullable)

    def variable_run(self, name: str, nullable: bool) -> Run:
        ups = self.variables[::-1].index(name)

        def run(scope: object) -> Value:
            for _ in range(ups):
                scope = scope.outer  # type: ignore[attr-defined]
            value = scope.value  # type: ignore[attr-defined]
            if value is None and not nullable:
                raise missing(name)
            return value

        return self.charged(run)

    def property_run(self, name: str, nullable: bool) -> Run:
        self.properties.add(name)
        ups = len(self.variables)

        def run(scope: object) -> Value:
            for _ in range(ups):
                scope = scope.outer  # type: ignore[attr-defined]
            try:
                raw = scope[name]  # type: ignore[index]
            except KeyError:
                raise missing(name) from None
            if raw is None and not nullable:
                raise missing(name)
            return read(raw, name)

        return self.charged(run)

    def member(self, tree: Tree, nullable: bool) -> Run:
        """`a.b` and `a["b"]`."""
        left, right = tree.children
        dotted = tree.data == "member_dot"
        if self.is_root(left):
            return self.property_run(str(right) if dotted else self.name_in(right), nullable)
        container = self.compile(left)
        name = self.source(tree)
        key = str(right)
        index: Run = (lambda _: key) if dotted else self.compile(right)

        def run(scope: object) -> Value:
            value = item_of(container(scope), index(scope), name)
            if value is None and not nullable:
                raise missing(name)
            return value

        return self.charged(run)

    def call(self, tree: Tree, _: bool) -> Run:
        name, arguments = str(tree.children[0]), listed(tree.children[1:])
        if name == "has":
            if len(arguments) != 1 or bare(arguments[0]).data not in _REFERENCES:
                raise wrong("give has() one property", repr(self.source(tree)), tree)
            return _presence(self.compile(arguments[0]))
        return self.function(name, arguments, tree)

    def method(self, tree: Tree, _: bool) -> Run:
        left, token, *rest = tree.children
        name, arguments = str(token), listed(rest)
        if name in _MACROS:
            return self.macro(name, left, arguments, tree)
        owner = bare(left)
        if owner.data == "ident" and owner.children[0] == "math" and name in MATH:
            return self.function(MATH[name], arguments, tree)
        return self.function(name, [left, *arguments], tree)

    def function(self, name: str, trees: list[Tree], tree: Tree) -> Run:
        if name not in FUNCTIONS:
            known = ", ".join(sorted({*FUNCTIONS, *_MACROS, "has"}))
            raise wrong(f"call a known function, one of {known}", name, tree)
        fewest, most, apply = FUNCTIONS[name]
        if not fewest <= len(trees) <= most:
            count = str(fewest) if fewest == most else f"{fewest} to {most}"
            raise wrong(f"give {name} {count} arguments", str(len(trees)), tree)
        if name == "matches":
            return self.matching(trees[0], trees[1])
        arguments = [self.compile(argument) for argument in trees]
        if len(arguments) == 1:
            (only,) = arguments
            return lambda scope: apply(only(scope))
        return lambda scope: apply(*[argument(scope) for argument in arguments])

    def matching(self, left: Tree, right: Tree) -> Run:
        text, source = self.compile(left), self.name_in(right)
        try:
            pattern = Pattern(source)
        except ValueError as error:
            raise wrong(f"have a pattern for RE2, {error}", self.source(right), right) from None
        return lambda scope: pattern.matches(text(scope))

    def macro(self, name: str, left: Tree, arguments: list[Tree], tree: Tree) -> Run:
        variable = bare(arguments[0]) if len(arguments) == 2 else tree
        if variable.data != "ident":
            got = repr(self.source(tree)[:60])
            raise wrong(f"give {name} a variable and a condition", got, tree)
        outermost = not self.variables
        container = self.compile(left)
        self.variables.append(str(variable.children[0]))
        body = self.compile(arguments[1])
        self.variables.pop()

        def run(scope: object) -> Value:
            steps: list[int] = [0] if outermost else scope.steps  # type: ignore[attr-defined]
            items = elements(container(scope), name)
            _spend(steps, len(items))
            inner = [_Bound(scope, steps, item) for item in items]
            if name in ("exists", "all"):
                return _decide(((body, each) for each in inner), name == "exists")
            kept = tuple([each.value for each in inner if truth(body(each), name)])
            return kept if name == "filter" else len(kept) == 1

        return run


def _spend(steps: list[int], count: int) -> None:
    steps[0] += count
    if steps[0] > MAX_STEPS:
        raise Failure(f"done within {MAX_STEPS} steps", f"{steps[0]} steps")


def _presence(run: Run) -> Run:
    def present(scope: object) -> Value:
        try:
            run(scope)
        except Failure as failure:
            if failure.reason == "missing_property":
                return False
            raise
        return True

    return present


def _decide(calls: Iterable[tuple[Run, object]], decisive: bool) -> bool:
    """CEL's logic: one `decisive` result settles it, whatever failed beside it."""
    failed: Failure | None = None
    for run, scope in calls:
        try:
            if truth(run(scope), "||" if decisive else "&&") is decisive:
                return decisive
        except Failure as failure:
            failed = failed or failure
    if failed is not None:
        raise failed
    return not decisive


_HANDLERS: dict[str, Callable[[_Compiler, Tree, bool], Run]] = {
    "expr": _Compiler.conditional,
    "conditionalor": _Compiler.logic,
    "conditionaland": _Compiler.logic,
    "unary": _Compiler.unary,
    "literal": _Compiler.literal,
    "list_lit": _Compiler.list_literal,
    "map_lit": _Compiler.map_literal,
    "ident": _Compiler.identifier,
    "member_dot": _Compiler.member,
    "member_index": _Compiler.member,
    "ident_arg": _Compiler.call,
    "member_dot_arg": _Compiler.method,
}
