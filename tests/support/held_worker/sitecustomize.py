"""On PYTHONPATH of a cluster: its workers write their process id into HELD_EVENTS and wait while HELD_GATE exists.

They do so before each forward pass.
"""

import importlib.abc
import importlib.util
import os
import sys
import time
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

_MODULE = "embeddinggemma.engine.model"


def _hold(model: Any) -> None:
    encode = model.encode

    def held(*arguments: Any) -> Any:
        with Path(os.environ["HELD_EVENTS"]).open("a") as events:
            events.write(f"{os.getpid()}\n")
        while Path(os.environ["HELD_GATE"]).exists():
            time.sleep(0.001)
        return encode(*arguments)

    model.encode = held


class _Holder(importlib.abc.MetaPathFinder):
    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        if fullname != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def execute_and_hold(module: ModuleType) -> None:
            execute(module)
            _hold(module.EmbeddingGemma)

        spec.loader.exec_module = execute_and_hold  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _Holder())
