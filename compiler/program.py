"""Programs: checked syntax trees that can be called with tokens to get an attention matrix."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.check import Facts, check
from attn_dsl.dsl.definitions import in_folder, prelude, read_source
from attn_dsl.dsl.errors import InputError
from attn_dsl.dsl.parser import Resolver
from attn_dsl.dsl.parser import parse as parse_tree
from attn_dsl.dsl.printer import show
from attn_dsl.dsl.tokens import Tokens

if TYPE_CHECKING:
    import numpy as np

    from attn_dsl.compiler.code import Code
    from attn_dsl.compiler.evaluate import Plan


class Program:
    """A checked program; call it with tokens to get its attention matrix.

    >>> program = parse("head previous causal:\\n    1000 where k == q-1")
    >>> program(["The", " cat"])
    array([[1., 0.],
           [1., 0.]], dtype=float32)
    >>> program.nodes
    5

    Attributes:
        tree: the syntax tree.
        facts: what the checker knows of it: nodes, cost, holes, lookahead (see ``dsl.check.Facts``).
    """

    def __init__(self, tree: t.Head, facts: Facts) -> None:
        self.tree, self.facts = tree, facts
        self._plan: Plan | None = None

    @classmethod
    def from_tree(cls, tree: t.Head, *, allow_lookahead: bool = False) -> Program:
        """Make a program from a syntax tree.

        Raises:
            ProgramError: the tree is not a valid program.
        """
        facts = check(tree, source=show(tree), name=tree.name, allow_lookahead=allow_lookahead)
        return cls(tree, facts)

    @property
    def name(self) -> str:
        """The name of the head."""
        return self.tree.name

    @property
    def causal(self) -> bool:
        """Whether a query sees only the keys up to its own position."""
        return self.tree.causal

    @property
    def nodes(self) -> int:
        """The complexity: nodes of the syntax tree, plus one per element of its sets."""
        return self.facts.nodes

    @property
    def source(self) -> str:
        """The source in canonical form."""
        return show(self.tree)

    def __call__(self, tokens: Sequence[str] | Tokens) -> np.ndarray:
        """Compute the attention matrix on a text.

        Args:
            tokens: decoded token strings; a leading space starts a word.

        Returns:
            float32 (n, n), one row per query; each row sums to 1.

        Raises:
            InputError: a weight is still a hole.
        """
        from attn_dsl.compiler.columns import batch_of
        from attn_dsl.compiler.evaluate import Plan

        batch = batch_of(tokens if isinstance(tokens, Tokens) else _tokens(tuple(tokens)))
        plan = self._plan  # another thread may put its own in the place of this one
        if plan is None or plan.batch is not batch:
            plan = self._plan = Plan(self.code, batch)
        return plan.square(0)[0]

    def explain(self) -> str:
        """Describe the program in plain English.

        >>> parse("head first causal:\\n    3 where k == 0").explain()
        'Strongly looks at the first token.'
        """
        from attn_dsl.dsl.english import explain

        return explain(self.tree)

    def fit(self, capture: Any, head: str | tuple[int, int], *, refit: bool = False, seed: int = 0) -> Any:
        """Fit the weights that are holes to a head, and judge the program on held-out texts.

        >>> program = parse("head sink causal:\\n    ? where k == 0")
        >>> program.fit("captures/gpt2", "L5H1").figures.iou  # doctest: +SKIP
        0.710 [0.700, 0.720] (57 texts)

        Args:
            capture: a ``Capture``, or its directory.
            head: as in ``"L5H1"`` or ``(5, 1)``.
            refit: fit all weights of terms.
            seed: decides which texts are held out.

        Returns:
            A ``FittedProgram``; ``figures`` hold IoU and output R², the best controls, and the queries
            at which it fails.

        Raises:
            InputError: it has nothing to fit, is linear, or there is no such head.
        """
        fit_program = import_module("attn_dsl.synth.hypothesis").fit_program
        return fit_program(self, capture, head, refit=refit, seed=seed)

    def score(self, capture: Any, head: str | tuple[int, int], *, seed: int = 0) -> Any:
        """Judge the program as it is on held-out texts; arguments and errors are those of ``fit``.

        >>> parse("head sink causal:\\n 8 where k == 0").score("captures/gpt2", "L5H1")  # doctest: +SKIP
        <Hypothesis sink on L5H1: IoU 0.710 [0.700, 0.720] (57 texts), best control 0.650, …>
        """
        fit_program = import_module("attn_dsl.synth.hypothesis").fit_program
        return fit_program(self, capture, head, seed=seed, as_it_is=True).figures

    def plot(self, text: Any, capture: Any = None, head: str | tuple[int, int] | None = None) -> Any:
        """Draw the attention matrix on a text, and that of a head of a capture beside it.

        >>> parse("head first causal:\\n    3 where k == 0").plot("Tom saw Mia.")
        <Picture on 4 tokens: first>

        Args:
            text: a sentence, token strings, or the number of a text of the capture. Without a capture
                a sentence is cut into words and marks; with one, the capture's model reads it.

        Raises:
            InputError: there is no such head or text, or the model cannot be loaded.
        """
        return import_module("attn_dsl.eval.pictures").plot(self, text, capture, head)

    def diff(self, other: Program, text: Any = None) -> Any:
        """Compare with what the program became: its terms, and both matrices on a text if one is given.

        >>> one, two = (parse(f"head a causal:\\n    {w} where k == 0") for w in (1, 3))
        >>> print(one.diff(two))
        ~ 3 where k == 0
              weight 1 → 3
        """
        return import_module("attn_dsl.eval.difference").difference(self, other, text)

    def _repr_html_(self) -> str:
        return str(import_module("attn_dsl.eval.notebook").program_html(self.tree, repr(self)))

    @cached_property
    def code(self) -> Code:
        """The lowered program, which the evaluator runs.

        Raises:
            InputError: a weight is still a hole.
        """
        from attn_dsl.compiler.code import Code

        self.refuse_holes("write numbers, or fit them to a head with `attn-dsl fit --program`")
        return Code([self.tree])

    def refuse_holes(self, remedy: str) -> None:
        """Raise an InputError with a remedy if a weight is still a hole."""
        if self.facts.holes:
            raise InputError(
                f"the program {self.name} has {self.facts.holes} weights to be fitted (`?`); {remedy}"
            )

    def __reduce__(self) -> tuple:
        return Program, (self.tree, self.facts)

    def __repr__(self) -> str:
        return f"<Program {self.name}: {self.nodes} nodes>"

    def __str__(self) -> str:
        return self.source

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and self.tree == other.tree

    def __hash__(self) -> int:
        return hash(self.tree)


@lru_cache(maxsize=512)
def _tokens(strings: tuple[str, ...]) -> Tokens:
    """Make tokens from strings; recent results are kept."""
    return Tokens.from_strings(strings)


def parse(source: str, name: str = "<program>", *, allow_lookahead: bool = False,
          resolve: Resolver | None = None, define: Iterable[str | Path] = ()) -> Program:  # fmt: skip
    """Parse and check the source of a program; ``name`` stands for it in error messages.

    >>> parse("head first causal:\\n    3 where k == 0")
    <Program first: 5 nodes>

    Args:
        resolve: reads the files that it uses, as ``dsl.definitions.in_folder`` makes one.
        define: files of definitions that it may use without naming them.

    Raises:
        ProgramError: it is not valid; the message shows the place, the reason and a remedy.
        InputError: a file of ``define`` cannot be read.
    """
    tree = parse_tree(source, name, resolve, prelude(define))
    return Program(tree, check(tree, source=source, name=name, allow_lookahead=allow_lookahead))


def load(path: str | Path, *, allow_lookahead: bool = False, define: Iterable[str | Path] = ()) -> Program:
    """Read a program from a file; the files that it uses lie beside it, or in the folder above.

    ``define`` are files of definitions that it may use without naming them; a program that does gets
    a line ``use`` for them.

    Raises:
        InputError: the file cannot be read.
        ProgramError: it does not hold a valid program.
    """
    folder, source = Path(path).parent, read_source(path)
    tree = parse_tree(source, str(path), in_folder(folder), prelude(define, folder))
    facts = check(tree, source=source, name=str(path), allow_lookahead=allow_lookahead)
    return Program(tree, facts)
