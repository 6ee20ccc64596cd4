"""The words that EmbeddingGemma expects before a text, as its model card gives them."""

from embeddinggemma.validation import check_choice

# The task's name in the prompt, for every task except documents to search.
# https://ai.google.dev/gemma/docs/embeddinggemma/model_card#prompt-instructions
_QUERY_TASKS = {
    "retrieval_query": "search result",
    "question_answering": "question answering",
    "fact_verification": "fact checking",
    "classification": "classification",
    "clustering": "clustering",
    "semantic_similarity": "sentence similarity",
    "code_retrieval": "code retrieval",
}
DOCUMENT_TASK = "retrieval_document"
NO_TASK = "none"  # the text as it is, for callers who bring their own prompt
TASKS = (DOCUMENT_TASK, *_QUERY_TASKS, NO_TASK)


def add_prompt(text: str, task: str, title: str | None = None) -> str:
    """Return the text as it is fed to the tokenizer.

    A document without a title gets the title "none", as in the training of the model.

    Raises:
        ValueError: the task is not one of TASKS, or a title is given for a task other than retrieval_document.

    """
    if task == DOCUMENT_TASK:
        return f"title: {title or 'none'} | text: {text}"
    check_choice("task", task, TASKS)
    if title:
        raise ValueError(f"title goes with task {DOCUMENT_TASK} only; leave it out or change task, which is {task}")
    if task == NO_TASK:
        return text
    return f"task: {_QUERY_TASKS[task]} | query: {text}"
