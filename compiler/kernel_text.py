"""Texts of kernels: how a row of scores becomes weights, the same for every program."""

BUFFERS = ["bits = np.empty(n, np.int64)", "powers = bits.view(np.float64)"]
EXPONENTIAL = """\
LOG2_E = 1.4426950408889634
C1, C2, C3 = 0.6931471805599453, 0.2402265069591007, 0.05550410866482158
C4, C5, C6, C7 = 0.009618129107628477, 0.0013333558146428443, 1.5403530393381608e-4, 1.525273380405984e-5
"""
# exp(x) = 2^whole * 2^rest: a polynomial, and a number made of its bits, so that it vectorises.
SOFTMAX = """
top = scores[0]
for k in range(keys):
    top = max(top, scores[k])
for k in range(keys):
    power = max((scores[k] - top) * LOG2_E, -1000.0)
    whole = np.floor(power + 0.5)
    x = power - whole
    scores[k] = 1.0 + x * (C1 + x * (C2 + x * (C3 + x * (C4 + x * (C5 + x * (C6 + x * C7))))))
    bits[k] = np.int64(np.int32(whole) + 1023) << 52
total = 0.0
for k in range(keys):
    scores[k] *= powers[k]
    total += scores[k]
factor = 1.0 / total
"""
MASSES = """
total = 0.0
for k in range(keys):
    total += scores[k]
factor = 1.0 / total
"""
# Masses may be so small that 1 / total overflows; then they are divided twice.
LINEAR = """
total = 0.0
for k in range(keys):
    total += scores[k]
if total == 0.0:
    scores[:keys] = 1.0
    total = 1.0 * keys
if total < 1e-200:
    for k in range(keys):
        scores[k] /= total
    total = 1.0
factor = 1.0 / total
"""
ROW = """
row = out[at : at + keys]
for k in range(keys):
    row[k] = scores[k] * factor
at += width if width > 0 else keys
"""
