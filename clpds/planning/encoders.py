"""Names and shapes of BERT and its kin: with a masked language model's head or two, a TRILayer, a classifier."""

from collections.abc import Mapping

from clpds.planning.family import Family, biased, special

_BERT = {"transform.dense": "h h", "transform.LayerNorm": "h"}  # of the head
_ROBERTA = {"dense": "h h", "layer_norm": "h"}
_BERT_CLASSIFIER = {"bert.pooler.dense": "h h", "classifier": "c h"}
_ROBERTA_CLASSIFIER = {"classifier.dense": "h h", "classifier.out_proj": "c h"}


def _body(name: str, *, trilayer: bool = False) -> dict[str, str]:
    """A TRILayer model has one more block, and language embeddings."""
    shapes = {
        f"{name}.embeddings.word_embeddings.weight": "V h",
        f"{name}.embeddings.position_embeddings.weight": "P h",
        f"{name}.embeddings.token_type_embeddings.weight": "t h",
        **biased({f"{name}.embeddings.LayerNorm": "h"}),
        **({f"{name}.embeddings.language_embeddings.weight": "n h"} if trilayer else {}),
    }
    for layer in ("layer.*", "trilayer") if trilayer else ("layer.*",):
        modules = {
            "attention.self.query": "h h",
            "attention.self.key": "h h",
            "attention.self.value": "h h",
            "attention.output.dense": "h h",
            "attention.output.LayerNorm": "h",
            "intermediate.dense": "f h",
            "output.dense": "h f",
            "output.LayerNorm": "h",
        }
        shapes |= biased({f"{name}.encoder.{layer}.{module}": shape for module, shape in modules.items()})
    return shapes


def _masked(
    name: str, body: Mapping[str, str], head: str, modules: Mapping[str, str], *, middle: bool = False
) -> Family:
    shapes, output = dict(body), dict[str, str]()
    for one in (head, f"mini_{head}") if middle else (head,):
        shapes |= {f"{one}.bias": "V"} | biased({f"{one}.{module}": shape for module, shape in modules.items()})
        output |= {f"{one}.decoder.weight": "V h", f"{one}.decoder.bias": "V"}
    return _encoder(f"{name}ForMaskedLM", shapes, output)


def _classifying(name: str, body: Mapping[str, str], classifier: Mapping[str, str]) -> Family:
    return _encoder(f"{name}ForSequenceClassification", dict(body) | biased(classifier), {})


def _encoder(model_class: str, shapes: Mapping[str, str], head: Mapping[str, str]) -> Family:
    ids = special(bos=0, eos=2, pad=1) if "Roberta" in model_class else special(pad=0)
    plain = {"add_cross_attention": False}
    return Family(model_class, shapes, head, True, "layer", gated=False, plain=plain, defaults=ids)


MASKED = {
    "bert": _masked("Bert", _body("bert"), "cls.predictions", _BERT),
    "roberta": _masked("Roberta", _body("roberta"), "lm_head", _ROBERTA),
    "xlm-roberta": _masked("XLMRoberta", _body("roberta"), "lm_head", _ROBERTA),
    "bert-minijoint": _masked("BertMiniJoint", _body("bert"), "cls.predictions", _BERT, middle=True),
    "roberta-minijoint": _masked("RobertaMiniJoint", _body("roberta"), "lm_head", _ROBERTA, middle=True),
    "trelm-bert": _masked("TrelmBert", _body("bert", trilayer=True), "cls.predictions", _BERT),
    "trelm-roberta": _masked("TrelmRoberta", _body("roberta", trilayer=True), "lm_head", _ROBERTA),
}
CLASSIFYING = {
    "bert": _classifying("Bert", _body("bert"), _BERT_CLASSIFIER),
    "roberta": _classifying("Roberta", _body("roberta"), _ROBERTA_CLASSIFIER),
    "xlm-roberta": _classifying("XLMRoberta", _body("roberta"), _ROBERTA_CLASSIFIER),
    "trelm-bert": _classifying("TrelmBert", _body("bert", trilayer=True), _BERT_CLASSIFIER),
    "trelm-roberta": _classifying("TrelmRoberta", _body("roberta", trilayer=True), _ROBERTA_CLASSIFIER),
}
