"""Read a file that a claim points to, below a folder that is allowed."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

from memory.claims.addresses import Address
from memory.claims.limits import CHUNK, Limits
from memory.errors import Reason, Rejected


def read_file(address: Address, root: Address, limits: Limits) -> bytes:
    """The bytes of a regular file below the folder `root`, where no link is followed."""
    # Not constants: systems without these can then still use a memory without claims.
    as_folder = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    as_file = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    parts = [unquote_to_bytes(p) for p in address.path[len(root.path) :].split("/")]
    with contextlib.ExitStack() as opened:
        try:
            folder = os.open(unquote_to_bytes(root.path), as_folder)
        except OSError:
            raise Rejected(
                Reason.CLAIM_UNAVAILABLE,
                "the folder that this memory allows files from is not there",
            ) from None
        opened.callback(os.close, folder)
        for part in parts[:-1]:
            with _map_os_errors(part, folder):
                folder = os.open(part, as_folder | os.O_NOFOLLOW, dir_fd=folder)
            opened.callback(os.close, folder)
        name = parts[-1]
        with _map_os_errors(name, folder):
            # Opening alone can do something to a device, so look before.
            _check_regular(os.stat(name, dir_fd=folder, follow_symlinks=False))
            file = os.open(name, as_file | os.O_NOFOLLOW, dir_fd=folder)
        opened.callback(os.close, file)
        _check_regular(os.fstat(file))
        data = bytearray()
        while chunk := os.read(file, CHUNK):
            limits.deadline.remaining()
            data += chunk
            limits.check(len(data))
        return bytes(data)


@contextlib.contextmanager
def _map_os_errors(part: bytes, folder: int) -> Iterator[None]:
    """Say what went wrong with a part of a path in the open folder."""
    try:
        yield
    except OSError as error:
        with contextlib.suppress(OSError):
            if stat.S_ISLNK(os.stat(part, dir_fd=folder, follow_symlinks=False).st_mode):
                raise _link() from None
        match error.errno:
            case errno.ENOENT | errno.ENAMETOOLONG:
                raise Rejected(Reason.CLAIM_MISSING, "the claim points to no file") from None
            case errno.ENOTDIR:
                raise _not_a_file("goes through something that is no folder") from None
            case errno.EACCES | errno.EPERM:
                raise Rejected(
                    Reason.CLAIM_DENIED, "this memory may not read the file; grant it"
                ) from None
            case _:
                name = errno.errorcode.get(error.errno or 0, "unknown")
                raise Rejected(
                    Reason.CLAIM_UNAVAILABLE, f"the file cannot be opened ({name})"
                ) from None


def _check_regular(found: os.stat_result) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise _link()
    if not stat.S_ISREG(found.st_mode):
        raise _not_a_file("points to a folder, a pipe or a device")


def _link() -> Rejected:
    return Rejected(
        Reason.CLAIM_LINK,
        "the claim's address goes through a symbolic link; give the file's own path",
    )


def _not_a_file(what: str) -> Rejected:
    return Rejected(
        Reason.CLAIM_NOT_A_FILE, f"the claim's address {what}; it must name a regular file"
    )
