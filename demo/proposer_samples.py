"""Training samples of the proposer: pairs as tokens, varied where the answer stays the same."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

import torch
from proposer_tokenizer import STRING
from transformers import PreTrainedTokenizerFast

from attn_dsl.dsl.lexicon import lexicon

Sample = tuple[str, str]
CONTEXT = 1024
"""The longest prompt and program together, in tokens."""
CLASSES = sorted(lexicon())
SET = re.compile(r'\{"(?:[^"\\]|\\.)*"(?:, "(?:[^"\\]|\\.)*")*\}')
CHANGED = re.compile(r"(?<=[<>]= )\d\d?\b|(?<=q-)\d\b|(?<= in )[A-Z]\w+")
"""Numbers and names of word sets that may be exchanged for others."""
ASIDE = 0.15
"""The share of the prompts' tokens that are learned along with the programs': prompts repeat
themselves, which teaches to copy."""


class Samples:
    """Draws training samples: pairs as token numbers, strings exchanged in some."""

    def __init__(
        self,
        pairs: list[dict],
        tokenizer: PreTrainedTokenizerFast,
        rng: random.Random,
        longest: int = CONTEXT,
        made_up: float = 0.0,
    ) -> None:
        self.made_up = made_up
        self.pairs, self.tokenizer, self.rng, self.longest = pairs, tokenizer, rng, longest
        self.strings = sorted(
            {s for p in pairs for s in STRING.findall(p["program"]) if "\\" not in s}
        )
        self.order: list[int] = []
        self.lines: dict[str, list[str]] = {}
        for pair in pairs:
            some = pair["prompt"].split("\n")
            terms = [x for x in some[2:] if x[:1].isdigit()]
            self.lines.setdefault(some[0].split()[0], []).extend(terms)

    def recombined(self, pair: dict) -> Sample:
        """Make up a prompt from terms of all prompts; the program is what it lists."""
        rng, head = self.rng, pair["prompt"].split("\n")[:2]
        lines = self.lines[head[0].split()[0]]
        chosen: dict[str, str] = {}
        for _ in range(rng.randint(1, 8)):
            line = rng.choice(lines)
            chosen.setdefault(line[2:], line)
        kept = sorted(chosen.values(), reverse=True)
        least = rng.choice("12") if head[0].endswith("clean") else "0"
        program = [x[2:] for x in kept if x[0] >= least] or [kept[0][2:]]
        places = sorted(rng.randrange(len(kept)) for _ in range(rng.randint(0, 4)))
        more = [f"or {at} {rng.choice(lines)}" for at in places]
        more += [f"add {rng.choice(lines)}" for _ in range(rng.randint(0, 2))]
        first = pair["program"].split("\n")[0]
        return "\n".join([*head, *kept, *more, ""]), "\n".join([first, *program, ""])

    def exchanged(self, prompt: str, program: str) -> Sample:
        """Replace strings, names and numbers by others, the same in prompt and program."""
        share = self.rng.choice([0.3, 1.0])
        table: dict[str, str] = {}

        def other(found: re.Match[str]) -> str:
            text = found.group()
            if text not in table:
                new = self.rng.choice(self.strings) if self.rng.random() < 0.7 else self.made()
                table[text] = new if self.rng.random() < share else text
            return table[text]

        def changed(found: re.Match[str]) -> str:
            text = found.group()
            if text not in table:
                low = int(text) if text.isdigit() else 0
                new = (
                    str(self.rng.randint(0, 2 * low + 2))
                    if text.isdigit()
                    else self.rng.choice(CLASSES)
                )
                table[text] = new if self.rng.random() < share else text
            return table[text]

        some = STRING.sub(other, prompt), STRING.sub(other, program)
        if self.rng.random() < 0.5:
            return some
        return CHANGED.sub(changed, some[0]), CHANGED.sub(changed, some[1])

    def overlapping(self, prompt: str, program: str) -> Sample:
        """Replace token sets by others that share many of their tokens, as those of one model do."""
        some, table = self.rng.sample(self.strings, min(80, len(self.strings))), {}

        def other(found: re.Match[str]) -> str:
            text = found.group()
            if text not in table:
                size = min(len(STRING.findall(text)), len(some))
                table[text] = f"{{{', '.join(sorted(self.rng.sample(some, size)))}}}"
            return table[text]

        return SET.sub(other, prompt), SET.sub(other, program)

    def made(self) -> str:
        """Make up a string."""
        size = min(1 + int(self.rng.expovariate(0.25)), 12)
        letters = "".join(self.rng.choice("etaoinshrdlucmfwygpbvkxqjz") for _ in range(size))
        kind = self.rng.random()
        letters = (
            letters.capitalize()
            if kind < 0.2
            else str(self.rng.randrange(2030))
            if kind < 0.25
            else letters
        )
        return f'"{self.rng.choice(["", " "])}{letters}"'

    def thinned(self, prompt: str, program: str) -> str:
        """Leave out some of the alternatives that the program does not use."""
        kept = []
        for line in prompt.split("\n"):
            extra = line.startswith(("or ", "add "))
            if extra and self.rng.random() < 0.3 and line[line.find("    ") :] not in program:
                continue
            kept.append(line)
        return "\n".join(kept)

    def encode(self, prompt: str, program: str) -> tuple[list[int], int]:
        """Return the tokens of prompt, program and end, and where the program begins."""
        before = self.tokenizer(prompt).input_ids
        after = self.tokenizer(program, add_special_tokens=False).input_ids
        return [*before, *after, self.tokenizer.eos_token_id], len(before)

    def next(self) -> tuple[list[int], int]:
        """Return the next sample; all pairs once before any comes again."""
        while True:
            if not self.order:
                self.order = list(range(len(self.pairs)))
                self.rng.shuffle(self.order)
            pair = self.pairs[self.order.pop()]
            if self.rng.random() < self.made_up:
                prompt, program = self.recombined(pair)
            else:
                program = grounded(pair["prompt"], pair["program"])
                prompt = self.thinned(pair["prompt"], program)
            draw = self.rng.random()
            if draw < 0.4:
                prompt, program = self.exchanged(prompt, program)
            elif draw < 0.75:
                prompt, program = self.overlapping(prompt, program)
            ids, start = self.encode(prompt, program)
            if len(ids) <= self.longest:
                return ids, start

    def batches(self, tokens: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield batches of about so many tokens, samples of like length together."""
        while True:
            some = sorted((self.next() for _ in range(400)), key=lambda x: len(x[0]))
            groups: list[list[tuple[list[int], int]]] = [[]]
            for sample in some:
                if (len(groups[-1]) + 1) * len(sample[0]) > tokens:
                    groups.append([])
                groups[-1].append(sample)
            self.rng.shuffle(groups)
            for group in groups:
                yield padded(group, ASIDE)


def grounded(prompt: str, program: str) -> str:
    """Leave out of a program the terms whose token sets nobody could guess from the prompt."""
    lines = program.split("\n")
    kept = []
    for line in lines[1:-1]:
        strings = STRING.findall(line)
        known = sum(string in prompt for string in strings)
        if len(strings) < 3 or known >= 0.5 * len(strings):
            kept.append(line)
    return "\n".join([lines[0], *(kept or lines[1:2]), ""])


def padded(
    group: list[tuple[list[int], int]], aside: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token numbers filled up to one length, and which ones' successors are learned.

    Args:
        aside: the share of the prompt's tokens that are learned as well.
    """
    length = max(len(ids) for ids, _ in group)
    ids = torch.zeros(len(group), length, dtype=torch.int64)
    wanted = torch.zeros(len(group), length, dtype=torch.bool)
    for row, (sample, start) in enumerate(group):
        ids[row, : len(sample)] = torch.tensor(sample)
        wanted[row, start - 1 : len(sample) - 1] = True
        if aside:
            wanted[row, : start - 1] = torch.rand(start - 1) < aside
    return ids, wanted
