"""llama.cpp in bfloat16, or on a GGUF file as it is, through the C functions that llama-cpp-python binds.

Its class Llama serves one request.
"""

import ctypes
import os
import tempfile
from pathlib import Path

import measure

REQUESTS, CONTEXT, BATCH = 32, 20480, 512  # cache for all requests together; tokens of a step


def converted(model: Path) -> Path:
    """The checkpoint as GGUF, beside it or in the temporary folder; written once. A file is GGUF already."""
    if model.is_file():
        return model
    import to_gguf

    folder = model if os.access(model, os.W_OK) else Path(tempfile.gettempdir())
    file = folder / f"{model.name}-bf16.gguf"
    if not file.exists():
        to_gguf.write(model, file.with_suffix(".part"))
        file.with_suffix(".part").rename(file)
    return file


class Runner:
    """A model and its context; greedy tokens of several requests at once."""

    def __init__(self, file: Path, threads: int, rearranged: bool = True):
        """rearranged: whether weights are, for the kernels of this processor."""
        import llama_cpp

        self.api = llama_cpp
        llama_cpp.llama_backend_init()
        options = llama_cpp.llama_model_default_params()
        options.use_extra_bufts = rearranged
        self.model = llama_cpp.llama_model_load_from_file(str(file).encode(), options)
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx, parameters.n_batch, parameters.n_ubatch = CONTEXT, BATCH, BATCH
        parameters.n_seq_max, parameters.kv_unified = REQUESTS, True
        parameters.n_threads = parameters.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, parameters)
        if not self.context:
            raise RuntimeError(f"llama.cpp cannot make a context for {file}")
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(BATCH, 0, 1)

    def logits(self, tokens: list[tuple[int, int, int, bool]]):
        """tokens: (id, place, request, whether an answer is wanted) -> logits [vocab_size] of each wanted, in order.

        Each is read before the next call.
        """
        import numpy as np

        batch = self.batch
        batch.n_tokens = len(tokens)
        for i, (token, place, request, wanted) in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, place, 1
            batch.seq_id[i][0], batch.logits[i] = request, wanted
        if self.api.llama_decode(self.context, batch):
            raise RuntimeError(f"llama_decode failed on {len(tokens)} tokens")
        for i, (*_, wanted) in enumerate(tokens):
            if wanted:
                row = ctypes.cast(self.api.llama_get_logits_ith(self.context, i), ctypes.POINTER(ctypes.c_float))
                yield np.ctypeslib.as_array(row, (self.vocabulary,))

    def decode(self, tokens: list[tuple[int, int, int, bool]]) -> list[int]:
        """As `logits` -> the likeliest next ids, in order."""
        return [int(row.argmax()) for row in self.logits(tokens)]

    def forget(self) -> None:
        """Begin all requests anew."""
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)

    def generate(self, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        self.forget()
        places = [
            (token, place, request, place + 1 == len(prompt))
            for request, prompt in enumerate(prompts)
            for place, token in enumerate(prompt)
        ]
        last = [token for i in range(0, len(places), BATCH) for token in self.decode(places[i : i + BATCH])]
        answers = [last]
        for step in range(new_tokens - 1):
            last = self.decode([(token, len(prompts[i]) + step, i, True) for i, token in enumerate(last)])
            answers.append(last)
        return [list(answer) for answer in zip(*answers, strict=True)]


def start(model):
    return Runner(converted(Path(model)), len(os.sched_getaffinity(0))).generate


if __name__ == "__main__":
    measure.main(start)
