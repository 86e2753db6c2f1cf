"""The command `attn-dsl`: subcommands are imported only when they run, so that help is instant."""

from __future__ import annotations

import importlib
import os
import sys

import click

from attn_dsl.cli import interrupt
from attn_dsl.cli.terminal import controls_shown

COMMANDS = {
    "fit": ("fit", "Find a program for each head of a model."),
    "capture": ("capture", "Store the attention of every head of a model on a text."),
    "score": ("score", "Score programs against captured heads."),
    "detect": ("detect", "Say which heads are of a known kind, such as induction."),
    "show": ("show", "Show the attention matrix of a program on a text."),
    "explain": ("explain", "Describe a program in plain English."),
    "diff": ("diff", "Show what changed from one program to another, and where."),
    "check": ("check", "Check programs: syntax, types, causality, cost, properties."),
    "fmt": ("fmt", "Rewrite programs in canonical form."),
    "export": ("export", "Write a program as NumPy, PyTorch, Flex, Numba or LaTeX."),
    "replace": ("replace", "Put programs in the place of heads; measure what is lost."),
    "compare": ("compare", "Show what an edited program changes in the model's predictions."),
    "report": ("report", "Write the HTML report of a run."),
    "view": ("view", "Serve the report of a run: type a sentence, edit a program."),
    "features": ("reference", "List the vocabulary: features, functions, word sets."),
    "grammar": ("reference", "Print the grammar of the language."),
    "completion": ("completion", "Print the script by which a shell completes commands."),
}
"""Commands: the module of `cli/` that holds each, and its help in the overview."""


class Commands(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"attn_dsl.cli.{COMMANDS[cmd_name][0]}")
        return getattr(module, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the overview without importing any command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def resolve_command(self, ctx: click.Context,
                        args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:  # fmt: skip
        """Find a command, or say which one may have been meant."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from attn_dsl.dsl.errors import did_you_mean

            near = did_you_mean(args[0], COMMANDS) or "run `attn-dsl --help` for the list"
            raise click.UsageError(f"there is no command `{args[0]}`; {near}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="attn-dsl", prog_name="attn-dsl")
@click.option("--verify", is_flag=True, envvar="ATTN_DSL_VERIFY",
              help="Compare all files of captures with their hashes again.")  # fmt: skip
def cli(verify: bool) -> None:
    """Explain attention heads by short programs that anyone can read.

    Programs are written in a small language (files ending in .attn), fitted to the heads of
    transformer models, scored on held-out text, and shown.
    """
    if verify:
        os.environ["ATTN_DSL_VERIFY"] = "1"  # where captures are opened, in workers too


@controls_shown()
def main(args: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 the work failed, 2 wrong input, 130 interrupted."""
    from attn_dsl.dsl.errors import AttnDslError, WorkError

    try:
        # Outside of its standalone mode click returns the code of an `Exit`.
        with interrupt.told(str):
            code = cli.main(args=args, prog_name="attn-dsl", standalone_mode=False) or 0
    except click.ClickException as error:
        error.show()
        code = 2
    except (KeyboardInterrupt, click.Abort) as error:
        how = str(error.__cause__ or error)  # click turns an interrupt into an `Abort`
        click.echo(f"interrupted; {how}" if how else "interrupted", err=True)
        code = 130
    except BrokenPipeError:
        # Whoever read our output has closed it, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except (AttnDslError, OSError) as error:
        if os.environ.get("ATTN_DSL_DEBUG"):
            raise
        told = str(error)
        if isinstance(error, OSError):
            place = f"{error.filename}: " if error.filename else ""
            told = f"{place}{error.strerror or error}"
        click.echo(f"attn-dsl: {told}", err=True)
        code = 1 if isinstance(error, (WorkError, OSError)) else 2
    sys.exit(code)
