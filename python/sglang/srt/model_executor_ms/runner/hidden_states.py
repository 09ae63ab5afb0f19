"""Hidden states of a prompt: a row for each of its tokens that were computed, in however many chunks.

SGLang 0.5.23 keeps the rows of a prompt's last chunk, and after a retraction those of the prompt again.
"""

from sglang.srt.model_executor_ms.seams import scheduling


def keep(original, processor, *, req, logits_output, hidden_state_offset, capture_hidden_mode, extend_input_len, store):
    """Around SGLang's _append_prefill_hidden_states, for requests that want all rows of their prompt."""
    end = original(
        processor,
        req=req,
        logits_output=logits_output,
        hidden_state_offset=hidden_state_offset,
        capture_hidden_mode=capture_hidden_mode,
        extend_input_len=extend_input_len,
        store=store,
    )
    if req.return_hidden_states is not True or not capture_hidden_mode.is_full():
        return end
    if store:
        _join(req)
    elif req.inflight_middle_chunks > 0 and not req.is_retracted and not req.finished():
        rows = logits_output.hidden_states[hidden_state_offset:end].tolist()
        scheduling.note_rows(req, scheduling.noted_rows(req) + rows)
    return end


def _join(req) -> None:
    """The last entry of req.hidden_states is of the step that ends the prompt."""
    rows, before = req.hidden_states.pop(), scheduling.noted_rows(req)
    scheduling.note_rows(req, [])
    if req.hidden_states:  # it was retracted: its prompt's rows, and one for each token, are here already
        req.hidden_states.append(rows[-1])
        return
    tokens = len(req.origin_input_ids) + len(req.output_ids)
    cached = tokens - len(rows) - len(before)
    # A prompt that was retracted amid its chunks starts again: rows that come twice are dropped.
    req.hidden_states.append(before[: len(before) + min(cached, 0)] + rows)
