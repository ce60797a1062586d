"""Take the pretrained study to a machine that is lent for minutes, has no network, and takes little at a time.

    python tools/carry.py pack --model models/smollm2 --gguf FILE --data runs/pretrained-data --to carried
    python tools/carry.py unpack --from carried --to FOLDER        # there; as soon as all pieces are in one folder

`pack` cuts the 4-bit weights into pieces and packs the texts with one dictionary over all files, as every document
stands in many of them: 250 MB become 11. `unpack` makes FOLDER/smollm2, whose weights are compared with those that were
packed, and FOLDER/study. Then, there: `python -m retrieval_heads grid --profile FILE --home FOLDER --seconds N` with a
copy of configs/pretrained.yaml that names the two folders; CONTRIBUTING.md says how its parts come back.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import lzma
import shutil
import tarfile
from pathlib import Path

PIECE = 45 * 10**6
TEXTS = {"preset": 3, "dict_size": 512 * 2**20, "id": lzma.FILTER_LZMA2}


def pack(model: Path, gguf: Path, data: Path, to: Path) -> None:
    """Write the pieces of the weights, the small files of the model, and the texts."""
    (to / "model").mkdir(parents=True, exist_ok=True)
    weights = gguf.read_bytes()
    for number, start in enumerate(range(0, len(weights), PIECE)):
        (to / f"gguf.{number:02}").write_bytes(weights[start : start + PIECE])
    for path in model.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, to / "model")
    digest = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in model.glob("*.safetensors")}
    (to / "digests.json").write_text(json.dumps(digest), encoding="utf-8")
    plain = to / "plain"
    for path in sorted(data.rglob("*.jsonl*")):
        target = plain / path.relative_to(data).with_name(path.name.removesuffix(".gz"))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())
    with lzma.open(to / "study.tar.xz", "wb", filters=[TEXTS]) as file, tarfile.open(fileobj=file, mode="w") as archive:
        archive.add(plain, arcname="study")
    shutil.rmtree(plain)


def unpack(carried: Path, to: Path) -> None:
    """Make the model's folder and the texts' from what `pack` wrote."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM

    to.mkdir(parents=True, exist_ok=True)
    (to / "weights.gguf").write_bytes(b"".join(path.read_bytes() for path in sorted(carried.glob("gguf.*"))))
    packed = AutoModelForCausalLM.from_pretrained(to, gguf_file="weights.gguf", dtype=torch.bfloat16)
    # tokenizer and config are carried: an older transformers reads them otherwise out of the file
    model = LlamaForCausalLM(AutoConfig.from_pretrained(carried / "model")).to(torch.bfloat16)
    model.load_state_dict(packed.state_dict(), strict=False)
    model.tie_weights()
    model.save_pretrained(to / "smollm2")
    shutil.copytree(carried / "model", to / "smollm2", dirs_exist_ok=True)
    for name, wanted in json.loads((carried / "digests.json").read_text(encoding="utf-8")).items():
        found = hashlib.sha256((to / "smollm2" / name).read_bytes()).hexdigest()
        if found != wanted:
            raise SystemExit(f"{name}: other bytes than those that were packed ({found[:12]}, not {wanted[:12]})")
    with tarfile.open(carried / "study.tar.xz") as archive:
        archive.extractall(to, filter="data")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    packing, unpacking = verbs.add_parser("pack"), verbs.add_parser("unpack")
    for name in ("model", "gguf", "data", "to"):
        packing.add_argument(f"--{name}", required=True, type=Path)
    unpacking.add_argument("--from", dest="carried", required=True, type=Path)
    unpacking.add_argument("--to", required=True, type=Path)
    parsed = parser.parse_args()
    if parsed.verb == "pack":
        pack(parsed.model, parsed.gguf, parsed.data, parsed.to)
    else:
        unpack(parsed.carried, parsed.to)


if __name__ == "__main__":
    main()
