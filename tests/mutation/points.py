"""Where a bug can be set into a module: small changes of its code, one at a time.

The changes are those that people make by mistake: a comparison off by one, an operator or a default
changed, a guard, a raise or a limit forgotten, an exception not caught. What only words things is
left alone: docstrings, messages, formats, annotations, assertions, and how a figure looks.
"""

import ast
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_COMPARED: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_CALCULATED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
}
#: Functions and what takes their place; None: their first argument as it is.
_CALLED = {
    "sorted": "list",
    "min": "max",
    "max": "min",
    "any": "all",
    "all": "any",
    "abs": None,
    "round": "int",
    "reversed": None,
}
#: Methods that limit or tidy what they are called on, which is then taken as it is.
_LIMITING = {"clamp", "clamp_min", "clamp_max", "clip", "abs", "strip", "lower", "resolve"}
#: Methods named in words or shown to nobody but a reader of logs.
_REPRESENTING = {"__repr__", "__str__", "extra_repr", "__dir__"}
_WORDING_CALLS = {"debug", "info", "warning", "warn", "print", "set_postfix"}
#: Arguments that say how something looks or how often it is shown.
_LOOKS = {
    *("fontsize", "linewidth", "figsize", "dpi", "alpha", "pad", "labelpad", "color", "zorder"),
    *("indent", "desc", "unit", "ncols", "mininterval", "stacklevel", "help", "show", "group"),
    *("sort_key", "ensure_ascii", "markersize", "capsize", "loc", "frameon", "quality"),
}


@dataclass(frozen=True)
class Point:
    """One possible bug: the bytes from `start` to `end` of a module become `text`."""

    #: The module's path in the checkout.
    module: str
    #: Qualified name of the innermost function; empty at the module's level.
    function: str
    line: int
    kind: str
    #: The changed code in words of its own, for people.
    before: str
    after: str
    start: int
    end: int
    text: str

    @property
    def room(self) -> str:
        """The folder of `tests` that mirrors the module: a room of `sima_core`, or ``app``.

        A module that lies in no room is one by itself.
        """
        package, *inner = Path(self.module).parts
        if package == "app":
            return package
        return inner[0] if len(inner) > 1 else Path(self.module).stem

    def applied(self, source: bytes) -> bytes:
        """The module with the bug in it."""
        return source[: self.start] + self.text.encode() + source[self.end :]


def find_points(module: str, source: bytes) -> list[Point]:
    """Every bug that can be set into a module, in order of the code."""
    finder = _Finder(module, source)
    finder.visit(ast.parse(source))
    return sorted(finder.found, key=lambda point: (point.start, point.end, point.text))


def draw(points: Iterable[Point], size: int, seed: int) -> list[Point]:
    """A sample over all rooms and kinds of bugs, the same for the same code, size and seed.

    Each room has one at least where `size` allows it, and beyond that its share of the points; in
    a room the kinds come in turn, since constants alone are half of all points.
    """
    rooms: dict[str, list[Point]] = defaultdict(list)
    for point in points:
        rooms[point.room].append(point)
    counts = _shares({room: len(found) for room, found in rooms.items()}, size)
    return [
        point
        for room, count in sorted(counts.items())
        for point in _in_turn(rooms[room], random.Random(f"{seed} {room}"))[:count]
    ]


def _shares(points: dict[str, int], size: int) -> dict[str, int]:
    """How many of `size` each room gets, of those that it has."""
    counts = dict.fromkeys(sorted(points, key=lambda room: -points[room])[:size], 1)
    while sum(counts.values()) < min(size, sum(points.values())):
        open_rooms = [room for room in counts if counts[room] < points[room]]
        counts[max(open_rooms, key=lambda room: (points[room] / (counts[room] + 1), room))] += 1
    return counts


def _in_turn(points: Sequence[Point], random_source: random.Random) -> list[Point]:
    """One point of each kind, then another of each, shuffled; one of a line before a second."""
    kinds: dict[str, list[Point]] = defaultdict(list)
    for point in random_source.sample(points, len(points)):
        kinds[point.kind].append(point)
    order = random_source.sample(sorted(kinds), len(kinds))
    turns = [(turn, order.index(kind), p) for kind in order for turn, p in enumerate(kinds[kind])]
    in_turn = [point for *_, point in sorted(turns, key=lambda entry: entry[:2])]
    first = {(point.module, point.line): point for point in reversed(in_turn)}
    seconds = [p for p in in_turn if first[p.module, p.line] is not p]
    return [p for p in in_turn if first[p.module, p.line] is p] + seconds


class _Finder(ast.NodeVisitor):
    """Collects the points of one module."""

    def __init__(self, module: str, source: bytes) -> None:
        self.found: list[Point] = []
        self._module, self._source = module, source
        self._names: list[str] = []
        self._starts = [0]
        for line in source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    def _add(self, kind: str, node: ast.expr | ast.stmt, *after: ast.AST | str) -> None:
        """Points at which `node` becomes each of `after`; expressions are set in brackets."""
        start = self._starts[node.lineno - 1] + node.col_offset
        end = self._starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
        if self._source[start:].startswith(b"elif"):
            return  # a part of a statement, which cannot go by itself
        for change in after:
            text = change if isinstance(change, str) else ast.unparse(change)
            if isinstance(node, ast.expr) and not isinstance(change, ast.Constant):
                text = f"({text})"
            function = ".".join(self._names)
            shown = ast.unparse(node).splitlines()[0], text.splitlines()[0]
            self.found.append(
                Point(self._module, function, node.lineno, kind, *shown, start, end, text)
            )

    # What is only wording, or has no effect ------------------------------------------------

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        pass

    def visit_Assert(self, node: ast.Assert) -> None:
        pass

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value:
            self.visit(node.value)

    def visit_arg(self, node: ast.arg) -> None:
        pass  # an annotation

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg not in _LOOKS:
            self.generic_visit(node)

    def visit_match_case(self, node: ast.match_case) -> None:
        for statement in node.body:
            self.visit(statement)

    # What is changed -----------------------------------------------------------------------

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._names.append(node.name)
        for statement in node.body:
            self.visit(statement)
        self._names.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name in _REPRESENTING:
            return
        for default in (*node.args.defaults, *filter(None, node.args.kw_defaults)):
            self.visit(default)
        self._names.append(node.name)
        for statement in node.body:
            self.visit(statement)
        self._names[-1:] = []

    def visit_If(self, node: ast.If) -> None:
        names = {name.id for name in ast.walk(node.test) if isinstance(name, ast.Name)}
        if names & {"TYPE_CHECKING", "__name__"}:
            return
        if not node.orelse and isinstance(node.body[-1], ast.Raise | ast.Return | ast.Continue):
            self._add("guard", node, "pass")
        if not isinstance(node.test, ast.Compare):
            self._add("condition", node.test, ast.UnaryOp(ast.Not(), node.test))
        self.visit(node.test)
        lone = node.body if len(node.body) == 1 and not node.orelse else []
        for statement in (*node.body, *node.orelse):
            if statement in lone and isinstance(statement, ast.Raise | ast.Continue):
                continue  # the same bug as the guard's
            self.visit(statement)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._add("condition", node.test, ast.UnaryOp(ast.Not(), node.test))
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        self._add("raise", node, "pass")  # its sentence is wording

    def visit_Return(self, node: ast.Return) -> None:
        if node.value and not (isinstance(node.value, ast.Constant) and node.value.value is None):
            self._add("return", node, "return None")
            self.visit(node.value)

    def visit_Continue(self, node: ast.Continue) -> None:
        self._add("jump", node, "pass")

    def visit_Break(self, node: ast.Break) -> None:
        self._add("jump", node, "pass")

    def visit_Expr(self, node: ast.Expr) -> None:
        value = node.value
        if isinstance(value, ast.Constant) or _name(value) in _WORDING_CALLS:
            return
        if isinstance(value, ast.Call):
            self._add("call", node, "pass")
        self.generic_visit(node)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if isinstance(node.type, ast.Tuple):
            for dropped in node.type.elts:
                rest = [kind for kind in node.type.elts if kind is not dropped]
                self._add("except", node.type, ast.Tuple(rest, ast.Load()))
        elif node.type:
            self._add("except", node.type, ast.Tuple([], ast.Load()))
        for statement in node.body:
            self.visit(statement)

    def visit_Compare(self, node: ast.Compare) -> None:
        for place, operator in enumerate(node.ops):
            for other in _COMPARED[type(operator)]:
                ops = [*node.ops[:place], other(), *node.ops[place + 1 :]]
                self._add("comparison", node, ast.Compare(node.left, ops, node.comparators))
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        self._add("boolean", node, ast.BoolOp(other, node.values))
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        other = _CALCULATED.get(type(node.op))
        if other and not (_is_text(node.left) or _is_text(node.right)):
            self._add("arithmetic", node, ast.BinOp(node.left, other(), node.right))
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        other = _CALCULATED.get(type(node.op))
        if other and not _is_text(node.value):
            self._add("arithmetic", node, ast.AugAssign(node.target, other(), node.value))
        self.visit(node.value)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not | ast.USub):
            self._add("sign", node, node.operand)
        if not isinstance(node.operand, ast.Constant):
            self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self._add("constant", node, ast.Constant(not value))
        elif isinstance(value, int | float):
            others = {value + 1, 0} if abs(value) < 20 else {value * 2, 0}
            self._add("constant", node, *(ast.Constant(n) for n in sorted(others - {value})))

    def visit_Subscript(self, node: ast.Subscript) -> None:
        limit = node.slice
        if isinstance(limit, ast.Slice) and limit.upper and not limit.lower and not limit.step:
            self._add("limit", node, ast.Subscript(node.value, ast.Slice(), node.ctx))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = _name(node)
        if isinstance(node.func, ast.Name) and name in _CALLED and node.args:
            other = _CALLED[name]
            keywords = node.keywords if other in ("min", "max") else []
            changed = ast.Call(ast.Name(other), node.args, keywords) if other else node.args[0]
            self._add("limit", node, changed)
        elif isinstance(node.func, ast.Attribute) and name in _LIMITING:
            self._add("limit", node, node.func.value)
        self.generic_visit(node)


def _name(node: ast.expr) -> str:
    """The last part of the name that is called."""
    match node:
        case ast.Call(func=ast.Name(id=name)) | ast.Call(func=ast.Attribute(attr=name)):
            return name
    return ""


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    )


def modules_of(root: Path, package: str = "sima_core") -> Iterator[str]:
    """The paths of a package's modules, in order."""
    for path in sorted((root / package).rglob("*.py")):
        yield path.relative_to(root).as_posix()
