"""What a profile needs on disk: its base models (where they are, what identifies them, that all read the same tokens),
and for a study over files the folder of its examples."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from retrieval_heads import paths
from retrieval_heads.errors import ConfigError, ModelError
from retrieval_heads.models.extension import fingerprint
from retrieval_heads.settings import Profile


def base_path(profile: Profile, name: str | None = None) -> str:
    """The absolute folder of a base model, or its hub id.

    `name` is one of `profile.base_names`; None for the first, whose tokenizer all examples are counted with.

    Raises:
        ConfigError: the profile has no base model of that name.
        ModelError: it is a folder by its name, and not there.
    """
    name = profile.base_names[0] if name is None else name
    path = profile.base_of(name)
    found = paths.resolve_model(path)
    # `runs/base-1` could be a hub id by its form, but nobody means one by it
    if Path(found).is_dir() or not path.startswith(("/", ".", "~", "runs/")):
        return found
    raise ModelError("no such folder", where=f"base model {name}", value=path, remedy=_remedy(profile, name))


def base_digest(profile: Profile, name: str) -> str | None:
    """16 hexadecimal digits that identify the weights of a base model; None for one that is no folder here."""
    folder = Path(paths.resolve_model(profile.base_of(name)))
    return fingerprint(folder)[:16] if (folder / "config.json").is_file() else None


def check_bases(profile: Profile, names: Iterable[str]) -> None:
    """That base models are there, and that their tokenizer is the first one's, which the examples are made with.

    Raises:
        ConfigError: another tokenizer, or no base model of that name.
        ModelError: a folder that is not there.
    """
    names = list(names)
    # with one base model there is nothing to compare, and a broken tokenizer is told of when it is loaded
    first = Path(base_path(profile)) / "tokenizer.json"
    for name in names:
        own = Path(base_path(profile, name)) / "tokenizer.json"
        if own.is_file() and first.is_file() and own.read_bytes() != first.read_bytes():
            raise ConfigError(
                f"the tokenizer of {name} is not that of {profile.base_names[0]}, the first base model",
                where=f"profile {profile.name}, bases", value=list(profile.bases),
                remedy="All base models of a profile read the same examples: give those of one tokenizer, or a profile "
                       "to each.",
            )


def check_needs(profile: Profile, task: str | None = None, base: str | None = None) -> None:
    """Before the first run: that models and examples of a profile with `data` are there; other profiles pass.

    One error then says all that is missing, where it was looked for, how to get it, and how to use a folder of one's
    own; the runs would say it one by one. With `task` or `base`, only these are needed.
    """
    if profile.data is None:
        return
    models = [path for name, path in zip(profile.base_names, profile.bases, strict=True) if base in (None, name)]
    models = [path for path in models if not _model_is_there(path)]
    folder = paths.from_checkout(profile.data)
    tasks = [name for name in profile.tasks if task in (None, name) and not (folder / name).is_dir()]
    missing, remedies = [], []
    if models:
        from huggingface_hub.constants import HF_HUB_CACHE

        missing.append(f"the weights of {', '.join(models)} (looked for as a folder, and in the cache of the hub, "
                       f"{HF_HUB_CACHE})")
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


def _remedy(profile: Profile, name: str) -> str:
    others = [other for other in profile.base_names if other != name]
    leave_out = f" Or leave it out with --base {others[0]}." if others else ""
    path = profile.base_of(name)
    if not path.startswith("runs/"):
        return f"Give a model's folder in the profile's `bases`.{leave_out}"
    seed = re.search(r"\d*$", name).group() or "1"
    return f"Train it: `python -m retrieval_heads pretrain --out {path} --seed {seed}`.{leave_out}"
