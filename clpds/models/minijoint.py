"""MiniJoint (Marchisio et al. 2023, arXiv 2212.10503): an encoder with a second masked LM head after a lower layer.

The layers up to that head are a model of their own, the mini-model; it and the whole model, the primary, learn in one
forward pass and share embeddings. The middle head has a transform and a bias of its own, and the one output matrix
that is tied to the embedding. Importing this registers both classes with AutoConfig and AutoModelForMaskedLM.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
)
from transformers.models.bert.modeling_bert import BertModel, BertOnlyMLMHead, BertPreTrainedModel
from transformers.models.roberta.modeling_roberta import RobertaLMHead, RobertaModel, RobertaPreTrainedModel
from transformers.utils import ModelOutput


class BertMiniJointConfig(BertConfig):
    """A BERT with a middle head."""

    model_type = "bert-minijoint"
    mini_layers: int = 4
    """Layers of the mini-model: the middle head reads what the last of them says."""


class RobertaMiniJointConfig(RobertaConfig):
    """A RoBERTa with a middle head."""

    model_type = "roberta-minijoint"
    mini_layers: int = 4
    """Layers of the mini-model: the middle head reads what the last of them says."""


@dataclass
class MiniJointOutput(ModelOutput):
    """What both heads say, each (B, N, V)."""

    logits: Tensor | None = None
    mini_logits: Tensor | None = None


class MiniJoint:
    """What the two classes share; beside a class of transformers with a masked LM head."""

    head: str
    """Attribute of the top head; the middle head's is the same with ``mini_`` before it."""
    base_model: Any
    config: Any

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> MiniJointOutput:
        """Logits of both heads from one pass through the body."""
        outputs = self.base_model(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            output_hidden_states=True,
            return_dict=True,
        )
        return MiniJointOutput(
            logits=getattr(self, self.head)(outputs.last_hidden_state),
            mini_logits=getattr(self, f"mini_{self.head}")(outputs.hidden_states[self.config.mini_layers]),
        )


class BertMiniJointForMaskedLM(MiniJoint, BertForMaskedLM):
    """BertForMaskedLM with a middle head ``mini_cls``."""

    config_class = BertMiniJointConfig
    head = "cls"
    _tied_weights_keys = BertForMaskedLM._tied_weights_keys | {
        "mini_cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "mini_cls.predictions.decoder.bias": "mini_cls.predictions.bias",
    }

    def __init__(self, config: BertMiniJointConfig) -> None:
        BertPreTrainedModel.__init__(self, config)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.cls = BertOnlyMLMHead(config)
        self.mini_cls = BertOnlyMLMHead(config)
        self.post_init()


class RobertaMiniJointForMaskedLM(MiniJoint, RobertaForMaskedLM):
    """RobertaForMaskedLM with a middle head ``mini_lm_head``."""

    config_class = RobertaMiniJointConfig
    head = "lm_head"
    _tied_weights_keys = RobertaForMaskedLM._tied_weights_keys | {
        "mini_lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
        "mini_lm_head.decoder.bias": "mini_lm_head.bias",
    }

    def __init__(self, config: RobertaMiniJointConfig) -> None:
        RobertaPreTrainedModel.__init__(self, config)
        self.roberta = RobertaModel(config, add_pooling_layer=False)
        self.lm_head = RobertaLMHead(config)
        self.mini_lm_head = RobertaLMHead(config)
        self.post_init()


CLASSES: dict[str, Any] = {"bert": BertMiniJointForMaskedLM, "roberta": RobertaMiniJointForMaskedLM}
"""By the model type that gets a middle head."""
for _class in CLASSES.values():
    AutoConfig.register(_class.config_class.model_type, _class.config_class)
    AutoModelForMaskedLM.register(_class.config_class, _class)
