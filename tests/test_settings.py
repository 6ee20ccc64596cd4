from pathlib import Path

import pytest

from embeddinggemma.settings import Settings
from embeddinggemma.weights.store import Store
from tools import PROJECT


def test_without_variables_the_defaults_hold() -> None:
    settings = Settings.from_environment({})
    assert settings == Settings(
        manifest=PROJECT / "weights_manifest.json",
        store=Store(Path("~/.cache/embeddinggemma").expanduser(), stall_seconds=30),
        engine="native",
        dtype="auto",
        tokens_per_batch=None,
        traffic_log_seconds=60,
    )
    assert Settings.from_environment({"EMBEDDINGGEMMA_CACHE": "", "HF_TOKEN": ""}) == settings


def test_a_relative_path_is_meant_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings.from_environment({"EMBEDDINGGEMMA_MANIFEST": "m.json", "XDG_CACHE_HOME": "caches"})
    monkeypatch.chdir("/")
    assert (settings.manifest, settings.store.cache) == (tmp_path / "m.json", tmp_path / "caches" / "embeddinggemma")


def test_every_variable_is_read() -> None:
    environment = {
        "EMBEDDINGGEMMA_MANIFEST": "/m.json",
        "EMBEDDINGGEMMA_CACHE": "/c",
        "EMBEDDINGGEMMA_WEIGHTS_URL": "https://cdn.example/e",
        "HF_TOKEN": "hf_secret",
        "EMBEDDINGGEMMA_ENGINE": "sentence-transformers",
        "EMBEDDINGGEMMA_DTYPE": "bfloat16",
        "EMBEDDINGGEMMA_TOKENS_PER_BATCH": "512",
        "EMBEDDINGGEMMA_STALL_SECONDS": "2.5",
        "EMBEDDINGGEMMA_LOAD_LOG": "10",
    }
    settings = Settings.from_environment(environment)
    assert settings == Settings(
        manifest=Path("/m.json"),
        store=Store(Path("/c"), "https://cdn.example/e", "hf_secret", 2.5),
        engine="sentence-transformers",
        dtype="bfloat16",
        tokens_per_batch=512,
        traffic_log_seconds=10,
    )
    assert "hf_secret" not in repr(settings)


@pytest.mark.parametrize("value", ["many", "-1", "0", "1.5"])
def test_a_value_that_is_not_a_positive_whole_number_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match=f"EMBEDDINGGEMMA_TOKENS_PER_BATCH is '{value}'; it must be a positive"):
        Settings.from_environment({"EMBEDDINGGEMMA_TOKENS_PER_BATCH": value})


def test_the_load_log_can_be_turned_off() -> None:
    assert Settings.from_environment({"EMBEDDINGGEMMA_LOAD_LOG": "0"}).traffic_log_seconds == 0


@pytest.mark.parametrize("name", ["EMBEDDINGGEMMA_LOAD_LOG", "EMBEDDINGGEMMA_STALL_SECONDS"])
@pytest.mark.parametrize("value", ["often", "-1", "inf", "nan"])
def test_a_value_that_is_not_a_number_of_seconds_is_refused(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is '{value}'; it must be a number of seconds above 0"):
        Settings.from_environment({name: value})


@pytest.mark.parametrize(
    "url", ["http://user:secret@cdn.example", "https://user:s\u2100ecret@cdn.example/", "https://[::1/secret"]
)
def test_a_mirror_that_cannot_be_used_is_named_without_its_secrets(url: str) -> None:
    with pytest.raises(ValueError, match=r"^EMBEDDINGGEMMA_WEIGHTS_URL: ") as error:
        Settings.from_environment({"EMBEDDINGGEMMA_WEIGHTS_URL": url})
    assert "ecret" not in str(error.value)
