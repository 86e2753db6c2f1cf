"""The compiler: lowers syntax trees to a graph of operations, evaluates it, and exports it."""
