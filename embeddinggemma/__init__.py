"""EmbeddingGemma-300M served: verified weights, the task's prompt, exact truncation, right vectors."""
