"""YAML files as plain data that knows its lines.

    bytes --decode, parse--> node tree --build--> data + problems; path --line--> line

Scalars are built here and not by PyYAML, which would turn decimals into binary
floats, `no` into false and `010` into 8. Data has str, int, bool, None, `Unquoted`
(a decimal without quotes), list and dict. Times stay text. Keys are text as written.
Anchors, aliases and merge keys (`<<`) work.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import yaml

from meters.catalog_values import Unquoted
from meters.errors import Problem
from meters.numbers import NUMBER_PATTERN

Path = tuple[str | int, ...]

MAX_DEPTH = 50
MAX_VALUES = 5_000_000
"""How many values a file may have once its aliases are written out."""

_Loader: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_MERGE = _TAG + "merge"
_TAGS_OF_DATA = {_TAG + "map", _TAG + "seq"}
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,39})")
_NUMBER = re.compile(NUMBER_PATTERN)
_CONTROL = yaml.reader.Reader.NON_PRINTABLE


def path_text(path: Path) -> str:
    """A path as messages write it: `plans[0].charges[1].price`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", step):
            text += f".{step}" if text else step
        else:
            text += f"[{step!r}]"
    return text


class BrokenDocument(Exception):
    """A file of which nothing can be read; has its one problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


@dataclass
class Document:
    """One YAML file: its data, what is wrong in it so far, and its node tree."""

    file: str
    root: yaml.Node
    data: object = None
    problems: list[Problem] = field(default_factory=list)

    def problem(self, path: Path, message: str) -> Problem:
        """A problem at a path, with its line."""
        return Problem(self.file, self.line(path), path_text(path), message)

    def line(self, path: Path) -> int:
        """The line, from 1, of the key or item at `path`, or of what it would stand in."""
        node = self.root
        line = _first_line(node)
        for step in path:
            if isinstance(node, yaml.MappingNode):
                found = _entry(node, str(step))
                if found is None:
                    break
                line, node = _first_line(found[0]), found[1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
                if step >= len(node.value):
                    break
                node = node.value[step]
                line = _first_line(node)
            else:
                break
        return line


def read_document(file: str, content: bytes) -> Document:
    """Read one file. Raises `BrokenDocument` where there is no data in it."""
    text = _decode(file, content)
    try:
        _check_depth(file, text)
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        raise BrokenDocument(_syntax_problem(file, error)) from None
    if root is None:
        raise BrokenDocument(Problem(file, None, "", "must not be empty"))
    document = Document(file, root)
    builder = _Builder(document)
    document.data = builder.build(root, ())
    if builder.sizes[id(root)] > MAX_VALUES:
        message = f"must have at most {MAX_VALUES} values once aliases are written out"
        raise BrokenDocument(Problem(file, None, "", message))
    return document


def _decode(file: str, content: bytes) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = f"0x{content[error.start]:02x}"
        message = f"must be text in UTF-8 (got the byte {byte})"
        raise BrokenDocument(Problem(file, line, "", message)) from None
    control = _CONTROL.search(text)
    if control is not None:
        line = text.count("\n", 0, control.start()) + 1
        message = f"must not have control characters (got U+{ord(control.group()):04X})"
        raise BrokenDocument(Problem(file, line, "", message))
    return text


def _check_depth(file: str, text: str) -> None:
    """Composing recurses, in C without a check of the stack; reading events does not."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                line = _first_line(event)
                message = f"must nest at most {MAX_DEPTH} levels deep (got more)"
                raise BrokenDocument(Problem(file, line, "", message))
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _syntax_problem(file: str, error: yaml.MarkedYAMLError) -> Problem:
    mark = error.problem_mark or error.context_mark
    what = error.problem or "it cannot be read"
    if "another document" in what:
        what = "a second document begins here"
    elif error.context and not error.context.startswith("in "):
        what = f"{what}, {error.context}"
    line, column = (mark.line + 1, mark.column + 1) if mark else (None, 1)
    return Problem(file, line, "", f"must be valid YAML (got an error in column {column}: {what})")


def _first_line(node: yaml.Node | yaml.Event) -> int:
    mark = node.start_mark
    assert mark is not None
    return int(mark.line) + 1


def _entry(node: yaml.MappingNode, key: str) -> tuple[yaml.Node, yaml.Node] | None:
    """The key and value nodes of a key, also of one that is merged in."""
    for key_node, value in node.value:
        if key_node.tag != _MERGE and key_node.value == key:
            return key_node, value
    for key_node, value in node.value:
        if key_node.tag == _MERGE:
            sources = value.value if isinstance(value, yaml.SequenceNode) else [value]
            for source in sources:
                if isinstance(source, yaml.MappingNode):
                    found = _entry(source, key)
                    if found is not None:
                        return found
    return None


class _Builder:
    """Nodes to data, each aliased node once. `sizes` counts values with aliases expanded."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.built: dict[int, object] = {}
        self.sizes: dict[int, int] = {}
        self.open: set[int] = set()

    def refuse(self, node: yaml.Node, path: Path, message: str) -> None:
        line = _first_line(node)
        self.document.problems.append(Problem(self.document.file, line, path_text(path), message))

    def build(self, node: yaml.Node, path: Path) -> object:
        known = id(node)
        if known in self.open:
            self.refuse(node, path, "must not contain itself (got an alias of what it is in)")
            return None
        if known not in self.built:
            self.open.add(known)
            self.sizes[known] = 1
            if node.tag not in _TAGS_OF_DATA and not isinstance(node, yaml.ScalarNode):
                self.refuse(node, path, f"must not carry a tag (got {node.tag})")
            if isinstance(node, yaml.MappingNode):
                self.built[known] = self.mapping(node, path)
            elif isinstance(node, yaml.SequenceNode):
                self.built[known] = [
                    self.child(node, item, (*path, index)) for index, item in enumerate(node.value)
                ]
            else:
                assert isinstance(node, yaml.ScalarNode)
                self.built[known] = self.scalar(node, path)
            self.open.discard(known)
        return self.built[known]

    def child(self, parent: yaml.Node, node: yaml.Node, path: Path) -> object:
        value = self.build(node, path)
        self.sizes[id(parent)] += self.sizes[id(node)]
        return value

    def mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, object]:
        result: dict[str, object] = {}
        lines: dict[str, int] = {}
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.refuse(key_node, path, "must have text as keys (got a list or a mapping)")
                continue
            if key_node.tag == _MERGE:
                nested = isinstance(value_node, yaml.SequenceNode)
                merged += value_node.value if nested else [value_node]
                continue
            key = key_node.value
            if key in lines:
                message = f"must be given once (got it in line {lines[key]} already)"
                self.refuse(key_node, (*path, key), message)
                continue
            lines[key] = _first_line(key_node)
            result[key] = self.child(node, value_node, (*path, key))
        for source in merged:
            values = self.child(node, source, path)
            if isinstance(values, dict):
                result = {**values, **result}
            else:
                self.refuse(source, (*path, "<<"), "must be a mapping or a list of mappings")
        return result

    def scalar(self, node: yaml.ScalarNode, path: Path) -> object:
        text: str = node.value
        kind = node.tag.removeprefix(_TAG)
        if kind == "str":
            # YAML 1.1 takes 1e3 for text, later versions for a number.
            number = not node.style and "e" in text.lower() and _NUMBER.fullmatch(text)
            return Unquoted(text) if number else text
        if kind in ("timestamp", "value", "merge"):
            return text
        if kind == "null":
            return None
        if kind == "float":
            return Unquoted(text)
        if kind == "bool" and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if kind == "int" and _INTEGER.fullmatch(text):
            return int(text)
        if kind in ("bool", "int"):
            must = (
                "be true, false or quoted text" if kind == "bool" else "be a plain or quoted number"
            )
            self.refuse(
                node, path, f"must {must} (got {text}, which not every reader of YAML reads alike)"
            )
        else:
            self.refuse(node, path, f"must not carry a tag (got {node.tag})")
        return text
