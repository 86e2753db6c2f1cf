"""Token strings and spans, for every family of tokenizers."""

from __future__ import annotations

import subprocess
import sys

import pytest

from attn_dsl.dsl.errors import InputError
from attn_dsl.eval.tokenizer import Vocabulary

pytest.importorskip("transformers")

TEXT = "Once upon a time, cafés 🙂 中文 火 .\n\nShe  ran  . \t"
SHARED = ["stories260k", "babyllama-char", "minilm-l6", "gpt2-tokenizer"]


@pytest.fixture(scope="module")
def load(shared):
    from transformers import AutoTokenizer

    kept = {}

    def get(name):
        if name not in kept:
            kept[name] = AutoTokenizer.from_pretrained(shared / "models" / name)
        return kept[name]

    return get


def covered(window):
    return [window.tokens.text[start:end] for start, end in window.tokens.spans]


@pytest.mark.shared
@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("max_tokens", [3, 4, 7, 200])
def test_windows_join_to_the_text_and_spans_to_what_the_tokenizer_keeps(load, name, max_tokens):
    windows = Vocabulary(load(name)).encode(TEXT, max_tokens)
    assert "".join(window.tokens.text for window in windows) == TEXT
    assert all(len(window.ids) <= max_tokens for window in windows)
    spans = "".join("".join(covered(window)) for window in windows)
    if name == "minilm-l6":  # knows no emoji, and no space behind the last token
        kept = TEXT.rstrip().replace(" 🙂", "")
        assert spans in (kept, kept.replace("火", ""), kept.replace(" 火", ""))
    else:
        assert spans == TEXT


@pytest.mark.shared
@pytest.mark.parametrize("name", SHARED)
def test_special_tokens_stand_in_every_window_and_cover_nothing(load, name):
    tokenizer = load(name)
    for window in Vocabulary(tokenizer).encode(TEXT, 7):
        expected = {"minilm-l6": ("[CLS]", "[SEP]"), "gpt2-tokenizer": ()}.get(name, ("<s>",))
        marks = [
            string
            for string, mark in zip(window.tokens.strings, window.tokens.special, strict=True)
            if mark and string != "[UNK]"
        ]
        assert tuple(marks) == expected
        for (start, end), mark in zip(window.tokens.spans, window.tokens.special, strict=True):
            assert not mark or start == end


@pytest.mark.shared
@pytest.mark.parametrize("name", ["stories260k", "babyllama-char", "gpt2-tokenizer"])
def test_only_the_last_piece_covers_a_split_character(load, name):
    (window,) = Vocabulary(load(name)).encode(TEXT, 200)
    strings, chars = window.tokens.strings, covered(window)
    for char in "中文火":
        last = chars.index(char)
        if name == "gpt2-tokenizer" and char == "中":  # one token of its own
            assert strings[last] == char
            continue
        count = 2 if name == "gpt2-tokenizer" else 3
        assert chars.count(char) == 1
        assert [one.strip() for one in chars[last - count + 1 : last]] == [""] * (count - 1)
        joined = "".join(strings[last - count + 1 : last + 1]).strip()
        assert joined == "".join(f"<0x{byte:02X}>" for byte in char.encode())


@pytest.mark.shared
def test_gpt2_strings_are_the_bytes_of_each_token(load):
    vocabulary = Vocabulary(load("gpt2-tokenizer"))
    (window,) = vocabulary.encode("a 中文\U0001f9ff", 50)
    assert window.tokens.strings[:5] == ("a", " ", "中", "<0xE6><0x96>", "<0x87>")
    assert covered(window)[:5] == ["a", " ", "中", "", "文"]
    assert "".join(covered(window)) == "a 中文\U0001f9ff"
    rest = window.tokens.strings[5:]
    assert "".join(rest) == "<0xF0><0x9F><0xA7><0xBF>" and covered(window)[-1] == "\U0001f9ff"


@pytest.mark.shared
def test_byte_fallback_keeps_its_bytes_and_prepended_space_covers_nothing(load):
    (window,) = Vocabulary(load("babyllama-char")).encode("hé🙂\n", 50)
    assert window.tokens.strings == (
        *("<s>", " ", "h", "é", "<0xF0>", "<0x9F>", "<0x99>", "<0x82>", "<0x0A>"),
    )
    assert covered(window) == ["", "", "h", "é", "", "", "", "🙂", "\n"]


@pytest.mark.shared
def test_a_character_split_over_two_windows_belongs_to_the_second(load):
    windows = Vocabulary(load("babyllama-char")).encode("h🙂i", 5)
    assert windows[0].tokens.strings == ("<s>", " ", "h", "<0xF0>", "<0x9F>")
    assert [window.tokens.text for window in windows] == ["h", "🙂i"]
    assert covered(windows[1]) == ["", "", "🙂", "i"]
    (first,) = Vocabulary(load("babyllama-char")).encode("h🙂i", 5, max_windows=1)
    assert first == windows[0]


@pytest.mark.shared
def test_word_pieces(load):
    (window,) = Vocabulary(load("minilm-l6")).encode("Unbelievably, she  ran 🙂.", 50)
    assert "".join(window.tokens.strings) == "[CLS]unbelievably, she ran[UNK].[SEP]"
    assert "##" not in "".join(window.tokens.strings)
    assert covered(window)[-6:] == [",", " she", "  ran", "", ".", ""]


@pytest.mark.shared
@pytest.mark.parametrize("name", SHARED)
def test_ids_alone_give_the_same_strings_and_stable_prefixes(load, name):
    vocabulary = Vocabulary(load(name))
    for window in vocabulary.encode(TEXT, 20):
        assert vocabulary.tokens_of(window.ids).strings == window.tokens.strings
        whole = vocabulary.tokens_of(window.ids)
        assert whole.strings == window.tokens.strings
        for n in range(len(window.ids) + 1):
            assert vocabulary.tokens_of(window.ids[:n]) == whole.prefix(n)


@pytest.mark.shared
def test_no_room_beside_the_special_tokens(load):
    with pytest.raises(InputError, match="at least 3"):
        Vocabulary(load("minilm-l6")).encode(TEXT, 2)


@pytest.mark.shared
def test_trimmed_offsets_get_their_white_space_back(load):
    """RoBERTa's post-processor leaves the leading space out of a token's offsets."""
    from tokenizers.processors import RobertaProcessing
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=load("gpt2-tokenizer").backend_tokenizer.__class__.from_str(
            load("gpt2-tokenizer").backend_tokenizer.to_str()
        ),
        eos_token="<|endoftext|>",
    )
    tokenizer.backend_tokenizer.post_processor = RobertaProcessing(
        ("<|endoftext|>", 50256), ("<|endoftext|>", 50256), trim_offsets=True
    )
    (window,) = Vocabulary(tokenizer).encode(TEXT, 200)
    assert "".join(covered(window)) == TEXT
    plain = Vocabulary(load("gpt2-tokenizer")).encode(TEXT, 200)[0]
    assert covered(window)[1:-1] == covered(plain)


@pytest.mark.shared
def test_hash_is_the_same_in_another_process_and_after_use(load, shared):
    tokenizer = load("minilm-l6")
    before = Vocabulary(tokenizer).hash
    tokenizer("a b c", truncation=True, max_length=4, padding="max_length")
    assert Vocabulary(tokenizer).hash == before
    code = (
        "import sys; from transformers import AutoTokenizer; "
        "from attn_dsl.eval.tokenizer import Vocabulary; "
        "print(Vocabulary(AutoTokenizer.from_pretrained(sys.argv[1])).hash)"
    )
    folder = str(shared / "models" / "minilm-l6")
    ran = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == before
    assert Vocabulary(load("stories260k")).hash != before


def test_slow_tokenizers_are_refused():
    class Slow:
        is_fast = False

    with pytest.raises(InputError, match="no character offsets"):
        Vocabulary(Slow())
