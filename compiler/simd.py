"""Lanes: sixteen float32 numbers side by side in one variable of a Numba function.

Numba's loop vectoriser uses half of a processor's 512-bit vectors, and takes the ends of short
rows one entry at a time. Code written in lanes is compiled to the widest vectors there are. Where
Numba is switched off, the same functions work on NumPy arrays of sixteen.

    >>> import numpy as np
    >>> from numba import njit
    >>> @njit
    ... def sum_of_products(a, b):
    ...     return total(load(a, 0) * load(b, 0))
    >>> sum_of_products(np.ones(16, np.float32), np.arange(16, dtype=np.float32))
    120.0

Truth values are kept as bits, sixteen to a word of type uint16, the first lane lowest.
"""

from __future__ import annotations

import math
import operator

import numpy as np
from llvmlite import ir
from numba import config
from numba.core import cgutils, types
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, models, register_model

WIDTH = 16
"""How many lanes there are."""

_FLOAT, _INT = ir.FloatType(), ir.IntType(32)
_FLOATS = ir.VectorType(_FLOAT, WIDTH)
_INTS = ir.VectorType(_INT, WIDTH)
_BITS = ir.VectorType(ir.IntType(1), WIDTH)
_WORD = ir.IntType(WIDTH)
_FAST = ("reassoc", "contract", "nsz")
# Coefficients of 2**f on [-0.5, 0.5]: the Taylor series of exp(f ln 2), relative error below 2e-8.
_SERIES = [float(np.float32(math.log(2) ** i / math.factorial(i))) for i in range(8)]
_LOG2E = float(np.float32(1 / math.log(2)))


class _Vector(types.Type):
    """A Numba type that is one LLVM vector."""


LANES, HOLDS = _Vector("Lanes"), _Vector("Holds")


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager, kind):
        super().__init__(manager, kind, _FLOATS if kind == LANES else _BITS)


def _compiled_as(code):
    """Give a Python function its LLVM code; without compilation it stays what it is."""

    def choose(plain):
        if config.DISABLE_JIT:
            return plain
        made = intrinsic(code)
        made.__doc__ = plain.__doc__
        return made

    return choose


def _place(context, builder, kind, where, element):
    """Return the address of an array's entry as the address of something wider."""
    array, at = where
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), element.as_pointer())


def _everywhere(builder, kind, number):
    """Return lanes that all hold one number."""
    empty = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(empty, number, _INT(0))
    return builder.shuffle_vector(first, empty, ir.Constant(_INTS, [0] * WIDTH))


def _load_code(typing, array, at):
    def code(context, builder, signature, args):
        place = _place(context, builder, signature.args[0], args, _FLOATS)
        return builder.load(place, align=4)

    return LANES(array, types.intp), code


@_compiled_as(_load_code)
def load(array, at):
    """Read the lanes that begin at an entry of a float32 array."""
    return array[at : at + WIDTH].copy()


def _store_code(typing, array, at, lanes):
    def code(context, builder, signature, args):
        place = _place(context, builder, signature.args[0], args[:2], _FLOATS)
        builder.store(args[2], place, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, LANES), code


@_compiled_as(_store_code)
def store(array, at, lanes):
    """Write lanes to a float32 array from an entry on."""
    array[at : at + WIDTH] = lanes


def _spread_code(typing, number):
    def code(context, builder, signature, args):
        return _everywhere(builder, _FLOATS, args[0])

    return LANES(types.float32), code


@_compiled_as(_spread_code)
def spread(number):
    """Put a float32 number into every lane."""
    return np.full(WIDTH, number, dtype=np.float32)


def _total_code(typing, lanes):
    def code(context, builder, signature, args):
        kind = ir.FunctionType(_FLOAT, [_FLOAT, _FLOATS])
        name = f"llvm.vector.reduce.fadd.v{WIDTH}f32"
        add = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.call(add, [_FLOAT(0.0), args[0]], fastmath=_FAST)

    return types.float32(LANES), code


@_compiled_as(_total_code)
def total(lanes):
    """Sum the lanes."""
    return lanes.sum()


def _minimum_code(typing, a, b):
    def code(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered("<", *args), *args)

    return LANES(LANES, LANES), code


@_compiled_as(_minimum_code)
def minimum(a, b):
    """Take the smaller of two, lane by lane."""
    return np.minimum(a, b)


def _maximum_code(typing, a, b):
    def code(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered(">", *args), *args)

    return LANES(LANES, LANES), code


@_compiled_as(_maximum_code)
def maximum(a, b):
    """Take the larger of two, lane by lane."""
    return np.maximum(a, b)


def _largest_code(typing, lanes):
    def code(context, builder, signature, args):
        kind = ir.FunctionType(_FLOAT, [_FLOATS])
        name = f"llvm.vector.reduce.fmax.v{WIDTH}f32"
        most = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.call(most, args, fastmath=("nnan", *_FAST))

    return types.float32(LANES), code


@_compiled_as(_largest_code)
def largest(lanes):
    """Take the largest of the lanes."""
    return lanes.max()


def _exponential_code(typing, lanes):
    def code(context, builder, signature, args):
        def every(number):
            return ir.Constant(_FLOATS, [number] * WIDTH)

        kind = ir.FunctionType(_FLOATS, [_FLOATS])
        floor = cgutils.get_or_insert_function(builder.module, kind, f"llvm.floor.v{WIDTH}f32")
        y = builder.fmul(args[0], every(_LOG2E), flags=_FAST)
        whole = builder.call(floor, [builder.fadd(y, every(0.5), flags=_FAST)])
        f = builder.fsub(y, whole, flags=_FAST)
        p = every(_SERIES[-1])
        for c in _SERIES[-2::-1]:
            p = builder.fadd(builder.fmul(p, f, flags=_FAST), every(c), flags=_FAST)
        power = builder.add(builder.fptosi(whole, _INTS), ir.Constant(_INTS, [127] * WIDTH))
        power = builder.shl(power, ir.Constant(_INTS, [23] * WIDTH))
        return builder.fmul(p, builder.bitcast(power, _FLOATS), flags=_FAST)

    return LANES(LANES), code


@_compiled_as(_exponential_code)
def exponential(lanes):
    """Compute exp of numbers within +-80, to a relative error of 1e-7 and their rounding."""
    return np.exp(lanes)


def _holds_code(typing, words, at):
    def code(context, builder, signature, args):
        place = _place(context, builder, signature.args[0], args, _WORD)
        return builder.bitcast(builder.load(place, align=2), _BITS)

    return HOLDS(words, types.intp), code


@_compiled_as(_holds_code)
def holds(words, at):
    """Read a word of truth values."""
    return words[at] >> np.arange(WIDTH, dtype=np.uint16) & 1 != 0


def _pick_code(typing, chosen, a, b):
    def code(context, builder, signature, args):
        return builder.select(*args)

    return LANES(HOLDS, LANES, LANES), code


@_compiled_as(_pick_code)
def pick(chosen, a, b):
    """Take lanes of ``a`` where the truth values hold, and of ``b`` elsewhere."""
    return np.where(chosen, a, b)


def _word_code(typing, numbers, at):
    def code(context, builder, signature, args):
        place = _place(context, builder, signature.args[0], args, _INTS)
        found = builder.load(place, align=4)
        true = builder.icmp_signed("!=", found, ir.Constant(_INTS, [0] * WIDTH))
        return builder.bitcast(true, _WORD)

    return types.uint16(numbers, types.intp), code


@_compiled_as(_word_code)
def word(numbers, at):
    """Make a word of truth values of those of sixteen int32 numbers that are not 0."""
    lanes = numbers[at : at + WIDTH] != 0
    return (lanes << np.arange(WIDTH, dtype=np.uint16)).sum(dtype=np.uint16)


def _settle_code(typing, out, to, settled, known, at, now, open_value):
    def code(context, builder, signature, args):
        out, to, settled, known, at, now, open_value = args
        kinds = signature.args

        def place(kind, array, index):
            return _place(context, builder, kind, (array, index), _INTS)

        found = builder.load(place(kinds[2], settled, at), align=4)
        when = builder.load(place(kinds[3], known, at), align=4)
        seen = builder.icmp_signed("<=", when, _everywhere(builder, _INTS, now))
        chosen = builder.select(seen, found, _everywhere(builder, _INTS, open_value))
        builder.store(chosen, place(kinds[0], out, to), align=4)
        return context.get_dummy_value()

    return types.void(out, types.intp, settled, known, types.intp, types.int32, types.int32), code


@_compiled_as(_settle_code)
def settle(out, to, settled, known, at, now, open_value):
    """Copy sixteen settled int32 numbers; those that are known after ``now`` are open.

    All arrays are counted as if they were flat.
    """
    found, when = (part.reshape(-1)[at : at + WIDTH] for part in (settled, known))
    out.reshape(-1)[to : to + WIDTH] = np.where(when <= now, found, open_value)


def _operation(symbol, name):
    """Let an operator work on lanes."""

    @infer_global(symbol)
    class _Operation(ConcreteTemplate):  # type: ignore[misc]
        cases = [signature(LANES, LANES, LANES)]  # noqa: RUF012

    @lower_builtin(symbol, LANES, LANES)
    def code(context, builder, signature, args):
        return getattr(builder, name)(*args, flags=_FAST)


_operation(operator.add, "fadd")
_operation(operator.sub, "fsub")
_operation(operator.mul, "fmul")
