"""The replaced model: a run's model, its programs, and the texts that each split holds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from attn_dsl.compiler.program import Program
from attn_dsl.dsl.errors import InputError
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.heads import Pair, label, parse_heads, read_heads
from attn_dsl.eval.models import LoadedModel, load_model
from attn_dsl.eval.replace.measure import HeldOut
from attn_dsl.eval.replace.predictions import refuse_headless
from attn_dsl.eval.run import Run
from attn_dsl.eval.texts import Spec, SplitName, read_texts, text_hash
from attn_dsl.eval.tokenizer import Vocabulary


@dataclass(frozen=True, eq=False)
class ReplacedModel:
    """A run with its model and attention at hand; ``open_replaced_model`` makes one."""

    # run, loaded: the run and its model, whose parameters are frozen
    run: Run
    loaded: LoadedModel
    capture: Capture  # the attention that its programs were fitted to
    programs: Mapping[Pair, Program]  # by head
    ious: Mapping[Pair, float]  # by head, the IoU of its program on the select texts
    seed: int  # decides the split; the run's own

    @property
    def heads(self) -> list[Pair]:
        """The heads that the run has programs for."""
        return sorted(self.programs)

    @property
    def lookahead(self) -> bool:
        """Whether the run's causal programs may look ahead."""
        return bool(self.run.info["key"].get("allow_lookahead"))

    @cached_property
    def splits(self) -> dict[SplitName, list[int]]:
        """The capture's texts by split."""
        return self.capture.split(self.seed)

    def ids(self, part: SplitName) -> list[tuple[int, ...]]:
        """Return the token ids of a split's texts."""
        return [self.capture.ids(i) for i in self.splits[part]]

    def held_out(self, part: SplitName) -> HeldOut:
        """Prepare the texts of a split for measuring."""
        return HeldOut(self.loaded, self.ids(part), seed=self.seed)

    def choose_heads(self, text: str | None) -> list[Pair]:
        """Read a choice of heads; an InputError if the run has no program for one that is named."""
        if text is None:
            return self.heads
        chosen = parse_heads(text, self.loaded.n_layers, self.loaded.n_heads)
        kept = [pair for pair in chosen if pair in self.programs]
        named = [(layer, head) for _, layer, head in read_heads(text) if head is not None]
        lacking = [f"L{layer}H{head}" for layer, head in named if (layer, head) not in kept]
        if lacking or not kept:
            which = ", ".join(lacking) or f"any head of {text}"
            raise InputError(f"--heads: {self.run.path} has no program for {which}")
        return kept

    def unseen_windows(self, spec: Spec, max_tokens: int | None, max_texts: int,
                       seen: Sequence[SplitName] = ("fit", "select"),
                       but_not: Spec | None = None) -> tuple[list[tuple[int, ...]], int]:  # fmt: skip
        """Cut a user's texts into windows of ids; leave out texts that the run has seen, and count them."""
        from attn_dsl.eval.capture_write import choose_windows

        most = max_tokens or int(self.capture.meta.get("max_tokens", 128))
        self.loaded.check_length(most, "a window of --max-tokens")
        texts = read_texts(spec)
        known = {self.capture.text_hash(i) for part in seen for i in self.splits[part]}
        if but_not is not None:
            known |= set(map(text_hash, read_texts(but_not)))
        fresh = [text for text in texts if text_hash(text) not in known]
        if not fresh:
            raise InputError(f"{spec}: the run's {', '.join(seen)} texts, or those that are measured on, are "
                             "all there is in it; give others")  # fmt: skip
        records = choose_windows(Vocabulary(self.loaded.tokenizer), fresh, most, max_texts)
        self.loaded.texts.update((record.ids, record.tokens) for record in records)
        return [record.ids for record in records], len(texts) - len(fresh)


def open_replaced_model(run: str | Path, *, model: str | None = None, capture: str | Path | None = None,
                        device: str = "cpu", dtype: str | None = None, nodes: int | None = None,
                        chosen: bool = False) -> ReplacedModel:  # fmt: skip
    """Open a run together with its model and capture, and make sure that they belong together.

    Args:
        model, capture: the run's model and attention, where they are not where the run says.
        device, dtype: as for ``load_model``; the dtype is that of the run's capture by default.
        nodes: of every head's front, the program is taken whose outputs are best on the select
            texts, with at most so many nodes if given (the best IoU where there are no values). One
            that was changed by hand in the run's ``programs`` is taken as it is there.
        chosen: take the programs that the run chose instead.

    Raises:
        InputError: the run has no finished head, no model or no attention, or another than those
            given; the model predicts no tokens; there is no such device.
    """
    opened = Run.open(run)
    if not opened.results:
        raise InputError(f"{run}: no head is finished yet; go on with `attn-dsl fit --resume`")
    attention = opened.open_capture(capture)
    if not all(attention.ids(i) for i in range(attention.n_texts)):
        raise InputError(f"{attention.path} holds no token ids, so no model can read its texts again")
    loaded = open_model(opened, attention, model, device, dtype)
    refuse_headless(loaded)
    loaded.model.requires_grad_(False)
    programs, ious = {}, {}
    lookahead = bool(opened.info["key"].get("allow_lookahead"))
    for result in opened.results:
        place = result.layer, result.head
        own = opened.program(*place)
        if chosen or own.source != result.program:
            programs[place], ious[place] = own, result.iou_select
            continue
        fitting = [row for row in result.front if nodes is None or row.nodes <= nodes]
        if not fitting:
            least = min(row.nodes for row in result.front)
            raise InputError(f"--nodes: the smallest program of {label(*place)} has {least} nodes")
        best = max(fitting, key=lambda row: row.iou_select if math.isnan(row.output_r2_select)
                   else row.output_r2_select)  # fmt: skip
        programs[place] = Program.from_tree(
            opened.parsed(best.program, result.label), allow_lookahead=lookahead
        )
        ious[place] = best.iou_select
    seed = int(opened.info["key"]["seed"])
    texts = {attention.ids(i): attention.tokens(i) for i in range(attention.n_texts)}
    loaded = replace(loaded, texts=texts)
    return ReplacedModel(opened, loaded, attention, programs, ious, seed)


def open_model(run: Run, capture: Capture, model: str | None = None, device: str = "cpu",
               dtype: str | None = None) -> LoadedModel:  # fmt: skip
    """Load the model of a run's capture; an InputError if it cannot be loaded, or is another one."""
    dtype = dtype or capture.meta.get("settings", {}).get("dtype", "float32")
    try:
        loaded = load_model(model or str(capture.meta.get("source", "")), device=device, dtype=str(dtype))
    except InputError as error:
        if model is not None:
            raise
        raise InputError(f"{run.path}: its model cannot be loaded ({error}); give it by --model") from None
    own = {"revision": loaded.revision, "tokenizer_hash": Vocabulary(loaded.tokenizer).hash}
    shown = {"revision": "other weights or settings", "tokenizer_hash": "another tokenizer"}
    for name, what in shown.items():
        known = str(capture.meta.get(name))
        if known != own[name]:
            raise InputError(f"{run.path} was fitted to {capture.name} with {what} ({known[:12]}, and "
                             f"{loaded.source} has {own[name][:12]}); give the model that it was fitted to "
                             "by --model")  # fmt: skip
    return loaded
