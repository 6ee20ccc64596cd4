"""Names under which Replicate's clients ask for the container."""

MODEL = "someone/embeddinggemma-300m"
VERSION = "5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa"
