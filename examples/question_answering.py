"""Question answering: for each question, the passage that answers it. Give questions, or try the examples."""

import sys

from client import embed, run

PASSAGES = [
    "The Moon is moving away from the Earth by about 3.8 centimetres a year.",
    "Tides are caused by the pull of the Moon and, to a lesser degree, of the Sun.",
    "A lunar eclipse happens when the Earth stands between the Sun and the Moon.",
    "We always see the same side of the Moon, because it turns once on itself in each orbit.",
    "The first people on the Moon were Neil Armstrong and Buzz Aldrin, in July 1969.",
]
QUESTIONS = [
    "Why does the sea rise and fall?",
    "Who walked on the Moon first?",
    "Why do we never see the far side of the Moon?",
]


def main() -> None:
    """Embed the passages once, then all questions in one request."""
    questions = sys.argv[1:] or QUESTIONS
    passages = embed(PASSAGES, "retrieval_document")
    similarities = embed(questions, "question_answering") @ passages.T
    for question, row in zip(questions, similarities, strict=True):
        best = row.argmax()
        print(f"{question}\n  {row[best]:.4f}  {PASSAGES[best]}")


if __name__ == "__main__":
    run(main)
