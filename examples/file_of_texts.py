"""A file of texts to a file of vectors. Give one (JSONL, a JSON array, or a text in each line), or try the example's.

The answer holds up to 32 MB of vectors; for more, give the container an upload_url.
"""

import base64
import sys
from pathlib import Path

from client import URL, ask, run

TEXTS = "Venus is often called Earth's twin.\nMars is known as the Red Planet.\nJupiter has a red spot.\n"


def main() -> None:
    """Write the vectors into the present folder, under the name of the file of texts."""
    file = Path(sys.argv[1]) if sys.argv[1:] else None
    content = file.read_bytes() if file else TEXTS.encode()
    texts_file = f"data:application/octet-stream;base64,{base64.b64encode(content).decode()}"
    output = ask(URL, {"texts_file": texts_file, "task": "retrieval_document"})
    written = Path(f"{file.name if file else 'planets.txt'}.{output['output_format']}")
    vectors = output["file"]  # a data URI; of Replicate's client an object
    written.write_bytes(base64.b64decode(vectors.partition(",")[2]) if isinstance(vectors, str) else vectors.read())
    rows, width = output["shape"]
    print(f"{written}: {rows:,} vectors of {width} numbers, from {output['tokens']:,} tokens")


if __name__ == "__main__":
    run(main)
