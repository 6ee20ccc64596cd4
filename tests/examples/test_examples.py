"""The scripts of examples/, run as a user runs them: they print the results that numpy gets from the same vectors."""

import gzip
import re
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import classification
import clustering
import code_search
import duplicates
import fact_check
import openai_search
import question_answering
import semantic_search
from embeddinggemma.prompts import TASKS
from tests.support.documents import run, section
from tests.support.servers import RunningServer
from tools import PROJECT

EXAMPLES = PROJECT / "examples"
SECTION = section("docs/api.md", "Examples")
CLIENTS = re.findall(r"^\| \[(\w+\.py)\]", section("docs/api.md", "Other clients"), re.MULTILINE)
TABLE = dict(re.findall(r"^\| \[(\w+\.py)\]\(\.\./examples/\1\) \|[^|]*\| (.*) \|$", SECTION, re.MULTILINE))


def _cases(first: object, *others: object) -> list[Any]:
    """Return arguments for a test; all but the first are slow."""
    return [first, *(pytest.param(other, marks=pytest.mark.slow) for other in others)]


ONLINE = {"HF_HUB_OFFLINE": "0"}  # the reference engine has set it to 1 for the whole process if a test has loaded it


def _run(server: RunningServer, name: str, *arguments: str) -> str:
    return run("python", EXAMPLES / name, *arguments, changes={"EMBEDDINGGEMMA_URL": server.url})


def _similarities(server: RunningServer, documents: list[str], query: str, task: str) -> npt.NDArray[np.float32]:
    similarities: npt.NDArray[np.float32] = (
        server.embed(documents, "retrieval_document") @ server.embed([query], task)[0]
    )
    return similarities


def _ranked(texts: list[str], scores: npt.NDArray[np.float32]) -> list[tuple[Any, str]]:
    """Return the texts by falling score, each score to be compared with its four printed decimals."""
    return [(pytest.approx(scores[position], abs=1e-4), texts[position]) for position in np.argsort(-scores)]


def _scored(printed: str) -> list[tuple[float, str]]:
    """Return the lines that begin with a score, as score and text."""
    found = re.findall(r"^ *(-?\d\.\d{4})  (.*)$", printed, re.MULTILINE)
    return [(float(score), text) for score, text in found]


@pytest.mark.parametrize("query", _cases(semantic_search.QUERY, "rooms for a meeting"))
def test_semantic_search_ranks_the_documents(server: RunningServer, query: str) -> None:
    arguments = [] if query == semantic_search.QUERY else query.split()
    title, *_ = (printed := _run(server, "semantic_search.py", *arguments)).splitlines()
    documents = semantic_search.DOCUMENTS
    assert title == query
    assert _scored(printed) == _ranked(documents, _similarities(server, documents, query, "retrieval_query"))


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_of_texts_becomes_a_file_of_vectors(server: RunningServer, tmp_path: Path, packed: bool) -> None:
    texts = ["Mars", "Venus", "Moon"]
    content = "".join(f'"{text}"\n' for text in texts).encode()
    (tmp_path / "texts.jsonl").write_bytes(gzip.compress(content) if packed else content)
    changes = {"EMBEDDINGGEMMA_URL": server.url}
    printed = run("python", EXAMPLES / "file_of_texts.py", tmp_path / "texts.jsonl", changes=changes, folder=tmp_path)
    assert printed.startswith("texts.jsonl.npy: 3 vectors of 768 numbers, from ")
    vectors = np.load(tmp_path / "texts.jsonl.npy")
    assert np.abs(vectors - server.embed(texts, "retrieval_document")).max() < 1e-5


def test_the_example_of_a_file_needs_none(server: RunningServer, tmp_path: Path) -> None:
    changes = {"EMBEDDINGGEMMA_URL": server.url}
    run("python", EXAMPLES / "file_of_texts.py", changes=changes, folder=tmp_path)
    assert np.load(tmp_path / "planets.txt.npy").shape == (3, 768)


@pytest.mark.parametrize(
    "questions", [question_answering.QUESTIONS, pytest.param(["Who was first on the Moon?"], marks=pytest.mark.slow)]
)
def test_question_answering_gives_each_questions_nearest_passage(server: RunningServer, questions: list[str]) -> None:
    arguments = [] if questions == question_answering.QUESTIONS else questions
    printed = _run(server, "question_answering.py", *arguments)
    passages = question_answering.PASSAGES
    assert printed.splitlines()[::2] == questions
    assert _scored(printed) == [
        _ranked(passages, _similarities(server, passages, question, "question_answering"))[0] for question in questions
    ]


@pytest.mark.parametrize(
    "statements", [fact_check.STATEMENTS, pytest.param(["Bats are blind."], marks=pytest.mark.slow)]
)
def test_fact_check_gives_each_statements_nearest_evidence(server: RunningServer, statements: list[str]) -> None:
    arguments = [] if statements == fact_check.STATEMENTS else statements
    printed = _run(server, "fact_check.py", *arguments)
    assert printed.splitlines()[:: fact_check.SHOWN + 1] == statements
    expected = []
    for statement in statements:
        similarities = _similarities(server, fact_check.EVIDENCE, statement, "fact_verification")
        expected += _ranked(fact_check.EVIDENCE, similarities)[: fact_check.SHOWN]
    assert _scored(printed) == expected


@pytest.mark.parametrize(
    "question", [code_search.QUESTION, pytest.param("is this year a leap year", marks=pytest.mark.slow)]
)
def test_code_search_ranks_the_functions(server: RunningServer, question: str) -> None:
    arguments = [] if question == code_search.QUESTION else [question]
    title, *blocks = _run(server, "code_search.py", *arguments).rstrip("\n").split("\n\n")
    assert title == question
    found = [(float(score), code) for score, code in (block.split("\n", 1) for block in blocks)]
    similarities = _similarities(server, code_search.FUNCTIONS, question, "code_retrieval")
    assert found == _ranked(code_search.FUNCTIONS, similarities)[: code_search.SHOWN]


@pytest.mark.parametrize(
    "texts", [classification.TEXTS, pytest.param(["My password does not work."], marks=pytest.mark.slow)]
)
def test_classification_gives_the_label_of_the_nearest_mean(server: RunningServer, texts: list[str]) -> None:
    arguments = [] if texts == classification.TEXTS else texts
    lines = _run(server, "classification.py", *arguments).splitlines()
    labels = list(classification.EXAMPLES)
    means = [server.embed(examples, "classification").mean(axis=0) for examples in classification.EXAMPLES.values()]
    for text, vector, head, scores in zip(
        texts, server.embed(texts, "classification"), lines[::2], lines[1::2], strict=True
    ):
        cosines = [float(mean @ vector / np.linalg.norm(mean)) for mean in means]
        assert head == f"{labels[int(np.argmax(cosines))]}: {text}"
        assert [float(score) for score in re.findall(r"-?\d\.\d{4}", scores)] == pytest.approx(cosines, abs=1e-4)


@pytest.mark.parametrize(
    "threshold",
    [duplicates.THRESHOLD, pytest.param(0.4, marks=pytest.mark.slow), pytest.param(-1.0, marks=pytest.mark.slow)],
)
def test_duplicates_are_the_pairs_above_the_threshold(server: RunningServer, threshold: float) -> None:
    arguments = [] if threshold == duplicates.THRESHOLD else [str(threshold)]
    title, *lines = _run(server, "duplicates.py", *arguments).splitlines()
    texts = duplicates.TEXTS
    vectors = server.embed(texts, "semantic_similarity")
    pairs = [
        (float(vectors[first] @ vectors[second]), texts[first], texts[second])
        for second in range(len(texts))
        for first in range(second)
    ]
    expected = sorted((pair for pair in pairs if pair[0] >= threshold), reverse=True)
    assert title.startswith(f"{len(expected)} of {len(pairs)} pairs ")
    found = [(*_scored(first)[0], second.strip()) for first, second in zip(lines[::2], lines[1::2], strict=True)]
    assert found == [(pytest.approx(score, abs=1e-4), *pair) for score, *pair in expected]


@pytest.mark.parametrize("groups", _cases(clustering.GROUPS, 2))
def test_clustering_puts_each_text_into_the_group_with_the_nearest_mean(server: RunningServer, groups: int) -> None:
    arguments = [] if groups == clustering.GROUPS else [str(groups)]
    _, *parts = re.split(r"^group \d+$", _run(server, "clustering.py", *arguments), flags=re.MULTILINE)
    members = [[text for _, text in _scored(part)] for part in parts]
    assert len(members) == groups
    assert sorted(chain.from_iterable(members)) == sorted(clustering.TEXTS)
    vectors = [server.embed(group, "clustering") for group in members]
    means = np.stack([group.mean(axis=0) for group in vectors])
    for position, (group, part) in enumerate(zip(vectors, parts, strict=True)):
        distances = np.linalg.norm(group[:, None] - means, axis=2)
        assert (distances.argmin(axis=1) == position).all()
        printed = [score for score, _ in _scored(part)]
        assert printed == sorted(printed)
        assert printed == pytest.approx(distances[:, position].tolist(), abs=1e-4)


HEAVY = ("langchain_search.py", "llama_index_search.py")
"""They take seconds to import."""
each_client = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in HEAVY else []) for name in CLIENTS]
)


@each_client
def test_every_client_of_the_gateway_ranks_the_documents(server: RunningServer, gateway: str, name: str) -> None:
    documents, query = openai_search.DOCUMENTS, "rings around a planet"
    printed = run("python", EXAMPLES / name, *query.split(), changes={"EMBEDDINGGEMMA_GATEWAY": gateway, **ONLINE})
    title, *_ = printed.splitlines()
    assert title == query
    assert _scored(printed) == _ranked(documents, _similarities(server, documents, query, "retrieval_query"))


def test_the_pages_command_runs_as_printed(server: RunningServer) -> None:
    [command] = re.findall(r"`\.venv/bin/(python examples/.*)`", SECTION)
    printed = run("bash", "-c", command, changes={"EMBEDDINGGEMMA_URL": server.url})
    assert printed == _run(server, "semantic_search.py")


def test_every_example_is_short() -> None:
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text().splitlines()) < (80 if path.name == "client.py" else 60), path.name


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:1", "no container answers at http://127.0.0.1:1, EMBEDDINGGEMMA_URL: "),
        ("localhost:5000", "'localhost:5000' is no URL (http://...) and no model's name on Replicate (owner/name)"),
    ],
)
@pytest.mark.parametrize("name", [next(iter(TABLE)), *(pytest.param(n, marks=pytest.mark.slow) for n in [*TABLE][1:])])
def test_an_example_that_finds_no_container_ends_with_a_sentence(name: str, url: str, message: str) -> None:
    with pytest.raises(AssertionError) as failed:
        run("python", EXAMPLES / name, changes={"EMBEDDINGGEMMA_URL": url})
    assert str(failed.value).startswith(message)
    assert "Traceback" not in str(failed.value)


@each_client
def test_a_client_that_finds_no_gateway_ends_with_a_sentence(name: str) -> None:
    url = "http://127.0.0.1:1"
    with pytest.raises(AssertionError) as failed:
        run("python", EXAMPLES / name, changes={"EMBEDDINGGEMMA_GATEWAY": url, **ONLINE})
    assert str(failed.value).startswith(f"{url}, EMBEDDINGGEMMA_GATEWAY: ")
    assert "Traceback" not in str(failed.value)


def test_the_page_names_every_example_and_its_tasks() -> None:
    assert sorted([*TABLE, *CLIENTS, "client.py"]) == sorted(path.name for path in EXAMPLES.glob("*.py"))
    for name, tasks in TABLE.items():
        used = set(re.findall(rf'"({"|".join(TASKS)})"', (EXAMPLES / name).read_text()))
        assert set(re.findall(r"`(\w+)`", tasks)) == used, name


def test_every_task_has_an_example() -> None:
    assert set(TASKS) - {"none"} == set(re.findall(r"`(\w+)`", " ".join(TABLE.values())))
