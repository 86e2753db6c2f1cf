"""Texts: reading them from files or data sets, hashing them, and splitting them by hash."""

import glob
import hashlib
import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Literal

from attn_dsl.dsl.errors import InputError, did_you_mean
from attn_dsl.eval.files import UNREADABLE, first_line

SplitName = Literal["fit", "select", "test"]
SPLITS: tuple[SplitName, ...] = ("fit", "select", "test")
Spec = str | Sequence[str]
"""What texts are read from: a file, a pattern, a directory or a data set, or several of these."""
WHOLE = (".md .rst .tex .py .pyi .js .jsx .ts .tsx .java .kt .c .h .cc .cpp .hpp .cs .go .rs .rb .php "
         ".swift .scala .lua .pl .r .jl .hs .ml .el .lisp .sh .sql .html .css .toml .yaml .yml "
         ".attn").split()  # fmt: skip
"""Suffixes of files that are one text each: Markdown and source code."""
KNOWN = f".txt (separated by blank lines), .jsonl (field `text`), {WHOLE[0]} or source code"


def text_hash(text: str) -> str:
    """Return the SHA-256 of a text's UTF-8 bytes, 64 hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def hash_fraction(text_hash: str, seed: int) -> float:
    """Map a text's hash and a seed to a number that is uniform on [0, 1)."""
    digest = hashlib.sha256(f"{seed}:{text_hash}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def split_of(text_hash: str, seed: int) -> SplitName:
    """Say which part a text belongs to (60/20/20); another seed gives an independent split."""
    fraction = hash_fraction(text_hash, seed)
    return SPLITS[(fraction >= 0.6) + (fraction >= 0.8)]


def read_texts(spec: Spec) -> list[str]:
    """Read texts from files, directories or data sets.

    >>> from tempfile import mkdtemp
    >>> path = Path(mkdtemp()) / "two.txt"
    >>> _ = path.write_text("Once upon\\na time.\\n\\nThe end.\\n")
    >>> read_texts(str(path))
    ['Once upon\\na time.', 'The end.']

    Args:
        spec: a ``.txt`` file (texts separated by blank lines), a ``.jsonl`` file (field ``text``), a file of
            Markdown or source code (one text), a directory of these (hidden files left out), a pattern such
            as ``"docs/**/*.md"``, or ``hf:dataset[:split[:column]]`` (split ``train``, column ``text`` unless
            said otherwise; needs the optional package ``datasets``); or several of these.

    Raises:
        InputError: the file or data set cannot be had, or is empty, of another kind or damaged.
    """
    if not isinstance(spec, str):
        return [text for one in spec for text in read_texts(one)]
    texts = []
    if spec.startswith("hf:"):
        texts = _read_dataset(spec)
    else:
        for name in _files(spec):
            texts += _read_file(name)
    if not texts:
        raise InputError(f"{spec} holds no text; it is empty or all blank")
    return texts


def _files(spec: str) -> list[str]:
    """Return the files that a path or pattern means; of directories and patterns, those of known kinds."""
    path = Path(spec).expanduser()
    if path.is_dir():
        found = [p for p in path.rglob("*") if "/." not in f"/{p.relative_to(path).as_posix()}"]
    elif not path.exists() and glob.has_magic(spec):
        found = [Path(name) for name in glob.iglob(str(path), recursive=True)]
    else:
        return [spec]
    kinds = (".txt", ".jsonl", *WHOLE)
    names = sorted(str(p) for p in found if p.suffix.lower() in kinds and p.is_file())
    if not names:
        what = "is a directory" if path.is_dir() else "is a pattern"
        raise InputError(f"{spec} {what} that gives no texts; they are read from {KNOWN}")
    return names


def _read_file(spec: str) -> list[str]:
    """Read the texts of one file."""
    path = Path(spec).expanduser()
    kind = path.suffix.lower()
    if kind not in (".txt", ".jsonl", *WHOLE) and path.is_file():
        raise InputError(f"{spec}: texts are read from {KNOWN}, not from "
                         f"{path.suffix or 'a file without suffix'}; rename or convert it")  # fmt: skip
    content = _decoded(path, spec)
    if kind in WHOLE:
        return [content] if content.strip() else []
    return _paragraphs(content) if kind == ".txt" else _json_lines(content, spec)


def _decoded(path: Path, spec: str) -> str:
    """Read a file as UTF-8, saying at which byte it is something else."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        folder = path.parent.iterdir() if path.parent.is_dir() else ()
        names = sorted(p.name for p in folder if p.suffix in (".txt", ".jsonl", *WHOLE))
        hint = did_you_mean(path.name, names) or "check the path"
        raise InputError(f"{spec} does not exist; {hint}") from None
    except OSError as error:
        raise InputError(f"{spec} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{spec} is not UTF-8: byte {error.start} cannot be read; convert it, for example "
                         "with `iconv -f LATIN1 -t UTF-8`") from error  # fmt: skip


def _paragraphs(content: str) -> list[str]:
    """Split a text file at blank lines."""
    lines = content.replace("\r\n", "\n").split("\n")
    groups = groupby(lines, lambda line: bool(line.strip()))
    return ["\n".join(group) for filled, group in groups if filled]


def _json_lines(content: str, spec: str) -> list[str]:
    """Take the field `text` of every line of a JSONL file; blank lines and texts are left out."""
    texts: list[str] = []
    for number, line in enumerate(content.split("\n"), 1):
        try:
            texts.append(json.loads(line)["text"] if line.strip() else "")
            if not isinstance(texts[-1], str):
                raise TypeError("`text` must be a string")
            texts[-1].encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{spec}:{number}: half of a surrogate pair "
                             f"(\\u{ord(error.object[error.start]):04x}), which is no character; write the "
                             "file again as UTF-8") from error  # fmt: skip
        except UNREADABLE as error:
            raise InputError(f"{spec}:{number}: not a JSON object with a string in the field `text`, such as "
                             f'{{"text": "Once upon a time"}}, but {line[:40]}') from error  # fmt: skip
    return [text for text in texts if text.strip()]


def _read_dataset(spec: str) -> list[str]:
    """Read a column of a data set through the optional package `datasets`."""
    name, split, column = [*spec.removeprefix("hf:").split(":"), "", ""][:3]
    split, column = split or "train", column or "text"
    if not name or spec.count(":") > 3:
        raise InputError(f"{spec}: write hf:dataset, hf:dataset:split or hf:dataset:split:column")
    try:
        import datasets  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError as error:
        raise InputError(f"{spec} needs the package `datasets`: run `pip install datasets`, or give a .txt "
                         "or .jsonl file") from error  # fmt: skip
    try:
        rows = datasets.load_dataset(name, split=split)
    except Exception as error:  # the package raises many unrelated classes
        raise InputError(f"{spec}: the data set `{name}` (split `{split}`) cannot be loaded: "
                         f"{first_line(error)}") from error  # fmt: skip
    if column not in rows.column_names:
        shown = ", ".join(f"`{name}`" for name in rows.column_names)
        raise InputError(f"{spec}: no column `{column}`; the columns are {shown}")
    return [text for text in rows[column] if isinstance(text, str) and text.strip()]
