"""Files through the gateway: uploads, downloads, and from where a container may fetch."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from gateway.core import files
from gateway.core.files import File, Files
from gateway.core.refusal import Refusal
from gateway.core.settings import Settings
from tests.support.clients import KEY
from tests.support.faulty_server import FaultyServer
from tests.support.gateways import RunningGateway, gateway_process, gateway_refusal
from tests.support.replicate import MODEL
from tests.support.servers import RunningServer
from tests.support.upload_store import upload_store

TEXTS = [f"{number} is a planet" for number in range(400)]  # their vectors are larger than what stays in an answer
JSONL = "".join(f"{json.dumps(text)}\n" for text in TEXTS).encode()
URI = f"data:text/plain;base64,{base64.b64encode(JSONL).decode()}"
PREDICTIONS = f"/v1/models/{MODEL}/predictions"


@pytest.fixture(scope="module")
def gateway(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    options = ["--container", server.url, "--max-body", "1000000", "--allow-file-host", "localhost"]
    with gateway_process(tmp_path_factory.mktemp("files"), *options) as started:
        yield started


def upload(gateway: str, content: bytes, **headers: str) -> requests.Response:
    files = {"content": ("texts.jsonl", content, "application/jsonl")}
    data = {"metadata": '{"of": "me"}'}
    return requests.post(f"{gateway}/v1/files", files=files, data=data, headers=headers, timeout=600)


def predict(gateway: str, inputs: dict[str, Any], **headers: str) -> requests.Response:
    headers = {"Prefer": "wait", **headers}
    return requests.post(f"{gateway}{PREDICTIONS}", json={"input": inputs}, headers=headers, timeout=600)


def test_an_upload_is_described_downloaded_used_and_deleted(gateway: RunningGateway, server: RunningServer) -> None:
    answer = upload(gateway.url, JSONL)
    assert answer.status_code == 201
    file = answer.json()
    url = file["urls"]["get"]
    assert url == f"{gateway.url}/v1/files/{file['id']}"
    assert (file["name"], file["content_type"], file["size"]) == ("texts.jsonl", "application/jsonl", len(JSONL))
    assert file["metadata"] == {"of": "me"}
    assert requests.get(url, timeout=600).json() == file
    assert file in requests.get(f"{gateway.url}/v1/files", timeout=600).json()["results"]
    assert requests.get(f"{url}/download", timeout=600).content == JSONL
    prediction = predict(gateway.url, {"texts_file": url}).json()
    assert prediction["status"] == "succeeded", prediction
    assert prediction["input"] == {"texts_file": url}
    found = requests.get(prediction["output"]["file"], timeout=600)
    assert prediction["output"]["file"].startswith(f"{gateway.url}/v1/files/")
    assert np.abs(np.load(io.BytesIO(found.content)) - server.embed(TEXTS, "retrieval_document")).max() < 1e-5
    assert "vectors.npy" in found.headers["Content-Disposition"]
    direct = gateway.predict(texts_file=url)  # Cog's door
    assert base64.b64decode(direct["file"].partition(",")[2]) == found.content
    assert requests.delete(url, timeout=600).status_code == 204
    assert requests.get(url, timeout=600).status_code == 404
    gone = predict(gateway.url, {"texts_file": url})
    assert (gone.status_code, "does not keep any more" in gone.json()["detail"]) == (422, True)


def test_a_small_file_of_vectors_stays_in_its_answer(gateway: RunningGateway) -> None:
    output = predict(gateway.url, {"texts_file": URI, "output_dtype": "ubinary"}).json()["output"]
    assert output["file"].startswith("data:application/octet-stream;base64,")


@pytest.mark.parametrize("door", ["replicate", "cog"])
@pytest.mark.parametrize("name", ["texts_file", "upload_url"])
@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/texts.jsonl",
        "https://localhost@example.com/",
        "file:///etc/passwd",
        "/etc/passwd",
        "http://[",
        5,
        "http://127.0.0.1/v1/files/../../shutdown",
    ],
)
def test_other_hosts_are_refused_through_every_door(gateway: RunningGateway, door: str, name: str, url: Any) -> None:
    inputs = {"texts_file": URI, name: url}
    if door == "cog":
        refused = gateway.post(**inputs)
        status, message = refused.status, refused.json()["detail"]
    else:
        answer = predict(gateway.url, inputs)
        status, message = answer.status_code, answer.json()["detail"]
    assert status == 422
    assert message.startswith(f"{name} must be ")
    assert message.endswith("a URL of a host that this gateway allows (--allow-file-host): localhost")


def test_a_name_that_stands_twice_cannot_hide_a_url(gateway: RunningGateway) -> None:
    body = f'{{"input": {{"texts_file": "http://127.0.0.1:1/", "texts_file": "{URI}"}}}}'
    assert gateway.send(body.encode()).json()["status"] == "succeeded"


def test_hosts_on_the_list_are_let_through(gateway: RunningGateway) -> None:
    with FaultyServer() as store, upload_store(200) as (target, taken):
        store.publish("files", {"texts.jsonl": JSONL})
        source, target = (url.replace("127.0.0.1", "localhost") for url in (store.url, target))
        inputs = {"texts_file": f"{source}/files/texts.jsonl", "upload_url": f"{target}/vectors.npy"}
        prediction = predict(gateway.url, inputs).json()
    assert prediction["output"]["file"] == f"{target}/vectors.npy"
    assert np.load(io.BytesIO(taken[0][2])).shape == (len(TEXTS), 768)


@pytest.mark.parametrize("chunked", [False, True])
def test_an_upload_that_is_too_large_is_refused(gateway: RunningGateway, chunked: bool) -> None:
    body = b"a" * 1_000_001
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    data = iter([body]) if chunked else body
    refused = requests.post(f"{gateway.url}/v1/files", data=data, headers=headers, timeout=600)
    assert refused.status_code == 413
    assert "1,000,000 bytes, the limit" in refused.json()["detail"]


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"Content-Type": "application/json"}, b"{}", 400),
        ({"Content-Type": "multipart/form-data"}, b"", 400),
        ({"Content-Type": "multipart/form-data; boundary=b"}, b"nothing", 400),
        ({"Content-Type": "multipart/form-data; boundary=b"}, b"--b--\r\n", 422),
    ],
)
def test_what_is_no_upload_is_refused(
    gateway: RunningGateway, headers: dict[str, str], body: bytes, status: int
) -> None:
    refused = requests.post(f"{gateway.url}/v1/files", data=body, headers=headers, timeout=600)
    assert (refused.status_code, refused.json()["status"]) == (status, status)


def test_metadata_must_be_an_object(gateway: RunningGateway) -> None:
    files = {"content": ("a", b"a")}
    refused = requests.post(f"{gateway.url}/v1/files", files=files, data={"metadata": "[]"}, timeout=600)
    assert (refused.status_code, refused.json()["detail"]) == (422, "metadata is not a JSON object")


def test_files_need_a_key_as_all_else_does(keyed_gateway: str) -> None:
    key = {"Authorization": f"Bearer {KEY}"}
    assert upload(keyed_gateway, JSONL).status_code == 401
    url = upload(keyed_gateway, JSONL, **key).json()["urls"]["get"]
    output = predict(keyed_gateway, {"texts_file": url}, **key).json()["output"]
    for path in (url, f"{url}/download", output["file"], f"{keyed_gateway}/v1/files"):
        assert requests.get(path, timeout=600).status_code == 401
        assert requests.get(path, headers=key, timeout=600).status_code == 200
    assert requests.delete(url, timeout=600).status_code == 401


def test_several_processes_keep_no_files(server: RunningServer, tmp_path: Path) -> None:
    with gateway_process(tmp_path, "--container", server.url, "--processes", "2") as gateway:
        refused = upload(gateway.url, JSONL)
        assert (refused.status_code, refused.json()["detail"]) == (
            400,
            "this gateway has several processes and keeps no files; give a data URI",
        )
        assert predict(gateway.url, {"texts_file": URI}).json()["output"]["file"].startswith("data:")


def test_files_are_bounded_together_and_the_oldest_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_BYTES", 100)
    kept = Files(Settings())
    first, second, third = (kept.keep(File("a", "b", bytes(40))) for _ in range(3))
    assert [kept.find(file.id) for file in (first, second, third)] == [None, second, third]


def test_a_file_goes_with_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_AGE", 0.0)
    kept = Files(Settings())
    file = kept.keep(File("a", "b", b"c"))
    with pytest.raises(Refusal, match="does not keep any more"):
        kept.admitted({"texts_file": f"http://localhost/v1/files/{file.id}"})


def test_an_allowed_host_is_a_host() -> None:
    assert gateway_refusal("--allow-file-host", "https://example.com").startswith("--allow-file-host is ")
