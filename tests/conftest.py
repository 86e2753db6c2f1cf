"""Fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from browser import browser, wrong  # noqa: F401
from fitting import small_capture, small_run  # noqa: F401
from hypothesis import HealthCheck, settings
from llm_models import gguf_model, language_model  # noqa: F401
from small_models import small_gguf, small_model  # noqa: F401

settings.register_profile(
    "local", deadline=None, database=None, print_blob=False,
    max_examples=int(os.environ.get("ATTN_DSL_EXAMPLES", "30")),
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
settings.register_profile("ci", settings.get_profile("local"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

_SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "shared: needs the data folder ../shared")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not _SHARED.is_dir():
        skip = pytest.mark.skip(reason=f"no data folder {_SHARED.name} beside the project")
        for item in items:
            if "shared" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The data folder beside the project's root."""
    if not _SHARED.is_dir():
        pytest.skip(f"no data folder {_SHARED.name} beside the project")
    return _SHARED
