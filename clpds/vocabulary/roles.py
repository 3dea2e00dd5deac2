"""Special tokens are matched by what they are for, not by how they are spelt.

| role | matches |
|---|---|
| eos, sep | the same role; else each other: GPT and T5 close a sequence with eos, BERT with [SEP] |
| bos, cls | the same role; else each other: they open it with bos, BERT with [CLS] |
| mask | mask |
| unk, pad | the same role, unless that token opens or closes sequences as well |

A source that pads with its eos, as is common, has no row for padding: a copy of the eos row would
share the probability of the document's end, so such a pad is missing. Whatever has no role, or
found no partner by it, matches the special token of the same spelling.
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

    Several targets may share one source token.
    """
    ours, theirs = _roles(target), _roles(source)
    ends = {theirs.get(role) for role in STANDS_FOR}
    partners = {role: id_ for role, id_ in theirs.items() if role not in ("unk", "pad") or id_ not in ends}
    spelled = {spelling: id_ for id_, spelling in special_tokens(source).items()}
    matched = {}
    for id_, spelling in special_tokens(target).items():
        roles = [role for role in ROLES if ours.get(role) == id_]
        stand_ins = [STANDS_FOR[role] for role in roles if role in STANDS_FOR]
        candidates = [partners[role] for role in roles + stand_ins if role in partners]
        if spelling in spelled:
            candidates.append(spelled[spelling])
        if candidates:
            matched[id_] = candidates[0]
    return matched


def _roles(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    ids = {role: getattr(tokenizer, f"{role}_token_id") for role in ROLES}
    return {role: id_ for role, id_ in ids.items() if id_ is not None}
