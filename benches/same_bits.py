#!/usr/bin/env python3
"""Holds two builds of the program against each other: every method on small settings of the emoji streams must come to the same
evaluation and to the same weights after each step, bit for bit.

    benches/same_bits.py OLD/perennial NEW/perennial [--streams cil,dil,tic] [--methods gcl,gdro] [--set-new KEY=VALUE ...]

--set-new sets what the new one does by another default. What only one of the two writes (seals, times, notes, a figure that the other
does not know) is not compared. Exits with 1 where anything differs.
"""

import argparse
import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

SMALL = ["model.name=tests/fixtures/micro.json", "model.pretrained=", "train.epochs=0.4", "train.batch=24", "probe.epochs=1",
         "objective.cassle.hidden=64"]
STREAMS = {"cil": ["stream.tasks=3"], "dil": [], "tic": []}


def run(program, stream, method, out, more):
    settings = [word for setting in SMALL + STREAMS[stream] + more for word in ("--set", setting)]
    command = [program, "run", f"emoji-{stream}", "--method", method, "--out", str(out), *settings]
    return subprocess.run(command, capture_output=True, text=True)


def tensors(path):
    """By name, type, shape and bytes of a safetensors file."""
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:8 + length])
    header.pop("__metadata__", None)
    data = content[8 + length:]
    return {name: (entry["dtype"], entry["shape"], data[slice(*entry["data_offsets"])]) for name, entry in header.items()}


def evaluation(out):
    found = json.loads((out / "evaluation.json").read_text())
    found.pop("seal", None)
    return found


def known_to_both(old, new):
    """The values at keys that both have."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return old, new
    pairs = {name: known_to_both(old[name], new[name]) for name in old.keys() & new.keys()}
    return tuple({name: pair[place] for name, pair in pairs.items()} for place in (0, 1))


def differences(old, new):
    one, other = known_to_both(evaluation(old), evaluation(new))
    if one != other:
        yield "evaluation.json"
    names = {path.name for out in (old, new) for path in (out / "checkpoints").glob("step-*.safetensors")}
    for name in sorted(names):
        pair = [out / "checkpoints" / name for out in (old, new)]
        if not all(path.exists() for path in pair) or tensors(pair[0]) != tensors(pair[1]):
            yield name


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--streams", default="cil,dil,tic")
    parser.add_argument("--methods", default="")
    parser.add_argument("--set-new", nargs="+", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    listed = subprocess.run([arguments.new, "list", "methods"], capture_output=True, text=True, check=True).stdout
    methods = arguments.methods.split(",") if arguments.methods else [line.split()[0] for line in listed.splitlines()]
    same = differing = skipped = 0
    for stream in arguments.streams.split(","):
        for method in methods:
            with tempfile.TemporaryDirectory() as folder:
                outs = [Path(folder) / name for name in ("old", "new")]
                programs = [(arguments.old, []), (arguments.new, arguments.set_new)]
                ended = [run(program, stream, method, out, more) for (program, more), out in zip(programs, outs)]
                if all(one.returncode == 2 for one in ended):
                    skipped += 1
                    print(f"{stream} {method}: refused by both: {ended[1].stderr.strip().splitlines()[-1]}")
                    continue
                failed = [one.stderr.strip() for one in ended if one.returncode != 0]
                found = failed or list(differences(*outs))
                same, differing = same + (not found), differing + bool(found)
                print(f"{stream} {method}: {'the same' if not found else 'differs: ' + ', '.join(found)}", flush=True)
    print(f"{same} the same, {differing} differ, {skipped} refused by both")
    sys.exit(1 if differing or not same else 0)


if __name__ == "__main__":
    main()
