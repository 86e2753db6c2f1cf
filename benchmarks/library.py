"""Measures what the library of programs explains of a model that was not used for it, without fitting.

    python benchmarks/library.py [--model NAME=MODEL] [--out DIR] [--write DIR]

The heads of each model are put into groups of like attention, and a program is grown for the mean
attention of each group. A held-out model is scored with the teaching programs of the library, and with
those of the groups of the other models that together cover the heads of these on the select texts. Each
head of the held-out model takes its best program on its select texts; its IoU is that on the test texts.
``--write`` writes the programs that are picked for all models together, which the library ships.
"""

import argparse
import dataclasses
import textwrap
from collections.abc import Iterator, Sequence
from functools import cache, partial
from itertools import chain, count
from pathlib import Path

import numpy as np
from measuring import ROOT, SHARED, STORIES, Figure, kept, print_table

from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.evaluate import Plan
from attn_dsl.dsl import english
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.kinds import kind
from attn_dsl.dsl.library import library, with_visibility
from attn_dsl.dsl.printer import show
from attn_dsl.dsl.scope import Scope
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.controls import positional_grid
from attn_dsl.eval.distances import in_lanes, minima
from attn_dsl.eval.metrics import bootstrap
from attn_dsl.eval.score_matrix import measure_texts
from attn_dsl.synth import search_terms
from attn_dsl.synth.design import Design
from attn_dsl.synth.objective import HeadRows
from attn_dsl.synth.program_cover import cover
from attn_dsl.synth.proposer import Fitted, HeadTask
from attn_dsl.synth.scores.gains import ScoreGains
from attn_dsl.synth.scores.proposer import SharedScores
from attn_dsl.synth.sparse_design import TermPlanes

MODELS: dict[str, tuple[object, int]] = {
    "demo": ("demo", 128), "stories260k": (SHARED / "models/stories260k", 128),
    "babyllama-char": (SHARED / "models/babyllama-char", 128), "minilm": (SHARED / "models/minilm-l6", 64),
    "smollm2": ("smollm2", 128)}  # fmt: skip
"""By name, the model and the tokens of a text."""
TARGETS = {("smollm2", 128): "library at least 0.52", ("smollm2", 24): "library at least 0.69"}
OPENING = 24  # tokens of the short texts, on which causal models are measured as well
MEASURED, MOST_NODES = 49, 20
"""How many programs the library takes of those of groups, and how large they may be."""
GROUPS = 8, 20, 50, 100  # into how many groups the heads of a model are put, if it has twice as many
ENTRIES, COMPARED = 150_000, 30_000
"""On about how many entries of the fit texts programs are grown, and heads are compared."""
TEXTS, FEWER, STEPS = 5, 100, 15
"""Of each model, the select texts that programs are picked on; how many texts are read of a model that is
added; how often heads change groups at most."""
NAMES = {"first-token sink": ("sink", "first token"), "previous token": ("previous", "sequential"),
         "induction": ("induction", "repetition"), "same word": ("own_word", "structure"),
         "duplicate token": ("repeat", "repetition"), "delimiter": ("delimiter", "structure"),
         "lexical set": ("lexical", "lexical"), "local": ("local", "sequential"),
         "positional": ("positional", "sequential"), "mixed": ("mixed", "lexical")}  # fmt: skip
"""By the kind of a term, its name, and a category of the library."""


def _shared(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Sum what each of some heads shares with each of others, float64 (left, right)."""
    found = np.zeros((len(left), len(right)))
    minima(in_lanes(left), in_lanes(right), found)
    return found


def groups(rows: np.ndarray, number: int) -> list[np.ndarray]:
    """Put heads into groups of like attention: k-means by shared mass, begun as k-means++.

    Args:
        rows: float32 (heads, entries).
    """
    draw = np.random.default_rng(0)
    picked = [int(draw.integers(len(rows)))]
    distance = np.full(len(rows), np.inf)
    while len(picked) < number:
        own = 1 - _shared(rows, rows[picked[-1:]])[:, 0] / rows.sum(1)
        distance = np.minimum(distance, np.maximum(own, 0.0))
        if distance.max() < 1e-4:
            break
        picked.append(int(draw.choice(len(rows), p=distance**2 / (distance**2).sum())))
    centres, before = rows[picked], np.empty(0)
    for _ in range(STEPS):
        nearest = _shared(rows, centres).argmax(1)
        if np.array_equal(nearest, before):
            break
        before = nearest
        for i in set(nearest.tolist()):
            centres[i] = rows[nearest == i].mean(0)
    return [np.flatnonzero(nearest == i) for i in range(len(picked)) if (nearest == i).any()]


def candidates(capture: Capture) -> list[t.Head]:
    """Grow programs of every size for the mean attention of each group of a model's heads."""
    design = Design(capture, capture.split(0)["fit"], ENTRIES, 0)
    rows = design.rows_of_heads(range(capture.n_heads))
    some = range(0, len(design.starts) - 1, ENTRIES // COMPARED)
    compared = np.concatenate([np.arange(*design.starts[i : i + 2]) for i in some])
    scores = ScoreGains(design, (), np.zeros((int(design.batch.sizes.sum()), 0), np.float32))
    planes = TermPlanes(design, search_terms.terms(design.causal))
    grown = SharedScores(scores, t.Use("", t.Definitions({}, {}, "")), planes, rounds=8, terms=3)
    found = dict[t.Head, None]()
    for number in GROUPS:
        for group in groups(rows[:, compared], number) if 2 * number <= capture.n_heads else ():
            task = HeadTask(design, 0, 0, seed=0, max_nodes=45, max_evals=1000)
            task.rows = HeadRows(design.starts, rows[group].mean(0))
            for one in grown.propose(task):
                assert isinstance(one, Fitted)
                program = dataclasses.replace(task.polish(one).program, name="candidate", uses=())
                if t.nodes(program) <= MOST_NODES and program.terms:
                    found[program] = None
    return [*found]


def describe(head: t.Head) -> tuple[str, str, str]:
    """Return a name, a comment and a category for a program."""
    scope = Scope.of(head)
    parts = [part for term in head.terms for part in t.parts_of(term)]
    kinds = [NAMES[kind(part, scope)] for part in parts]
    names = [*dict.fromkeys(name for name, _ in kinds)][:3]
    return "_and_".join(names), english.explain(head), kinds[0][1]


def write(heads: Sequence[t.Head], folder: Path) -> None:
    """Write programs of the library; of equal names all but one have a number."""
    folder.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    for head in heads:
        plain, comment, category = describe(head)
        numbered = (f"{plain}_{i}" for i in count(2))
        name = next(name for name in chain([plain], numbered) if name not in taken)
        taken.add(name)
        source = show(dataclasses.replace(head, name=name))
        lines = textwrap.wrap(comment, 108, initial_indent="# ", subsequent_indent="# ")
        text = "\n".join([*lines, f"# category: {category}", source])
        (folder / f"{name}.attn").write_text(text, encoding="utf-8")


def iou(capture: Capture, texts: Sequence[int], tokens: int, programs: Sequence[t.Head]) -> np.ndarray:
    """Score programs with heads on the openings of texts, float32 (heads, programs, texts).

    Programs that have no meaning in the visibility of the model have the score 0.
    """
    whole = [capture.tokens(text) for text in texts]
    batch = Batch([one.prefix(min(tokens, len(one))) for one in whole])

    @cache
    def attention(at: int) -> np.ndarray:
        n = int(batch.sizes[at])
        plain = capture.attention(texts[at], range(capture.n_heads))
        return plain[:, : n * (n + 1) // 2] if capture.causal else plain

    visibility: t.Visibility = "causal" if capture.causal else "bidirectional"
    typed = [with_visibility(head, visibility) for head in programs]
    known = [i for i, head in enumerate(typed) if head is not None]
    found = np.zeros((capture.n_heads, len(programs), len(texts)), np.float32)
    for begin in range(0, len(known), 2000):
        here = known[begin : begin + 2000]
        plan = Plan([head for i in here if (head := typed[i]) is not None], batch)
        for at, one in enumerate(measure_texts(plan, attention, ("iou",))):
            found[:, here, at] = one["iou"]
    return found


def conditions(captures: dict[str, Capture],
               models: dict[str, tuple[object, int]]) -> Iterator[tuple[str, int]]:  # fmt: skip
    """Yield the models and how many tokens of a text they are measured on."""
    for name, capture in captures.items():
        yield name, models[name][1]
        if capture.causal:
            yield name, OPENING


def pick(scores: dict[tuple[str, int], np.ndarray], sources: Sequence[str], without: str | None) -> list[int]:
    """Pick programs that help the heads of all models but one most; each head counts alike.

    Args:
        scores: by model and tokens, float32 (heads, programs).
        sources: the model that each program is of; the first ones, of none, are taken.
    """
    others = [i for i, source in enumerate(sources) if source != without or not source]
    rows = np.concatenate([some[:, others] for (name, _), some in scores.items() if name != without])
    known = range(sources.count(""))
    return [others[i] for i in cover(rows, most=len(known) + MEASURED, taken=known)]


def held_out(capture: Capture, tokens: int, groups: dict[str, list[t.Head]]) -> Iterator[str]:
    """Yield the IoU of a model's heads with the program of each group that is best on select."""
    programs, split = [head for group in groups.values() for head in group], capture.split(0)
    select = iou(capture, split["select"], tokens, programs).mean(2)
    test, begin = iou(capture, split["test"], tokens, programs), 0
    for name, group in groups.items():
        best = begin + select[:, begin : begin + len(group)].argmax(1)
        begin += len(group)
        reached = bootstrap(test[np.arange(len(best)), best].mean(0), 0)
        nodes = np.mean([t.nodes(programs[i]) for i in best])
        yield f"{name} ({len(group)} programs, {nodes:.0f} nodes) {reached}"


def main() -> None:
    """Measure and print a Markdown table."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--model", action="append", default=[], metavar="NAME=MODEL",
                      help="one more causal model, on fewer texts; may be repeated")  # fmt: skip
    made.add_argument("--out", default=ROOT / "runs/bench/library", type=Path, metavar="DIR",
                      help="where captures are kept")  # fmt: skip
    made.add_argument("--write", type=Path, metavar="DIR", help="where the programs are written")
    options = made.parse_args()
    more = {name: (model, 128) for name, model in (one.split("=", 1) for one in options.model)}
    captures, known = {}, MODELS | more
    for name, (model, tokens) in known.items():
        place, fewer = options.out.resolve() / name, ("--max-texts", FEWER) if name in more else ()
        kept(place, "capture", model, "--text", STORIES, "--max-tokens", tokens, "--no-values", *fewer)
        captures[name] = Capture.open(place)
    teaching = [entry.program for entry in library().values() if not entry.measured]
    programs, sources = list(teaching), [""] * len(teaching)
    for name, capture in captures.items():
        programs += (own := candidates(capture))
        sources += [name] * len(own)
    scores = {}
    for name, tokens in conditions(captures, known):
        texts = captures[name].split(0)["select"][:TEXTS]
        scores[name, tokens] = iou(captures[name], texts, tokens, programs).mean(2)

    def leave_out(name: str, tokens: int) -> Iterator[Figure]:
        taken = [programs[i] for i in pick(scores, sources, without=name)]
        groups = {"library": taken, "teaching programs": teaching, "positional grid": positional_grid(True)}
        reached = held_out(captures[name], tokens, groups)
        yield Figure(f"{name}, {tokens} tokens", "; ".join(reached), TARGETS.get((name, tokens), "-"))

    print_table(partial(leave_out, *condition) for condition in scores)
    if options.write is not None:
        write([programs[i] for i in pick(scores, sources, without=None)[len(teaching) :]], options.write)


if __name__ == "__main__":
    main()
