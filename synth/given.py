"""Given programs: whether programs of one's own can be fitted to the heads of a capture."""

import warnings
from collections.abc import Iterator

from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.graph import ColumnKey
from attn_dsl.compiler.program import Program
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.definitions import self_contained
from attn_dsl.dsl.errors import InputError
from attn_dsl.dsl.expand import expand
from attn_dsl.dsl.printer import quote
from attn_dsl.dsl.scope import Scope
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.scores import LEAST_KNOWN, foreign


def checked(program: Program, capture: Capture, *, every: bool, as_it_is: bool = False) -> t.Head:
    """Return a program that can be fitted to the heads of a capture, without ``use``.

    It warns of strings and scores that do not fit the texts.

    Args:
        every: whether all weights are fitted, and not only holes.
        as_it_is: whether it is only measured.

    Raises:
        InputError: it has another visibility; or it is to be fitted, and has nothing to fit or is linear.
    """
    name, tree = program.name, program.tree
    if program.causal != capture.causal:
        kind = "causal" if capture.causal else "bidirectional"
        raise InputError(f"{name}: the heads of {capture.name} are {kind}; write `head {name} {kind}`")
    if as_it_is:
        program.refuse_holes("write numbers, or call its method `fit`")
        return self_contained(tree)
    instead = "or measure it as it is with `attn-dsl score`"
    if not (tree.weights if every else program.facts.holes):
        raise InputError(
            f"{name} has no weight to fit; write `?` for weights that are to be fitted, give --refit "
            f"to fit all that it has, {instead}")  # fmt: skip
    if tree.normaliser != "softmax":
        raise InputError(
            f"{name} is linear, and only softmax programs are fitted; write `softmax`, {instead}"
        )
    texts = [capture.tokens(i) for i in range(capture.n_texts)]
    for warning in (foreign(tree, texts), *_unknown_strings(tree, Batch(texts))):
        if warning:
            warnings.warn(f"{name}: {warning}", stacklevel=2)
    return self_contained(tree)


def _unknown_strings(program: t.Head, batch: Batch) -> Iterator[str]:
    """Yield what is wrong with sets of which few strings occur in texts."""
    sets = {one.name: one.value for one in program.sets}
    scope = Scope.of(program)
    for node in (node for term in program.terms for node in expand(term, scope).walk()):
        match node:
            case t.Member(t.Call(name), found) | t.Weight(t.Call(name), found):
                value = sets.get(found.name) if isinstance(found, t.SetName) else found
                named = value.elements if isinstance(value, t.SetLiteral) else ()
            case t.Compare("==" | "!=", t.Call(name), t.Text(text)):
                named = (text,)
            case _:
                continue
        column = batch.column(ColumnKey(name))
        numbers = {*column.settled.tolist(), *column.open.tolist()}
        there = {string for string, number in batch.symbols.items() if number in numbers}
        missing = [string for string in named if string not in there]
        if len(missing) > (1 - LEAST_KNOWN) * len(named):
            near = {s for x in missing for s in (f" {x}", x.strip(), x.lower(), f" {x.lower()}")}
            meant = " or ".join(quote(s) for s in sorted(near & there)[:3])
            yield (f"{len(missing)} of {len(named)} strings that {name} is compared with are not in "
                   f"these texts, as {quote(missing[0])}; "
                   + (f"did you mean {meant}?" if meant else "another tokenizer may cut them"))  # fmt: skip
