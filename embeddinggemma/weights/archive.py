"""A tar to the pinned files in it, found by their bytes and not by their names."""

import hashlib
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import cast

from embeddinggemma.weights.fetching import DownloadError
from embeddinggemma.weights.manifest import PinnedFile


def unpack_pinned(archive: Path, files: Sequence[PinnedFile], folder: Path) -> Iterator[tuple[PinnedFile, Path, str]]:
    """Write the members of a tar that are pinned files, recognised by their bytes, into a folder.

    A Hub cache keeps a snapshot's files as blobs behind links, so a member's name says little. Names and links are not
    used at all. So no `../`, absolute path or link can lead out of the folder, and tarfile's data filter, which refuses
    such members, is not needed.

    Yields:
        A pinned file, its path in the folder (whose subfolders exist), and its sha256.

    Raises:
        DownloadError: it is not an intact tar, or lacks a file; the files yielded before can be used.

    """
    wanted = list(files)
    wrong_digests: dict[int, str] = {}  # by size: sha256 of members that have a pinned file's size, not its bytes
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                if not member.isreg() or member.size not in {file.size for file in wanted}:
                    continue
                sha256 = hashlib.file_digest(_content(tar, member), "sha256").hexdigest()
                found = [file for file in wanted if file.sha256 == sha256]
                if not found:
                    wrong_digests[member.size] = sha256
                for file in found:
                    with (folder / file.path).open("wb") as unpacked:
                        shutil.copyfileobj(_content(tar, member), unpacked, 1 << 20)
                    wanted.remove(file)
                    yield file, folder / file.path, sha256
    except (tarfile.TarError, ValueError) as error:
        raise DownloadError(f"it is not an intact tar: {error}") from None
    if wanted:
        raise DownloadError("; ".join(_absent(file, wrong_digests.get(file.size)) for file in wanted))


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> BufferedReader:
    """Return the bytes of a member that is a regular file (only other members have none)."""
    return cast(BufferedReader, tar.extractfile(member))


def _absent(file: PinnedFile, wrong_digest: str | None) -> str:
    instead = f" (a file of its size has sha256 {wrong_digest}, not {file.sha256})" if wrong_digest else ""
    return f"{file.path} is not in the tar{instead}"
