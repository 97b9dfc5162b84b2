"""`jaxnets check`: the checker from the shell, for functions in any file, and for the nets of this package."""

import contextlib
import json
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import tyro

from jaxnets import check
from jaxnets.check._names import Given, call, fresh, is_floating
from jaxnets.check._picture import can_be_drawn
from jaxnets.check._report import WRONG
from jaxnets.cli import fail
from jaxnets.cli._load import Files, arguments
from jaxnets.cli._parsing import parse, said

NETS = ("heads", "textconv", "rnn", "gated", "dense")

ABOUT = """\
Is a derivative written by hand right; if not, which line is wrong, and why?

Gradients beside the function that they belong to; grads(*example) is held against loss(*example):
    jaxnets check homework.py:loss --by-hand homework.py:grads --args homework.py:example

A derivation line by line; loss names its intermediates with jaxnets.check.mark, backward returns a dict of adjoints:
    jaxnets check homework.py:loss --derivation backward --args example

Every custom_vjp and custom_jvp rule that a function meets:
    jaxnets check model.py:loss --rules --args example

The nets of this package, all or some; derivations as people wrote them on worksheets:
    jaxnets check [heads] [textconv] [rnn] [gated] [dense]
    jaxnets check --worksheets

A name without a file is looked for in the file of the function.

Exit code: 0 right, 1 something wrong, 2 it could not be run or decided."""


@dataclass
class Options:
    """Command-line options."""

    target: Annotated[tyro.conf.Positional[tuple[str, ...]], said("FILE.py:FUNCTION | NET …")] = ()
    """A function that returns one number; or the names of nets."""
    by_hand: Annotated[str, said("FILE.py:NAME")] = ""
    """A function of the same arguments that returns their gradients."""
    derivation: Annotated[str, said("FILE.py:NAME")] = ""
    """A function of the same arguments that returns a dict of adjoints by name."""
    rules: Annotated[bool, said("")] = False
    """Test the derivative rules that the function meets."""
    args: Annotated[str, said("FILE.py:NAME")] = "example"
    """A tuple of arguments, or a function that returns it, of nothing, `seed`, `rng` or `key` (left out: example)."""
    argnums: Annotated[tuple[int, ...], said("0 1 …")] = ()
    """Which arguments --by-hand differentiates by (left out: told from what it returns)."""
    allow: Annotated[tuple[str, ...], said("NAME …")] = ()
    """Rules that are meant to be something else than the derivative."""
    json: Annotated[bool, said("")] = False
    """Print JSON, and nothing else, on standard output."""
    picture: Annotated[str, said("FILE.png")] = ""
    """Draw where the errors sit into this file."""
    worksheets: Annotated[bool, said("")] = False
    """Check the derivations that are kept in jaxnets.check.worksheets."""


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    options = parse(Options, "check", ABOUT, argv)
    try:
        return _run(options)
    except BrokenPipeError:
        raise  # whoever calls this says what that means
    except (ValueError, TypeError, OSError, ImportError, check.CallerError) as error:
        message = str(error)
    except SystemExit as error:  # by the caller's code: its exit code must not be taken for a verdict
        message = f"the program was ended by the code under check, exit code {error.code}"
    except Exception as error:  # ours: told with its place, since a trace says nothing to who runs the command
        place = traceback.extract_tb(error.__traceback__)[-1]
        message = f"the check itself failed, {type(error).__name__} at {place.name}:{place.lineno}: {error}"
    if options.json:
        print(json.dumps({"ok": False, "error": message}, indent=2))
    return fail(message)


def _run(options: Options) -> int:
    mine = [t for t in options.target if ":" in t or t.endswith(".py")]
    ways = [f"--{w}" for w, v in _ways(options).items() if v]
    if options.worksheets:
        if options.target or ways:
            raise ValueError(f"--worksheets takes no other arguments; got {(*options.target, *ways)[0]}")
        return _worksheets(options)
    if not mine:
        unknown = [t for t in options.target if t not in NETS]
        if unknown or ways:
            said = f"got {unknown[0]!r}" if unknown else f"{ways[0]} needs a function to go with"
            raise ValueError(f"expected FILE.py:function, or of {', '.join(NETS)}; {said}")
        return _agreement(options)
    if len(options.target) > 1:
        raise ValueError(f"one function at a time; got {' '.join(options.target)}")
    if len(ways) != 1:
        raise ValueError(
            f"one of --by-hand, --derivation and --rules must be given; got {' and '.join(ways) or 'none'}"
        )
    for option, value, way in (("--allow", options.allow, "--rules"), ("--argnums", options.argnums, "--by-hand")):
        if value and way not in ways:
            raise ValueError(f"{option} goes with {way}; got {ways[0]}")
    if options.picture:
        can_be_drawn(options.picture)
    report = _report(options)
    print(report.to_json() if options.json else report, flush=True)
    if options.picture:
        report.save_picture(options.picture)
        _tell(options, f"picture: {options.picture}")
    if any(leaf.verdict == WRONG for leaf in report):
        return 1
    return 0 if report.ok and report.leaves else 2  # a check of nothing has shown nothing


def _ways(options: Options) -> dict[str, Any]:
    return {"by-hand": options.by_hand, "derivation": options.derivation, "rules": options.rules}


def _tell(options: Options, line: str) -> None:
    print(line, file=sys.stderr if options.json else sys.stdout)


def _report(options: Options) -> check.Report:
    f_spec = options.target[0]
    quiet = contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext()
    with quiet, Files() as files:  # what the caller's own code prints is no JSON
        f = files.function(f_spec, "check")
        given = arguments(files.get(options.args, "--args", f_spec), options.args)
        if options.rules:
            return check.rules(f, given, allow=options.allow)
        if options.derivation:
            return check.derivation(f, files.function(options.derivation, "--derivation", f_spec), given)
        by_hand = files.function(options.by_hand, "--by-hand", f_spec)
        if options.argnums:
            argnums = options.argnums[0] if len(options.argnums) == 1 else options.argnums
            return check.gradient(f, by_hand, given, argnums)
        argnums = _argnums(f, by_hand, given)
        report = check.gradient(f, by_hand, given, argnums)
        which = Given(f, given, argnums)
        if sum(any(map(is_floating, jax.tree.leaves(arg))) for arg in given) > 1:
            taken = ", ".join(which.names[i] for i in which.argnums)
            report.remarks.append(f"gradients by {taken}: --argnums chooses others")
        return report


def _argnums(
    f: Callable[..., Any], by_hand: Callable[..., Any], given: tuple[Any, ...]
) -> int | tuple[int, ...] | None:
    """By which arguments it differentiates: by name, else the first ones that have as many arrays as came back."""
    returned = call("by_hand", by_hand, *fresh(given))
    if isinstance(returned, dict):
        numbers = sorted(Given(f, given, None).arguments_named(returned))
        if numbers:
            return numbers[0] if len(numbers) == 1 else tuple(numbers)
    floats = [sum(map(is_floating, jax.tree.leaves(arg))) for arg in given]
    numbers = [i for i, count in enumerate(floats) if count]
    count = len(jax.tree.leaves(returned))
    fits = (numbers[:k] for k in range(1, len(numbers) + 1) if sum(floats[i] for i in numbers[:k]) == count)
    found = next(fits, None)
    return None if found is None else found[0] if len(found) == 1 else tuple(found)


def _agreement(options: Options) -> int:
    from jaxnets.cli import agreement

    rows = []
    _print(options, agreement.table(_kept(agreement.rows(options.target or NETS), rows)))
    ok = all(row["right"] for row in rows)
    if options.json:
        print(json.dumps({"ok": ok, "rows": rows}, indent=2))
    return 0 if ok else 1


def _worksheets(options: Options) -> int:
    from jaxnets.check import worksheets

    found = []
    _print(options, worksheets.table(_kept(worksheets.run(), found)))
    ok = all(case.expects(result) for case, result in found)
    if options.json:
        print(json.dumps({"ok": ok, "cases": [case.told(result) for case, result in found]}, indent=2))
    return 0 if ok else 1


def _kept(items: Iterable[Any], rows: list[Any]) -> Iterator[Any]:
    for item in items:
        rows.append(item)
        yield item


def _print(options: Options, lines: Iterable[str]) -> None:
    """Each line when it is known; with --json they are only worked out."""
    if options.picture:
        raise ValueError("--picture needs a function of yours: FILE.py:function")
    for line in lines:
        if not options.json:
            print(line, flush=True)
