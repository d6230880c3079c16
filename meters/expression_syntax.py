"""The syntax of expressions: cel-python's grammar, and the literals in it.

Errors are ValueErrors that read "must ... (got ... at line L, column C)".
"""

from __future__ import annotations

import re
from decimal import Decimal

from celpy.celparser import CELParseError, CELParser
from celpy.evaluation import celstr
from lark import Token, Tree
from lark.exceptions import UnexpectedCharacters, UnexpectedToken

from meters.expression_values import Value
from meters.numbers import LIMIT, fits, read_decimal

MAX_LENGTH = 2000
MAX_LITERAL_PLACES = 30

_PRECEDENCE = {"expr", "conditionalor", "conditionaland", "unary", "member", "primary"}
_PASSED = _PRECEDENCE | {"relation", "addition", "multiplication", "paren_expr"}
_TEXTS = {"STRING_LIT", "MLSTRING_LIT"}
_ESCAPE = re.compile(
    r"\\(?:[abfnrtv\"'`?\\]|[0-3][0-7]{2}|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|(.))"
)


def parse(text: str) -> Tree:
    """The tree of an expression."""
    if len(text) > MAX_LENGTH:
        raise ValueError(f"must have at most {MAX_LENGTH} characters (got {len(text)})")
    try:
        return CELParser().parse(text)
    except CELParseError as error:
        cause = error.__context__
        line, column = error.line, error.column
        found = "something else"
        if isinstance(cause, UnexpectedToken):
            found = "its end" if cause.token.type == "$END" else repr(str(cause.token))
        elif isinstance(cause, UnexpectedCharacters):
            found = repr(text[cause.pos_in_stream])
    raise ValueError(f"must be a CEL expression (got {found} at line {line}, column {column})")


def bare(tree: Tree) -> Tree:
    """Down through parentheses and levels of precedence that hold just one child."""
    while len(tree.children) == 1 and tree.data in _PASSED:
        tree = tree.children[0]
    return tree


def listed(children: list[Tree | Token]) -> list[Tree]:
    """The arguments below a node, whose list is left out where it is empty."""
    return list(children[0].children) if children else []


def wrong(must: str, got: str, at: Tree | Token) -> ValueError:
    """The error of a place in the text."""
    place = at if isinstance(at, Token) else at.meta
    return ValueError(f"must {must} (got {got[:60]} at line {place.line}, column {place.column})")


def constant(token: Token) -> Value:
    """The value of a literal."""
    kind, text = token.type, str(token)
    if kind == "NULL_LIT":
        return None
    if kind == "BOOL_LIT":
        return text == "true"
    if kind in _TEXTS:
        return _unescaped(token)
    if kind == "BYTES_LIT":
        raise wrong("have text instead of bytes", text, token)
    digits = text.rstrip("uU") if kind == "UINT_LIT" else text
    number = Decimal(int(digits, 16)) if "x" in digits else read_decimal(digits)
    if number is None or not fits(number, MAX_LITERAL_PLACES):
        limits = f"numbers below {LIMIT} with at most {MAX_LITERAL_PLACES} decimals"
        raise wrong(f"have {limits}", text, token)
    return number


def quoted(tree: Tree) -> str | None:
    """The text of a tree that is a quoted text and nothing else."""
    tree = bare(tree)
    if tree.data != "literal" or tree.children[0].type not in _TEXTS:
        return None
    return _unescaped(tree.children[0])


def _unescaped(token: Token) -> str:
    if token[:1] not in ("r", "R") and any(m.group(1) for m in _ESCAPE.finditer(token)):
        raise wrong("have known escapes after a backslash", str(token), token)
    try:
        text = str(celstr(token))
        text.encode()
    except ValueError:
        raise wrong("have valid Unicode", ascii(str(token)), token) from None
    return text
