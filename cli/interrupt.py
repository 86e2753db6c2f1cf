"""Interrupts: ctrl-c, SIGTERM and SIGHUP end a command within two seconds; it says how to go on."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

import click

PATIENCE = 1.0
"""Seconds from ctrl-c until the process ends, if threads or a library's computation still go on."""
OTHERS = signal.SIGTERM, signal.SIGHUP
"""What ends a command like ctrl-c: `kill`, job schedulers, a terminal that is closed."""


@contextlib.contextmanager
def told(how: Callable[[], str]) -> Iterator[None]:
    """Tell how to go on when the body is interrupted, and end the process soon afterwards.

    An interrupt is an exception in the main thread once that returns to Python; then threads must
    end. Neither is waited for longer than ``PATIENCE``: what is kept is on disk already, in files
    that are whole at any moment.
    """
    near, far = socket.socketpair()
    far.setblocking(False)
    stuck = threading.Event()
    stuck.set()
    before = signal.set_wakeup_fd(far.fileno(), warn_on_full_buffer=False)
    others = [one for one in OTHERS if signal.getsignal(one) is signal.SIG_DFL]  # `nohup` ignores SIGHUP
    for number in others:
        signal.signal(number, signal.default_int_handler)
    threading.Thread(target=_watch, args=(near, how, stuck), daemon=True).start()
    try:
        yield
    except KeyboardInterrupt:
        stuck.clear()
        raise KeyboardInterrupt(how()) from None
    finally:
        for number in others:
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(before)
        far.close()


def _watch(near: socket.socket, how: Callable[[], str], stuck: threading.Event) -> None:
    """Wait for an interrupt, or for the other end to be closed."""
    while (number := near.recv(1)) and number[0] not in (signal.SIGINT, *OTHERS):
        pass
    if number:
        time.sleep(PATIENCE)
        if stuck.is_set():
            click.echo(f"interrupted; {how()}", err=True)
        sys.stdout.flush()
        os._exit(130)


def same_command(*more: tuple[str, ...]) -> str:
    """Return the command that was given, with further options, each where it lacks that one.

    >>> same_command(("--out", "runs/gpt2"), ("--resume",))
    'attn-dsl fit gpt2 --text stories.jsonl --out runs/gpt2 --resume'
    """
    given = sys.argv[1:]
    lacking = [part for option in more if option[0] not in given for part in option]
    return shlex.join(["attn-dsl", *given, *lacking])
