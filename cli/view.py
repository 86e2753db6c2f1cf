"""`attn-dsl view`: the report of a run as a live page, where programs are edited and sentences typed."""

from __future__ import annotations

import click

from attn_dsl.cli import completion, options
from attn_dsl.dsl.errors import InputError


@click.command()
@click.argument("run", shell_complete=completion.runs)
@click.option("--port", metavar="N", type=click.IntRange(0, 65535), default=0,
              help="Where to serve it; a free port by default.")  # fmt: skip
@click.option("--no-browser", is_flag=True, help="Print the address, and open no browser.")
@options.moved_model_option()
@options.moved_capture_option()
def view(run: str, port: int, no_browser: bool, model: str | None, capture: str | None) -> None:
    """Serve the report of RUN on this machine, as a live page, until ctrl-c.

    On the page of a head, type a sentence and edit the program: matrices, IoU and output R² follow,
    and what the model predicts with the program in the place of its head.
    """
    options.quiet_libraries()
    try:
        import uvicorn

        from attn_dsl.cli import view_server
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is missing: pip install 'attn-dsl[view]'") from None
    import secrets
    import threading
    import webbrowser

    from attn_dsl.eval.report import render, report_data
    from attn_dsl.eval.run import Run

    opened = Run.open(run)
    attention, listening = opened.open_capture(capture), view_server.listen(port)
    click.echo(f"reading {run} …", err=True)
    page = render(report_data(opened, attention), live=True)
    token, port = secrets.token_urlsafe(24), listening.getsockname()[1]
    live = view_server.LiveRun(opened, attention, model)
    served = view_server.application(live, page, token, port)
    address = f"http://{view_server.HOST}:{port}/{token}/"
    click.echo(address)
    if not no_browser:  # some browsers return only when they are closed
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    config = uvicorn.Config(
        served, loop="asyncio", http="h11", ws="none", lifespan="off", log_level="warning",
        timeout_graceful_shutdown=1,
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[listening])
