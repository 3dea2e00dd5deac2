"""Special tokens are compared by what they are for, not by how they are spelt.

| role | also accepted | why |
|---|---|---|
| eos, sep | each other | GPT and T5 families close a sequence with eos, BERT's with [SEP] |
| bos, cls | each other | they open it with bos, BERT's with [CLS] |
| mask, unk | nothing | no other token has been trained to mean this |
| pad | nothing | its row is never attended to; a copy of another token's would take half of its probability |
"""

from transformers import PreTrainedTokenizerBase

from clpds.vocabulary.pieces import special_tokens

# The order decides for a token of several roles, such as GPT-2's <|endoftext|>: where a document
# ends has to be predicted, so that row matters most.
ROLES = ("eos", "bos", "sep", "cls", "mask", "unk", "pad")
STANDS_FOR = {"eos": "sep", "sep": "eos", "bos": "cls", "cls": "bos"}


def special_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """``{"bos_token_id": 1, ...}``: the roles that this tokenizer fills, for config and generation config."""
    return {f"{role}_token_id": id_ for role, id_ in _roles(tokenizer).items()}


def match_special(source: PreTrainedTokenizerBase, target: PreTrainedTokenizerBase) -> dict[int, int]:
    """Target id to source id of the special tokens that have a partner, by ascending target id.

    First by the same role, then by the role that stands for it, then by the same spelling. Several
    targets may share a source token.
    """
    ours, theirs = _roles(target), _roles(source)
    spelled = {spelling: id_ for id_, spelling in special_tokens(source).items()}
    matched = {}
    for id_, spelling in special_tokens(target).items():
        roles = [role for role in ROLES if ours.get(role) == id_]
        candidates = [
            *(theirs.get(role) for role in roles),
            *(theirs.get(STANDS_FOR[role]) for role in roles if role in STANDS_FOR),
            spelled.get(spelling),
        ]
        if (partner := next((candidate for candidate in candidates if candidate is not None), None)) is not None:
            matched[id_] = partner
    return matched


def _roles(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    ids = {role: getattr(tokenizer, f"{role}_token_id") for role in ROLES}
    return {role: id_ for role, id_ in ids.items() if id_ is not None}
