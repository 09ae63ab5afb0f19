"""transformers' text of Step-3.7, with a head: what Step-3.5 is, of which transformers has no model by itself."""

from torch import nn
from transformers.modeling_outputs import CausalLMOutput
from transformers.models.step3p7.modeling_step3p7 import Step3p7PreTrainedModel, Step3p7TextConfig, Step3p7TextModel


class Step3p5ForCausalLM(Step3p7PreTrainedModel):
    config_class = Step3p7TextConfig

    def __init__(self, config):
        super().__init__(config)
        self.model = Step3p7TextModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(self, input_ids, **options):
        return CausalLMOutput(logits=self.lm_head(self.model(input_ids, **options).last_hidden_state))
