"""InternVLChatModel is served by SGLang's own processor, which asks what device there is, and knows of no CPU."""

from sglang.srt.model_executor_ms.seams import processors

processors.compute_pixels_on_cpus()
