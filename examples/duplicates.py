"""Duplicate detection: the pairs of texts that say the same. Give a minimum similarity, or try the example's.

Try it on your own pairs: which similarity is right depends on what counts as the same for you.
"""

import sys

import numpy as np

from client import embed, run

TEXTS = [
    "How do I reset my password?",
    "I forgot my password, how can I set a new one?",
    "Where can I download my invoice?",
    "Is there a way to get my invoice as a PDF?",
    "How can I reset the password of my account?",
    "Does the app work without a connection?",
    "Can I use the app offline?",
]
THRESHOLD = 0.8


def main() -> None:
    """Compare each text with each later one, and print the closest pairs first."""
    threshold = float(sys.argv[1]) if sys.argv[1:] else THRESHOLD
    vectors = embed(TEXTS, "semantic_similarity")
    similarities = vectors @ vectors.T
    firsts, seconds = np.triu_indices(len(TEXTS), k=1)
    scores = similarities[firsts, seconds]
    found = [pair for pair in np.argsort(-scores) if scores[pair] >= threshold]
    print(f"{len(found)} of {len(scores)} pairs have a similarity of {threshold:g} or more")
    for pair in found:
        print(f"{scores[pair]:.4f}  {TEXTS[firsts[pair]]}\n        {TEXTS[seconds[pair]]}")


if __name__ == "__main__":
    run(main)
