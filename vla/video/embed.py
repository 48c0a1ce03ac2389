"""Models that turn texts into vectors, for search by meaning."""

from collections.abc import Sequence

import numpy as np

from vla.video.chat import Endpoint, EndpointError, NoReply, place_of

BATCH = 64  # texts in one request


class EndpointEmbedder:
    """An embedding model behind an endpoint that speaks OpenAI's protocol."""

    def __init__(self, url: str, model: str | None, *, key_variable: str, timeout_s: float) -> None:
        if not model:
            raise ValueError(f"embeddings.model={model}: give the name by which {place_of(url)} knows the model")
        self._endpoint = Endpoint(url, key_variable=key_variable, timeout_s=timeout_s)
        self._model, self.identity = model, f"{model}, at {self._endpoint.place}"

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32[N, D] of length 1, asking for BATCH texts at a time; what fails once is tried once more."""
        table = np.concatenate([self._part(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)])
        return table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)

    def _part(self, texts: Sequence[str]) -> np.ndarray:
        problem: Exception | None = None
        for _ in range(2):
            try:
                answer = self._endpoint.post("embeddings", {"model": self._model, "input": list(texts)})
                rows = sorted(answer["data"], key=lambda row: row["index"])
                table = np.array([row["embedding"] for row in rows], np.float32)
                if table.ndim != 2 or len(table) != len(texts) or not np.isfinite(table).all():
                    raise NoReply(f"{len(texts)} texts gave vectors of shape {table.shape}")
                return table
            except (NoReply, KeyError, TypeError, ValueError) as error:
                if isinstance(error, EndpointError):
                    raise
                problem = error
        raise EndpointError(f"the embedding model {self.identity} gave no vectors, twice: {problem}")
