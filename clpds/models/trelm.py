"""TRILayer encoders (Li et al. 2021, arXiv 2107.12627): BERT and RoBERTa with one more block before block L/2.

The lower half reads a sentence of one language. The TRILayer puts its states into the order of another
language by a word alignment, and the upper half goes on as that language. Without an alignment it is an
encoder of L + 1 blocks.

This file needs torch and transformers only, and importing it makes the Auto classes know the models: to open one
where clpds is not installed, take the file along. ``docs/methods/trelm.md`` has the maths.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
    RobertaModel,
)
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.bert.modeling_bert import BertOnlyMLMHead, BertPreTrainedModel
from transformers.models.roberta.modeling_roberta import (
    RobertaClassificationHead,
    RobertaLMHead,
    RobertaPreTrainedModel,
)
from transformers.utils.output_capturing import capture_outputs


class TrelmBertConfig(BertConfig):
    """BERT's, and how many languages have an embedding."""

    model_type = "trelm-bert"
    num_languages: int = 2
    """The source's language is 0, the new one 1."""
    default_language: int = 1
    """Of input that names none."""


class TrelmRobertaConfig(RobertaConfig):
    """RoBERTa's, and how many languages have an embedding."""

    model_type = "trelm-roberta"
    num_languages: int = 2
    """The source's language is 0, the new one 1."""
    default_language: int = 1
    """Of input that names none."""


class Trilayer:
    """What turns an encoder of transformers into a TRILayer encoder; goes before it among the base classes."""

    embeddings: Any
    encoder: Any
    pooler: Any
    config: Any

    def __init__(self, config: Any, add_pooling_layer: bool = True) -> None:
        if config.num_hidden_layers % 2 or not config.num_hidden_layers:
            raise ValueError(f"a TRILayer stands in the middle: {config.num_hidden_layers} layers are no even number")
        if config.is_decoder:
            raise ValueError("a TRILayer model is an encoder; set is_decoder to false")
        super().__init__(config, add_pooling_layer=add_pooling_layer)  # type: ignore[call-arg]
        block = type(self.encoder.layer[0])
        self.encoder.trilayer = block(config, layer_idx=config.num_hidden_layers)
        self.embeddings.language_embeddings = nn.Embedding(config.num_languages, config.hidden_size)
        self.post_init()  # type: ignore[attr-defined]

    @capture_outputs  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        language_ids: Tensor | None = None,
        alignment: Tensor | None = None,
        target_language_ids: Tensor | None = None,
        target_attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Encode ``input_ids`` (B, N), and with ``alignment`` (B, M) go on in the other language's order.

        ``alignment[b, t]`` is the place in the source whose state target place t starts from.
        ``language_ids`` (B,) are rows of the language table, the config's default unless told, and
        ``target_language_ids`` (B,) the same unless told. ``attention_mask`` rules the lower half,
        ``target_attention_mask`` TRILayer and upper half: (B, N) and (B, M), 1 for tokens and 0 for
        padding, or masks of four dimensions as attention takes them. Without an alignment mask and positions stay.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        words = self.embeddings.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        if position_ids is None:
            whole = torch.ones(words.shape[:2], dtype=torch.bool, device=words.device)
            position_ids = self._positions(whole if input_ids is None else input_ids != self.config.pad_token_id)
        if language_ids is None:
            language_ids = torch.full((len(words),), self.config.default_language, device=words.device)
        states = self.embeddings(
            inputs_embeds=words + self._language(language_ids), position_ids=position_ids, token_type_ids=token_type_ids
        )
        mask = self._mask(states, attention_mask)
        for number, block in enumerate(self.encoder.layer):
            if 2 * number == len(self.encoder.layer):
                if alignment is not None:
                    states = torch.take_along_dim(states, alignment[:, :, None], dim=1)
                    tokens = attention_mask if target_attention_mask is None else target_attention_mask
                    if tokens is None or tokens.dim() != 2:
                        tokens = torch.ones_like(alignment)
                    position_ids = self._positions(tokens)
                if target_attention_mask is not None:
                    mask = self._mask(states, target_attention_mask)
                language = self._language(language_ids if target_language_ids is None else target_language_ids)
                states = states + language + self.embeddings.position_embeddings(position_ids)
                states = self.encoder.trilayer(states, mask, **kwargs)
            states = block(states, mask, **kwargs)
        pooled = None if self.pooler is None else self.pooler(states)
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=pooled)

    def _language(self, ids: Tensor) -> Tensor:
        """(B,) or (B, 1) to (B, 1, D)."""
        return self.embeddings.language_embeddings(ids.reshape(-1, 1))

    def _mask(self, states: Tensor, mask: Tensor | None) -> Any:
        """As the blocks take it."""
        return create_bidirectional_mask(config=self.config, inputs_embeds=states, attention_mask=mask)

    def _positions(self, tokens: Tensor) -> Tensor:
        """Rows of the position table, (B, N) or (1, N), for rows of ``tokens`` (True or 1) and padding."""
        raise NotImplementedError


class TrelmBertModel(Trilayer, BertModel):
    """BERT with a TRILayer, and language embeddings in its input."""

    config: TrelmBertConfig

    def _positions(self, tokens: Tensor) -> Tensor:
        return torch.arange(tokens.shape[1], device=tokens.device)[None]


class TrelmRobertaModel(Trilayer, RobertaModel):
    """RoBERTa with a TRILayer, and language embeddings in its input."""

    config: TrelmRobertaConfig

    def _positions(self, tokens: Tensor) -> Tensor:
        """From the padding id + 1 on; padding has the padding id's row."""
        return (tokens.cumsum(dim=1) * tokens).long() + self.config.pad_token_id


class TrelmBertForMaskedLM(BertForMaskedLM):
    """With the head that predicts tokens; ``forward`` passes the arguments of ``Trilayer.forward`` on."""

    config: TrelmBertConfig

    def __init__(self, config: TrelmBertConfig) -> None:
        BertPreTrainedModel.__init__(self, config)
        self.bert = TrelmBertModel(config, add_pooling_layer=False)
        self.cls = BertOnlyMLMHead(config)
        self.post_init()


class TrelmRobertaForMaskedLM(RobertaForMaskedLM):
    """With the head that predicts tokens; ``forward`` passes the arguments of ``Trilayer.forward`` on."""

    config: TrelmRobertaConfig

    def __init__(self, config: TrelmRobertaConfig) -> None:
        RobertaPreTrainedModel.__init__(self, config)
        self.roberta = TrelmRobertaModel(config, add_pooling_layer=False)
        self.lm_head = RobertaLMHead(config)
        self.post_init()


class TrelmBertForSequenceClassification(BertForSequenceClassification):
    """With a classifier; the language of a sentence may be named."""

    config: TrelmBertConfig

    def __init__(self, config: TrelmBertConfig) -> None:
        BertPreTrainedModel.__init__(self, config)
        self.num_labels = config.num_labels
        self.bert = TrelmBertModel(config)
        rate = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
        self.dropout = nn.Dropout(rate)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()


class TrelmRobertaForSequenceClassification(RobertaForSequenceClassification):
    """With a classifier; the language of a sentence may be named."""

    config: TrelmRobertaConfig

    def __init__(self, config: TrelmRobertaConfig) -> None:
        RobertaPreTrainedModel.__init__(self, config)
        self.num_labels = config.num_labels
        self.roberta = TrelmRobertaModel(config, add_pooling_layer=False)
        self.classifier = RobertaClassificationHead(config)
        self.post_init()


AUTO = AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification
for _config, _models in (
    (TrelmBertConfig, (TrelmBertModel, TrelmBertForMaskedLM, TrelmBertForSequenceClassification)),
    (TrelmRobertaConfig, (TrelmRobertaModel, TrelmRobertaForMaskedLM, TrelmRobertaForSequenceClassification)),
):
    AutoConfig.register(_config.model_type, _config)
    for _auto, _model in zip(AUTO, _models, strict=True):
        _auto.register(_config, _model)
