"""Mutation of the rules: change one thing in one line, run the quick tests, and see whether any turns red.

    python tests/mutate.py [ROOM ...] [--jobs N] [--list]

Every function that takes part in a rule is mutated, statement by statement: what it assigns or returns is changed
(numbers by 1%, counts by one, masks inverted), signs and operators are exchanged, transposes and squares dropped,
constants moved by one, comparisons and masks changed, branches forced. A mutant that no test sees is printed. A run of
all rooms writes `benchmarks/results/mutation.json`: how many were killed, and the survivors, each with its reason. The
exit code is 1 if there is one without a reason. A run that was interrupted goes on where it stopped.
"""

import argparse
import ast
import copy
import hashlib
import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytest

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "mutation.json"
PATIENCE = 600  # seconds for the tests of one mutant

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
KNOW_TOO = {"heads": ("rnn",), "_arrays": ("rnn",)}  # and those that are asked where these see nothing

# Survivors that compute the same, with the reason: by room and line as it stands (any survivor there), or by what is
# changed into what too (these are not run at all).
SPEED = "how many sentences at a time: time and memory, and no number"
COUNTS = "both count exactly, up to 2²⁴ words: which is faster"
CUT = "how time is cut into chunks, and whether states are kept: time and memory, and no number"
SQUARE = "W is square"
CLAMPED = "there is one of them, and JAX takes an index beyond the last for the last"
SAME_RESULT = {
    (
        "textconv",
        "one = jax.tree.map(lambda a: a[0], (x, lengths, m, c))",
    ): "any sentence has that shape, and shapes alone are read",
    (
        "dense",
        "x, W_bar, b_bar = entered[0], [], []",
        "x, W_bar, b_bar = (entered[0], [], [])",
        "x, W_bar, b_bar = _changed((entered[0], [], []))",
    ): "of x the dtype alone is read",
    ("heads", "return jnp.sum(losses) / jnp.where(total == 0, 1, total)", "1", "2"): "it divides 0",
    ("heads", "h, V, c = saved", "h, V, c = saved", "h, V, c = _changed(saved)"): "of them the dtypes alone are read",
    ("heads", "loss = jnp.log(total[:, 0]) - below_k", "0", "1"): CLAMPED,
    (
        "textconv",
        "return x_bar, E_bar, U_bar, None if b is None else b_bar, None",
        "None if b is None else b_bar",
        "b_bar",
    ): "JAX takes no notice of what is handed back for a bias that is None",
    ("textconv", 'w_at = w.at[at].get(mode="promise_in_bounds", wrap_negative_indices=False)'): "no index is negative",
    ("textconv", "return jnp.pad(w, ((0, missing), (0, 0))) if missing > 0 else w"): "it pads by nothing",
    ("textconv", "return s[0]"): CLAMPED,
    ("textconv", "counts = jnp.float32 if windows < 2**22 else jnp.int32"): COUNTS,
    (
        "textconv",
        "rank = jnp.where(s == highest[None], falling, jnp.where(jnp.isnan(s), falling + windows, 0))",
        "0",
        "1",
    ): "1 is the rank of the last window: where it wins, that others share it changes no maximum",
    (
        "textconv",
        's_dot = jnp.take_along_axis(tangents[0], m[None], 0, mode="promise_in_bounds")[0]',
        "jnp.take_along_axis(tangents[0], m[None], 0, mode='promise_in_bounds')[0]",
        "jnp.take_along_axis(tangents[0], m[None], 0, mode='promise_in_bounds')[1]",
    ): CLAMPED,
    ("textconv", "fitting = max(2**18 // max(T * filters, 1), 2)"): SPEED,
    ("textconv", "return near_divisor(B, fitting) if fitting < B else B"): SPEED,
    ("textconv", "size = _rows_at_once(*shape, max(U_k.shape[2] for U_k in U))"): SPEED,
    (
        "textconv",
        "lax.map(lambda row: one(*row), args, batch_size=size) if 0 < size < shape[0] else jax.vmap(one)(*args)",
    ): SPEED,
    ("textconv", "return each", "return each", "return _changed(each)"): "a function is not changed",
    (
        "textconv",
        "one = partial(sentence, _convolved)",
        "one = partial(sentence, _convolved)",
        "one = _changed(partial(sentence, _convolved))",
    ): "a function is not changed",
    ("textconv", "if places.size < tokens.size:"): "two ways to the same sum: which is faster",
    (
        "textconv",
        "return x, jnp.full(B, T, jnp.int32) if max(U_k.shape[0] for U_k in U) > T else None",
    ): "lengths that are all of T words: what is read with them is what is read without",
    ("rnn", "classes: int = 1,"): CUT,
    ("rnn", "terms = max(2**25 // H**2, 512) if keep else max(2**24 // H**2, 1024)"): CUT,
    ("rnn", 'if out == "losses":'): CUT,
    ("rnn", "ideal = max(min(ideal, max(2**22 // classes, 512) // max(B, 1)), 1)"): CUT,
    ("rnn", "chunk = near_divisor(T, ideal) if ideal < T else T"): CUT,
    ("rnn", "worth_keeping = 2**29 if cpu else 2**30"): CUT,
    ("rnn", 'keep = save == "all" or (save == "auto" and T * B * H * itemsize <= worth_keeping)'): CUT,
    ("rnn", "ideal = max(-(-min(terms, 4096) // max(B, 1)), 1 if keep else round((T / 3) ** 0.5))"): CUT,
    ("rnn", "ideal = ideal if cpu else max(ideal, 256)"): CUT,
    ("rnn", "return _Plan(out, truncate, max(1, min(chunk, T)), keep, unroll=1 if cpu else 8)"): CUT,
    ("rnn", "sizes = x.shape[1], x.shape[0], params.W.shape[0], params.W.dtype.itemsize"): CUT,
    ("rnn", "classes = 1 if head is None or head[0].ndim == 1 else head[0].shape[1]"): CUT,
    ("rnn", "elif not plan.keep:"): "states that are kept are made again all the same",
    ("rnn", 'width = {"last": None, "states": (B, T, W.shape[0]), "losses": (B, T)}[plan.out]'): SQUARE,
    ("rnn", "h0 = jnp.zeros((x.shape[0], W.shape[0]), W.dtype)"): SQUARE,
    ("rnn", "W_T = W_wide.T if B < 64 else None"): "whether W is transposed once or at each step: which is faster",
    (
        "rnn",
        "turned = W.T if W_T is None else W_T",
        "W.T if W_T is None else W_T",
        "W.T",
    ): "whether W is transposed once or at each step: which is faster",
    ("rnn", "return h_t, h_t if wanted else None", "h_t if wanted else None", "h_t"): "a result that nobody takes up",
    ("rnn", "of_x = None if index else zeros(x.shape, x.dtype, W)"): "a result that nobody takes up",
    (
        "rnn",
        "return x_bar, U_bar, W_bar, None if b is None else b_bar, h0_bar, None, head and head_bar",
        "None if b is None else b_bar",
        "b_bar",
    ): "JAX takes no notice of what is handed back for a bias that is None",
    ("rnn", "return h[0] if data.single else h", "h[0]", "h[1]"): CLAMPED,
    ("gated", "bwd = _folded_bwd if fold else _in_full_bwd"): "a function is not changed",
    (
        "heads",
        "bwd = _logistic_bwd if V.ndim == 1 else _softmax_bwd",
        "bwd = _logistic_bwd if V.ndim == 1 else _softmax_bwd",
        "bwd = _changed(_logistic_bwd if V.ndim == 1 else _softmax_bwd)",
    ): "a function is not changed",
    (
        "heads",
        "losses, of_loss = _logistic_fwd(z[:, 0], y.reshape(-1)) if one_output else _softmax_fwd(z, y.reshape(-1))",
        "0",
        "1",
    ): CLAMPED,
    (
        "textconv",
        'return add_rows(E_bar, tokens.at[places].get(mode="fill", fill_value=-1), shares)',
        "1",
        "2",
    ): "any number below 0 is no row",
    (
        "textconv",
        "return x, jnp.where((lengths >= 0) & (lengths <= T), lengths, -1).astype(jnp.int32)",
    ): "any length below 0 makes its sentence NaN",
    ("rnn", "one_input = not _is_index(x) and U.shape[0] == 1"): "a product or a sum of one term: which is faster",
    (
        "rnn",
        "return x, jnp.where(known, lengths, data.steps).astype(jnp.int32), nan_unless(known[:, None], h0)",
        "jnp.where(known, lengths, data.steps)",
        "lengths",
    ): "a row of impossible length is NaN already, through h_0",
    (
        "_arrays",
        "return jnp.where((ids < 0) | (ids >= size), jnp.full_like(ids, size), ids).astype(jnp.int32)",
        "ids >= size",
        "ids > size",
    ): "the first number beyond the table is what it would be made",
    (
        "_arrays",
        'return lax.pcast(a, missing, to="varying") if missing else a',
        "lax.pcast(a, missing, to='varying') if missing else a",
        "lax.pcast(a, missing, to='varying')",
    ): "to mark by no axis is to leave it",
    ("_arrays", "if a.dtype != b.dtype:"): "a product of unlike dtypes is summed as wide without the cast, too",
    (
        "_arrays",
        "return lax.dot_general(a, b, (((a.ndim - 1,), (0,)), ((), ())), preferred_element_type=wide(a.dtype))",
        "a.ndim - 1",
        "1",
    ): "it has two axes wherever it is called",
}

# Mutants that compute something else which no test sees, with the reason why none does.
NOT_SEEN: dict[tuple[str, ...], str] = {}


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
    return text in ("None", "([], [])", "([], [], [])", "[]") or "zeros(" in text


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
        types = types_in(function)
        for parent in ast.walk(function):
            if id(parent) in types:
                continue
            for field, value in ast.iter_fields(parent):
                if field == "decorator_list" or getattr(parent, "arg", "") == "strict":
                    continue  # `zip`'s own check
                for index, node in enumerate(value if isinstance(value, list) else [value]):
                    if not isinstance(node, ast.AST) or not hasattr(node, "lineno") or id(node) in types:
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


def types_in(function: ast.FunctionDef) -> set[int]:
    """The nodes of what only a type checker reads."""
    told = [n.returns for n in ast.walk(function) if isinstance(n, ast.FunctionDef)]
    told += [n.annotation for n in ast.walk(function) if isinstance(n, ast.arg)]
    return {id(n) for t in told if t is not None for n in ast.walk(t)}


def put(parent: ast.AST, field: str, value: object, index: int, node: ast.AST) -> None:
    if isinstance(value, list):
        value[index] = node
    else:
        setattr(parent, field, node)


class RoomFirst:
    """Orders the tests: those that saw other mutants of the same function first, then the room's rules, its own file,
    its rules in half precision, then, if asked for, whatever else names it. The first that turns red is written down.
    """

    def __init__(self, rooms: tuple[str, ...], others: bool, seers: list[str], red: Path):
        self.rooms, self.others, self.seers, self.red = rooms, others, seers, red

    def rank(self, item: str) -> int | None:
        if item in self.seers:
            return self.seers.index(item) - len(self.seers)
        if any(f"test_rule[{room}" in item for room in self.rooms):
            return 0
        if any(f"test_{room}.py" in item for room in self.rooms):
            return 1
        if any(f"test_rule_in_half_precision[{room}" in item for room in self.rooms):
            return 2
        return 3 if self.others and any(f"[{room}" in item or f"-{room}" in item for room in self.rooms) else None

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list) -> None:
        items[:] = sorted((i for i in items if self.rank(i.nodeid) is not None), key=lambda i: self.rank(i.nodeid) or 0)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.red.write_text(report.nodeid)


OTHERS = ("compositions", "precision", "interface", "export", "errors", "mesh", "layers", "init")
SURVIVED, KILLED = 0, 1  # exit codes of a process that has tried a mutant; another one says that the tests did not run


def attempt(mutant: Mutant, others: bool, seers: list[str], red: Path) -> NoReturn:
    """Runs the tests on a copy of the project with the mutant in it: in a fork, which ends with it."""
    with open(os.devnull, "w") as nowhere:  # the tests' own output is of no interest here
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    rooms = KNOW_BEST.get(mutant.room, (mutant.room,)) + (KNOW_TOO.get(mutant.room, ()) if others else ())
    with tempfile.TemporaryDirectory() as folder:
        for part in ("jaxnets", "tests", "benchmarks"):
            shutil.copytree(ROOT / part, Path(folder, part), ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        Path(folder, "jaxnets", f"{mutant.room}.py").write_text(mutant.source)
        os.chdir(folder)
        sys.path[:0] = [folder, str(Path(folder, "tests"))]
        files = ["rules", *rooms, *(OTHERS if others else ())]
        options = ["-x", "-m", "not slow", "-o", "addopts=", "--import-mode=importlib", "-p", "no:cacheprovider"]
        options += ["-p", "no:xdist", *(f"tests/test_{file}.py" for file in dict.fromkeys(files))]
        result = pytest.main(options, plugins=[RoomFirst(rooms, others, seers, red)])
    codes = {pytest.ExitCode.OK: SURVIVED, pytest.ExitCode.TESTS_FAILED: KILLED, pytest.ExitCode.INTERRUPTED: KILLED}
    os._exit(codes.get(pytest.ExitCode(result), 100 + int(result)))


class Log:
    """What was found of this very code, line by line, so that an interrupted run can go on."""

    def __init__(self) -> None:
        files = [p for d in ("jaxnets", "tests") for p in sorted((ROOT / d).rglob("*.py")) if p.name != "mutate.py"]
        code = b"".join(p.read_bytes() for p in files)
        name = f"jaxnets-mutants-{hashlib.sha256(code).hexdigest()[:16]}.jsonl"
        self.path = Path(tempfile.gettempdir(), name)
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self.found: dict[str, bool] = dict(map(json.loads, lines))

    def key(self, mutant: Mutant, others: bool) -> str:
        return f"{others} {mutant.room} {hashlib.sha256(mutant.source.encode()).hexdigest()}"

    def keep(self, mutant: Mutant, others: bool, survived: bool) -> None:
        self.found[self.key(mutant, others)] = survived
        with self.path.open("a") as file:
            print(json.dumps([self.key(mutant, others), survived]), file=file)


def survivors_of(chosen: list[Mutant], jobs: int, others: bool, log: Log) -> list[Mutant]:
    context, start, done = multiprocessing.get_context("fork"), time.monotonic(), 0
    waiting = [m for m in chosen if log.key(m, others) not in log.found][::-1]
    count, running, folder = len(waiting), {}, Path(tempfile.mkdtemp())
    seers: dict[str, Counter[str]] = defaultdict(Counter)  # of each function, the tests that saw a mutant of it
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                mutant = waiting.pop()
                known = [test for test, _ in seers[mutant.function].most_common()]
                red = folder / str(len(waiting))
                process = context.Process(target=attempt, args=(mutant, others, known, red))
                process.start()
                running[process.sentinel] = process, mutant, red, time.monotonic() + PATIENCE
            ended = multiprocessing.connection.wait(list(running), timeout=1.0)
            hung = [s for s, (*_, end) in running.items() if time.monotonic() > end and s not in ended]
            for sentinel in [*ended, *hung]:
                process, mutant, red, _ = running.pop(sentinel)
                if sentinel in hung:
                    process.kill()  # a mutant that never ends is seen as well
                process.join()
                if red.exists():
                    seers[mutant.function][red.read_text()] += 1
                if sentinel in ended and process.exitcode not in (SURVIVED, KILLED):
                    print(f"\n{described(mutant)}: ended with {process.exitcode}, which is taken for killed")
                log.keep(mutant, others, sentinel in ended and process.exitcode == SURVIVED)
                done += 1
                left = (time.monotonic() - start) / done * (count - done)
                survive = sum(log.found.get(log.key(m, others), False) for m in chosen)
                print(f"\r{done} of {count}, {survive} survive, {left / 60:.0f} min left ", end="", flush=True)
    finally:
        for process, *_ in running.values():
            process.kill()
        shutil.rmtree(folder)
    print()
    return [m for m in chosen if log.found[log.key(m, others)]]


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

    import jax  # loaded once here, so that no fork has to
    import optax  # noqa: F401

    log = Log()
    with tempfile.TemporaryDirectory() as compiled:  # most programs are those of the mutant before
        jax.config.update("jax_compilation_cache_dir", compiled)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        controls = [
            Mutant(room, "", 0, "", "nothing", "", "", (ROOT / "jaxnets" / f"{room}.py").read_text()) for room in rooms
        ]
        if len(survivors_of(controls, options.jobs, True, log)) < len(controls):
            print("the tests fail without any mutation")
            return 1
        tried = [m for m in chosen if exactly(m) not in SAME_RESULT]
        survivors = survivors_of(tried, options.jobs, False, log)
        same = [m for m in chosen if m not in tried or (m in survivors and reason_of(m, SAME_RESULT) is not None)]
        # What the room's own tests do not see.
        survivors = survivors_of([m for m in survivors if m not in same], options.jobs, True, log)
    rest = [m for m in chosen if m not in same]
    killed = len(rest) - len(survivors)
    for m in survivors:
        print(f"not seen: {described(m)}  ({reason_of(m, NOT_SEEN) or 'no reason is known'})")
    print(
        f"{killed} of {len(rest)} mutants killed ({killed / len(rest):.1%}); {len(chosen) - len(rest)} change no result"
    )
    if not options.rooms:
        write_results(rest, same, survivors, jax.__version__)
    return int(any(reason_of(m, NOT_SEEN) is None for m in survivors))


def exactly(m: Mutant) -> tuple[str, ...]:
    return m.room, m.text, m.before, m.after


def reason_of(m: Mutant, table: dict[tuple[str, ...], str]) -> str | None:
    return table.get(exactly(m), table.get((m.room, m.text)))


def write_results(rest: list[Mutant], same: list[Mutant], survivors: list[Mutant], version: str) -> None:
    def rows(mutants: list[Mutant], table: dict[tuple[str, ...], str]) -> list[dict[str, Any]]:
        fields = ("room", "function", "line", "what", "before", "after")
        return [{f: getattr(m, f) for f in fields} | {"reason": reason_of(m, table)} for m in mutants]

    results = {
        "command": "python tests/mutate.py",
        "date": time.strftime("%Y-%m-%d"),
        "jax": version,
        "mutants": len(rest) + len(same),
        "change a result": len(rest),
        "killed": len(rest) - len(survivors),
        "survivors": rows(survivors, NOT_SEEN),
        "change no result": rows(same, SAME_RESULT),
    }
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
