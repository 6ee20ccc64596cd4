"""Files that clients upload as inputs, and files of vectors for them; and from where a container may fetch others."""

import base64
import hashlib
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from cachetools import TTLCache

from gateway.core.refusal import Refusal
from gateway.core.settings import Settings
from gateway.core.webhooks import is_allowed

MAX_FILE = 70_000_000
"""Bytes of an upload: in base64, within a request to a container, it is a third larger, of at most 100,000,000."""
MAX_BYTES = 200_000_000
"""Of all files together; the oldest go first."""
MAX_AGE = 3600.0
"""Seconds that a file is kept."""
_SMALL = 1_000_000
"""Characters of a file of vectors that stays within its answer."""
_INPUT, _OUTPUT = "texts_file", "upload_url"
_OWN_PATH = re.compile(r"/v1/files/([0-9a-f]{32})(?:/download)?")
_DATA = re.compile(r"data:([\w.+/-]*)[^,]*;base64,")


@dataclass(frozen=True)
class File:
    """A file that is kept."""

    name: str
    content_type: str
    content: bytes
    metadata: Mapping[str, Any] = field(default_factory=dict)
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    created: datetime = field(default_factory=lambda: datetime.now(UTC))

    @cached_property
    def sha256(self) -> str:
        """Return the digest of its content."""
        return hashlib.sha256(self.content).hexdigest()


class Files:
    """The files of the last hour, up to MAX_BYTES, in memory."""

    def __init__(self, settings: Settings) -> None:
        """Keep files, unless the settings say that several processes share the port."""
        self._settings = settings
        self._kept: TTLCache[str, File] = TTLCache(MAX_BYTES, MAX_AGE, getsizeof=lambda file: len(file.content))

    def __iter__(self) -> Iterator[File]:
        return iter(list(self._kept.values()))

    def keep(self, file: File) -> File:
        """Keep a file and return it."""
        self._kept[file.id] = file
        return file

    def find(self, file_id: str) -> File | None:
        """Return a file that is kept, or None."""
        return self._kept.get(file_id)

    def drop(self, file_id: str) -> None:
        """Keep a file no longer."""
        self._kept.pop(file_id, None)

    def admitted(self, inputs: Any) -> Any:
        """Return the inputs of a prediction for a container, with an upload as a data URI.

        They are another object if they name a file: in the body as it came, a name may stand twice.

        Raises:
            Refusal: 422, an input names an address that the operator has not allowed, or an upload that is gone.

        """
        if not isinstance(inputs, dict) or not {_INPUT, _OUTPUT} & inputs.keys():
            return inputs
        self._check(_OUTPUT, inputs.get(_OUTPUT))
        given = inputs.get(_INPUT)
        file_id = _own_id(given) if isinstance(given, str) else None
        if file_id is None:
            if not (isinstance(given, str) and given.startswith("data:")):
                self._check(_INPUT, given)
            return {**inputs}
        file = self.find(file_id)
        if file is None:
            raise Refusal(422, f"{_INPUT} is an upload that this gateway does not keep any more; repeat it", _INPUT)
        encoded = base64.b64encode(file.content).decode("ascii")
        return {**inputs, _INPUT: f"data:application/octet-stream;base64,{encoded}"}

    def moved(self, output: Any, base_url: str) -> Any:
        """Return the output of a prediction with a large file of vectors as a URL of this gateway, where it is kept."""
        given = output.get("file") if isinstance(output, dict) else None
        if not isinstance(given, str) or len(given) <= _SMALL or not self._settings.keeps_predictions:
            return output
        found = _DATA.match(given)
        if not found:
            return output
        content = base64.b64decode(memoryview(given.encode("ascii"))[found.end() :])
        file = self.keep(File(f"vectors.{output.get('output_format')}", found[1], content))
        return {**output, "file": f"{base_url}/v1/files/{file.id}/download"}

    def _check(self, name: str, given: object) -> None:
        hosts = self._settings.file_hosts
        if given is None or (isinstance(given, str) and is_allowed(given, hosts)):
            return
        also = "an upload to this gateway (POST /v1/files), a data URI, or " if name == _INPUT else ""
        allowed = ", ".join(hosts) or "none"
        message = f"{name} must be {also}a URL of a host that this gateway allows (--allow-file-host): {allowed}"
        raise Refusal(422, message, name)


def _own_id(url: str) -> str | None:
    """Return the id of the upload that a URL names; None if it is no upload's."""
    try:
        found = _OWN_PATH.fullmatch(urlsplit(url).path)
    except ValueError:
        return None
    return found[1] if found else None
