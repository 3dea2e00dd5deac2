"""In what a run's checkpoint and a stage differ: two identities compared, and said in one line."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clpds.checkpoint.open import open_without_weights
from clpds.run_folder import MODEL
from clpds.tokenizer_files import has_tokenizer
from clpds.training.model_identity import config_identity, tokenizer_identity

VALUE = 60  # characters that are shown
LONGEST = 320  # all that is shown: with the names of folders a line has at most 500


def changes(run: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What is another now, by name, with both values; None stands for what is not there.

    ``before`` is of a checkpoint, which may be from a time when an identity had less: what both have is compared, and
    a config then with the one in ``run``/model.
    """
    found: dict[str, tuple[Any, Any]] = {}
    if "model" in now:
        old = before.get("model")
        model = old if isinstance(old, dict) and isinstance(old.get("config"), dict) else _from_before(run, old)
        found |= {f"model: {key}": both for key, both in _of_models(model, now["model"]).items()}
    for key in before.keys() | now.keys():
        if key == "model" or (key == "precision" and key not in before):
            continue
        old, new = before.get(key), now.get(key)
        if key == "data" and isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
            found |= {f"data: {name}": (old[name], new[name]) for name in new if old[name] != new[name]}
        elif old != new:
            found[key] = old, new
    return dict(sorted(found.items()))


def said(found: Mapping[str, tuple[Any, Any]]) -> str:
    """``another seed (3 then, 4 now)``; of many as much as fits a line."""
    parts = [f"{key} ({_shown(old)} then, {_shown(new)} now)" for key, (old, new) in found.items()]
    shown = 1
    while shown < len(parts) and len(", ".join(parts[: shown + 1])) <= LONGEST:
        shown += 1
    more = f" and {len(parts) - shown} more" if len(parts) > shown else ""
    return f"another {', '.join(parts[:shown])}{more}"


def _of_models(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    found: dict[str, tuple[Any, Any]] = {}
    for part in ("config", "tokenizer", "tensors"):
        old, new = before.get(part), now.get(part)
        if old is None or new is None:
            continue
        # Another version of transformers may know more keys, or fewer.
        alike = part != "config" or before.get("transformers") == now.get("transformers")
        keys = old.keys() | new.keys() if alike else old.keys() & new.keys()
        found |= {key if part == "config" else f"{part} {key}": (old.get(key), new.get(key)) for key in keys
                  if old.get(key) != new.get(key)}  # fmt: skip
    if "weights" in before and before["weights"] != now["weights"]:
        found["weights"] = before["weights"], now["weights"]
    old_files, new_files = before.get("files", {}), now.get("files", {})
    for name in old_files.keys() & new_files.keys() if old_files.keys() == new_files.keys() else ():
        (old_size, old_hash), (new_size, new_hash) = old_files[name], new_files[name]
        if old_size in (None, new_size) and old_hash != new_hash:  # of another size: other cuts through the same
            found[name] = old_hash, new_hash
    return found


def _from_before(run: Path, model: Any) -> dict[str, Any]:
    """What is known of a model whose identity was its path, or the recorded hashes of its files."""
    found: dict[str, Any] = {}
    if isinstance(model, dict):
        weights = {name: digest for name, digest in model.items() if name.endswith((".safetensors", ".bin"))}
        found["files"] = {name: (None, digest) for name, digest in weights.items()}
    folder = run / MODEL
    if (folder / "config.json").is_file():
        found["config"] = config_identity(open_without_weights(folder)[0].config)
        if has_tokenizer(folder):
            found["tokenizer"] = tokenizer_identity(folder)
    return found


def _shown(value: Any) -> str:
    """A value as JSON, hashes and all else cut short."""
    if value is None:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = re.sub(r"\b([0-9a-f]{8})[0-9a-f]{16,}\b", r"\1...", text)
    return text if len(text) <= VALUE else f"{text[: VALUE - 3]}..."
