"""Code search: the functions that do what a question asks for. Give a question, or try the example."""

import sys

import numpy as np

from client import embed, run

FUNCTIONS = [
    "def mean(values):\n    return sum(values) / len(values)",
    "def is_leap(year):\n    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)",
    "def flatten(rows):\n    return [value for row in rows for value in row]",
    "def read_lines(path):\n    with open(path) as file:\n        return [line.rstrip() for line in file]",
    "def count_words(text):\n    return collections.Counter(text.lower().split())",
    "def retry(call, times):\n    for attempt in range(times):\n        try:\n            return call()\n"
    "        except OSError:\n            time.sleep(2**attempt)",
    "const debounce = (call, wait) => {\n  let timer;\n  return (...given) => {\n    clearTimeout(timer);\n"
    "    timer = setTimeout(() => call(...given), wait);\n  };\n};",
    "SELECT customer, SUM(amount) FROM orders GROUP BY customer ORDER BY 2 DESC LIMIT 10;",
]
QUESTION = "try again after a network error, waiting longer each time"
SHOWN = 3


def main() -> None:
    """Rank the functions, in any programming language, by their cosine with the question."""
    question = " ".join(sys.argv[1:]) or QUESTION
    functions = embed(FUNCTIONS, "retrieval_document")
    similarities = functions @ embed([question], "code_retrieval")[0]
    print(question)
    for position in np.argsort(-similarities)[:SHOWN]:
        print(f"\n{similarities[position]:.4f}\n{FUNCTIONS[position]}")


if __name__ == "__main__":
    run(main)
