"""The compiler: syntax tree to bytecode to one Numba-compiled evaluator for any program."""
