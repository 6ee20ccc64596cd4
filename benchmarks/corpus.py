"""The cost of Ray: rows through scripts/embed_corpus, compared with the same rows through an encoder in one process.

It also measures the memory of a long run. `python -m benchmarks.corpus ROWS` is the single process.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools import PROJECT

_RATE = re.compile(r"this run: ([\d,]+) texts and ([\d,]+) tokens in ([\d.]+) s, after ([\d.]+) s for the start")


@dataclass(frozen=True)
class Speed:
    """The speed of a run."""

    rows: int
    """Rows that were embedded."""
    tokens: int
    """Tokens of these rows."""
    seconds: float
    """Seconds that embedding them took."""
    start_seconds: float
    """Seconds before the model had the first rows."""


@dataclass(frozen=True)
class Sample:
    """The memory of the processes at one moment, without memory that they share."""

    seconds: float
    """Seconds since the start."""
    driver: float
    """Megabytes of the script's own process."""
    workers: tuple[float, ...]
    """Megabytes of each worker."""


def encoder_alone(environment: Mapping[str, str], file: Path, threads: int) -> Speed:
    """Give rows to the encoder in a new process; the model is loaded before the clock starts."""
    command = [sys.executable, "-m", "benchmarks.corpus", str(file)]
    answer = subprocess.run(
        command, cwd=PROJECT, env={**environment, "OMP_NUM_THREADS": str(threads)}, check=True, capture_output=True
    )
    return Speed(*json.loads(answer.stdout))


def embed_corpus(environment: Mapping[str, str], file: Path, folder: Path, *arguments: str) -> Speed:
    """Run scripts/embed_corpus, and return the speed that it prints."""
    printed = subprocess.run(_command(file, folder, arguments), env=environment, check=True, capture_output=True)
    return _speed(printed.stdout.decode())


def watched(
    environment: Mapping[str, str], file: Path, folder: Path, *arguments: str, pause: float = 1.0
) -> tuple[Speed, list[Sample]]:
    """Run scripts/embed_corpus, and return its speed and a sample of its processes' memory for every second."""
    began, samples = time.monotonic(), []
    with subprocess.Popen(
        _command(file, folder, arguments), env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        while process.poll() is None:
            samples.append(_sample(process.pid, time.monotonic() - began))
            time.sleep(pause)
        assert process.stdout
        speed = _speed(process.stdout.read().decode())
    return speed, [sample for sample in samples if sample.workers]


def _command(file: Path, folder: Path, arguments: Sequence[str]) -> list[str]:
    return [str(PROJECT / "scripts" / "embed_corpus"), str(file), str(folder), *arguments]


def _speed(printed: str) -> Speed:
    found = _RATE.search(printed)
    assert found, printed
    rows, tokens, seconds, start = (float(number.replace(",", "")) for number in found.groups())
    return Speed(int(rows), int(tokens), seconds, start)


def _sample(driver: int, seconds: float) -> Sample:
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, rest = status.read_text().split("(", 1)[1].rsplit(")", 1)
        except OSError:  # it has ended
            continue
        parents[int(status.parent.name)] = (int(rest.split()[1]), name)

    def below(process: int) -> bool:
        while process > 1 and process in parents and process != driver:
            process = parents[process][0]
        return process == driver

    workers = [process for process, (_, name) in parents.items() if name.startswith("ray::Map") and below(process)]
    return Sample(seconds, _own_megabytes(driver), tuple(_own_megabytes(worker) for worker in sorted(workers)))


def _own_megabytes(process: int) -> float:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    found = re.search(r"^RssAnon:\s*(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def main() -> None:
    """Embed the rows of a JSONL file, and print rows, tokens, seconds and the seconds before the first row."""
    started = time.perf_counter()
    from embeddinggemma import Embedder
    from embeddinggemma.prompts import DOCUMENT_TASK, add_prompt
    from embeddinggemma.vectors import finish

    file = Path(sys.argv[1])
    embedder = Embedder.load()
    began = time.perf_counter()
    texts = [json.loads(line)["text"] for line in file.open()]
    ids = [text.ids for text in embedder.tokenizer.tokenize([add_prompt(text, DOCUMENT_TASK) for text in texts])]
    finish(embedder.encode(ids), 768, True, "float32")
    seconds = time.perf_counter() - began
    print(json.dumps([len(texts), sum(map(len, ids)), seconds, began - started]))


if __name__ == "__main__":
    main()
