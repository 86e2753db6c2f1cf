"""The embedded demo model and its stories, the default of `attn-dsl fit`."""

from pathlib import Path

__all__ = ["model_dir", "stories_path"]


def model_dir() -> Path:
    """Return the folder of the demo model, as `from_pretrained` takes it."""
    return Path(__file__).parent / "demo-gpt2"


def stories_path() -> Path:
    """Return the JSONL file of stories sampled from the demo model (field `text`)."""
    return Path(__file__).parent / "stories.jsonl"
