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


def test_markdown_and_source_code_are_one_text_each(tmp_path):
    (tmp_path / "a.md").write_text("# One\n\ntwo\n")
    (tmp_path / "b.py").write_text("x = 1\n\n\ny = 2\n")
    (tmp_path / "c.md").write_text("\n")
    assert read_texts(str(tmp_path / "a.md")) == ["# One\n\ntwo\n"]
    assert read_texts(str(tmp_path / "b.py")) == ["x = 1\n\n\ny = 2\n"]
    with pytest.raises(InputError, match="holds no text"):
        read_texts(str(tmp_path / "c.md"))


def test_directories_patterns_and_several_of_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = {
        "docs/a.md": "A", "docs/in/b.txt": "B\n\nC", "docs/in/c.svg": "no", "docs/.git/d.md": "no",
        "docs/.e.md": "no", "docs/f.jsonl": '{"text": "F"}\n', "docs/[1].md": "G",
    }  # fmt: skip
    for name, content in files.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    assert read_texts("docs") == ["G", "A", "F", "B", "C"]
    assert read_texts("docs/*") == ["G", "A", "F"]
    assert read_texts("docs/**/*.txt") == ["B", "C"]
    assert read_texts("docs/[1].md") == ["G"], "a file of that name comes before the pattern"
    assert read_texts(("docs/f.jsonl", "docs/in")) == ["F", "B", "C"]
    for nothing in ("docs/*.py", "docs/.git/in", "docs/in/*.svg"):
        with pytest.raises(InputError, match=r"gives no texts; .*\.jsonl|does not exist"):
            read_texts(nothing)
    (tmp_path / "docs/in/latin.txt").write_bytes(b"\xe9")
    with pytest.raises(InputError, match=r"docs/in/latin\.txt is not UTF-8"):
        read_texts("docs")
