"""Profiles: every number of a study in one YAML file, checked before anything is computed.

    profile = load_profile("quick")                         # configs/quick.yaml
    profile = load_profile("/data/mine.yaml", workers=2)    # a file of one's own, one setting changed

A profile's name is the file's name without its ending, and becomes the folder of its results.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from retrieval_heads import paths
from retrieval_heads.errors import ConfigError
from retrieval_heads.settings import Profile, Settings

_ADAPTER = ("base_length", "train_length", "rope_theta", "adapters", "data", "n_train", "lora")
_HEADS = (*_ADAPTER, "n_probe", "detect")
READS = {
    "base": ("base_length", "eval_lengths", "rope_theta", "data", "n_test", "gold_loss", "bootstrap"),
    "data": ("data", "base_length", "train_length", "eval_lengths", "n_train", "n_probe", "n_test"),
    "finetune": (*_ADAPTER, "eval_lengths", "n_test", "gold_loss", "bootstrap"),
    "lengths": (*_ADAPTER, "lengths", "n_test", "bootstrap"),
    "detect": _HEADS,
    "knockout": (*_HEADS, "eval_lengths", "n_test", "knockout", "bootstrap"),
    "patch": (*_HEADS, "eval_lengths", "n_test", "patch", "bootstrap"),
    "gold_loss": (*_HEADS, "eval_lengths", "n_test", "gold_loss"),
}
"""What a run of each stage depends on. The grid is left out: adding a seed does not spoil the runs that are there."""

_LEFT_OUT = {"name", "missing", "bases", "controls", "workers", "threads", "device"}
"""Without effect on the results, but for the base models: the digests of their weights say more than their paths."""


def config_hash(profile: Profile, stage: str | None = None) -> str:
    """12 hexadecimal digits that change when a setting changes on which the results depend.

    `stage` is a key of `READS` for what one run of that stage depends on; with None, and for a stage that reads the
    whole grid, it is everything but what is `_LEFT_OUT`.
    """
    settings = profile.model_dump(mode="json", exclude=_LEFT_OUT)
    if stage in READS:
        settings = {key: settings[key] for key in READS[stage]}
    if settings.get("data") is not None:
        settings["data"] = "files"  # which they are, `data.folder.data_digest` says better than where they lie
    for key in ("adapters", "data", "gold_loss"):
        if settings.get(key) is None:
            settings.pop(key, None)  # so that a profile without it has the hash from before there was this key
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def profile_names() -> list[str]:
    """The packaged profiles."""
    return sorted(path.stem for path in paths.configs_folder().glob("*.yaml"))


def load_profile(name_or_path: str | Path, **overrides: Any) -> Profile:
    """Read a profile and check it as a whole.

    Args:
        name_or_path: a packaged profile (`smoke`, `quick`, `live`, `report`, `paper`) or the path of a YAML file.
        overrides: settings that replace those of the file; a mapping replaces single keys of a section.

    Raises:
        ConfigError: no such profile; an unknown, missing, mistyped or contradictory setting; one that cannot be run.
    """
    path = _profile_path(name_or_path)
    data = _read_yaml(path)
    for key, value in overrides.items():
        old = data.get(key)
        data[key] = {**old, **value} if isinstance(old, dict) and isinstance(value, Mapping) else value
    profile = _validated(data, path, overrides)
    if profile.missing:
        raise ConfigError(
            f"the profile {profile.name} cannot be run by this version; it needs {'; '.join(profile.missing)}",
            where=paths.shown(path), remedy="Run `smoke`, `quick`, `live` or `report`.",
        )
    return profile


def limited(profile: Profile, limit: int) -> Profile:
    """The same study on at most `limit` examples of each kind, under a name (and so a folder) of its own."""
    if limit < 1:
        raise ConfigError("at least one example is needed", where="--limit", value=limit, remedy="Give 1 or more.")
    settings = profile.model_dump(mode="json")
    # adapters that are there have been trained on so many examples
    training = () if profile.adapters else (("", "n_train"), ("lora", "batch_size"))
    gold = (("gold_loss", "n"),) if profile.gold_loss else ()
    for section, key in (*training, ("", "n_probe"), ("", "n_test"), ("lengths", "n"), ("knockout", "n"),
                         ("patch", "n"), *gold):
        place = settings[section] if section else settings
        place[key] = min(place[key], limit)
    return Profile.model_validate_json(json.dumps(settings | {"name": f"{profile.name}-limit{limit}"}))


def close_match(value: object, allowed: Iterable[str]) -> str:
    """A remedy: what was probably meant, and what is allowed."""
    allowed = [str(name) for name in allowed]
    near = difflib.get_close_matches(str(value), allowed, n=1)
    return (f"Did you mean `{near[0]}`? " if near else "") + f"Allowed: {', '.join(allowed)}."


def _profile_path(name_or_path: str | Path) -> Path:
    text = str(name_or_path)
    if "/" not in text and not text.endswith((".yaml", ".yml")):
        if text not in profile_names():
            raise ConfigError("unknown profile", where="profile", value=text,
                              remedy=close_match(text, profile_names()) + " Or give the path of a YAML file.")
        return paths.configs_folder() / f"{text}.yaml"
    try:
        path = Path(text).expanduser().resolve()
        there = path.is_file()
    except (OSError, RuntimeError):  # a name that is too long, a link to itself, the home of nobody
        there = False
    if not there:
        raise ConfigError("no such profile file", where="profile", value=text,
                          remedy=f"Give the path of a YAML file, or one of {', '.join(profile_names())}.")
    return path


class _Loader(yaml.SafeLoader):
    """YAML whose keys are unique in each mapping, in which 1e-3 is a number, and without references inside the file.

    A few lines of references to references make a value that fills the memory; no profile needs any.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.MarkedYAMLError(problem=f"a reference, *{event.anchor}: write the value itself",
                                       problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key `{key.value}` is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789"),
)


def _read_yaml(path: Path) -> dict[str, Any]:
    where = paths.shown(path)
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise ConfigError(f"the file cannot be read ({error.strerror})", where=where,
                          remedy="Check its permissions.") from error
    except UnicodeDecodeError as error:
        raise ConfigError("not UTF-8 text", where=where, remedy="Save the file as UTF-8.") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # also nested too deeply, a number of many digits
        mark = getattr(error, "problem_mark", None)
        raise ConfigError(
            f"not valid YAML: {getattr(error, 'problem', None) or error}",
            where=f"{where}, line {mark.line + 1}" if mark else where, remedy="Compare with configs/quick.yaml.",
        ) from error
    if not isinstance(data, dict):
        raise ConfigError("not a mapping of settings", where=where, value=data,
                          remedy="Compare with configs/quick.yaml.")
    if "name" in data:
        raise ConfigError("unknown key `name`", where=where, value=data["name"],
                          remedy="The file's name is the profile's name: rename the file.")
    return data


def _validated(data: dict[str, Any], path: Path, overrides: Iterable[str]) -> Profile:
    try:
        # through JSON: strict types, but lists for tuples
        profile = Profile.model_validate_json(json.dumps({**data, "name": path.stem}, default=str))
        profile.lora_settings(seed=0)
        return profile
    except ConfigError as error:
        raise ConfigError(f"`lora`: {str(error).removesuffix('.')}", where=paths.shown(path)) from error
    except ValidationError as error:
        # a misspelt key is also a missing one: the misspelling is what helps
        first = min(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
        given = set(first["loc"][:1]) & set(overrides)
        raise _readable(first, paths.shown(path) + (", setting given in its place" if given else "")) from error


def _readable(item: Mapping[str, Any], where: str) -> ConfigError:
    """pydantic's finding as one of our errors: file, key, value, and what is allowed instead."""
    context = item.get("ctx", {})
    location = item["loc"]
    key = ".".join(str(part) for part in location)
    if item["type"] == "extra_forbidden":
        return ConfigError(f"unknown key `{key}`", where=where, value=item["input"],
                           remedy=close_match(location[-1], _keys_at(location[:-1])))
    if item["type"] == "missing":
        return ConfigError(f"missing key `{key}`", where=where, remedy="Add it: configs/quick.yaml says what it means.")
    if item["type"] in ("one_of", "literal_error"):
        value, allowed = context.get("value", item["input"]), context.get("allowed")
        return ConfigError(f"unknown value for `{context.get('key', key)}`", where=where, value=value,
                           remedy=close_match(value, allowed or re.findall(r"'(.+?)'", context["expected"])))
    if item["type"] == "contradiction":
        return ConfigError(f"`{context['key']}`: {context['problem']}", where=where, value=context["value"],
                           remedy=context["remedy"])
    return ConfigError(f"`{key}`: {item['msg'][0].lower()}{item['msg'][1:]}", where=where, value=item["input"],
                       remedy="configs/quick.yaml says what the key means and in which unit.")


def _keys_at(location: tuple) -> list[str]:
    model: type[BaseModel] = Profile
    for part in location:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, Settings)):
            return []
        model = annotation
    return [name for name in model.model_fields if name != "name"]
