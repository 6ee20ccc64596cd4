"""Semantic search: which documents fit a query, in any words or language? Give a query, or try the example."""

import sys

import numpy as np

from client import embed, run

DOCUMENTS = [
    "The library is closed on public holidays; books can be returned through the slot beside the door.",
    "Renew a loan online up to three times, unless another reader has reserved the book.",
    "Meeting rooms for up to eight people can be booked two weeks ahead at the front desk.",
    "Children under twelve get a card with a parent's signature and borrow without fees.",
    "Wer ein Buch verliert, ersetzt es oder zahlt den Neupreis und fünf Euro Gebühr.",
    "E-books end by themselves after three weeks, so they are never overdue.",
]
QUERY = "How long can I keep a book?"


def main() -> None:
    """Rank the documents by their cosine with the query: a dot product, since vectors have length 1."""
    query = " ".join(sys.argv[1:]) or QUERY
    documents = embed(DOCUMENTS, "retrieval_document")
    similarities = documents @ embed([query], "retrieval_query")[0]
    print(query)
    for position in np.argsort(-similarities):
        print(f"{similarities[position]:.4f}  {DOCUMENTS[position]}")


if __name__ == "__main__":
    run(main)
