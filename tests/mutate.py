"""Mutation of the rules: change one thing in one line, run the tests, and see whether any turns red.

    python tests/mutate.py [ROOM ...] [--jobs N] [--list]

Every function that takes part in a rule is mutated, statement by statement: what it assigns or returns is changed
(numbers by 1%, counts by one, masks inverted), signs and operators are exchanged, transposes and squares dropped,
constants moved by one, comparisons and masks changed, branches forced. A mutant that no test sees is printed; the exit
code is 1 if there is any that is not listed, with its reason, as one that changes no result.
"""

import argparse
import ast
import copy
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent

RULES = {
    "heads": ["_affine_fwd", "_affine_bwd", "_logistic_fwd", "_logistic_bwd", "_softmax_fwd", "_softmax_bwd"]
    + ["_affine_adjoints", "_losses_fwd", "_losses_bwd", "_probability"]
    + ["_one_hot", "_finite", "_reduce", "_split_mask", "_logits"],
    "textconv": [
        "_features_fwd",
        "_features_bwd",
        "_words",
        "_convolved",
        "_by_word",
        "_of_sentence",
        "_first_of_highest",
    ]
    + ["_of_the_first"]
    + ["_rows_at_once", "_in_blocks", "_by_platform", "_row_by_row", "_all_at_once", "_gathered", "_add_words"]
    + ["_sentences"],
    "rnn": ["_run_fwd", "_chunk_states", "_run_bwd", "_chunk_deltas", "_valid", "_cut", "_times", "_with_batch"]
    + ["_plan", "_zero_beyond", "_dot_rows", "_hidden"],
    "gated": ["_folds", "_logit_fwd", "_logit_bwd", "_in_full", "_in_full_bwd", "_folded", "_folded_bwd"],
    "dense": ["_layers_fwd", "_layers_bwd"],
    "_chunks": ["over_chunks", "chunk_of", "put_chunk"],
    "_arrays": ["dot", "rows", "add_rows", "_outside_is_beyond", "reached", "on_same_axes"],
}

# The rooms whose tests are to notice, where they are not the room's own.
KNOW_BEST = {"_chunks": ("rnn",), "_arrays": ("textconv", "heads")}

# Mutants that compute the same, with the reason: (room, line as it stands, what is changed, into what).
SAME_RESULT = {
    (
        "textconv",
        "one = jax.tree.map(lambda a: a[0], (x, lengths, m, c))",
        "a[0]",
        "a[1]",
    ): "any row has that shape",
    (
        "dense",
        "x, W_bar, b_bar = entered[0], [], []",
        "x, W_bar, b_bar = (entered[0], [], [])",
        "x, W_bar, b_bar = _changed((entered[0], [], []))",
    ): "of x the dtype alone is read",
    ("heads", "return jnp.sum(losses) / jnp.where(total == 0, 1, total)", "1", "2"): "it divides 0",
}


class Mutant(NamedTuple):
    room: str
    function: str
    line: int
    text: str
    what: str
    before: str
    after: str
    source: str


SWAPS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.BitAnd: ast.BitOr}
SWAPS |= {ast.BitOr: ast.BitAnd, ast.Mod: ast.Mult, ast.FloorDiv: ast.Mult, ast.Pow: ast.Mult}
COMPARES = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
COMPARES |= {ast.Is: ast.IsNot, ast.IsNot: ast.Is}
PASS_THROUGH = {"tanh", "square", "exp", "log", "log1p", "abs", "maximum", "sigmoid", "where", "sum", "isnan", "max"}
PASS_THROUGH |= {"clip", "concatenate", "pad", "swapaxes", "transpose"}


def changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """(what was done, the node in place of this one)."""
    if isinstance(node, ast.BinOp) and type(node.op) in SWAPS:
        yield "operator", ast.BinOp(node.left, SWAPS[type(node.op)](), node.right)
        yield "left side alone", node.left
        yield "right side alone", node.right
    last_axis = isinstance(node, ast.UnaryOp) and ast.unparse(node) == "-1"  # of a matrix it is axis 1
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Invert) and not last_axis:
        yield "sign", node.operand
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARES:
        yield "comparison", ast.Compare(node.left, [COMPARES[type(node.ops[0])]()], node.comparators)
    if isinstance(node, ast.Constant) and type(node.value) is bool:
        yield "flag", ast.Constant(not node.value)
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield "constant", ast.Constant(node.value + 1)
    if isinstance(node, ast.Attribute) and node.attr == "T":
        yield "transpose", node.value
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in PASS_THROUGH:
        args = node.args[1:] if node.func.attr == "where" else node.args[:1] or [node.func.value]
        for i, arg in enumerate(args):
            yield f"{node.func.attr} -> argument {i + 1}", arg
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "reversed":
        yield "order", node.args[0]
    if isinstance(node, ast.IfExp):
        yield "then", node.body
        yield "else", node.orelse
    if isinstance(node, ast.If):
        for value in (True, False):
            yield f"if {value}", ast.If(ast.Constant(value), node.body, node.orelse)
    if isinstance(node, ast.Assign | ast.Return) and node.value and not has_no_number(node.value):
        again = copy.copy(node)
        again.value = changed(node.value)
        yield "value", again
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and len(node.value.args) == 1:  # list.append
        yield "value", ast.Expr(ast.Call(node.value.func, [changed(node.value.args[0])], []))


def has_no_number(value: ast.AST) -> bool:
    """Nothing, a list yet empty, or zeros, of which 1% more is zero."""
    text = ast.unparse(value)
    return text in ("None", "([], [])", "[]") or "zeros(" in text


def changed(value: ast.expr) -> ast.Call:
    return ast.Call(ast.Name("_changed", ast.Load()), [value], [])


CHANGED = """

def _changed(tree):
    def change(a):
        if isinstance(a, bool):
            return not a
        if jnp.result_type(a) == jnp.bool_:
            return ~a
        if jnp.issubdtype(jnp.result_type(a), jnp.floating):
            return a * jnp.asarray(1.01, a.dtype)
        return a + 1
    return tree if callable(tree) else jax.tree.map(change, tree)
"""


def mutants(room: str) -> Iterator[Mutant]:
    path = ROOT / "jaxnets" / f"{room}.py"
    source = path.read_text()
    seen = {ast.unparse(ast.parse(source))}
    tree = ast.parse(source)
    if missing := set(RULES[room]) - {f.name for f in tree.body if isinstance(f, ast.FunctionDef)}:
        raise LookupError(f"{room}.py has no {', '.join(sorted(missing))}")
    for function in tree.body:
        if not isinstance(function, ast.FunctionDef) or function.name not in RULES[room]:
            continue
        for parent in ast.walk(function):
            for field, value in ast.iter_fields(parent):
                if field in ("returns", "decorator_list", "annotation") or getattr(parent, "arg", "") == "strict":
                    continue  # what only a type checker reads, and `zip`'s own check
                for index, node in enumerate(value if isinstance(value, list) else [value]):
                    if not isinstance(node, ast.AST) or not hasattr(node, "lineno"):
                        continue
                    shown = parent if isinstance(parent, ast.Subscript) else node  # an index alone says little
                    for what, other in changes(node):
                        before = ast.unparse(shown).split("\n")[0]
                        put(parent, field, value, index, other)
                        after = ast.unparse(parent if shown is parent else other).split("\n")[0]
                        mutated = ast.unparse(ast.fix_missing_locations(tree))
                        put(parent, field, value, index, node)
                        if mutated not in seen:
                            seen.add(mutated)
                            text = source.splitlines()[node.lineno - 1].split("  # ")[0].strip()
                            where = room, function.name, node.lineno, text
                            yield Mutant(*where, what, before, after, mutated + CHANGED)


def put(parent: ast.AST, field: str, value: object, index: int, node: ast.AST) -> None:
    if isinstance(value, list):
        value[index] = node
    else:
        setattr(parent, field, node)


class RoomFirst:
    """Orders the tests: the room's rules in float64 first, then its own file, then, if asked for, whatever names it."""

    def __init__(self, rooms: tuple[str, ...], all_of_them: bool):
        self.rooms, self.all_of_them = rooms, all_of_them

    def rank(self, item: str) -> int | None:
        if not any(f"test_{room}.py" in item or f"[{room}" in item or f"-{room}" in item for room in self.rooms):
            return None
        if "test_rules.py" not in item:
            return 2
        first = "test_rule[" in item and ("float64" in item or "bfloat16" in item)
        return 0 if first and "float64" in item else 1 if first else 3 if self.all_of_them else None

    def pytest_collection_modifyitems(self, items: list) -> None:
        items[:] = sorted((i for i in items if self.rank(i.nodeid) is not None), key=lambda i: self.rank(i.nodeid) or 0)


def survives(mutant: Mutant, more: tuple[str, ...]) -> bool:
    """Runs the room's tests, and the files `more`, on a copy of the project with the mutant in it, in this process (a
    fork that ends with it)."""
    import pytest

    rooms = KNOW_BEST.get(mutant.room, (mutant.room,))
    with tempfile.TemporaryDirectory() as folder:
        for part in ("jaxnets", "tests", "benchmarks"):
            shutil.copytree(ROOT / part, Path(folder, part), ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        Path(folder, "jaxnets", f"{mutant.room}.py").write_text(mutant.source)
        os.chdir(folder)
        sys.path[:0] = [folder, str(Path(folder, "tests"))]
        files = ["test_rules.py", *(f"test_{room}.py" for room in rooms), *more]
        options = ["-x", "-o", "addopts=", "--import-mode=importlib", "-p", "no:cacheprovider", "-p", "no:xdist"]
        result = pytest.main([*options, *(f"tests/{file}" for file in files)], plugins=[RoomFirst(rooms, bool(more))])
    if result not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED):
        raise RuntimeError(f"the tests did not run: {result!r} for {described(mutant)}")
    return result == pytest.ExitCode.OK


def run(mutant: Mutant, more: tuple[str, ...]) -> tuple[Mutant, bool]:
    with open(os.devnull, "w") as nowhere:  # the tests' own output is of no interest here
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        return mutant, survives(mutant, more)


def survivors_of(chosen: list[Mutant], jobs: int, more: tuple[str, ...]) -> list[Mutant]:
    start, survivors = time.monotonic(), []
    with multiprocessing.get_context("fork").Pool(jobs, maxtasksperchild=1) as pool:
        for done, (m, survived) in enumerate(pool.imap_unordered(partial(run, more=more), chosen), 1):
            if survived:
                survivors.append(m)
                if m.function:
                    print(f"\rnot seen by {'its room' if not more else 'any'}: {described(m)}")
            left = (time.monotonic() - start) / done * (len(chosen) - done)
            print(f"\r{done} of {len(chosen)}, {len(survivors)} survive, {left / 60:.0f} min left ", end="", flush=True)
    print()
    return survivors


def described(m: Mutant) -> str:
    return f"{m.room}.{m.function}:{m.line}: {m.what}: {m.before}  ->  {m.after}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Mutate the rules and see whether the tests notice.")
    parser.add_argument("rooms", nargs="*", help="which of " + ", ".join(RULES) + " (all of them if none is named)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many mutants at a time")
    parser.add_argument("--list", action="store_true", help="print the mutants and run nothing")
    options = parser.parse_args()
    rooms = options.rooms or list(RULES)
    if unknown := [room for room in rooms if room not in RULES]:
        parser.error(f"no room {unknown[0]!r}; there are {', '.join(RULES)}")
    chosen = [mutant for room in rooms for mutant in mutants(room)]
    if options.list:
        for m in chosen:
            print(described(m))
        print(f"{len(chosen)} mutants")
        return 0

    import jax  # noqa: F401 -- loaded once here, so that no fork has to
    import optax  # noqa: F401

    controls = [
        Mutant(room, "", 0, "", "nothing", "", "", (ROOT / "jaxnets" / f"{room}.py").read_text()) for room in rooms
    ]
    if len(survivors_of(controls, options.jobs, ())) < len(controls):
        print("the tests fail without any mutation")
        return 1
    rest = [m for m in chosen if (m.room, m.text, m.before, m.after) not in SAME_RESULT]
    survivors = survivors_of(rest, options.jobs, ())
    if survivors:  # what the room's own tests do not see, the others may
        survivors = survivors_of(survivors, options.jobs, ("test_compositions.py", "test_export.py", "test_errors.py"))
    print(
        f"{len(rest) - len(survivors)} of {len(rest)} mutants killed; {len(chosen) - len(rest)} more change no result"
    )
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
