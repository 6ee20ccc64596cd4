"""cog.yaml and the requirements: what can be checked of the image without building it."""

import re
from typing import Any

import yaml

from tools import PROJECT


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


def test_pget_is_pinned_and_checked() -> None:
    [command] = _build()["run"]
    assert "releases/download/v0.11.0/" in command
    assert "grep ' pget_Linux_x86_64$' checksums.txt | sha256sum --check -" in command


def test_every_requirement_is_pinned_with_its_reason() -> None:
    for path in [*PROJECT.glob("requirements*.txt"), *PROJECT.glob("*/requirements*.txt")]:
        for line in path.read_text().splitlines():
            assert not line or line.startswith("#") or re.match(r"[\w-]+(\[\w+\])?==\S+", line), line
    for name in ("requirements.txt", "examples/requirements.txt"):
        for line in (PROJECT / name).read_text().splitlines()[1:]:
            assert re.search(r"\s# .{10,}", line), f"{line} has no reason"


def test_the_local_environment_has_the_images_packages_but_for_torch() -> None:
    image, local = _pins("requirements.txt"), _pins("requirements-dev.txt")
    assert image.pop("torch") == "2.11.0"  # the newest that has a CUDA base image in Cog
    assert image.items() <= local.items()


def test_the_examples_packages_are_those_of_the_local_environment_where_both_name_one() -> None:
    examples, local = _pins("examples/requirements.txt"), _pins("requirements-dev.txt")
    assert {name: local[name] for name in examples.keys() & local} == {
        name: examples[name] for name in examples.keys() & local
    }
    assert "torch" not in examples
