"""The proposer's tokenizer: whole pieces of prompts and programs, and pieces of words for the rest.

    >>> tokenizer = build(["causal uniform 3 found 9\\n..."], ["head proposed causal softmax:\\n..."])

Frequent conditions (``k == q-1``), frequent strings with their quotation marks, and all that programs
are made of are tokens of their own, which are cut out of a text first. What is left, strings that
are rare, is cut by byte-pair encoding with single bytes as a last resort, so that any text can be
written. Both parts are such that llama.cpp, which knows them as user-defined tokens and as a
SentencePiece vocabulary, cuts every text in the same way (``tests/test_shipped_proposer.py``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.lexicon import lexicon
from attn_dsl.synth.llm.compact import AHEAD, SHARES

UNKNOWN, BEGIN, END = "<|unknown|>", "<|begin|>", "<|end|>"
BLANK = "\u2581"
"""How a blank is written inside the vocabulary of word pieces."""
CONDITIONS, STRINGS, PIECES = 420, 420, 320
"""How many frequent conditions, frequent strings and word pieces become tokens."""
STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
PART = re.compile(r"[kq] (?!== q)|repeats|previous")
"""Conditions that others end with, as ``q - k >= 4`` with ``k >= 4``, are no tokens of their own."""


def grammar_pieces() -> list[str]:
    """Return the pieces that all prompts and programs can be written with, strings left out."""
    places = ["k", "k-1", "k-2", "k+1", "q", "q-1", "q-2", "q+1"]
    pieces = [
        "head proposed causal softmax:\n", "head proposed bidirectional softmax:\n", "\n",
        "    ? where ", "    ? * ", "    by ", " [", "]", ": ?", " where ", " and ", " or ", "not ",
        " in {", " not in {", "}", ", ", "(", ")", '"', " in ", " not in ", "..", " == ", " != ", " >= ",
        " <= ", " < ", " > ", " + ", " - ", "any(", "abs(", "starts(", "ends(", "min(", "max(",
        "nearest(", "first(", "last(", "count(", "log(1 + ", "log(", "sqrt(1 + ", "sqrt(", "inv(1 + ",
        "inv(", "decay(", "abs(q - k)", "q - k", "k - q", "match(", "q", "k", "k == ",
        *"0123456789-.", *(f"..{n}" for n in range(10, 65)),
    ]  # fmt: skip
    pieces += [f"{op}{n}" for op in (" >= ", " <= ", " < ") for n in range(10)]
    for feature in FEATURES.values():
        if not feature.extra:
            pieces.append(f"{feature.name}(")
            if feature.arity == 1:
                pieces += [f"{feature.name}({place})" for place in places]
    for name in lexicon():
        pieces += [f" in {name}", f" not in {name}"]
    # Where a short piece ends inside a longer one, what spans both must be a piece as well.
    pieces += [f"k {op} quote_first(" for op in ("==", "!=", "<", "<=", ">", ">=")]
    pieces += ["causal uniform ", "bidirectional uniform ", " found ", " clean", "add "]
    pieces += [f"or {n} " for n in range(8)] + [f"{n}{sign}" for n in range(10) for sign in "+-"]
    names = [*SHARES, *AHEAD]
    pieces += [f"{names[0]} ", *(f" {name} " for name in names[1:])]
    return list(dict.fromkeys(pieces))


def conditions(text: str) -> Iterable[str]:
    """Return the conditions and values of a prompt's or program's terms that have no strings."""
    for line in text.split("\n"):
        found = re.search(r"\? (?:where|\*) (.*)", line)
        if found and '"' not in found.group(1):
            yield from re.split(r" and | where | or ", found.group(1).replace("not ", ""))
        elif found:
            for part in re.split(r" and | where | or ", STRING.sub('""', found.group(1))):
                if '"' not in part:
                    yield part


def build(prompts: Sequence[str], programs: Sequence[str]) -> PreTrainedTokenizerFast:
    """Make the tokenizer from prompts and programs."""
    texts = [*prompts, *programs]
    whole = Counter(x for text in texts for x in conditions(text))
    strings = Counter(x for text in texts for x in STRING.findall(text))
    frequent = [x for x, _ in whole.most_common(CONDITIONS) if len(x) > 3 and not PART.match(x)]
    common = [x for x, _ in strings.most_common(STRINGS) if ", " not in x and " and " not in x]
    pieces = [*grammar_pieces(), *frequent, *common, *(f", {x}" for x in common)]

    words = [x[1:-1].replace(" ", BLANK) for x, n in strings.items() for _ in range(min(n, 3))]
    trainer = trainers.BpeTrainer(
        vocab_size=PIECES, show_progress=False, max_token_length=10,
        initial_alphabet=[chr(i) for i in range(33, 127)] + [BLANK],
    )  # fmt: skip
    trained = Tokenizer(models.BPE())
    trained.train_from_iterator(sorted(words), trainer)
    known = sorted(trained.get_vocab().items(), key=lambda x: x[1])
    vocabulary = [
        UNKNOWN,
        BEGIN,
        END,
        *(f"<0x{i:02X}>" for i in range(256)),
        *(x for x, _ in known),
    ]
    numbers = {piece: i for i, piece in enumerate(vocabulary)}
    merges = [
        (piece[:cut], piece[cut:]) for piece, _ in known for cut in range(1, len(piece))
        if piece[:cut] in numbers and piece[cut:] in numbers
    ]  # fmt: skip
    model = models.BPE(
        vocab=numbers, merges=merges, unk_token=UNKNOWN, fuse_unk=True, byte_fallback=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", BLANK)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens([UNKNOWN, BEGIN, END])
    pieces = [x for x in dict.fromkeys(pieces) if x not in numbers or len(x) == 1]
    tokenizer.add_tokens([AddedToken(x, normalized=False, special=False) for x in pieces])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, numbers[BEGIN])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=UNKNOWN, bos_token=BEGIN, eos_token=END,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
