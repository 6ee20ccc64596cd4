"""INPUT and OUTPUT in object stores: a real server of S3, and what can be known of Google's without Google."""

import http.client
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embeddinggemma.corpus import stores as stores_module
from embeddinggemma.corpus.embedding import describe_error
from embeddinggemma.corpus.files import find_files
from embeddinggemma.corpus.options import Options
from embeddinggemma.corpus.output import make_folder, open_output, parquet_files, read_settings
from embeddinggemma.corpus.parts import plan_parts
from embeddinggemma.corpus.stores import NewFile, ObjectPath, is_inside, location
from tests.support.corpora import pack, read_output, read_rows_of, run_script, texts, write_jsonl
from tests.support.object_stores import BUCKET, KEY, NO_KEYS, SECRET, ObjectStore, object_store
from tools import SCRIPTS
from tools.client import wait_until

ROOT = ObjectPath("s3", (BUCKET,))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with object_store(tmp_path_factory.mktemp("store") / "log") as started:
        yield started


@pytest.fixture
def store(server: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """The store, which this process finds by its environment variables."""
    for name, value in server.variables.items():
        monkeypatch.setenv(name, value)
    return server


def _write_all(folder: Path) -> None:
    """Write the same rows in every format, packed and not, some of them deep, and files that are to be left out."""
    rows = [*texts(1500), "é" * 40_000]
    table = pa.table({"text": rows})
    (folder / "deep" / ".hidden").mkdir(parents=True)
    (folder / "jsonl" / "a").mkdir(parents=True)
    for name in ("jsonl/a.jsonl", "jsonl/a/b.jsonl", "jsonl/.c.jsonl", "deep/.hidden/d.jsonl", "deep/e.jsonl"):
        write_jsonl(folder / name, [{"text": row} for row in rows])
    plain = (folder / "jsonl" / "a.jsonl").read_bytes()
    for suffix, compression in (("gz", "gzip"), ("zst", "zstd"), ("bz2", "bz2")):
        (folder / "jsonl" / f"p.jsonl.{suffix}").write_bytes(pack(plain, compression))
    for name in ("csv", "json", "parquet", "arrow", "texts"):
        (folder / name).mkdir()
    (folder / "csv" / "r.csv").write_text("text\n" + "".join(f'"{row}"\n' for row in rows), encoding="utf-8")
    (folder / "json" / "r.json").write_text(json.dumps([{"text": row} for row in rows]))
    pq.write_table(table, folder / "parquet" / "r.parquet", row_group_size=700)
    (folder / "parquet" / "r.parquet.zst").write_bytes(pack((folder / "parquet" / "r.parquet").read_bytes(), "zstd"))
    with pa.ipc.new_file(folder / "arrow" / "r.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=700)
    for number, row in enumerate(rows[-40:]):
        (folder / "texts" / f"{number:05}").write_text(row)


@pytest.fixture(scope="module")
def everything(server: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("everything")
    _write_all(folder)
    server.put_folder("everything", folder)
    server.put("everything/jsonl/", b"")  # what Amazon's console makes for a folder
    return folder


@pytest.mark.parametrize("name", ["jsonl", "deep", "csv", "json", "parquet", "arrow", "texts", "jsonl/a.jsonl"])
def test_objects_give_the_same_parts_and_rows_as_files(store: ObjectStore, everything: Path, name: str) -> None:
    assert store.names("everything")
    here, there = everything / name, location("INPUT", f"s3://{BUCKET}/everything/{name}/")
    parts, expected = plan_parts(there, Options()), plan_parts(here, Options())
    assert [(part.name, part.rows, part.source) for part in parts] == [
        (part.name, part.rows, part.source) for part in expected
    ]
    assert read_rows_of(there) == read_rows_of(here)


def test_the_encoding_of_an_object_is_converted(store: ObjectStore) -> None:
    store.put("utf16/rows.csv", "text\nhello\nwörld\n".encode("utf-16"))
    rows = read_rows_of(ROOT / "utf16", Options(encoding="utf-16"))
    assert [getattr(row, "text", None) for row in rows] == ["hello", "wörld"]


def test_a_data_set_that_was_saved_to_a_store_is_read_without_intermediate_results(store: ObjectStore) -> None:
    packed = pa.BufferOutputStream()
    with pa.ipc.new_stream(packed, pa.schema({"text": pa.string()})) as writer:
        writer.write_table(pa.table({"text": ["one"]}))
    for name in ("data-00000-of-00001.arrow", "cache-1.arrow"):
        store.put(f"set/train/{name}", packed.getvalue().to_pybytes())
    store.put("set/train/state.json", json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}).encode())
    store.put("set/train/dataset_info.json", b"{}")
    store.put("set/dataset_dict.json", b'{"splits": ["train"]}')
    assert [file.relative for file in find_files(ROOT / "set")] == ["train/data-00000-of-00001.arrow"]


def test_a_new_object_is_there_when_it_is_whole_and_never_before(store: ObjectStore) -> None:
    new = NewFile(ROOT / "new", "big")
    new.file.write(b"x" * 20_000_000)
    assert store.names("new") == []
    given_up = NewFile(ROOT / "new", "given up")
    given_up.file.write(b"x")
    del given_up
    new.publish()
    assert store.names("new") == ["new/big"]
    assert (ROOT / "new" / "big").read_bytes() == b"x" * 20_000_000


@contextmanager
def _failing_at_part_2(store: ObjectStore) -> Iterator[str]:
    """Yield the endpoint of a proxy that passes all requests on, except the second part of an object."""

    class Proxy(BaseHTTPRequestHandler):
        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Transfer-Encoding") == "chunked":
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            headers = {name: value for name, value in self.headers.items() if name.lower() != "transfer-encoding"}
            if "partNumber=2" in self.path:
                self.send_error(403)
                return
            upstream = http.client.HTTPConnection(store.endpoint.removeprefix("http://"))
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            data = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", answer.getheader("Content-Length") or str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        Thread(target=proxy.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{proxy.server_port}"
        proxy.shutdown()


def test_an_object_whose_upload_fails_in_the_middle_is_not_there(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    stores_module._s3.cache_clear()  # it has the store's own endpoint
    request.addfinalizer(stores_module._s3.cache_clear)
    with _failing_at_part_2(store) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        small, large = NewFile(ROOT / "cut", "small"), NewFile(ROOT / "cut", "large")
        small.file.write(b"x")
        small.publish()
        large.file.write(b"x" * 30_000_000)
        with pytest.raises(OSError, match="access denied"):
            large.publish()
    assert store.names("cut") == ["cut/small"]


def test_a_folder_of_other_objects_is_no_output(store: ObjectStore) -> None:
    store.put("thesis/thesis.tex", b"years of work")
    with (
        pytest.raises(ValueError, match="is not empty, and not the output of this program"),
        open_output(ROOT / "thesis", {"model": "m"}, []),
    ):
        pass
    with pytest.raises(ValueError, match=r"has no readable _corpus\.json"):
        read_settings(ROOT / "thesis")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "https://user:secret@host/rows.jsonl",
            "INPUT is a URL that begins with https://; it must be a path",
        ),
        ("s3://", "INPUT s3:// names no bucket; write s3://BUCKET/FOLDER"),
        ("gs:///x", "INPUT gs:///x names no bucket; write gs://BUCKET/FOLDER"),
        ("s3://AKIA:secret@bucket/rows", "INPUT has keys or a port in its URL; write s3://BUCKET/FOLDER: keys"),
    ],
)
def test_a_wrong_url_is_refused_and_no_key_in_it_is_repeated(word: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        location("INPUT", word)
    assert "secret" not in str(refused.value)


def test_a_url_is_the_same_however_many_slashes_it_has() -> None:
    path = location("INPUT", "gs://bucket//folder/a.jsonl/")
    assert (str(path), path.name) == ("gs://bucket/folder/a.jsonl", "a.jsonl")
    assert isinstance(path, ObjectPath)
    assert is_inside(path, location("INPUT", "gs://bucket/folder"))
    assert not is_inside(path, location("INPUT", "gs://bucket/folder/a"))
    assert not is_inside(path, location("INPUT", "s3://bucket/folder"))
    assert not is_inside(path, Path("/"))


def _refused(variables: Mapping[str, str], *arguments: object, seconds: float = 60) -> str:
    """Return the one line in which a run ends that was refused, within a time."""
    began = time.monotonic()
    refused = run_script(dict(variables), "embed_corpus", *arguments)
    assert time.monotonic() - began < seconds
    assert refused.returncode == 1
    *logged, line = refused.stderr.splitlines()
    assert all(entry.startswith("verify: ") for entry in logged)
    assert refused.stdout == ""
    assert SECRET not in line
    return line


def test_what_is_not_in_the_store_is_refused(variables: dict[str, str], store: ObjectStore, tmp_path: Path) -> None:
    given = variables | store.variables
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"text": "x"}])
    line = _refused(given, "s3://nobucket/rows", tmp_path / "out")
    assert line == (
        "s3://nobucket/rows does not exist: there is no such bucket; make it, or correct the URL or AWS_ENDPOINT_URL"
    )
    assert _refused(given, f"s3://{BUCKET}/nothing", tmp_path / "out") == f"s3://{BUCKET}/nothing does not exist"
    line = _refused(given, rows, "s3://nobucket/out")
    assert line.startswith("s3://nobucket/out: there is no such bucket; make it")
    assert not (tmp_path / "out").exists()


def test_a_store_that_does_not_answer_ends_the_run_in_a_line(variables: dict[str, str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for endpoint in (f"http://127.0.0.1:{silent.getsockname()[1]}", "http://127.0.0.1:1", "http://no.such.host"):
            given = variables | {
                "AWS_ENDPOINT_URL": endpoint,
                "AWS_ACCESS_KEY_ID": KEY,
                "AWS_SECRET_ACCESS_KEY": SECRET,
            }
            line = _refused(given, "s3://bucket/rows", tmp_path / "out")
            assert line == "s3://bucket/rows: the store does not answer; check AWS_ENDPOINT_URL and the network"


class _Denying(BaseHTTPRequestHandler):
    """A store that lets nobody in who has no keys, as Amazon's."""

    def do_HEAD(self) -> None:
        self.send_response(200 if self.headers.get("Authorization") else 403)
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *_: object) -> None:
        pass


def test_without_keys_a_line_says_which_variables_to_set(variables: dict[str, str], tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Denying) as denying:
        Thread(target=denying.serve_forever, daemon=True).start()
        given = (
            variables | NO_KEYS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{denying.server_port}", "HOME": str(tmp_path)}
        )
        line = _refused(given, "s3://bucket/rows", tmp_path / "out")
        denying.shutdown()
    assert line == (
        "s3://bucket/rows: access denied: the keys are missing, wrong, or may not read and write there; set "
        "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, for temporary keys, AWS_SESSION_TOKEN"
    )


def test_keys_that_are_wrong_or_may_not_write_are_refused(variables: dict[str, str], tmp_path: Path) -> None:
    may_read = {"Effect": "Allow", "Action": ["s3:ListBucket", "s3:GetObject", "s3:HeadObject"], "Resource": "*"}
    with object_store(tmp_path / "log", free_actions=5) as store:
        store.put("in/rows.jsonl", b'{"text": "x"}\n')
        iam = store.client("iam")
        iam.create_user(UserName="reader")
        keys = iam.create_access_key(UserName="reader")["AccessKey"]
        policy = json.dumps({"Version": "2012-10-17", "Statement": [may_read]})
        iam.put_user_policy(UserName="reader", PolicyName="reads", PolicyDocument=policy)
        rows = write_jsonl(tmp_path / "rows.jsonl", [{"text": "x"}])
        given, source, folder = variables | store.variables, f"s3://{BUCKET}/in", f"s3://{BUCKET}/out"
        assert _refused(given, source, tmp_path / "out").startswith(f"{source}: access denied: the keys are missing")
        assert "the store does not accept the keys; correct AWS_ACCESS_KEY_ID" in _refused(given, rows, folder)
        given |= {"AWS_ACCESS_KEY_ID": keys["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": keys["SecretAccessKey"]}
        line = _refused(given, source, folder)
    assert line.startswith(f"s3://{BUCKET}/out/_corpus.json: access denied: the keys are missing, wrong, or may not")
    assert keys["SecretAccessKey"] not in line


def test_google_without_credentials_is_one_line(variables: dict[str, str], tmp_path: Path) -> None:
    given = variables | {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "none.json"), "HOME": str(tmp_path)}
    advice = "there are no credentials; set GOOGLE_APPLICATION_CREDENTIALS to a file of credentials, or run: gcloud"
    assert _refused(given, "gs://bucket/rows", tmp_path / "out").startswith(f"gs://bucket/rows: {advice}")
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"text": "x"}])
    assert _refused(given, rows, "gs://bucket/out").startswith(f"gs://bucket/out: {advice}")


def test_an_object_that_is_gone_or_cannot_be_read_is_named(store: ObjectStore) -> None:
    assert store.names("gone") == []
    with pytest.raises(FileNotFoundError) as gone:
        (ROOT / "gone").open()
    assert describe_error(gone.value) == f"s3://{BUCKET}/gone: No such object"
    with pytest.raises(OSError, match="there is no such bucket") as absent:
        make_folder(ObjectPath("s3", ("nobucket", "out")))
    assert describe_error(absent.value).startswith("s3://nobucket/out: there is no such bucket")


CORPUS = [{"text": text, "title": "t"} for text in texts(1500)] + [{"text": " "}]


@pytest.fixture
def short_tmpdir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="eg-", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)


def _below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.slow
def test_a_run_in_a_store_that_was_killed_goes_on_and_ends_like_one_on_files(
    variables: dict[str, str], store: ObjectStore, tmp_path: Path, short_tmpdir: Path
) -> None:
    rows = write_jsonl(tmp_path / "rows.jsonl", CORPUS)
    store.put("run/in/rows.jsonl.gz", pack(rows.read_bytes(), "gzip"))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "rows.jsonl.gz").write_bytes(pack(rows.read_bytes(), "gzip"))
    options = ["--title-column", "title", "--rows-per-part", "100", "--workers", "2"]
    whole = run_script(variables, "embed_corpus", tmp_path / "in", tmp_path / "whole", *options)
    assert whole.returncode == 0, whole.stderr

    urls = [f"s3://{BUCKET}/run/in", f"s3://{BUCKET}/run/out"]
    given = variables | store.variables | {"TMPDIR": str(short_tmpdir)}
    with (tmp_path / "log").open("wb") as log:
        command: list[str | Path] = [SCRIPTS / "embed_corpus", *urls, *options]
        process = subprocess.Popen(command, env={**os.environ, **given}, stdout=log, stderr=log)
    out = ROOT / "run" / "out"

    def has_finished_parts() -> bool:
        assert process.poll() is None, (tmp_path / "log").read_text()
        return len(parquet_files(out)) >= 2

    wait_until(has_finished_parts, timeout=1200)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = store.names("run/out/")
    finished = {name: store.client("s3").head_object(Bucket=BUCKET, Key=name)["LastModified"] for name in before}
    assert len(list((tmp_path / "whole").glob("*.parquet"))) == 16 > len(parquet_files(out))
    for folder in (short_tmpdir, tmp_path / "log"):
        files = [path for path in [folder, *folder.rglob("*")] if path.is_file()]
        assert not any(SECRET.encode() in path.read_bytes() for path in files)

    resumed = run_script(given, "embed_corpus", *urls, *options)
    assert resumed.returncode == 0, resumed.stderr
    assert "rows: 1,501 = 1,500 embedded + 1 rejected (why: s3://corpora/run/out/_rejects)" in resumed.stdout
    assert finished == {
        name: store.client("s3").head_object(Bucket=BUCKET, Key=name)["LastModified"] for name in before
    }
    fetched = store.fetch("run/out", tmp_path / "fetched")
    assert _below(fetched) == _below(tmp_path / "whole")
    table, expected = read_output(fetched), read_output(tmp_path / "whole")
    assert table.drop_columns("embedding").equals(expected.drop_columns("embedding"))
    difference = np.array(table["embedding"].to_pylist()) - np.array(expected["embedding"].to_pylist())
    assert np.abs(difference).max() < 1e-5

    again = run_script(given, "embed_corpus", *urls, *options)
    assert (again.returncode, "this run" in again.stdout) == (0, False)
    folders = (urls[1], tmp_path / "whole")
    hits = [run_script(given, "search", folder, CORPUS[7]["text"], "-k", "3") for folder in folders]
    assert hits[0].stdout == hits[1].stdout != ""
