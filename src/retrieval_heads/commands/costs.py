"""`costs`: what a study would take on this machine, tried on a few examples, also with random weights."""

from __future__ import annotations

import argparse
from pathlib import Path

from retrieval_heads import paths
from retrieval_heads.config import load_profile
from retrieval_heads.errors import ConfigError
from retrieval_heads.needs import check_needs


def add(verbs: argparse._SubParsersAction) -> None:
    """Add the verb `costs` to the command line."""
    parser = verbs.add_parser("costs", help="try a study on a few examples and work out its time, memory and disk")
    parser.add_argument("--profile", required=True, help="paper, report, ... or the path of a YAML file")
    parser.add_argument("--random-weights", metavar="SHAPE",
                        help="a model of this shape with random weights instead of the profile's: a name in "
                        "configs/shapes, or the path of a config.json")
    parser.add_argument("--tokenizer", type=Path, metavar="DIR", help="tokenizer of that model; the embedded one's")
    parser.add_argument("--data", metavar="DIR", help="folder of examples instead of the profile's")
    parser.add_argument("--examples", type=int, default=2, metavar="N", help="examples of each kind (default 2)")
    parser.add_argument("--conditions", nargs="+", default=["symbolic"], help="tried beside the real one (symbolic)")
    parser.add_argument("--seconds", type=float, metavar="S", help="begin no stage after so many seconds")
    parser.add_argument("--device", help="auto, cpu, mps, cuda or cuda:INDEX instead of the profile's")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="receives costs.csv and costs_full.csv")
    parser.set_defaults(function=_costs)


def _costs(parsed: argparse.Namespace) -> None:
    given = {"device": parsed.device, "data": parsed.data and str(Path(parsed.data).resolve())}
    if parsed.random_weights:
        from retrieval_heads.data.tokenizer import BASE_PATH
        from retrieval_heads.models.random_weights import make_random_model

        folder = paths.runs_folder("random") / Path(parsed.random_weights).stem
        make_random_model(parsed.random_weights, parsed.tokenizer or BASE_PATH, folder)
        given["bases"] = [str(folder)]
    elif parsed.tokenizer:
        raise ConfigError("only with --random-weights", where="--tokenizer", value=str(parsed.tokenizer),
                          remedy="A model with weights has its own.")
    profile = load_profile(parsed.profile, **{key: value for key, value in given.items() if value is not None})
    for name in parsed.conditions:
        if name not in profile.conditions:
            raise ConfigError("the profile has no such condition", where="--conditions", value=name,
                              remedy=f"Use some of {', '.join(profile.conditions)}.")
    check_needs(profile)
    from retrieval_heads.stages import costs

    tried = costs.small(profile, parsed.examples)
    parsed.out.mkdir(parents=True, exist_ok=True)
    measured = costs.measure(tried, parsed.out / "costs.csv", parsed.conditions, parsed.seconds)
    if measured.empty:
        raise ConfigError("no stage was tried", where="--seconds", value=parsed.seconds, remedy="Give more seconds.")
    table = costs.estimate(measured, profile)
    table.to_csv(parsed.out / "costs_full.csv", index=False)
    print(table.round(3).to_string(index=False, na_rep=""))
