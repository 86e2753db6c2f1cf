"""Lanes: vectors of sixteen float32 numbers in Numba functions.

Code written in lanes compiles to the widest vectors of the processor; Numba's own vectoriser uses half
of a 512-bit vector. If Numba is switched off, the functions work on NumPy arrays of sixteen numbers.
Truth values are bits, sixteen in a word of type uint16; the lowest bit is the first lane.
"""

import inspect
import math
import operator
from functools import partial, update_wrapper

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core.typing.templates import ConcreteTemplate, infer_global
from numba.extending import intrinsic, lower_builtin, models, register_model

WIDTH = 16  # the number of lanes

_FLOAT, _INT, _WORD = ir.FloatType(), ir.IntType(32), ir.IntType(WIDTH)
_FLOATS, _INTS, _BITS = (ir.VectorType(kind, WIDTH) for kind in (_FLOAT, _INT, ir.IntType(1)))
_FAST, _MAX = ("reassoc", "contract", "nsz"), ("nnan", "reassoc", "contract", "nsz")
# Coefficients of 2**f on [-0.5, 0.5]: the Taylor series of exp(f ln 2), relative error below 2e-8.
_SERIES = [float(np.float32(math.log(2) ** i / math.factorial(i))) for i in range(8)]
_LOG2E = float(np.float32(1 / math.log(2)))


class _Vector(types.Type):  # type: ignore[misc]
    """A Numba type that is one LLVM vector."""


LANES, HOLDS = _Vector("Lanes"), _Vector("Holds")
_AT, _REAL = types.intp, types.float32


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager, kind):
        super().__init__(manager, kind, _FLOATS if kind == LANES else _BITS)


def _compiled(emit, result, *kinds):
    """Return a decorator that gives a Python function LLVM code; without Numba it does nothing.

    Args:
        emit: writes the code, given an LLVM builder and the arguments. An array is passed as a
            function from the index of an entry to its address.
        result, kinds: the Numba types of the result and of the arguments; for an array, the LLVM
            type of the vector at an address.
    """
    arrays = [isinstance(kind, ir.Type) for kind in kinds]

    def choose(plain):
        if config.DISABLE_JIT:
            return plain

        def typing(typing_context, *given):
            def code(context, builder, made, args):
                def address(i, at):
                    data = context.make_array(made.args[i])(context, builder, args[i]).data
                    return builder.bitcast(builder.gep(data, [at]), kinds[i].as_pointer())

                values = [partial(address, i) if arrays[i] else a for i, a in enumerate(args)]
                value = emit(builder, *values)
                return context.get_dummy_value() if result == types.void else value

            return result(*(given[i] if arrays[i] else k for i, k in enumerate(kinds))), code

        # Numba counts the arguments in the signature. The first is its own.
        vars(update_wrapper(typing, plain))["__signature__"] = inspect.signature(emit)
        return intrinsic(typing)

    return choose


def _every(b, number):
    """Return LLVM code of lanes that all hold one number."""
    empty = ir.Constant(ir.VectorType(number.type, WIDTH), ir.Undefined)
    first = b.insert_element(empty, number, _INT(0))
    return b.shuffle_vector(first, empty, ir.Constant(_INTS, [0] * WIDTH))


def _call(b, name, result, *args, flags=_FAST):
    """Return LLVM code that calls an intrinsic function on lanes."""
    kind = ir.FunctionType(result, [value.type for value in args])
    known = b.module.declare_intrinsic(f"llvm.{name}.v{WIDTH}f32", fnty=kind)
    return b.call(known, args, fastmath=flags)


@_compiled(lambda b, array, at: b.load(array(at), align=4), LANES, _FLOATS, _AT)
def load(array, at):
    """Read sixteen entries of a float32 array from index ``at`` on."""
    return array[at : at + WIDTH].copy()


@_compiled(lambda b, array, at, x: b.store(x, array(at), 4), types.void, _FLOATS, _AT, LANES)
def store(array, at, lanes):
    """Write lanes to a float32 array from index ``at`` on."""
    array[at : at + WIDTH] = lanes


@_compiled(_every, LANES, _REAL)
def spread(number):
    """Put a float32 number into every lane."""
    return np.full(WIDTH, number, dtype=np.float32)


@_compiled(lambda b, x: _call(b, "vector.reduce.fadd", _FLOAT, _FLOAT(0), x), _REAL, LANES)
def total(lanes):
    """Return the sum of the lanes."""
    return lanes.sum()


@_compiled(lambda b, x: _call(b, "vector.reduce.fmax", _FLOAT, x, flags=_MAX), _REAL, LANES)
def largest(lanes):
    """Return the largest lane."""
    return lanes.max()


@_compiled(lambda b, x, y: b.select(b.fcmp_ordered("<", x, y), x, y), LANES, LANES, LANES)
def minimum(a, b):
    """Return the smaller of a and b in each lane."""
    return np.minimum(a, b)


@_compiled(lambda b, x, y: b.select(b.fcmp_ordered(">", x, y), x, y), LANES, LANES, LANES)
def maximum(a, b):
    """Return the larger of a and b in each lane."""
    return np.maximum(a, b)


def _exponential(b, x):
    y = b.fmul(x, _every(b, _FLOAT(_LOG2E)), flags=_FAST)
    whole = _call(b, "floor", _FLOATS, b.fadd(y, _every(b, _FLOAT(0.5)), flags=_FAST), flags=())
    f = b.fsub(y, whole, flags=_FAST)
    p = _every(b, _FLOAT(_SERIES[-1]))
    for c in _SERIES[-2::-1]:
        p = b.fadd(b.fmul(p, f, flags=_FAST), _every(b, _FLOAT(c)), flags=_FAST)
    power = b.shl(b.add(b.fptosi(whole, _INTS), _every(b, _INT(127))), _every(b, _INT(23)))
    return b.fmul(p, b.bitcast(power, _FLOATS), flags=_FAST)


@_compiled(_exponential, LANES, LANES)
def exponential(lanes):
    """Return exp of each lane, for numbers within +-80; relative error 1e-7 plus float32 rounding."""
    return np.exp(lanes)


@_compiled(lambda b, words, at: b.bitcast(b.load(words(at), align=2), _BITS), HOLDS, _WORD, _AT)
def holds(words, at):
    """Read the word at index ``at`` as sixteen truth values."""
    return words[at] >> np.arange(WIDTH, dtype=np.uint16) & 1 != 0


@_compiled(lambda b, chosen, x, y: b.select(chosen, x, y), LANES, HOLDS, LANES, LANES)
def pick(chosen, a, b):
    """Return the lanes of ``a`` where ``chosen`` is true, and of ``b`` elsewhere."""
    return np.where(chosen, a, b)


def _word(b, numbers, at):
    return b.bitcast(b.icmp_signed("!=", b.load(numbers(at), align=4), _every(b, _INT(0))), _WORD)


@_compiled(_word, types.uint16, _INTS, _AT)
def word(numbers, at):
    """Return a word whose bits say which of sixteen int32 numbers from ``at`` on are not 0."""
    lanes = numbers[at : at + WIDTH] != 0
    return (lanes << np.arange(WIDTH, dtype=np.uint16)).sum(dtype=np.uint16)


def _settle(b, out, to, settled, known, at, now, open_value):
    found, when = b.load(settled(at), align=4), b.load(known(at), align=4)
    seen = b.icmp_signed("<=", when, _every(b, now))
    b.store(b.select(seen, found, _every(b, open_value)), out(to), align=4)


@_compiled(_settle, types.void, _INTS, _AT, _INTS, _INTS, _AT, types.int32, types.int32)
def settle(out, to, settled, known, at, now, open_value):
    """Copy sixteen entries of a flattened column; write ``open_value`` where ``known`` > ``now``."""
    found, when = (part.reshape(-1)[at : at + WIDTH] for part in (settled, known))
    out.reshape(-1)[to : to + WIDTH] = np.where(when <= now, found, open_value)


def _operate(name, context, builder, signature, args):
    return getattr(builder, name)(*args, flags=_FAST)


for _symbol, _name in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul")):
    infer_global(_symbol)(type(_name, (ConcreteTemplate,), {"cases": [LANES(LANES, LANES)]}))
    lower_builtin(_symbol, LANES, LANES)(partial(_operate, _name))
