"""cog.yaml and the requirements: checks of the image that do not need to build it."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tools import PROJECT
from tools.imports import file_of, imports


def _pins(name: str) -> dict[str, str]:
    lines = (PROJECT / name).read_text().splitlines()
    return dict(re.findall(r"^([\w-]+)==(\S+)", "\n".join(lines), re.MULTILINE))


def _build() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((PROJECT / "cog.yaml").read_text())
    assert config["predict"] == "predict.py:Predictor"
    build: dict[str, Any] = config["build"]
    return build


def test_the_image_is_a_gpu_image_of_the_pinned_parts() -> None:
    build = _build()
    assert build["gpu"] is True
    assert build["python_version"] == "3.11"
    assert build["python_requirements"] == "requirements.txt"
    assert build["sdk_version"] == _pins("requirements-dev.txt")["cog"] == _pins("requirements-dev.txt")["coglet"]


def test_the_images_server_has_one_thread() -> None:
    """With more, it refuses requests while slots are free; tools/server.py starts it so too."""
    assert yaml.safe_load((PROJECT / "cog.yaml").read_text())["environment"] == ["TOKIO_WORKER_THREADS=1"]


def test_the_image_holds_the_predictor_the_package_and_the_manifest_and_nothing_else_of_ours() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=PROJECT, check=True, capture_output=True, text=True)
    excluded = [line for line in (PROJECT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    copied = {file for file in listed.stdout.splitlines() if not any(_lies_in(file, name) for name in excluded)}
    package = {file for file in copied if file.startswith("embeddinggemma/")}
    assert copied - package == {
        *("predict.py", "weights_manifest.json"),
        *(".dockerignore", ".gitignore", "LICENSE", "cog.yaml", "requirements.txt"),  # what it is made from
    }
    assert {"embeddinggemma/check.py", "embeddinggemma/known_vectors.json", "embeddinggemma/engine/model.py"} <= package


def _lies_in(file: str, name: str) -> bool:
    """Return whether a file is the one of this name, or lies in the folder of this name."""
    return file == name or file.startswith(f"{name}/")


def test_nothing_in_the_image_imports_what_is_not_in_it() -> None:
    inside = [PROJECT / "predict.py", *(PROJECT / "embeddinggemma").rglob("*.py")]
    used = {file_of(found.module) for file in inside for found in imports(file)} - {None}
    assert used <= set(inside)


def test_the_predictor_reaches_no_package_that_is_not_in_the_image() -> None:
    reached, waiting, packages = set[Path](), [PROJECT / "predict.py"], set[str]()
    while waiting:
        file = waiting.pop()
        reached.add(file)
        for found in imports(file):
            used = file_of(found.module)
            if used is None:
                packages.add(found.module.partition(".")[0])
            elif used not in reached:
                waiting.append(used)
    installed = {name.replace("-", "_") for name in _pins("requirements.txt")}
    assert packages - sys.stdlib_module_names <= installed | {"cog", "triton"}  # which come with the server and torch
    assert PROJECT / "embeddinggemma" / "corpus" / "rows.py" in reached


def test_pget_is_pinned_and_checked() -> None:
    [command] = _build()["run"]
    assert "releases/download/v0.11.0/" in command
    assert "grep ' pget_Linux_x86_64$' checksums.txt | sha256sum --check -" in command


def test_every_requirement_is_pinned_with_its_reason() -> None:
    for path in [*PROJECT.glob("requirements*.txt"), *PROJECT.glob("*/requirements*.txt")]:
        for line in path.read_text().splitlines():
            assert not line or line.startswith("#") or re.match(r"[\w-]+(\[\w+\])?==\S+", line), line
    for name in ("requirements.txt", "examples/requirements.txt", "gateway/requirements.txt"):
        for line in (PROJECT / name).read_text().splitlines()[1:]:
            assert re.search(r"\s# .{10,}", line), f"{line} has no reason"


def test_the_local_environment_has_the_images_packages_except_torch() -> None:
    image, local = _pins("requirements.txt"), _pins("requirements-dev.txt")
    assert image.pop("torch") == "2.11.0"  # the newest version for which Cog has a CUDA base image
    assert image.items() <= local.items()


def test_the_local_environment_has_the_gateways_packages() -> None:
    assert _pins("gateway/requirements.txt").items() <= _pins("requirements-dev.txt").items()


def test_a_package_of_the_examples_and_the_local_environment_has_the_same_version_in_both() -> None:
    examples, local = _pins("examples/requirements.txt"), _pins("requirements-dev.txt")
    assert {name: local[name] for name in examples.keys() & local} == {
        name: examples[name] for name in examples.keys() & local
    }
    assert "torch" not in examples
