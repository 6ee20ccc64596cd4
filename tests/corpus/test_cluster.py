"""A real cluster of two nodes, with a token: what keeps a run out of it, and what a run survives."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from embeddinggemma import Embedder
from embeddinggemma.corpus.cluster import check_cluster
from tests.support.clusters import HEAD, OTHER, Cluster, running_cluster
from tests.support.corpora import read_output, run_script, texts, write_jsonl
from tools import SCRIPTS
from tools.client import wait_until
from tools.reference_model import warm_cache
from tools.server import free_port

TEXTS = texts(2000)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as started:
        yield started


@pytest.fixture
def user(cluster: Cluster, variables: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """The environment of a user who has the token as a file, where Ray looks for it."""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(f"{cluster.variables['RAY_AUTH_TOKEN']}\n")
    return {**variables, "HOME": str(tmp_path), "RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": "", "RAY_ADDRESS": ""}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("rows") / "rows.jsonl", [{"text": text} for text in TEXTS])


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ray://127.0.0.1:10001", "--address ray://127.0.0.1:10001: give HOST:PORT of the cluster's head, without"),
        ("http://127.0.0.1:6379", "without a protocol"),
        ("", "--address is ''; it must be HOST:PORT of a Ray cluster's head, or auto"),
        (":6379", "--address is ':6379'; it must be HOST:PORT"),
        ("local", "--address is 'local'; it must be HOST:PORT"),
        ("127.0.0.1:port", "--address is '127.0.0.1:port'; it must be HOST:PORT"),
        ("127.0.0.1:65536", "--address is '127.0.0.1:65536'; it must be HOST:PORT"),
        ("127.0.0.1:6379/x", "--address is '127.0.0.1:6379/x'; it must be HOST:PORT"),
        ("no-such-host.invalid", "no Ray cluster answers at no-such-host.invalid:6379 ("),
    ],
)
def test_an_address_that_is_none_is_refused(
    address: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=re.escape(message)):
        check_cluster(address)


TOKENS: dict[str, tuple[dict[str, str], str]] = {
    "empty": ({"RAY_AUTH_TOKEN_PATH": "/dev/null"}, "RAY_AUTH_TOKEN_PATH, /dev/null, holds no token"),
    "missing": ({"RAY_AUTH_TOKEN_PATH": "/nothing"}, "RAY_AUTH_TOKEN_PATH, /nothing, holds no token"),
    "no header": ({"RAY_AUTH_TOKEN": "two\nlines"}, "RAY_AUTH_TOKEN holds characters that no token has"),
    "none": ({}, "RAY_AUTH_MODE is token, and there is none"),
}


@pytest.mark.parametrize("name", TOKENS)
def test_a_token_that_cannot_be_one_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes, message = TOKENS[name]
    unset = dict.fromkeys(("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"), "")
    for variable, value in {"HOME": str(tmp_path), "RAY_AUTH_MODE": "token", **unset, **changes}.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=message):
        check_cluster("127.0.0.1")


def _refusal(user: dict[str, str], *arguments: object) -> str:
    """Return the line in which a run ends before its work begins."""
    refused = run_script(user, "embed_corpus", *arguments)
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    assert refused.stdout == ""
    return refused.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_cluster_that_lets_nobody_in_says_what_is_missing(
    cluster: Cluster, user: dict[str, str], rows: Path, tmp_path: Path
) -> None:
    output, token = tmp_path / "out", cluster.variables["RAY_AUTH_TOKEN"]
    arguments = (rows, output, "--address")
    absent = f"{HEAD}:{free_port()}"
    assert f"no Ray cluster answers at {absent} (Connection refused)" in _refusal(user, *arguments, absent)
    wrong = _refusal({**user, "RAY_AUTH_TOKEN": "wrong"}, *arguments, cluster.address)
    assert f"--address {cluster.address}: it refuses the token from RAY_AUTH_TOKEN; put the token" in wrong
    none = _refusal({**user, "HOME": "/nothing"}, *arguments, cluster.address)
    assert f"--address {cluster.address}: it lets nobody in without its token; put the token" in none
    assert not output.exists()
    with cluster.of_version(ray_version="2.9.0"):
        version = _refusal(user, *arguments, cluster.address)
    assert "Version mismatch: The cluster was started with: Ray: 2.9.0" in version
    assert token not in wrong + none + version


@pytest.mark.slow
def test_what_one_machine_lacks_is_said_before_work_begins(
    cluster: Cluster, user: dict[str, str], rows: Path, small_model: Path, tmp_path: Path
) -> None:
    if not cluster.hides:
        pytest.skip("this user may not hide a folder from a process")
    unseen = write_jsonl(cluster.hidden / "rows.jsonl", [{"text": "a"}])
    to = (tmp_path / "out", "--address", cluster.address)
    assert re.search(rf"\({OTHER}\): {unseen} cannot be read there: No such file", _refusal(user, unseen, *to))
    changes = warm_cache(small_model, cluster.hidden / "cache")
    weights = _refusal({**user, **changes}, rows, *to)
    assert re.search(rf"\({OTHER}\): the weights of \S+ are not complete: .* no source is named", weights)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["_corpus.json"]


@pytest.mark.slow
def test_a_run_survives_a_full_store_a_lost_worker_and_a_lost_machine(
    cluster: Cluster, user: dict[str, str], rows: Path, tmp_path: Path, embedder: Embedder
) -> None:
    output, log = tmp_path / "out", tmp_path / "log"
    command = [SCRIPTS / "embed_corpus", rows, output, "--address", cluster.address, "--rows-per-part", "250"]

    cluster.gate.touch()
    with cluster.full_store(), log.open("w") as printed:
        process = subprocess.Popen(list(map(str, command)), env={**os.environ, **user}, stdout=printed, stderr=printed)
        wait_until(lambda: cluster.held(HEAD) and cluster.held(OTHER))
        before = cluster.held(HEAD)
        cluster.kill(OTHER)
        for worker in before:  # it would hold the core that the next one needs
            worker.kill()
        wait_until(lambda: set(cluster.held(HEAD)) - set(before))
        [worker] = cluster.held(HEAD)
        worker.kill()
        wait_until(lambda: set(cluster.held(HEAD)) - {worker})
        assert log.read_text().count("a worker was lost") >= 2
        cluster.gate.unlink()
        assert process.wait(600) == 0, log.read_text()
    assert "rows: 2,000 = 2,000 embedded + 0 rejected" in log.read_text()
    assert cluster.variables["RAY_AUTH_TOKEN"] not in log.read_text()
    table = read_output(output)
    assert table["text"].to_pylist() == TEXTS
    assert table["id"].to_pylist() == [f"rows.jsonl:{row}" for row in range(1, len(TEXTS) + 1)]
    vectors = np.array(table["embedding"].to_pylist(), np.float32)
    assert np.abs(vectors - embedder.embed(TEXTS)).max() < 1e-5


@pytest.mark.slow
def test_a_cluster_without_a_token_lets_in_a_user_who_has_that_of_another(user: dict[str, str], tmp_path: Path) -> None:
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"text": "a"}])
    with running_cluster(nodes=(HEAD,), auth="disabled") as cluster:
        ran = run_script(user, "embed_corpus", rows, tmp_path / "out", "--address", cluster.address)
    assert ran.returncode == 0, ran.stderr
