"""The original container's start, for comparison: fetch the files, check nothing, SentenceTransformer(path)."""

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path

import requests
from cog import BasePredictor


class Predictor(BasePredictor):
    """Downloads with pget if it is installed, else with requests."""

    def setup(self) -> None:
        """Fetch the folder if it is missing, and load it."""
        folder, url = Path(os.environ["ORIGINAL_FOLDER"]), os.environ["ORIGINAL_URL"]
        if not folder.exists():
            fetch(url, json.loads(os.environ["ORIGINAL_FILES"]), folder, shutil.which("pget"))
        from sentence_transformers import SentenceTransformer

        self.model = SentenceTransformer(str(folder), local_files_only=True)

    def predict(self, text: str) -> str:
        """Return the vector as base64."""
        return base64.b64encode(self.model.encode(text).tobytes()).decode()


def fetch(url: str, files: list[str], folder: Path, pget: str | None) -> None:
    """Download files below `url` into a folder, and verify nothing."""
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
    if pget:
        listing = "".join(f"{url}/{file} {folder / file}\n" for file in files)
        environment = {**os.environ, "PGET_PID_FILE": str(folder / ".pget.pid")}
        subprocess.run([pget, "multifile", "-f", "-"], input=listing, text=True, check=True, env=environment)
        return
    with requests.Session() as session:
        for file in files:
            with session.get(f"{url}/{file}", stream=True, timeout=60) as response, (folder / file).open("wb") as copy:
                response.raise_for_status()
                for chunk in response.iter_content(1 << 20):
                    copy.write(chunk)
