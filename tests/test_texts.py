"""Reading texts, and splitting them by hash."""

from __future__ import annotations

import builtins
import json
import sys
from collections import Counter
from types import SimpleNamespace

import pytest

from attn_dsl.dsl.errors import InputError
from attn_dsl.eval.texts import read_texts, split_of, text_hash


def test_txt_is_split_at_blank_lines(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n \r\n\r\nthree\n")
    assert read_texts(str(path)) == ["one\ntwo", "three"]


def test_jsonl_takes_the_field_text_and_keeps_white_space(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": " a\\n\\nb\\u2028 ", "id": 1}\n\n{"text": ""}\n{"text": "é"}\n')
    assert read_texts(str(path)) == [" a\n\nb\u2028 ", "é"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": 3}', r"a\.jsonl:2: .* a string .* but {.text.: 3}"),
        ('{"text": null}', r"a\.jsonl:2: .* but {.text.: null}"),
        ('["a"]', r'a\.jsonl:2: not a JSON object .* but \["a"\]'),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(InputError, match=message):
        read_texts(str(path))


def test_datasets_reads_split_and_column(monkeypatch):
    class Rows(dict):
        column_names = ("story",)

    calls = []

    def load_dataset(name, split):
        calls.append((name, split))
        return Rows(story=["one", None, "two"])

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert read_texts("hf:owner/name:test:story") == ["one", "two"]
    assert calls == [("owner/name", "test")]
    with pytest.raises(InputError, match="no column `text`; the columns are `story`"):
        read_texts("hf:owner/name")


def test_missing_package_datasets_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "datasets":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match="pip install datasets"):
        read_texts("hf:owner/name")


def test_split_is_60_20_20_and_depends_on_the_seed_and_the_content_alone():
    hashes = [text_hash(json.dumps(number)) for number in range(4000)]
    parts = [split_of(one, 0) for one in hashes]
    counts = Counter(parts)
    assert 2300 < counts["fit"] < 2500
    assert 720 < counts["select"] < 880
    assert 720 < counts["test"] < 880
    assert parts == [split_of(one, 0) for one in hashes]
    again = [split_of(one, 1) for one in hashes]
    same = sum(a == b for a, b in zip(parts, again, strict=True)) / len(parts)
    assert 0.40 < same < 0.48  # independent: .6² + 2 · .2²
