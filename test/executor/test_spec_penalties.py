"""Penalties of a verify step, against SGLang's own penalizers, which are told one token after another."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sglang.srt.model_executor_ms.runner import spec_kernels
from sglang.srt.model_executor_ms.runner.spec_penalties import penalize_drafts
from sglang.srt.sampling.penaltylib import (
    BatchedFrequencyPenalizer,
    BatchedMinNewTokensPenalizer,
    BatchedPenalizerOrchestrator,
    BatchedPresencePenalizer,
    BatchedRepetitionPenalizer,
)
from sglang.srt.sampling.sampling_params import SamplingParams

SECONDS = 4
VOCAB, DRAFTS = 30, 6
PENALIZERS = [  # what is multiplied comes last, as where SGLang's steps overlap
    *(BatchedFrequencyPenalizer, BatchedPresencePenalizer),
    *(BatchedMinNewTokensPenalizer, BatchedRepetitionPenalizer),
]
ASKED = (
    {"frequency_penalty": 0.7},
    {"presence_penalty": -0.4, "repetition_penalty": 1.3},
    {"min_new_tokens": 9, "stop_token_ids": [4, 11], "repetition_penalty": 0.8},
    {},
    {"frequency_penalty": -0.2, "presence_penalty": 0.5, "repetition_penalty": 1.7, "min_new_tokens": 3},
)


def a_request(generator, asked):
    tokenizer = SimpleNamespace(eos_token_id=2, additional_stop_token_ids=None)
    return SimpleNamespace(
        sampling_params=SamplingParams(**asked),
        output_ids=generator.integers(0, VOCAB, generator.integers(1, 12)).tolist(),
        eos_token_ids={3},
        tokenizer=tokenizer,
    )


class Batch(SimpleNamespace):
    """What penalizers read of a ScheduleBatch, by a weak reference."""


def wanted(request, path, logits):
    """By SGLang's penalizers, of which each is told the tokens of the answer and then those of a path."""
    batch = Batch(reqs=[request], device="cpu")
    orchestrator, found = BatchedPenalizerOrchestrator(VOCAB, batch, PENALIZERS), logits[None].clone()
    for token in [*request.output_ids, *path]:
        orchestrator.cumulate_output_tokens(torch.tensor([token]))
    orchestrator.apply(found)
    return found[0]


@pytest.mark.parametrize("chains", [True, False])
def test_each_draft_is_penalized_for_the_tokens_before_it(chains):
    generator = np.random.default_rng(int(chains))
    for _ in range(10):
        requests = [a_request(generator, asked) for asked in ASKED]
        parents = [[-1] + [int(generator.integers(0, i)) for i in range(1, DRAFTS)] for _ in requests]
        sees = np.stack([spec_kernels._ancestors(list(range(-1, DRAFTS - 1)) if chains else one) for one in parents])
        drafts = generator.integers(0, VOCAB, (len(requests), DRAFTS))
        drafts[:, 0] = [request.output_ids[-1] for request in requests]
        logits = torch.randn(len(requests) * DRAFTS, VOCAB, generator=torch.Generator().manual_seed(0))
        mask = None if chains else torch.from_numpy(sees).reshape(-1)
        by_request = logits.view(len(requests), DRAFTS, -1)
        rows = [
            wanted(request, own[1:][path[1:]], row)
            for request, own, paths, of in zip(requests, drafts, sees, by_request, strict=True)
            for path, row in zip(paths, of, strict=True)
        ]
        tokens = dict(draft_token=torch.from_numpy(drafts).reshape(-1), draft_token_num=DRAFTS)
        penalize_drafts(SimpleNamespace(tree_topk=1 if chains else 4, custom_mask=mask, **tokens), requests, logits)
        torch.testing.assert_close(logits, torch.stack(rows), atol=1e-6, rtol=1e-6)
