"""The gateway's image and compose file, as far as they run without Docker."""

import argparse
import re
import shlex
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.core.settings import Settings
from gateway.main import add_options, settings_of
from tests.support.documents import printed
from tests.support.servers import RunningServer, running_gateway
from tools import PROJECT
from tools.client import Client

DOCKERFILE = (PROJECT / "gateway" / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((PROJECT / "gateway" / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OPENAI = printed("README.md", "python", "from openai import OpenAI")
START = printed("README.md", "bash", "scripts/gateway --start 1")
[ENTRYPOINT] = re.findall(r"^ENTRYPOINT (\[.*\])$", DOCKERFILE, re.MULTILINE)


def _copied() -> list[tuple[str, str]]:
    """Return what the image's last stage copies from the project, and where to."""
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    return re.findall(r"^COPY (?!--from)(\S+) (\S+)$", last, re.MULTILINE)


@pytest.mark.slow
def test_the_image_has_all_that_the_gateway_needs(server: RunningServer, tmp_path: Path) -> None:
    image = tmp_path / "image"
    for source, target in _copied():
        (image / target).parent.mkdir(parents=True, exist_ok=True)
        if (PROJECT / source).is_dir():
            shutil.copytree(PROJECT / source, image / target, dirs_exist_ok=True)
        else:
            shutil.copy(PROJECT / source, image / target)
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "--requirement", str(image / "gateway" / "requirements.txt")]
    subprocess.run(install, check=True)
    command = [python, "-m", "gateway", "--container", server.url, "--port", "0"]
    with running_gateway(command, folder=image) as (url, _):
        answer = Client(url).send(b'{"inputs": "a"}', path="/embed").json()
        assert len(answer[0]) == 768


def test_the_image_starts_the_gateway_on_every_address() -> None:
    words = yaml.safe_load(ENTRYPOINT)
    assert words[:3] == ["python", "-m", "gateway"]
    assert _settings_and_host([*words[3:], "--allow-host", "a"], {"GATEWAY_API_KEYS": "key"})[1] == "0.0.0.0"  # noqa: S104


def test_the_compose_file_starts_a_gateway_that_asks_for_keys(tmp_path: Path) -> None:
    gateway = SERVICES["gateway"]
    assert (PROJECT / "gateway" / gateway["build"]["context"]).resolve() == PROJECT
    assert (PROJECT / gateway["build"]["dockerfile"]).is_file()
    keys = tmp_path / "keys"
    keys.write_text(f"{'0' * 64}  someone\n")
    given = gateway["command"].replace("/run/secrets/keys", str(keys))
    words = shlex.split(re.sub(r"\$\{DOMAIN:\?[^}]*\}", "embed.example.com", given))
    settings, _ = _settings_and_host([*yaml.safe_load(ENTRYPOINT)[3:], *words], gateway["environment"])
    assert settings.key_digests == ("0" * 64,)
    assert "embed.example.com" in settings.hosts
    containers = [name for name, service in SERVICES.items() if service.get("image") == "embeddinggemma"]
    assert settings.containers == tuple(f"http://{name}:5000" for name in containers)


def test_each_container_of_the_compose_file_has_a_gpu_of_its_own_and_no_port_of_the_machine() -> None:
    containers = [service for service in SERVICES.values() if service.get("image") == "embeddinggemma"]
    devices = [service["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"] for service in containers]
    assert devices == [["0"], ["1"]]
    assert all("ports" not in service for name, service in SERVICES.items() if name != "caddy")
    for service in SERVICES.values():
        assert set(service["networks"]) <= set(COMPOSE["networks"])
        assert {volume.partition(":")[0] for volume in service.get("volumes", [])} <= set(COMPOSE["volumes"])


def _settings_and_host(words: list[str], environment: dict[str, str]) -> tuple[Settings, str]:
    parser = argparse.ArgumentParser()
    add_options(parser)
    options = parser.parse_args(words)
    return settings_of(options, environment), options.host


@pytest.mark.slow
def test_openais_client_is_answered_as_printed() -> None:
    with running_gateway(["bash", "-c", f"cd {PROJECT} && exec {START.strip()} --port 0"]) as (url, _):
        program = OPENAI.replace("http://127.0.0.1:8000", url)
        ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "768 14\n"), ran.stderr
