"""The files of Replicate's HTTP API: its clients upload an input by it, and get large outputs from it."""

import json
from collections.abc import AsyncGenerator
from contextlib import suppress
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.core.call import read_body
from gateway.core.errors import json_response
from gateway.core.files import MAX_AGE, MAX_FILE, File, Files
from gateway.core.refusal import Refusal
from gateway.core.settings import Settings
from gateway.doors.predictions import timestamp

_PARTS = 8  # of a form; the clients send content and metadata


class FileRoutes:
    """The handlers of the routes."""

    def __init__(self, settings: Settings, files: Files) -> None:
        """Answer with these files."""
        self._settings = settings
        self._files = files

    def routes(self) -> list[Route]:
        """Return the API's routes."""
        return [
            Route("/v1/files", self.create, methods=["POST"]),
            Route("/v1/files", self.list),
            Route("/v1/files/{id}", self.get),
            Route("/v1/files/{id}", self.delete, methods=["DELETE"]),
            Route("/v1/files/{id}/download", self.download),
        ]

    async def create(self, request: Request) -> Response:
        """Keep an upload."""
        if not self._settings.keeps_predictions:
            raise Refusal(400, "this gateway has several processes and keeps no files; give a data URI")
        body = await read_body(request, min(self._settings.max_body, MAX_FILE))
        return json_response(_shown(self._files.keep(await _upload(request, body)), request), 201)

    async def list(self, request: Request) -> Response:
        """Answer with all files that are kept, in one page."""
        results = [_shown(file, request) for file in self._files]
        return json_response({"previous": None, "next": None, "results": results})

    async def get(self, request: Request) -> Response:
        """Answer with what is known about a file."""
        return json_response(_shown(self._find(request), request))

    async def download(self, request: Request) -> Response:
        """Answer with a file's content."""
        file = self._find(request)
        headers = {
            "Content-Disposition": f"attachment; filename*=utf-8''{quote(file.name)}",
            "X-Content-Type-Options": "nosniff",
        }
        return Response(file.content, media_type="application/octet-stream", headers=headers)

    async def delete(self, request: Request) -> Response:
        """Keep a file no longer."""
        self._files.drop(self._find(request).id)
        return Response(status_code=204)

    def _find(self, request: Request) -> File:
        file = self._files.find(request.path_params["id"])
        if file is None:
            raise Refusal(404, f"File not found; a file is kept for {MAX_AGE / 60:.0f} minutes at most")
        return file


async def _upload(request: Request, body: bytes) -> File:
    """Return the file that a form holds."""

    async def whole() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        form = await MultiPartParser(request.headers, whole(), max_files=_PARTS, max_fields=_PARTS).parse()
    except MultiPartException as error:
        raise Refusal(400, f"the body is not a form (multipart/form-data): {error.message}") from None
    content, given = form.get("content"), form.get("metadata", "{}")
    if not isinstance(content, UploadFile):
        raise Refusal(422, "content is missing; give a file", "content")
    metadata = await given.read() if isinstance(given, UploadFile) else given
    return File(
        content.filename or "file",
        content.content_type or "application/octet-stream",
        await content.read(),
        _object(metadata),
    )


def _object(metadata: bytes | str) -> dict[str, Any]:
    with suppress(ValueError, RecursionError):
        given = json.loads(metadata)
        if isinstance(given, dict):
            return given
    raise Refusal(422, "metadata is not a JSON object", "metadata")


def _shown(file: File, request: Request) -> dict[str, Any]:
    """Return a file as Replicate's API shows it."""
    return {
        "id": file.id,
        "name": file.name,
        "content_type": file.content_type,
        "size": len(file.content),
        "etag": file.sha256,
        "checksums": {"sha256": file.sha256},
        "metadata": file.metadata,
        "created_at": timestamp(file.created),
        "expires_at": timestamp(file.created + timedelta(seconds=MAX_AGE)),
        "urls": {"get": f"{str(request.base_url).rstrip('/')}/v1/files/{file.id}"},
    }
