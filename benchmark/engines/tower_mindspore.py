"""The tower of a model that sees, by this backend's operators, without SGLang's processes."""

import measure
from towers import pixels


class Tower:
    """A model whose tower alone is asked."""

    def __init__(self, model):
        from mindspore import bfloat16

        from sglang.srt.model_executor_ms.environment import read_environment
        from sglang.srt.model_executor_ms.parallel.cpu_affinity import processors
        from sglang.srt.model_executor_ms.runner import device
        from sglang.srt.model_executor_ms.runner.media import MediaInputs
        from sglang.srt.model_executor_ms.runner.weights import check_weights, load_weights
        from sglang.srt.models_ms.config import Runtime
        from sglang.srt.models_ms.registry import model_class
        from sglang.srt.utils.hf_transformers_utils import get_config

        device.start("cpu", processors=processors(read_environment()))
        config = get_config(model, trust_remote_code=False)
        read, runtime = config.to_dict(), Runtime(bfloat16, max_positions=config.text_config.max_position_embeddings)
        self.media = MediaInputs()
        self.media.network = model_class(config.architectures, read)(read, runtime)
        load_weights(self.media.network, check_weights(self.media.network, model), progress=False)

    def rows(self, side: int):
        """What the decoder takes of an image of side x side pixels."""
        from sglang.srt.managers.schedule_batch import Modality, MultimodalDataItem

        patches, grid = pixels(side)
        known = dict(image_grid_thw=grid)
        item = MultimodalDataItem(modality=Modality.IMAGE, feature=patches, model_specific_data=known)
        return self.media.get_image_feature([item])[0]


def start(model):
    tower = Tower(model)
    return lambda _prompts, _new_tokens, side: tower.rows(side)


if __name__ == "__main__":
    measure.main(start)
