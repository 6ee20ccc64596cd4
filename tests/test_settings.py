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
        store=Store(Path("/c"), "https://cdn.example/e/{path}", "hf_secret", 2.5),
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


def test_white_space_around_a_value_is_dropped() -> None:
    """A secret that is made from a file ends in a line break."""
    spaced = {
        "HF_TOKEN": "hf_secret\n",
        "EMBEDDINGGEMMA_WEIGHTS_URL": " https://cdn.example/e\r\n",
        "EMBEDDINGGEMMA_THREADS": "\t2\n",
        "EMBEDDINGGEMMA_DTYPE": "\n",
    }
    assert Settings.from_environment(spaced) == Settings.from_environment(
        {"HF_TOKEN": "hf_secret", "EMBEDDINGGEMMA_WEIGHTS_URL": "https://cdn.example/e", "EMBEDDINGGEMMA_THREADS": "2"}
    )


@pytest.mark.parametrize("token", ["hf_\nsecret", "hf_ secret", "hf_secret\0", "hf_secret…", "hf_\udce9secret"])
def test_a_token_that_cannot_be_in_a_header_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(ValueError, match=r"^HF_TOKEN cannot be sent in a header: it must be") as error:
        Settings.from_environment({"HF_TOKEN": token})
    assert "secret" not in str(error.value)
    assert error.value.__cause__ is error.value.__context__ is None


def test_a_folder_or_tar_of_this_machine_is_resolved_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "version 1").mkdir()
    (tmp_path / "current").symlink_to("version 1")
    (tmp_path / "version 1" / "model.tar").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))

    def mirror(location: str) -> str | None:
        return Settings.from_environment({"EMBEDDINGGEMMA_WEIGHTS_URL": location}).store.mirror

    folder = f"file://{tmp_path}/version%201"
    for location in ("current", "./current/", "~/current", f"{tmp_path}/current", f"file://{tmp_path}/current"):
        assert mirror(location) == f"{folder}/{{path}}"
    assert mirror("current/{path}") == f"{folder}/{{path}}"
    assert mirror("current/model.tar") == f"{folder}/model.tar"


@pytest.mark.parametrize("location", ["user:secret@cdn.example/models?secret", "/none/secret", "file:///none/secret"])
def test_what_is_neither_a_url_nor_a_folder_is_refused(location: str) -> None:
    with pytest.raises(
        ValueError,
        match=r"^EMBEDDINGGEMMA_WEIGHTS_URL is neither a URL, as https://\.\.\., nor a folder or tar that exists",
    ) as error:
        Settings.from_environment({"EMBEDDINGGEMMA_WEIGHTS_URL": location})
    assert "secret" not in str(error.value)


def test_a_home_folder_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match=r"^EMBEDDINGGEMMA_CACHE: there is no home folder that ~ could mean"):
        Settings.from_environment({"EMBEDDINGGEMMA_CACHE": "~nobody-of-this-name/cache"})
