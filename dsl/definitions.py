"""Files of definitions: the sets, functions and scores that programs share by ``use "vocabulary.attn"``."""

import dataclasses
import hashlib
import os
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.check import check
from attn_dsl.dsl.errors import InputError, ProgramSyntaxError
from attn_dsl.dsl.limits import MAX_SOURCE
from attn_dsl.dsl.parser import Resolver, definitions_tree, parse
from attn_dsl.dsl.printer import definition_lines, show
from attn_dsl.dsl.scope import Scope
from attn_dsl.dsl.tree import Definitions as Definitions


def parse_definitions(source: str, name: str = "<definitions>") -> Definitions:
    """Parse and check the text of a file of definitions.

    >>> parse_definitions('score Stop:\\n 2 where token(i) == "."').scores["Stop"].terms[0].weight
    2.0

    Raises:
        ProgramError: it is not valid; the message shows the place, the reason and a remedy.
    """
    tree = definitions_tree(source, name)
    check(tree, source=source, name=name, max_nodes=MAX_SOURCE)
    sets = {one.name: one.value for one in tree.sets}
    scores = {one.name: one for one in tree.scores}
    functions = {one.name: one for one in tree.functions}
    content = (sets, scores, functions) if functions else (sets, scores)  # without comments
    digest = hashlib.sha256(repr(content).encode()).hexdigest()
    return Definitions(sets, scores, digest, functions)


def show_definitions(definitions: Definitions) -> str:
    """Write the canonical text of a file of definitions. Comments of sets are not kept."""
    sets = (t.SetDefinition(name, value) for name, value in definitions.sets.items())
    return ("\n".join(definition_lines(sets, definitions.scores.values(), definitions.functions.values()))
            + "\n")  # fmt: skip


def only_definitions(source: str) -> bool:
    """Return whether a source has no line ``head …``, so that it is a file of definitions."""
    lines = set(re.findall(r"^[ \t]*(set|score|def|head)\b", source, re.M))
    return bool(lines) and "head" not in lines


def canonical(source: str, name: str, define: Iterable[str | Path] = ()) -> str:
    """Write a program or a file of definitions in canonical form.

    Used files need not be there if they define no functions. A program that uses definitions of
    ``define`` gets a line that names their file.

    Raises:
        ProgramSyntaxError, CostError: the source does not follow the grammar.
    """
    if not only_definitions(source):
        find, uses = in_folder(Path(name).parent), prelude(define, Path(name).parent)

        def resolve(path: str) -> Definitions:
            try:
                return find(path)
            except InputError:
                return Definitions({}, {}, path)

        try:
            return show(parse(source, name, resolve, uses))
        except ProgramSyntaxError:
            return show(parse(source, name, find, uses))  # raises what is wrong with a file, if that is it
    tree = definitions_tree(source, name)
    after = (f"# {comment}".rstrip() for comment in tree.after)
    return "\n".join([*definition_lines(tree.sets, tree.scores, tree.functions), *after]) + "\n"


def read_definitions(path: str | Path) -> Definitions:
    """Read a file of definitions. The same object is returned while the file does not change.

    Raises:
        InputError: the file cannot be read.
        ProgramError: it is not valid.
    """
    state = os.stat(path) if os.path.isfile(path) else None
    return _read(str(path), state and (state.st_mtime_ns, state.st_size, state.st_ino))


@lru_cache(maxsize=16)
def _read(path: str, state: object) -> Definitions:
    """Read a file of definitions in a state; the latest few are kept."""
    return parse_definitions(read_source(path), path)


def read_source(path: str | Path) -> str:
    """Read the source of a program or of a file of definitions.

    Raises:
        InputError: the file cannot be read; the message names it.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        wrong = f"{path}: no such file; a program is a text file ending in .attn"
    except IsADirectoryError:
        wrong = f"{path} is a directory; name the programs in it: {path}/*.attn"
    except UnicodeDecodeError as error:
        wrong = f"{path}: not UTF-8 text at byte {error.start}; save the program as UTF-8"
    except OSError as error:
        wrong = f"{path}: cannot be read: {error.strerror}"
    raise InputError(wrong)


def prelude(files: Iterable[str | Path], folder: str | Path | None = None) -> list[t.Use]:
    """Read files of definitions that a program may use without naming them, as lines ``use`` of it.

    Args:
        folder: where the program is; the files are named as seen from there.

    Raises:
        InputError: a file cannot be read, or holds a program.
        ProgramError: it is not valid.
    """
    uses = []
    for file in files:
        if not only_definitions(read_source(file)):
            raise InputError(
                f"{file} is not a file of definitions, which has sets, functions and scores and no head; "
                "name one by --define, and programs as usual")  # fmt: skip
        path = str(file) if folder is None else os.path.relpath(file, folder).replace(os.sep, "/")
        uses.append(t.Use(path, read_definitions(file)))
    return uses


def in_folder(folder: str | Path) -> Resolver:
    """Return what finds the files that programs of a folder use: in it, or else in the folder above."""
    here = Path(folder).absolute()

    def resolve(path: str) -> Definitions:
        for place in (here / path, here.parent / path):
            if "\0" not in path and place.is_file():
                return read_definitions(place)
        raise InputError(f"{path!r} is in neither {here} nor {here.parent}; put the file there, or put the "
                         "definitions that the program needs into it")  # fmt: skip

    return resolve


def self_contained(program: t.Head) -> t.Head:
    """Return the same program with the definitions that it needs inside, and without ``use``.

    A set of a used score is written out in the score if its name means another thing in the program.
    """
    if not program.uses:
        return program
    scope = Scope.of(program)

    def alone(one: Any, file: t.Definitions) -> Any:
        own = scope.inside(file)

        def named(node: t.Node) -> t.Node:
            same = not isinstance(node, t.SetName) or scope.find(node.name)[0] == own.literal(node)
            return node if same else own.literal(node)  # type: ignore[arg-type]

        return t.rewrite(one, named)

    def used(*nodes: t.Node) -> dict[str, tuple[Any, t.Definitions]]:
        """Return what the nodes name and files define."""
        found: dict[str, tuple[Any, t.Definitions]] = {}
        for node in (one for top in nodes for one in top.walk()):
            if isinstance(node, t.SetName | t.Score | t.Call):
                find = scope.function if isinstance(node, t.Call) else scope.find
                value, file = find(node.name)
                if value is not None and file is not None:
                    found[node.name] = value, file
        return found

    named, before = used(program), 0
    while len(named) > before:  # functions use others
        before = len(named)
        named |= used(*(alone(*one) for one in named.values() if not isinstance(one[0], t.SetLiteral)))
    files = [use.definitions for use in program.uses]
    scores = [alone(*one) for one in named.values() if isinstance(one[0], t.ScoreDefinition)]
    sets = [t.SetDefinition(name, value) for name, (value, _) in named.items()
            if isinstance(value, t.SetLiteral)]  # fmt: skip
    functions = [alone(one, file) for file in files for one in file.functions.values() if one.name in named]
    return dataclasses.replace(program, sets=(*sets, *program.sets), scores=(*scores, *program.scores),
                               functions=(*functions, *program.functions), uses=())  # fmt: skip
