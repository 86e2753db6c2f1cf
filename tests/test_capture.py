"""Captures: what is stored is what the model does; interruption, damage, other settings."""

from __future__ import annotations

import json
import pickle
import shutil
from contextlib import nullcontext

import numpy as np
import pytest
from command_line import succeed
from replace_models import save

from attn_dsl.dsl.errors import InputError, WorkError
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval import capture_run, capture_write
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.capture_files import content_hash
from attn_dsl.eval.capture_write import write_capture
from attn_dsl.eval.files import file_hash
from attn_dsl.eval.head_outputs import head_outputs
from attn_dsl.eval.models import load_model

TEXTS = [
    "the cat sat on the mat and the dog ran to the park",
    "she saw a bird .",
    "one day the boy and the girl went to the park to see the dog and the cat and a bird",
    "the end",
]


def random_attention(rng, layers, heads, n, causal):
    values = rng.random((layers, heads, n, n)) ** 4
    values = np.tril(values) if causal else values
    return values / values.sum(-1, keepdims=True)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox", "bert", "roberta"])
def test_capture_is_the_attention_of_the_model_alone_with_the_text(small_model, tmp_path, family):
    torch = pytest.importorskip("torch")
    loaded = load_model(str(small_model(family)))
    made = write_capture(loaded, TEXTS, tmp_path / "out", max_tokens=12, batch_size=3)
    assert made.causal == (family in ("gpt2", "llama", "gpt_neox"))
    assert {len(made.tokens(i)) for i in range(made.n_texts)} > {12}
    for index in range(made.n_texts):
        with torch.no_grad():
            outputs = loaded.model(torch.tensor([made.ids(index)]), output_attentions=True)
        wanted = torch.stack(outputs.attentions)[:, 0].numpy()
        n = wanted.shape[-1]
        for layer in range(2):
            for head in range(4):
                mine = made.matrix(index, layer, head)
                assert np.abs(mine - wanted[layer, head]).max() < 6e-4  # float16
                overlap = np.minimum(mine, wanted[layer, head]).sum()
                assert overlap / (2 * n - overlap) > 1 - 1e-3
        assert made.attention(index).sum() == pytest.approx(n * made.n_heads, rel=1e-5)


PROJECTIONS = {
    "gpt2": "attn.c_proj", "llama": "self_attn.o_proj", "gpt_neox": "attention.dense",
    "bert": "attention.output.dense", "bloom": "self_attention.dense", "mpt": "attn.out_proj",
    "albert": "attention.dense", "deberta-v2": "attention.output.dense",
}  # fmt: skip
"""By family, how the name of a layer's output projection ends."""


@pytest.mark.parametrize("family", PROJECTIONS)
def test_contributions_are_what_heads_write(tmp_path, family):
    """Inner products of A @ contributions are those of the heads' shares of a real output."""
    torch = pytest.importorskip("torch")
    loaded = load_model(str(save(tmp_path / family, family)))
    made = write_capture(loaded, TEXTS, tmp_path / "out", max_tokens=12, batch_size=3)
    assert made.has_outputs and made.lacking is None
    assert len(made.values[0]) == (4 if family == "llama" else 8)  # grouped heads share values
    layers = []
    for name, module in loaded.model.named_modules():
        if name.endswith(PROJECTIONS[family]):
            module.register_forward_hook(lambda *call: layers.append(call))
    for index in (0, made.n_texts - 1):
        layers.clear()
        with torch.no_grad():
            loaded.model(torch.tensor([made.ids(index)]))
        assert len(layers) == 2
        for layer, (module, (given,), output) in enumerate(list(layers)):
            with torch.no_grad():
                parts = [torch.zeros_like(given) for _ in range(4)]
                for head, part in enumerate(parts):
                    own = slice(8 * head, 8 * head + 8)
                    part[..., own] = given[..., own]
                bias = module(torch.zeros_like(given))
                written = [(module(part) - bias)[0].numpy() for part in parts]
                assert np.allclose(sum(written), (output - bias)[0].numpy(), atol=1e-4)
            for head, real in enumerate(written):
                mine = made.matrix(index, layer, head) @ made.contributions(index, 4 * layer + head)
                wanted = real @ real.T
                assert np.abs(mine @ mine.T - wanted).max() < 3e-3 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("bitnet", "no linear output projection takes up the product in layer 0"),
        ("diffllama", "no layer's values can be told apart"),
    ],
)
def test_models_whose_heads_write_something_else(tmp_path, family, message):
    """A norm before the projection, or heads that are differences: attention alone is kept."""
    torch = pytest.importorskip("torch")
    folder, texts = save(tmp_path / family, family), tmp_path / "texts.txt"
    texts.write_text("\n\n".join(TEXTS))
    args = ("--text", texts, "--max-tokens", 12, "--out", tmp_path / "out")
    printed = succeed("capture", folder, *args)
    assert f"\nno values of heads: heads of this {family} model" in printed
    loaded, made = load_model(str(folder)), Capture.open(tmp_path / "out")
    with torch.no_grad():
        maps = loaded.model(torch.tensor([made.ids(0)]), output_attentions=True).attentions
    assert np.abs(made.matrix(0, 1, 2) - maps[1][0, 2].numpy()).max() < 6e-4
    assert not made.has_outputs
    with pytest.raises(InputError, match=f"this {family} model .* A v W_O: {message}"):
        made.contributions(0, 0)


def test_without_values(small_model, tmp_path):
    model = str(small_model("gpt2"))
    whole = write_capture(model, TEXTS, tmp_path / "whole", max_tokens=12)
    (tmp_path / "texts.txt").write_text("\n\n".join(TEXTS))
    args = ("--text", tmp_path / "texts.txt", "--max-tokens", 12, "--no-values")
    assert "no values" not in succeed("capture", model, *args, "--out", tmp_path / "out")
    made = Capture.open(tmp_path / "out")
    assert (made.packed(0) == whole.packed(0)).all() and made.hash != whole.hash
    assert not list((tmp_path / "out").glob("projections*"))
    with pytest.raises(InputError, match=r"has no values of its heads: .* --no-values"):
        made.contributions(0, 0)
    for folder, values, there in (("out", True, False), ("whole", False, True)):
        with pytest.raises(InputError, match=rf"--no-values .*\({there} there, {values} now\)"):
            write_capture(model, TEXTS, tmp_path / folder, max_tokens=12, values=values)


def test_captures_older_than_values(small_model, tmp_path):
    """They open, and are good as they are; those that are not finished go on without values."""
    model, out = str(small_model("gpt2")), tmp_path / "out"
    write_capture(model, TEXTS, out, max_tokens=12, values=False)
    meta = json.loads((out / "capture.json").read_text())
    del meta["settings"]["values"], meta["lacking"]
    meta["hash"] = content_hash(meta)
    (out / "capture.json").write_text(json.dumps(meta))
    for made in (Capture.open(out), write_capture(model, TEXTS, out, max_tokens=12)):
        assert made.hash == meta["hash"]
        with pytest.raises(InputError, match="made before captures had them; run"):
            made.contributions(0, 0)
    (out / "capture.json").rename(out / "capture.partial.json")
    with pytest.raises(InputError, match="--no-values"):
        write_capture(model, TEXTS, out, max_tokens=12)
    before = (out / "attention-00000.safetensors").stat().st_mtime_ns
    write_capture(model, TEXTS, out, max_tokens=12, values=False)
    assert (out / "attention-00000.safetensors").stat().st_mtime_ns == before


def test_values_too_large_for_float16(small_model, tmp_path):
    loaded = load_model(str(small_model("llama")))
    loaded.model.model.layers[1].self_attn.v_proj.weight.data *= 1e5
    with pytest.raises(InputError, match=r"in layer 1 .* too large for float16; .* --no-values"):
        write_capture(loaded, TEXTS, tmp_path / "out", max_tokens=12)
    write_capture(loaded, TEXTS, tmp_path / "alone", max_tokens=12, values=False)


@pytest.mark.parametrize("family", ["llama", "roberta"])
def test_batches_change_nothing_but_rounding(small_model, family):
    loaded = load_model(str(small_model(family)))
    batch = [[7, 8], [9, 5, 6, 12], [5, 6, 7, 8, 9, 10, 11]]
    heads = head_outputs(loaded, values=True)
    assert heads.from_products

    def read(groups, ids):
        found = {}
        keep = lambda index, layer, *read: found.__setitem__((index, layer), read)  # noqa: E731
        list(capture_run.run_texts(loaded, heads, ids, groups, keep))
        return [[found[i, layer] for layer in range(2)] for i in range(len(ids))]

    together = read([[0, 1, 2]], batch)
    for ids, layers in zip(batch, together, strict=True):
        for alone, beside in zip(*read([[0]], [ids]), layers, strict=True):
            for one, other in zip(alone, beside, strict=True):
                # a step of float16, plus 1e-5 for the order of sums
                off, size = np.abs(one.astype(float) - other), max(1, np.abs(one).max())
                assert off.max() <= 2**-10 * size + 1e-5 and off.mean() < 1e-5 * size


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_models_in_half_precision(small_model, tmp_path, dtype):
    model = str(small_model("llama"))
    half = write_capture(model, TEXTS, tmp_path / "half", max_tokens=12, dtype=dtype)
    whole = write_capture(model, TEXTS, tmp_path / "whole", max_tokens=12)
    assert half.packed(0).dtype == np.float16 and half.hash != whole.hash
    gaps = np.concatenate([abs(half.attention(i) - whole.attention(i)).ravel() for i in range(half.n_texts)])
    assert 0 < gaps.mean() < 0.01
    with pytest.raises(InputError, match=rf"--dtype \({dtype} there, float32 now\)"):
        write_capture(model, TEXTS, tmp_path / "half", max_tokens=12)


def test_shards_are_what_safetensors_writes(small_model, tmp_path):
    from safetensors.numpy import load_file, save

    write_capture(str(small_model("gpt2")), TEXTS, tmp_path, max_tokens=8)
    (shard,) = tmp_path.glob("attention-*")
    assert save(load_file(shard)) == shard.read_bytes()


def test_batches_fit_into_the_free_memory(small_model, tmp_path, monkeypatch):
    loaded = load_model(str(small_model("gpt2")))
    whole = write_capture(loaded, TEXTS, tmp_path / "whole", max_tokens=16)
    sizes = []
    monkeypatch.setattr(capture_run, "free_bytes", lambda device: capture_run.text_bytes(4, 16))
    write_capture(loaded, TEXTS, tmp_path / "out", max_tokens=16, progress=lambda done, _: sizes.append(done))
    assert sizes == list(range(1, whole.n_texts + 1))  # one text at a time
    with pytest.raises(InputError, match=r"a text of 17 tokens takes .* --max-tokens"):
        write_capture(loaded, TEXTS, tmp_path / "more", max_tokens=17)


def test_first_windows_come_first(small_model, tmp_path):
    made = write_capture(str(small_model("gpt2")), TEXTS, tmp_path, max_tokens=5, max_texts=6)
    order = [(record.source, record.window) for record in made.records]
    assert order[:4] == [(0, 0), (1, 0), (2, 0), (3, 0)]
    assert order[4:] == [(0, 1), (1, 1)]
    few = write_capture(str(small_model("gpt2")), TEXTS, tmp_path / "few", max_tokens=5, max_texts=2)
    assert [(record.source, record.window) for record in few.records] == order[:2]


def test_an_interrupted_capture_goes_on_and_gives_the_same_files(small_model, tmp_path, monkeypatch):
    monkeypatch.setattr(capture_write, "SHARD_BYTES", 2000)
    loaded = load_model(str(small_model("gpt2")))
    settings = {"max_tokens": 8, "batch_size": 1}
    write_capture(loaded, TEXTS, tmp_path / "whole", **settings)

    def interrupt(done, total):
        if done == total - 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_capture(loaded, TEXTS, tmp_path / "cut", progress=interrupt, **settings)
    with pytest.raises(InputError, match="unfinished capture"):
        Capture.open(tmp_path / "cut")
    with pytest.raises(InputError, match=r"--max-tokens \(8 there, 9 now\)"):
        write_capture(loaded, TEXTS, tmp_path / "cut", max_tokens=9)
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "cut").glob("attention-*")}
    assert before
    counts = []
    write_capture(loaded, TEXTS, tmp_path / "cut", progress=lambda *c: counts.append(c), **settings)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert {p.name for p in whole.iterdir()} == {p.name for p in cut.iterdir()}
    for path in whole.glob("[!.]*"):
        assert path.read_bytes() == (cut / path.name).read_bytes()
    for name, time in before.items():
        assert (cut / name).stat().st_mtime_ns == time
    assert len(counts) < counts[-1][1]  # what was finished did not run again
    assert counts[-1][0] == counts[-1][1]


@pytest.fixture(scope="module")
def finished(small_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("captures") / "gpt2"
    write_capture(str(small_model("gpt2")), TEXTS, out, max_tokens=16)
    return out


def test_a_finished_capture_is_not_overwritten(small_model, finished):
    before = {path.name: path.stat().st_mtime_ns for path in finished.iterdir()}
    again = write_capture(str(small_model("gpt2")), TEXTS, finished, max_tokens=16)
    assert again.hash == Capture.open(finished).hash
    for settings, message in [
        ({"max_tokens": 8}, r"--max-tokens \(16 there, 8 now\)"),
        ({"max_tokens": 16, "max_texts": 2}, "the texts or their number"),
    ]:
        with pytest.raises(InputError, match=message):
            write_capture(str(small_model("gpt2")), TEXTS, finished, **settings)
    with pytest.raises(InputError, match="the model's weights"):
        write_capture(str(small_model("llama")), TEXTS, finished, max_tokens=16)
    assert before == {path.name: path.stat().st_mtime_ns for path in finished.iterdir()}


def test_limits_of_the_model_and_the_disk(small_model, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"has 65 tokens, and \S+ takes 64"):
        write_capture(str(small_model("roberta")), TEXTS, tmp_path, max_tokens=65)
    with pytest.raises(InputError, match="no windows"):
        write_capture(str(small_model("gpt2")), [""], tmp_path, max_tokens=64)
    loaded, whole = load_model(str(small_model("gpt2"))), tmp_path / "whole"
    made = write_capture(loaded, TEXTS, whole, max_tokens=64)
    needed = sum(made.packed(i).nbytes + made.values[i].nbytes for i in range(made.n_texts))
    for values, free in ((True, needed - 1), (False, 100), (False, needed - 1)):
        usage = shutil.disk_usage(tmp_path)._replace(free=free)
        monkeypatch.setattr(shutil, "disk_usage", lambda path, usage=usage: usage)
        refused = values or free == 100
        with pytest.raises(InputError, match="MiB free") if refused else nullcontext():
            write_capture(loaded, TEXTS, tmp_path / "out", max_tokens=64, values=values)
        monkeypatch.undo()


def test_a_model_that_is_not_causal_after_all_is_refused(small_model, tmp_path):
    from dataclasses import replace

    loaded = replace(load_model(str(small_model("bert"))), causal=True)
    with pytest.raises(WorkError, match="does not sum to 1"):
        write_capture(loaded, TEXTS, tmp_path, max_tokens=64)


def damaged(finished, tmp_path, name, change):
    shutil.copytree(finished, tmp_path / "copy")
    path = tmp_path / "copy" / name
    data = change(path.read_bytes())
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    return tmp_path / "copy"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("texts.jsonl", lambda data: b"[" + data[1:], r"texts\.jsonl is damaged"),
        ("capture.json", lambda data: data.replace(b'"causal"', b'"cause"'), "it lacks causal"),
    ],
)
def test_damage_is_found_on_opening(finished, tmp_path, name, change, message):
    copy = damaged(finished, tmp_path, name, change)
    with pytest.raises(InputError, match=message) as caught:
        Capture.open(copy)
    assert "attn-dsl capture" in str(caught.value)


def test_damage_inside_a_shard(finished, tmp_path):
    shard = "attention-00000.safetensors"
    header = damaged(finished, tmp_path / "a", shard, lambda data: b"\xff" * 8 + data[8:])
    with pytest.raises(InputError, match="is damaged"):
        Capture.open(header).packed(0)
    lost = damaged(finished, tmp_path / "b", "projections.safetensors", lambda data: None)
    with pytest.raises(InputError, match=r"projections\.safetensors is missing"):
        Capture.open(lost)
    header = damaged(finished, tmp_path / "c", "projections.safetensors", lambda data: b"\xff" * 8 + data[8:])
    with pytest.raises(InputError, match=r"projections\.safetensors is damaged"):
        Capture.open(header).contributions(0, 0)


def test_what_an_opened_capture_knows(finished):
    opened = Capture.open(finished)
    assert (opened.n_texts, opened.n_layers, opened.heads_per_layer, opened.n_heads) == (5, 2, 4, 8)
    assert isinstance(opened.tokens(0), Tokens)
    assert opened.packed(0).dtype == np.float16
    with pytest.raises(InputError, match="has no head L2H0"):
        opened.matrix(0, 2, 0)
    sent = pickle.dumps(opened)
    assert (pickle.loads(sent).packed(1) == opened.packed(1)).all()
    assert (pickle.loads(sent).contributions(1, 5) == opened.contributions(1, 5)).all()


@pytest.mark.parametrize("causal", [True, False])
def test_from_arrays(causal):
    rng = np.random.default_rng(0)
    tokens = [["a", " b", " c"], ["a", " b"]]
    arrays = [random_attention(rng, 2, 3, len(one), causal) for one in tokens]
    made = Capture.from_arrays(tokens, arrays)
    assert made.causal is causal and (made.n_layers, made.n_heads) == (2, 6)
    assert np.allclose(made.matrix(1, 1, 2), arrays[1][1, 2], atol=1e-6)
    assert made.packed(0).shape == (6, 6 if causal else 9)
    padded = np.zeros((2, 2, 3, 3, 3))
    padded[0], padded[1, :, :, :2, :2] = arrays
    again = Capture.from_arrays(tokens, padded)
    assert again.hash == made.hash
    assert Capture.from_arrays(tokens, arrays[::1], causal=False).causal is False


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a * 2, r"text 0: row 0 of L0H0 sums to 2, not to 1"),
        (lambda a: np.where(a == a.max(), np.nan, a), "is not finite"),
        (lambda a: a - 0.5, "is negative"),
        (lambda a: a[:, :, :2, :2], "text 0 has 3 tokens but attention of 2 x 2"),
        (lambda a: a[0], r"must have the shape \[layers, heads, 3, 3\], not \[3, 3, 3\]"),
    ],
)
def test_from_arrays_refuses_what_is_no_attention(change, message):
    array = random_attention(np.random.default_rng(0), 1, 3, 3, causal=False)
    with pytest.raises(InputError, match="is not causal"):
        Capture.from_arrays([["a", " b", " c"]], [array], causal=True)
    with pytest.raises(InputError, match=message):
        Capture.from_arrays([["a", " b", " c"]], [change(array)])


def test_from_arrays_with_values():
    rng = np.random.default_rng(0)
    tokens = [["a", " b", " c"], ["a", " b"]]
    arrays = [random_attention(rng, 2, 4, len(one), causal=True) for one in tokens]
    values = [rng.normal(size=(2, 2, len(one), 3)) for one in tokens]
    projections = rng.normal(size=(2, 4, 3, 7))
    made = Capture.from_arrays(tokens, arrays, values=values, projections=projections)
    plain = Capture.from_arrays(tokens, arrays, values=values)
    for number in range(8):
        layer, head = divmod(number, 4)
        written = values[1][layer, head // 2] @ projections[layer, head]
        for one, wanted in ((made, written), (plain, values[1][layer, head // 2])):
            found = one.contributions(1, number)
            assert found.dtype == np.float32 and found.shape == (2, 3)
            assert np.allclose(found @ found.T, wanted @ wanted.T, atol=1e-4)
    hashes = {made.hash, plain.hash, Capture.from_arrays(tokens, arrays).hash}
    assert len(hashes) == 3
    padded, wide = np.zeros((2, 2, 4, 3, 3)), np.zeros((2, 2, 2, 3, 3))
    padded[0], padded[1, :, :, :2, :2] = arrays
    wide[0], wide[1, :, :, :2] = values
    assert Capture.from_arrays(tokens, padded, values=wide).hash == plain.hash
    with pytest.raises(InputError, match=r"give values= to Capture\.from_arrays"):
        Capture.from_arrays(tokens, arrays).contributions(0, 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"values": None}, "projections need the values"),
        ({"values": []}, "there are 1 texts but values for 0"),
        ({"values": [np.ones((1, 2, 4, 3))]}, r"\[1, kv_heads, 3, d\], not \[1, 2, 4, 3\]"),
        ({"values": [np.ones((2, 2, 3, 3))]}, r"text 0: values must have the shape"),
        ({"values": [np.ones((1, 3, 3, 3))]}, "kv_heads must divide 4"),
        ({"values": [np.ones((1, 0, 3, 3))]}, "kv_heads must divide 4"),
        ({"values": [np.ones(3)]}, r"not \[3\]"),
        ({"values": [np.full((1, 2, 3, 3), np.inf)]}, "not finite"),
        ({"values": ["a"]}, "values must be numbers"),
        ({"projections": np.ones((1, 2, 3, 7))}, r"\[1, 4, 3, width\], not \[1, 2, 3, 7\]"),
        ({"projections": np.full((1, 4, 3, 7), np.nan)}, "not finite"),
    ],
)
def test_from_arrays_refuses_values_that_do_not_fit(fields, message):
    array = random_attention(np.random.default_rng(0), 1, 4, 3, causal=True)
    outputs = {"values": [np.ones((1, 2, 3, 3))], "projections": np.ones((1, 4, 3, 7)), **fields}
    with pytest.raises(InputError, match=message):
        Capture.from_arrays([["a", " b", " c"]], [array], **outputs)


def numbered(n_sources, windows=1):
    """A capture of many one-token texts; windows of one source follow each other."""
    tokens = [[str(source)] for source in range(n_sources) for _ in range(windows)]
    return Capture.from_arrays(tokens, [np.ones((1, 1, 1, 1))] * len(tokens))


def test_all_windows_of_a_text_fall_into_one_part():
    made = numbered(60, windows=3)
    parts = made.split(seed=0)
    assert made.split_and_rule(0)[1] == "texts"
    assert sorted(i for part in parts.values() for i in part) == list(range(180))
    assert all(len(indices) % 3 == 0 and indices for indices in parts.values())
    assert parts != made.split(seed=1) and parts == made.split(seed=0)


def test_few_texts_are_split_by_window_and_no_part_stays_empty(finished):
    opened = Capture.open(finished)
    for seed in range(20):
        parts = opened.split(seed)
        assert opened.split_and_rule(seed)[1].startswith("windows")
        assert all(parts.values()) and sorted(i for part in parts.values() for i in part) == list(range(5))
        assert json.dumps(parts)


@pytest.mark.parametrize(
    ("bits", "message"),
    [(0x7E00, "sums to nan"), (0x7C00, "sums to inf"), (0x0000, "sums to 0"), (0x3C00, "sums to [2-9]"),
     (0xBC00, "sums to -|negative")],
)  # fmt: skip
def test_damaged_numbers_are_never_a_score(finished, tmp_path, bits, message):
    """NaN, infinity, zeros, ones and negative numbers in place of attention and of values."""
    shard = "attention-00000.safetensors"

    def change(data: bytes) -> bytes:
        begin = 8 + int.from_bytes(data[:8], "little")
        return data[:begin] + bits.to_bytes(2, "little") * ((len(data) - begin) // 2)

    folder = damaged(finished, tmp_path, shard, change)
    meta = json.loads((folder / "capture.json").read_text())
    (file,) = meta["shards"]
    file["sha256"] = file_hash(folder / shard)  # as if the model itself had given these numbers
    meta["hash"] = content_hash(meta)
    (folder / "capture.json").write_text(json.dumps(meta))
    capture = Capture.open(folder)
    text = next(i for i in range(capture.n_texts) if len(capture.tokens(i)) > 1)
    with pytest.raises(InputError, match=rf"text {text} is damaged: .*({message}).*attn-dsl capture"):
        capture.attention(text)
    if bits in (0x7E00, 0x7C00):
        with pytest.raises(InputError, match=r"values of text .* not finite"):
            capture.contributions(text, 0)
