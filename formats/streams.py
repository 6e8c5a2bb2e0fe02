"""Bytes in and out: paths, standard streams (`-`), gzip, and writes that never leave half a file."""

from __future__ import annotations

import gzip
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO, BinaryIO, cast

from secateur.formats.errors import InputError

STREAM = "-"
_GZIP_MAGIC = b"\x1f\x8b"
_IN_MEMORY = 16 * 2**20  # bytes of a temporary copy from which it goes to the disk


def display_name(source: str) -> str:
    """The name by which messages call a source: its path, or the standard stream's name."""
    return "standard input" if source == STREAM else source


def folder(source: str) -> Path | None:
    """The folder that a path lies in; None for a stream."""
    return None if source == STREAM else Path(source).parent


@contextmanager
def opened(source: str) -> Iterator[BufferedReader]:
    """The bytes of `source` (a path, or `-` for standard input), gunzipped when they are gzip, as a file that can be
    read anywhere: what is no such file is copied to a temporary one, in memory while it is small.

    A path without `.gz` whose file is missing is also looked for with `.gz` appended, since benchmark lists
    name files without it.

    Raises:
        InputError: missing or unreadable file, damaged gzip data, nothing on standard input.
    """
    where = display_name(source)
    with ExitStack() as stack:
        try:
            if source == STREAM:
                file = stack.enter_context(_copied(sys.stdin.buffer))
            else:
                file = stack.enter_context(_path(source).open("rb"))
            if not file.seekable():
                file = stack.enter_context(_copied(file))
            magic = file.read(len(_GZIP_MAGIC))
            file.seek(0)
            if magic == _GZIP_MAGIC:
                file = stack.enter_context(_copied(gzip.GzipFile(fileobj=file)))
        except FileNotFoundError:
            raise InputError("no such file", where=where, hint="check the path") from None
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise InputError(f"damaged gzip data: {error}", where=where, hint="compress it again") from None
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror or error}", where=where) from None
        if not magic or not file.read(1):
            raise InputError("empty: expected data, found 0 bytes", where=where)
        file.seek(0)
        yield file


def _path(source: str) -> Path:
    path = Path(source)
    compressed = path.with_name(path.name + ".gz")
    return compressed if not path.exists() and compressed.exists() else path


def _copied(stream: IO[bytes] | gzip.GzipFile) -> BufferedReader:
    copy = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 (whoever called closes it)
    shutil.copyfileobj(stream, copy)
    copy.seek(0)
    return cast("BufferedReader", copy)


def read_bytes(source: str) -> bytes:
    """All bytes of `source`; see `opened`."""
    with opened(source) as file:
        try:
            return file.read()
        except OSError as error:
            reason = error.strerror or str(error)
            raise InputError(f"cannot be read: {reason}", where=display_name(source)) from None


def write_bytes(destination: str, data: bytes) -> None:
    """Write `data` to a path (atomically: a temporary file beside it, then a rename) or to standard output.

    A path that ends in `.gz` is compressed, with no time stamp, so that the same data gives the same bytes.

    Raises:
        InputError: the destination cannot be written, or is a terminal and the data binary.
    """
    write_pieces(destination, [data])


def write_pieces(destination: str, pieces: Iterable[bytes]) -> None:
    """As `write_bytes`, of data that come in pieces."""
    if destination == STREAM:
        for piece in pieces:
            check_destination(destination, binary=b"\x00" in piece[:4096])
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return
    if destination.endswith(".gz"):
        pieces = [gzip.compress(b"".join(pieces), mtime=0)]
    with replacing(destination) as stream:
        stream.writelines(pieces)


@contextmanager
def replacing(destination: str) -> Iterator[BinaryIO]:
    """A stream to write to, whose file takes the place of the one at `destination` when all went well.

    Raises:
        InputError: it cannot be written.
    """
    path = Path(destination)
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"cannot be written: {reason}", where=destination) from None
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def check_destination(destination: str, *, binary: bool = False) -> None:
    """Refuse early, before hours of work, a destination that `write_bytes` could not write.

    Raises:
        InputError: its folder is missing or not writable, or it is a folder itself; a terminal, when `binary`.
    """
    if destination == STREAM:
        if binary and sys.stdout.isatty():
            raise InputError("refusing to write binary data to a terminal", hint="use -o FILE or a pipe")
        return
    path = Path(destination)
    if path.is_dir():
        raise InputError("cannot be written: it is a folder", where=destination, hint="name a file")
    if not path.parent.is_dir():
        raise InputError(
            "cannot be written: its folder does not exist", where=destination, hint="create it first"
        )
    if not os.access(path.parent, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise InputError("cannot be written: permission denied", where=destination)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
