"""Samples the stories that `attn-dsl fit` explains its demo model on, from that model itself.

    python demo/sample.py

Each story starts from `<|bos|>` alone and ends where the model ends it, or after 200 tokens.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


@torch.inference_mode()
def sample(folder: Path, count: int, seed: int) -> list[str]:
    """Return `count` stories sampled from the model in `folder`, none short, none twice."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    start = torch.full((100, 1), tokenizer.bos_token_id)
    torch.manual_seed(seed)
    stories: dict[str, None] = {}
    while len(stories) < count:
        rows = model.generate(
            start, attention_mask=torch.ones_like(start), do_sample=True, temperature=0.8,
            top_p=0.95, top_k=0, max_new_tokens=200, pad_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
        for row in rows:
            text = tokenizer.decode(row, skip_special_tokens=True).strip()
            if len(text.split()) >= 20:
                stories[text] = None
    return list(stories)[:count]


def main() -> None:
    """Sample and write one JSON object a line."""
    here = Path(__file__).parent
    with (here / "stories.jsonl").open("w", encoding="utf-8") as file:
        for text in sample(here / "demo-gpt2", 300, seed=0):
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
