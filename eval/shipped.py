"""What ships with the package, in its folder `demo`: models and stories."""

from pathlib import Path

_DEMO = Path(__file__).parents[1] / "demo"


def model_dir() -> Path:
    """Return the folder of the demo model, as `from_pretrained` takes it."""
    return _DEMO / "demo-gpt2"


def stories_path() -> Path:
    """Return the JSONL file of stories sampled from the demo model (field `text`)."""
    return _DEMO / "stories.jsonl"
