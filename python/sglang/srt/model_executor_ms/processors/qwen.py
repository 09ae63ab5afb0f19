"""Qwen's models are served by SGLang's own processor. What it does to files of videos wants an accelerator.

Qwen2VLForConditionalGeneration, Qwen2_5_VLForConditionalGeneration, Qwen3VLForConditionalGeneration and
Qwen3VLMoeForConditionalGeneration have this module imported, by their names.
"""

from sglang.srt.model_executor_ms.seams import requests

requests.leave_videos_unpinned()
