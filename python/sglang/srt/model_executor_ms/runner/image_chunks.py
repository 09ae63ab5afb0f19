"""Chunks of prompts that end between images, of models whose tokens see all of their image.

A chunk that ended within an image would have computed its first tokens without the last ones.
"""

from sglang.srt.model_executor_ms.runner.media import image_places
from sglang.srt.model_executor_ms.seams import scheduling
from sglang.srt.models_ms.config import UnsupportedConfig
from sglang.srt.runtime_context import get_schedule


def keep_images_whole(network) -> None:
    """Have SGLang's scheduler, of this process, end chunks between images, if the model wants that."""
    if not network.whole_images:
        return
    if get_schedule().enable_mixed_chunk:
        raise UnsupportedConfig(
            "--enable-mixed-chunk: tokens of an image see all of it, and decoding requests may leave no room for it "
            "in a chunk; leave the flag out, or serve text without --enable-multimodal"
        )
    scheduling.end_chunks_with(end_of_chunk)


def end_of_chunk(request, begin: int, end: int) -> int:
    """Where a chunk of a request's prompt, places begin to end - 1, ends at last: before an image that it would cut.

    That is `begin` where the image comes first, and the chunk has no room for it.
    """
    for first, last in image_places(request.multimodal_inputs):
        if first < end <= last:
            return max(begin, first)
    return end
