"""Classification without training: a text gets the label whose examples' mean is nearest (nearest centroid)."""

import sys

import numpy as np

from client import embed, run

EXAMPLES = {
    "billing": [
        "I was charged twice for the same month.",
        "Please send the invoice to our new address.",
        "How do I get my money back?",
    ],
    "technical": [
        "The app crashes when I open a large file.",
        "I see a blank page after the last update.",
        "Uploads stop at ninety per cent.",
    ],
    "account": [
        "I forgot my password.",
        "How can I change the e-mail address I sign in with?",
        "Please delete my profile and all its data.",
    ],
}
TEXTS = ["The refund has not arrived yet.", "Sign-in says that my password is wrong.", "The program freezes on start."]


def main() -> None:
    """Print the label of each text, and how near each label is."""
    texts = sys.argv[1:] or TEXTS
    labels = list(EXAMPLES)
    centroids = np.stack([embed(EXAMPLES[label], "classification").mean(axis=0) for label in labels])
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    for text, row in zip(texts, embed(texts, "classification") @ centroids.T, strict=True):
        scores = ", ".join(f"{label} {score:.4f}" for label, score in zip(labels, row, strict=True))
        print(f"{labels[row.argmax()]}: {text}\n  {scores}")


if __name__ == "__main__":
    run(main)
