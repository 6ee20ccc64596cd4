"""Fact checking: the evidence for or against each statement. Give statements, or try the examples.

The vectors find the evidence. A reader, or another model, decides whether it supports or refutes the statement.
"""

import sys

import numpy as np

from client import embed, run

EVIDENCE = [
    "Measurements from orbit show that the Great Wall cannot be seen from the Moon by the naked eye.",
    "Mount Everest's summit is 8,849 metres above sea level, the highest on Earth.",
    "Measured from its base on the ocean floor, Mauna Kea rises more than 10,000 metres.",
    "Lightning often strikes the same tower dozens of times in one year.",
    "Bats are not blind: large fruit bats see better than people do at night.",
    "Water boils at about 71 degrees Celsius on the top of Mount Everest.",
]
STATEMENTS = [
    "Lightning never strikes the same place twice.",
    "Mount Everest is the tallest mountain from base to top.",
]
SHOWN = 2


def main() -> None:
    """Show the two closest pieces of evidence for each statement."""
    statements = sys.argv[1:] or STATEMENTS
    evidence = embed(EVIDENCE, "retrieval_document")
    similarities = embed(statements, "fact_verification") @ evidence.T
    for statement, row in zip(statements, similarities, strict=True):
        print(statement)
        for position in np.argsort(-row)[:SHOWN]:
            print(f"  {row[position]:.4f}  {EVIDENCE[position]}")


if __name__ == "__main__":
    run(main)
