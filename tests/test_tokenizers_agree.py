"""Words, sentences and quotations come out the same for a text, whichever tokenizer cuts it."""

from __future__ import annotations

from pathlib import Path

import pytest

from attn_dsl.dsl.analysis import Analysis
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.models import load_tokenizer
from attn_dsl.eval.tokenizer import Vocabulary

TOKENIZERS = ("gpt2-tokenizer", "stories260k", "babyllama-char", "minilm-l6")
TEXTS = [
    'Once upon a time, there was a dog. "Stop!" said Tom. He didn\'t stop (not at all).',
    "Mr. Smith paid 3.50 in No. 5; the dogs' owner laughed...\n\nThen he left. \u201cWhy?\u201d",
    "def add(a, b):\n    return a + b  # sums\n\nprint(add(1, 2))",
]
ACCENTS = 'The caf\u00e9 was "na\u00efve". \u65e5\u672c is far! \U0001f600 yes.'


def stretches(tokens: Tokens) -> dict[str, list[str]]:
    """Cut the text by each label that tokens carry, and return what it is cut into."""
    analysis = Analysis(tokens)
    labels = {
        "words": analysis.word,
        "sentences": analysis.sentence,
        "lines": analysis.line,
        "quotations": analysis.quote,
    }
    found: dict[str, list[str]] = {}
    for name, label in labels.items():
        pieces: list[str] = []
        before: object = None
        for (start, end), mark, special in zip(tokens.spans, label, tokens.special, strict=True):
            if special:
                continue
            if mark == before and pieces:
                pieces[-1] += tokens.text[start:end]
            else:
                pieces.append(tokens.text[start:end])
            before = mark
        kept = ("".join(piece.split()) for piece in pieces)
        found[name] = [piece for piece in kept if piece]
    return found


@pytest.mark.shared
@pytest.mark.parametrize("text", TEXTS, ids=["story", "numbers", "code"])
def test_every_tokenizer_gives_the_same_stretches(shared: Path, text: str) -> None:
    by_tokenizer = {}
    for name in TOKENIZERS:
        vocabulary = Vocabulary(load_tokenizer(str(shared / "models" / name)))
        [window] = vocabulary.encode(text, max_tokens=400)
        by_tokenizer[name] = stretches(window.tokens)
    # The character tokenizer cuts finest, so its stretches are those of the text.
    finest = by_tokenizer["babyllama-char"]
    assert len(finest["words"]) > 15
    for name, found in by_tokenizer.items():
        for label in ("sentences", "lines", "quotations"):
            assert found[label] == finest[label], (name, label)
        # A token may hold several marks, such as `."`: joined, the words are the same.
        assert "".join(found["words"]) == "".join(finest["words"]), name
        shared_words = [word for word in found["words"] if word.isalnum()]
        assert {w for w in finest["words"] if w.isalnum()} >= set(shared_words), name


@pytest.mark.shared
@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_text_is_segmented_alike_also_with_split_characters(shared: Path, name: str) -> None:
    vocabulary = Vocabulary(load_tokenizer(str(shared / "models" / name)))
    [window] = vocabulary.encode(ACCENTS, max_tokens=400)
    segments = Analysis(window.tokens).segments
    words = ["the", "caf\u00e9", "was", '"', "na\u00efve", '"', ".", "\u65e5", "\u672c", "is",
             "far", "!", "\U0001f600", "yes", "."]  # fmt: skip
    assert segments.words == words
    assert max(segments.sentence) == 2
