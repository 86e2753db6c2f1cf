"""The planes of open programs: what is multiplied by their weights, on the rows of a design."""

from __future__ import annotations

import dataclasses

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.synth.design import Design
from attn_dsl.synth.open_sets import Opened, OpenSet
from attn_dsl.synth.open_tables import OpenTable
from attn_dsl.synth.stacks import Lookup, Stack


def stacked(design: Design, program: Opened) -> Stack:
    """Return the planes of ``program.wide``, those of each set in one."""
    fixed = dataclasses.replace(program.empty, terms=program.terms)
    dense = design.compute(fixed) if program.terms else np.empty((0, design.entries), np.float32)
    return Stack(dense, [_lookup(design, program.empty, one) for one in program.sets])


def _lookup(design: Design, empty: t.Head, one: OpenSet | OpenTable) -> Lookup:
    match one:
        case OpenSet(t.Call("token", (t.Position() as place,)), elements):
            return _of_tokens(design, place, elements, one.around(empty))
    planes = design.compute(dataclasses.replace(empty, terms=tuple(one.planes())))
    return Lookup.of(planes, isinstance(one, OpenTable))


def _of_tokens(
    design: Design, place: t.Position, elements: tuple[str, ...], around: t.Head
) -> Lookup:
    """Look tokens up by their numbers; ``around`` is what their weights are multiplied by."""
    symbols = design.symbols_at(place.variable, place.shift)
    if place.variable == "q":
        symbols = np.repeat(symbols, np.diff(design.starts))
    numbers = [design.batch.symbols.get(element, design.width) for element in elements]
    of_symbol = np.full(design.width + 1, len(elements), dtype=np.int32)
    of_symbol[np.minimum(numbers, design.width)] = np.arange(len(elements))
    element = of_symbol[symbols]
    factor = design.planes(around)[0] if around.terms else np.ones(design.entries, np.float32)
    return Lookup.laid(factor, element, len(elements))
