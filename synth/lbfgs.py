"""L-BFGS: maximises a function of many weights from its gradient.

Nocedal and Wright, Numerical Optimization (2006), algorithms 7.4 and 7.5, with a diagonal scale
to start from and a line search that only ever accepts what is better.
"""

from collections import deque
from collections.abc import Callable

import numpy as np

MEMORY = 8  # how many earlier steps shape the next
LONGEST = 1.0  # how far one weight may move in a step


def maximise(value: Callable[[np.ndarray], tuple[float, np.ndarray]], start: np.ndarray,
             curvature: np.ndarray, steps: int,
             stop: Callable[[], bool] = lambda: False) -> np.ndarray:  # fmt: skip
    """Return the best point found within ``steps`` evaluations of a function.

    Args:
        value: returns the function and its gradient; it need not be smooth everywhere.
        curvature: a rough diagonal of the negative Hessian, positive.
        stop: asked before each evaluation whether to be content with what is found.
    """
    best, (top, gradient) = start, value(start)
    spent = 1
    past: deque[tuple[np.ndarray, np.ndarray, float]] = deque(maxlen=MEMORY)
    reach = 1.0
    while spent < steps:
        direction = _direction(gradient, past, curvature)
        slope = float(direction @ gradient)
        if slope <= 0.0:
            if not past:
                break
            past.clear()
            continue
        far = float(np.abs(direction).max())
        step = min(1.0 if past else min(1.0, reach), LONGEST / far)
        while spent < steps and not stop():
            trial = best + step * direction
            now, there = value(trial)
            spent += 1
            if now >= top + 1e-4 * step * slope:
                turn = gradient - there
                bend = float(turn @ (step * direction))
                if bend > 1e-10 * float(turn @ turn):
                    past.append((step * direction, turn, 1.0 / bend))
                gained = now - top
                best, top, gradient = trial, now, there
                break
            step *= 0.35
            reach = step
        else:
            break
        if gained < 1e-7 * abs(top):
            break
    return best


def _direction(gradient: np.ndarray, past: deque[tuple[np.ndarray, np.ndarray, float]],
               curvature: np.ndarray) -> np.ndarray:  # fmt: skip
    """Multiply the gradient by the approximate inverse of the negative Hessian."""
    d = gradient.copy()
    factors = []
    for move, turn, rate in reversed(past):
        factor = rate * float(move @ d)
        d -= factor * turn
        factors.append(factor)
    d /= curvature
    if past:
        move, turn, rate = past[-1]
        d *= 1.0 / (rate * float(turn @ (turn / curvature)))
    for (move, turn, rate), factor in zip(past, reversed(factors), strict=True):
        d += (factor - rate * float(turn @ d)) * move
    return d
