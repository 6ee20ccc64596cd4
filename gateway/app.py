"""The gateway: every door's routes in front of the containers, behind the checks of access.py."""

import ctypes
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from gateway.access import guarded
from gateway.core.containers import Containers
from gateway.core.errors import answer, door_of
from gateway.core.files import Files
from gateway.core.metrics import forget_dead_processes, metrics
from gateway.core.refusal import Refusal
from gateway.core.settings import Settings
from gateway.core.tokenizing import LazyTokenizer
from gateway.doors import cog, ollama, openai, tei
from gateway.doors.files import FileRoutes
from gateway.doors.replicate import Replicate

_PR_SET_PDEATHSIG = 1  # of linux/prctl.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_KEPT = 64 << 20
"""Bytes of freed memory that stay with the process."""
_FROM_THE_HEAP = 32 << 20
"""Bytes up to which a block comes from there; more than most answers have, and the most that an older glibc allows."""


def gateway_app(settings: Settings) -> ASGIApp:
    """Return the gateway, with the page of the settings at / and Prometheus' figures at /metrics."""
    _keep_freed_memory()
    containers = Containers(settings)
    files = Files(settings)
    replicate = Replicate(settings, containers, files)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await containers.start()
        yield
        await replicate.predictions.close()
        await containers.close()

    routes: list[BaseRoute] = [
        *openai.routes(),
        *tei.routes(),
        *ollama.routes(),
        *replicate.routes(),
        *FileRoutes(settings, files).routes(),
        *cog.routes(),
        Route("/metrics", _metrics),
    ]
    if settings.page:
        routes.append(Mount("/", StaticFiles(directory=settings.page, html=True)))
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={Refusal: _refused, HTTPException: _http_error, Exception: _failed},
    )
    app.state.settings, app.state.containers, app.state.files = settings, containers, files
    app.state.tokenizer = LazyTokenizer()
    return guarded(app, settings)


def app_of_a_process() -> ASGIApp:
    """Return the gateway of one process of several; uvicorn calls it."""
    _end_with_first_process()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    forget_dead_processes(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    return gateway_app(Settings.handed_over())


def _keep_freed_memory() -> None:
    """Have glibc give no memory back between two answers.

    Else Linux hands out and clears the same megabytes for each: 2,400 pages for an answer of 1,024 vectors, and a tenth
    of its processor time.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
        mallopt(_M_MMAP_THRESHOLD, _FROM_THE_HEAP)


def _end_with_first_process() -> None:
    """Have Linux end this process, which would keep the port, when the first one is gone, even if it was killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


async def _metrics(request: Request) -> Response:
    return metrics(request.app.state.containers.urls())


async def _refused(request: Request, refusal: Exception) -> Response:
    return answer(door_of(request.url.path), cast(Refusal, refusal))


async def _http_error(request: Request, error: Exception) -> Response:
    """Answer to a path or a method that there is not."""
    status = cast(HTTPException, error).status_code
    message = f"{request.method} {request.url.path}: {HTTPStatus(status).phrase}"
    return answer(door_of(request.url.path), Refusal(status, message))


async def _failed(request: Request, _: Exception) -> Response:
    return answer(door_of(request.url.path), Refusal(500, "the gateway failed; its log says where"))
