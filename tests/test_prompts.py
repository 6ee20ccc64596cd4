import json

import pytest

from embeddinggemma.prompts import TASKS, add_prompt
from tools.reference_model import CONFIGS

# https://ai.google.dev/gemma/docs/embeddinggemma/model_card#prompt-instructions
MODEL_CARD = {
    "retrieval_query": "task: search result | query: {text}",
    "retrieval_document": "title: none | text: {text}",
    "question_answering": "task: question answering | query: {text}",
    "fact_verification": "task: fact checking | query: {text}",
    "classification": "task: classification | query: {text}",
    "clustering": "task: clustering | query: {text}",
    "semantic_similarity": "task: sentence similarity | query: {text}",
    "code_retrieval": "task: code retrieval | query: {text}",
}
# The model's own config has other names for some of them.
CONFIG_NAMES = {
    "retrieval_query": "query",
    "retrieval_document": "document",
    "classification": "Classification",
    "clustering": "Clustering",
    "semantic_similarity": "STS",
    "code_retrieval": "InstructionRetrieval",
}


def test_there_is_a_prompt_for_every_task_of_the_model_card() -> None:
    assert set(TASKS) == {*MODEL_CARD, "none"}


def test_without_a_task_the_text_stays_as_it_is() -> None:
    assert add_prompt(" What? ", "none") == " What? "


@pytest.mark.parametrize("task", MODEL_CARD)
def test_prompt_is_the_model_cards_character_by_character(task: str) -> None:
    assert add_prompt(" What? ", task) == MODEL_CARD[task].format(text=" What? ")


@pytest.mark.parametrize(("task", "name"), CONFIG_NAMES.items())
def test_prompt_is_the_models_own_configs(task: str, name: str) -> None:
    config = json.loads((CONFIGS / "config_sentence_transformers.json").read_text())
    assert add_prompt("What?", task) == config["prompts"][name] + "What?"


def test_a_document_may_have_a_title() -> None:
    assert add_prompt("It is red.", "retrieval_document", "Mars") == "title: Mars | text: It is red."


def test_an_empty_title_is_no_title() -> None:
    assert add_prompt("It is red.", "retrieval_document", "") == "title: none | text: It is red."
    assert add_prompt("It is red.", "clustering", "") == "task: clustering | query: It is red."


def test_a_title_with_another_task_is_refused() -> None:
    for task in ("clustering", "none"):
        with pytest.raises(ValueError, match=rf"title goes with task retrieval_document only.*{task}"):
            add_prompt("It is red.", task, "Mars")


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(ValueError, match="task is 'search'; it must be one of retrieval_document, "):
        add_prompt("It is red.", "search")
