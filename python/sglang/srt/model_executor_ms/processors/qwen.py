"""Qwen's models are served by SGLang's own processor. What it does to files of videos wants an accelerator."""

from sglang.srt.model_executor_ms.seams import requests

requests.leave_videos_unpinned()
