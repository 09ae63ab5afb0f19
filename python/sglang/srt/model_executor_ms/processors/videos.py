"""Videos of LLaVA's models: files, or lists of frames, through transformers' own video processors.

SGLang 0.5.23 has no processor that takes videos for them. It loads what a request shows, and decodes files.
"""

import asyncio
import dataclasses

import numpy as np
import torch
from PIL import Image
from transformers.video_utils import VideoMetadata

from sglang.srt.managers.schedule_batch import Modality, MultimodalDataItem
from sglang.srt.utils.video_decoder import VideoDecoderWrapper

FRAMES = 32  # of a file at most, where neither request nor server nor checkpoint says how many: the models learned 32
SAMPLING = ("num_frames", "fps")
PIXELS = "pixels_of_videos"  # in what a processor made: a tensor [frames, channels, height, width] a video


class TakesVideos:
    """Before a LlavaProcessor: takes videos too, each in the place of one placeholder. A family says what is below."""

    def tokens_of_video(self, frames: int) -> int:
        """How many tokens a video of so many frames has."""
        raise NotImplementedError

    def special_tokens(self, hf_config, processor) -> dict:
        more = dict(video_token=processor.video_token, video_token_id=hf_config.video_token_id)
        return super().special_tokens(hf_config, processor) | more

    async def load(self, prompt, image_data, request_obj):
        """As LlavaProcessor's, with the frames of videos."""
        given, asked = request_obj.video_data or [], self._sampling(request_obj)
        loaded = await self.load_mm_data(prompt, self.mm_tokens, image_data, given, discard_alpha_channel=True)
        if len(loaded.videos) < len(given):
            raise ValueError(f"The prompt has places for {len(loaded.videos)} videos, and video_data has {len(given)}")
        run = asyncio.get_running_loop().run_in_executor
        frames = [run(self.io_executor, self._frames, video, asked) for video in loaded.videos]
        return dataclasses.replace(loaded, videos=await asyncio.gather(*frames))

    def _sampling(self, request_obj) -> dict:
        """How many frames of a file are taken: `num_frames`, or `fps`, of the request or else of the server."""
        asked = getattr(request_obj, "video_config", None) or {}
        unknown = sorted(name for name in asked if name not in SAMPLING and not name.startswith("_"))
        if unknown:
            raise ValueError(f"video_config has {unknown}: it may have {list(SAMPLING)}")
        for config in (asked, self.video_config):
            found = {name: config[name] for name in SAMPLING if config.get(name) is not None}
            kinds = dict(num_frames=int, fps=int | float)
            if len(found) > 1 or any(not isinstance(one, kinds[name]) or one <= 0 for name, one in found.items()):
                raise ValueError(f"the frames of a video: {found}, but a positive num_frames or fps is wanted")
            if found:
                return found
        return {}

    def _frames(self, video, asked):
        """Frames as transformers takes them of what SGLang loaded: a decoder, or frames [F, height, width, 3]."""
        if isinstance(video, dict):
            return video  # made by a processor already
        if isinstance(video, VideoDecoderWrapper):
            return video.get_frames_at(self._chosen(len(video), video.avg_fps, asked))
        if isinstance(video, list | tuple):
            video = [self._frame(one) for one in video]
            if len({one.shape for one in video}) != 1:
                raise ValueError("a video is one frame or more, all of one size")
            video = np.stack(video)
        if video.ndim != 4 or not len(video):
            raise ValueError(f"a video is frames [frames, height, width, 3], and not {list(video.shape)}")
        return video

    def _frame(self, frame) -> np.ndarray:
        if isinstance(frame, np.ndarray | torch.Tensor):
            return np.asarray(frame)
        if not isinstance(frame, str | bytes | Image.Image):
            raise ValueError(f"a frame of a video is an image or an array, and not {type(frame).__name__}")
        return np.asarray(self._load_single_item(frame, Modality.IMAGE))

    def _chosen(self, total: int, fps: float, asked: dict) -> list[int]:
        """Which frames of a file: as transformers' processor spreads them."""
        processor = self._processor.video_processor
        if not asked and processor.num_frames is None and processor.fps is None:
            asked = dict(num_frames=FRAMES)
        if asked.get("num_frames", 0) > total:
            asked = dict(num_frames=total)
        found = processor.sample_frames(VideoMetadata(total_num_frames=total, fps=fps), **asked)
        return found.tolist() or [0]  # of a video shorter than a frame's time

    def process_mm_data(self, input_text, images=None, videos=None, **kwargs):
        """As SGLang's. Videos become pixels one by one: transformers takes no two of different length together."""
        processor, _ = self._resolve_processor(kwargs.get("processor"))
        made = [self._pixels(processor, video) for video in videos or ()]
        if made:
            input_text = self._with_places(processor, input_text, made)
        result = super().process_mm_data(input_text, images=images, **kwargs)
        result[PIXELS] = made
        return result

    def _pixels(self, processor, video) -> torch.Tensor:
        """[frames, channels, height, width]"""
        config = {name: value for name, value in self.video_config.items() if name not in SAMPLING}
        config |= dict(return_tensors="pt", do_sample_frames=False)
        (pixels,) = processor.video_processor([video], **config)["pixel_values_videos"]
        side = self.hf_config.vision_config.image_size
        if tuple(pixels.shape[-2:]) != (side, side):
            raise ValueError(f"the video processor makes frames of {list(pixels.shape[-2:])}, the tower takes {side}")
        return pixels

    @staticmethod
    def _with_places(processor, text: str, made) -> str:
        """The prompt with as many placeholders as each video has tokens."""
        first, *others = text.split(processor.video_token)
        if len(others) != len(made):
            raise ValueError(f"The prompt has places for {len(others)} videos, and video_data has {len(made)}")
        places = [processor.replace_video_token({"pixel_values_videos": made}, place) for place in range(len(made))]
        return first + "".join(place + part for place, part in zip(places, others, strict=True))

    def collect_mm_items_from_processor_output(self, data_dict, modality=None):
        """As LlavaProcessor's, and an item a video."""
        items = super().collect_mm_items_from_processor_output(data_dict, modality)
        made = data_dict.get(PIXELS)
        if not made:
            return items
        counts = [self.tokens_of_video(len(video)) for video in made]
        offsets = self.offsets(data_dict["input_ids"], self.mm_tokens.video_token_id, counts)
        return items + [
            MultimodalDataItem(modality=Modality.VIDEO, feature=video, offsets=[offset])
            for video, offset in zip(made, offsets, strict=True)
        ]
