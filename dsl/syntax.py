"""Syntax from spaCy: part of speech, dependency and lemma of the word of each token.

spaCy gets the words of ``dsl/segment.py``, not those of its own tokenizer.
"""

import os
from functools import lru_cache
from typing import Any

from attn_dsl.dsl.analysis import Analysis
from attn_dsl.dsl.errors import InputError

PIPELINE_VARIABLE = "ATTN_DSL_SPACY"
"""Environment variable with the name or directory of the spaCy pipeline to use."""
DEFAULT_PIPELINE = "en_core_web_sm"


def parse_tokens(analysis: Analysis) -> dict[str, list]:
    """Return ``upos``, ``dep``, ``lemma`` and ``syntax_head`` (a position) of each token."""
    found = analysis.memory["syntax"]
    if analysis.n not in found:
        found.clear()
        found[analysis.n] = _parse(analysis)
    return found[analysis.n]


def _parse(analysis: Analysis) -> dict[str, list]:
    from spacy.tokens import Doc

    pipeline = _pipeline(os.environ.get(PIPELINE_VARIABLE, DEFAULT_PIPELINE))
    segments, text = analysis.segments, "".join(analysis.text)
    pairs = zip(segments.starts, segments.ends, strict=True)
    words = [text[start : end + 1] for start, end in pairs]
    spaces = [text[end + 1 : end + 2].isspace() for end in segments.ends]
    doc = pipeline(Doc(pipeline.vocab, words=words, spaces=spaces)) if words else []
    last = {word: i for i, word in enumerate(analysis.word)}
    table: dict[str, list] = {"upos": [], "dep": [], "lemma": [], "syntax_head": []}
    for word in analysis.word:
        item = doc[word] if word >= 0 else None
        table["upos"].append(item.pos_ if item is not None else "")
        table["dep"].append(item.dep_ if item is not None else "")
        table["lemma"].append((item.lemma_ or item.lower_) if item is not None else "")
        table["syntax_head"].append(last.get(item.head.i, -1) if item is not None else -1)
    return table


@lru_cache(maxsize=2)
def _pipeline(name: str) -> Any:
    try:
        import spacy
    except ImportError as error:
        raise InputError(
            "parts of speech and dependencies need spaCy: pip install 'attn-dsl[spacy]'"
        ) from error
    try:
        return spacy.load(name)
    except OSError as error:
        raise InputError(
            f"the spaCy pipeline {name!r} cannot be loaded; run `python -m spacy download "
            f"{DEFAULT_PIPELINE}`, or name another one in the variable {PIPELINE_VARIABLE}"
        ) from error
