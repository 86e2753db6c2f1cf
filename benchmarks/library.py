"""Measures what the library of programs explains of a model that was not used for it, without fitting.

    python benchmarks/library.py [--out DIR] [--write DIR]

A held-out model is scored with programs that the other models picked: the teaching programs, and
candidates that together cover the heads of those models on the select texts. Each head of the held-out
model takes its best program on its select texts; its IoU is that on the test texts. ``--write`` writes
the candidates that all models together pick, which the library ships. Captures are kept in ``--out``.
"""

import argparse
import dataclasses
import random
import re
from collections.abc import Iterator, Sequence
from functools import cache, partial
from itertools import chain, count, product
from pathlib import Path

import numpy as np
from measuring import ROOT, SHARED, STORIES, Figure, kept, print_table

from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.evaluate import Plan
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.library import library, with_visibility
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.printer import show
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.controls import positional_grid
from attn_dsl.eval.metrics import bootstrap
from attn_dsl.eval.score_matrix import measure_texts
from attn_dsl.synth.program_cover import cover

MODELS: dict[str, tuple[object, int]] = {
    "demo": ("demo", 128), "stories260k": (SHARED / "models/stories260k", 128),
    "babyllama-char": (SHARED / "models/babyllama-char", 128), "minilm": (SHARED / "models/minilm-l6", 64),
    "smollm2": ("smollm2", 128)}  # fmt: skip
"""By name, the model and the tokens of a text."""
TARGETS = {("smollm2", 128): "library at least 0.52", ("smollm2", 24): "library at least 0.69"}
OPENING = 24  # tokens of the short texts, on which causal models are measured as well
CANDIDATES, MEASURED, MOST_NODES = 8000, 49, 20
"""How many candidates are drawn, how many the library takes of them, and how large they may be."""
TEXTS, HEADS, RESTS = 5, 80, (0.0, 0.4, 0.8)
"""Of each model, the texts and at most how many heads candidates are picked on, and which shares of
a head's attention are moved to the first token: large models rest there more than small ones."""

POSITIONS = {"k == 0": ("first", "the first token", "first token"),
             "log(1 + q - k)": ("log_distance", "log distance", "sequential"),
             "(q - k)": ("distance", "distance", "sequential"),
             "decay(q - k, 0.8)": ("decay", "decay of 0.8 a token", "sequential"),
             "decay(q - k, 0.95)": ("slow_decay", "decay of 0.95 a token", "sequential"),
             "q - k in 0..7": ("last_eight", "the last eight tokens", "sequential"),
             "q - k in 1..4": ("four_before", "the four before", "sequential"),
             "k == q": ("self", "itself", "sequential"),
             "k == q-1": ("previous", "the previous token", "sequential"),
             "q - k in 0..1": ("last_two", "itself and the previous token", "sequential"),
             "k == q-2": ("second_previous", "the token two before", "sequential")}  # fmt: skip
SELECTORS = {
    "punct(k)": ("punctuation", "punctuation", "structure"),
    "newline(k)": ("newline", "line breaks", "structure"),
    "sentence_final(k)": ("sentence_final", "ends of sentences", "structure"),
    "text(k) in SentenceEnd": ("sentence_end", "marks that end a sentence", "structure"),
    "text(k) in Delimiter": ("delimiter", "commas and the like", "structure"),
    "text(k) == text(q) and k < q": ("duplicate", "earlier copies", "repetition"),
    "text(k) == text(q)": ("same_token", "all copies", "repetition"),
    "text(k-1) == text(q)": ("induction", "what followed copies", "repetition"),
    "match(k-1, q) >= 2": ("long_induction", "what followed copies of two", "repetition"),
    "word(k) == word(q)": ("same_word", "the same word", "repetition"),
    "shape(k) == shape(q)": ("same_shape", "the same shape", "lexical"),
    "word(k) in FunctionWord": ("function_word", "function words", "lexical"),
    "word(k) in Article": ("article", "articles", "lexical"),
    "word(k) in Pronoun": ("pronoun", "pronouns", "lexical"),
    "word(k) in Determiner": ("determiner", "determiners", "lexical"),
    "word(k) in Conjunction": ("conjunction", "conjunctions", "lexical"),
    "word(k) in Preposition": ("preposition", "prepositions", "lexical"),
    "word(k) in Auxiliary": ("auxiliary", "auxiliary verbs", "lexical"),
    "word(k) in SayVerb": ("say", "verbs of saying", "lexical"),
    "alpha(k)": ("letters", "tokens of letters", "lexical"),
    "capital(k)": ("capital", "capitals", "lexical"),
    "length(k) >= 4": ("long", "long tokens", "lexical"),
    "word_start(k)": ("word_start", "starts of words", "structure"),
    "word_inside(k)": ("word_inside", "later pieces of words", "structure"),
    "word_final(k)": ("word_final", "ends of words", "structure"),
    "k >= word_first(q)": ("own_word", "the query's word", "structure"),
    "k == word_first(q) - 1": ("word_before", "the last word's end", "structure"),
    "k >= sentence_first(q)": ("own_sentence", "the query's sentence", "structure"),
    "sentence_start(k)": ("sentence_start", "starts of sentences", "structure"),
    "k >= line_first(q)": ("own_line", "the query's line", "structure"),
    "opens(k)": ("opening", "opening brackets and quotes", "structure"),
    "seen(k)": ("repeated", "repeated tokens", "repetition"),
    "k in 1..3": ("early", "the tokens 1 to 3", "first token"),
    "punct(k-1)": ("after_punctuation", "what follows punctuation", "structure"),
    "word(k-1) in Determiner": ("after_determiner", "what follows determiners", "syntactic"),
    "k == 0 and punct(q)": ("first_from_punctuation", "the first from punctuation", "first token"),
    "k == 0 and word(q) in FunctionWord": (
        "first_from_function_word", "the first from function words", "first token"),
    "k == 0 and seen(q)": ("first_from_repeated", "the first from repeats", "first token"),
    "k == q and punct(q)": ("self_at_punctuation", "itself at punctuation", "structure"),
    "special(k)": ("special", "special tokens", "final token"),
}  # fmt: skip
"""What heads look at: by what is weighted, its name, a phrase, and a category of the library."""
FIRST = [f"{weight} where k == 0" for weight in range(2, 10)]
NEAR = [*(f"{weight} * log(1 + q - k)" for weight in (-0.5, -1, -2)),
        *(f"{weight} * (q - k)" for weight in (-0.03, -0.1, -0.3, -0.8)), "3 * decay(q - k, 0.8)",
        "6 * decay(q - k, 0.8)", "3 * decay(q - k, 0.95)", "2 where q - k in 0..7", "4 where q - k in 0..7",
        "3 where q - k in 1..4"]  # fmt: skip
HERE = ["2 where k == q", "4 where k == q", "-3 where k == q", "3 where k == q-1", "7 where k == q-1",
        "2 where q - k in 0..1", "5 where q - k in 0..1", "3 where k == q-2"]  # fmt: skip
WEIGHTS = ("1", "2", "3", "5", "-1", "-2")


def candidates() -> list[t.Head]:
    """Return what heads are known to do, in combinations: all positional ones, then a sample."""
    choose = random.Random(0)
    positional = [[*some] for some in product(["", *FIRST], ["", *NEAR], ["", *HERE])]
    selectors = [*SELECTORS]
    sampled = [choose.choice(positional)
               + [f"{choose.choice(WEIGHTS)} where {x}" for x in choose.sample(selectors, number)]
               for number in choose.choices((1, 2), k=CANDIDATES)]  # fmt: skip
    sources = dict.fromkeys("".join(f" {term}\n" for term in terms if term)
                            for terms in positional + sampled)  # fmt: skip
    made = [parse(f"head candidate causal:\n{terms}") for terms in sources]
    return [head for head in made if head.terms and t.nodes(head) <= MOST_NODES]


def describe(head: t.Head) -> tuple[str, str, str]:
    """Return a name, a comment and a category for a candidate."""
    lines = [line.strip() for line in show(head).splitlines() if line.startswith(" ")]
    weighed = [re.split(r" where | \* ", line, maxsplit=1) for line in lines]
    known = POSITIONS | SELECTORS
    names, phrases, categories = zip(*(known[what] for _, what in weighed), strict=True)
    parts = [f"{phrase} {weight}" for phrase, (weight, _) in zip(phrases, weighed, strict=True)]
    return "_and_".join(names), f"Weighs {', '.join(parts)}.", categories[-1]


def write(heads: Sequence[t.Head], folder: Path) -> None:
    """Write candidates as programs of the library; of equal names all but one have a number."""
    folder.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    for head in heads:
        plain, comment, category = describe(head)
        numbered = (f"{plain}_{i}" for i in count(2))
        name = next(name for name in chain([plain], numbered) if name not in taken)
        taken.add(name)
        source = show(dataclasses.replace(head, name=name))
        text = f"# {comment}\n# category: {category}\n{source}"
        (folder / f"{name}.attn").write_text(text, encoding="utf-8")


def iou(capture: Capture, part: str, tokens: int, programs: Sequence[t.Head],
        picking: bool) -> np.ndarray:  # fmt: skip
    """Score programs with heads on the openings of texts, float32 (heads, programs, texts).

    Programs that have no meaning in the visibility of the model have the score 0.

    Args:
        part: of the split.
        picking: score heads with shares of ``RESTS`` moved to the first token, on few texts and
            heads, and average over texts.
    """
    texts = capture.split(0)[part][: TEXTS if picking else None]
    heads = range(0, capture.n_heads, -(-capture.n_heads // HEADS) if picking else 1)
    whole = [capture.tokens(text) for text in texts]
    batch = Batch([one.prefix(min(tokens, len(one))) for one in whole])

    @cache
    def attention(at: int) -> np.ndarray:
        n, causal = int(batch.sizes[at]), capture.causal
        rows = np.arange(n)
        starts = rows * (rows + 1) // 2 if causal else rows * n
        plain = capture.attention(texts[at], heads)
        plain = plain[:, : n * (n + 1) // 2] if causal else plain
        moved = [plain * np.float32(1 - rest) for rest in (RESTS if picking else (0.0,))]
        for rest, one in zip(RESTS, moved, strict=False):
            one[:, starts] += np.float32(rest)
        return np.concatenate(moved)

    visibility = "causal" if capture.causal else "bidirectional"
    typed = [with_visibility(head, visibility) for head in programs]
    known = [i for i, head in enumerate(typed) if head is not None]
    shape = len(attention(0)), len(programs), 1 if picking else len(texts)
    found = np.zeros(shape, np.float32)
    for begin in range(0, len(known), 2000):
        here = known[begin : begin + 2000]
        plan = Plan([head for i in here if (head := typed[i]) is not None], batch)
        for at, one in enumerate(measure_texts(plan, attention, ("iou",))):
            found[:, here, 0 if picking else at] += one["iou"] / (len(texts) if picking else 1)
    return found


def conditions(captures: dict[str, Capture]) -> Iterator[tuple[str, int]]:
    """Yield the models and how many tokens of a text they are measured on."""
    for name, capture in captures.items():
        yield name, MODELS[name][1]
        if capture.causal:
            yield name, OPENING


def pick(scores: dict[tuple[str, int], np.ndarray], known: Sequence[int],
         without: str | None) -> list[int]:  # fmt: skip
    """Pick candidates that help the heads of all models but one most; each model counts alike."""
    used = [some for (name, _), some in scores.items() if name != without]
    rows = np.concatenate([some / len(some) for some in used])
    return cover(rows, most=len(known) + MEASURED, taken=known)


def held_out(capture: Capture, tokens: int, groups: dict[str, list[t.Head]]) -> Iterator[str]:
    """Yield the IoU of a model's heads with the program of each group that is best on select."""
    programs = [head for group in groups.values() for head in group]
    select = iou(capture, "select", tokens, programs, picking=False).mean(2)
    test, begin = iou(capture, "test", tokens, programs, picking=False), 0
    for name, group in groups.items():
        best = begin + select[:, begin : begin + len(group)].argmax(1)
        begin += len(group)
        reached = bootstrap(test[np.arange(len(best)), best].mean(0), 0)
        nodes = np.mean([t.nodes(programs[i]) for i in best])
        yield f"{name} ({len(group)} programs, {nodes:.0f} nodes) {reached}"


def main() -> None:
    """Measure and print a Markdown table."""
    made = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    made.add_argument("--out", default=ROOT / "runs/bench/library", type=Path, metavar="DIR",
                      help="where captures are kept")  # fmt: skip
    made.add_argument("--write", type=Path, metavar="DIR", help="where the programs are written")
    options = made.parse_args()
    captures = {}
    for name, (model, tokens) in MODELS.items():
        place = options.out.resolve() / name
        kept(place, "capture", model, "--text", STORIES, "--max-tokens", tokens)
        captures[name] = Capture.open(place)
    teaching = [entry.program for entry in library().values() if not entry.measured]
    programs = teaching + candidates()
    known = range(len(teaching))
    scores = {(name, tokens): iou(captures[name], "select", tokens, programs, picking=True)[:, :, 0]
              for name, tokens in conditions(captures)}  # fmt: skip

    def leave_out(name: str, tokens: int) -> Iterator[Figure]:
        taken = [programs[i] for i in pick(scores, known, without=name)]
        groups = {"library": taken, "teaching programs": teaching,
                  "positional grid": positional_grid(True)}  # fmt: skip
        reached = held_out(captures[name], tokens, groups)
        yield Figure(f"{name}, {tokens} tokens", "; ".join(reached),
                     TARGETS.get((name, tokens), "-"))  # fmt: skip

    print_table(partial(leave_out, *condition) for condition in scores)
    if options.write is not None:
        taken = pick(scores, known, without=None)[len(known) :]
        write([programs[i] for i in taken], options.write)


if __name__ == "__main__":
    main()
