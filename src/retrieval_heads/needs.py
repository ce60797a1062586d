"""What a study over files needs before its first run: models with weights, and the folder of the examples.

Looked at once, at the start, so that one message says all that is missing; the runs would say it one by one.
"""

from __future__ import annotations

from pathlib import Path

from retrieval_heads import paths
from retrieval_heads.errors import ConfigError
from retrieval_heads.settings import Profile


def check_needs(profile: Profile, task: str | None = None, base: str | None = None) -> None:
    """That models and examples of a profile with `data` are there; profiles that generate their examples pass.

    Args:
        profile: of the study.
        task: the only task that is run; None for all.
        base: the only base model that is used, by its name; None for all.

    Raises:
        ConfigError: what is missing, where it was looked for, how to get it, and how to use a folder of one's own.
    """
    if profile.data is None:
        return
    models = [path for name, path in zip(profile.base_names, profile.bases, strict=True) if base in (None, name)]
    models = [path for path in models if not _model_is_there(path)]
    folder = paths.from_checkout(profile.data)
    tasks = [name for name in profile.tasks if task in (None, name) and not (folder / name).is_dir()]
    missing, remedies = [], []
    if models:
        missing.append(f"the weights of {', '.join(models)} (looked for as a folder, and in the cache of the hub, "
                       f"{_cache()})")
        remedies.append(f"To get weights, accept their licence on the hub and run `hf download {models[0]}`, or give "
                        "a folder with config.json, safetensors and tokenizer.json under `bases` in a copy of the "
                        "profile.")
    if tasks:
        missing.append(f"the examples of {', '.join(tasks)} (looked for in {paths.shown(folder)}/TASK)")
        remedies.append("To get examples, run `python -m retrieval_heads fetch`, `prepare` and `write`, or give a "
                        "folder of your own under `data` in a copy of the profile.")
    if missing:
        raise ConfigError(f"the study cannot begin without {' and '.join(missing)}", where=f"profile {profile.name}",
                          remedy=" ".join([*remedies, "All steps, with commands: book/full_size.md."]))


def _model_is_there(path: str) -> bool:
    """Whether it is a folder, or its config is in the hub's cache; whether it is whole is seen when it is loaded."""
    if Path(paths.resolve_model(path)).is_dir():
        return True
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(path, "config.json"), str)
    except HFValidationError:  # the path of a folder, which is no hub id
        return False


def _cache() -> str:
    from huggingface_hub import constants

    return constants.HF_HUB_CACHE
