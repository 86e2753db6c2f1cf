"""`attn-dsl completion`, and what a shell is offered: files, runs, their heads, embedded models."""

from __future__ import annotations

from glob import escape, glob
from pathlib import Path

import click
from click.shell_completion import CompletionItem, get_completion_class

from attn_dsl.eval.heads import unpadded

EMBEDDED = ("demo", "smollm2")
"""The embedded models of ``eval.locate``, whose import takes longer than a shell waits."""


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes commands, options, runs and heads in a SHELL.

    Put it into the file that the shell reads when it starts: for bash, with the line
    `eval "$(attn-dsl completion bash)"` in ~/.bashrc; for zsh likewise in ~/.zshrc; for fish, with
    `attn-dsl completion fish > ~/.config/fish/completions/attn-dsl.fish`.
    """
    kind, root = get_completion_class(shell), click.get_current_context().find_root()
    assert kind is not None
    click.echo(kind(root.command, {}, "attn-dsl", "_ATTN_DSL_COMPLETE").source())


def runs(ctx: click.Context, param: click.Parameter, start: str) -> list[CompletionItem]:
    """Offer the run directories that begin like this, those in ``runs`` too; else directories."""
    found = {*glob(f"{escape(start)}*"), *glob(f"{escape(start)}*/*"), *glob("runs/*")}
    named = sorted(x for x in found if x.startswith(start) and Path(x, "run.json").is_file())
    return [CompletionItem(x) for x in named] or [CompletionItem(start, type="dir")]


def programs(ctx: click.Context, param: click.Parameter, start: str) -> list[CompletionItem]:
    """Offer run directories, and whatever files the shell finds."""
    found = [one for one in runs(ctx, param, start) if one.type == "plain"]
    return found or [CompletionItem(start, type="file")]


def heads(ctx: click.Context, param: click.Parameter, start: str) -> list[CompletionItem]:
    """Offer the heads of the run that the command names before."""
    place = ctx.params.get("run") or ctx.params.get("program") or next(iter(ctx.args), "")
    done, comma, last = start.rpartition(",")
    files = sorted(Path(place, "state").glob("L*H*.json")) if isinstance(place, str) else []
    names = [unpadded(file.stem) for file in files]
    return [CompletionItem(done + comma + x) for x in names if x.lower().startswith(last.lower())]


def models(ctx: click.Context, param: click.Parameter, start: str) -> list[CompletionItem]:
    """Offer the embedded models, and directories and files."""
    found = [CompletionItem(x) for x in EMBEDDED if start and x.startswith(start)]
    return found or programs(ctx, param, start)
