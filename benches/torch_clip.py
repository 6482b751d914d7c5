r"""The same CLIP training step in PyTorch and in perennial, on the same machine in the same run.

    python3.11 -m venv target/venv
    target/venv/bin/pip install torch==2.15.0 open_clip_torch==3.3.0
    cargo build --release
    target/venv/bin/python benches/torch_clip.py --perennial target/release/perennial \
        --model presets/models/emoji-small.json --batch 64 --steps 20 --device cpu

Run it from the repository root. The model JSON is an open_clip model configuration; perennial gets its file
stem as a preset name. PyTorch trains open_clip's own model: u8 pixels to normalised floats, forward, ClipLoss,
backward, gradient clip, AdamW; in f32 and in bf16 autocast, with `--compile` also through torch.compile.
Weights and images are random, captions are "<name>, <class>" of the data index. PyTorch always encodes the
full text context, as open_clip does; perennial reports its speed with and without the padding.

The two programs take turns for `--rounds` rounds and the medians over the rounds are compared, because a
shared machine is noisy: the table shows the slowest and the fastest round too, and the load that other work
put on the machine before the start. Threads wait for each other in a step, so a busy core slows all of them;
OMP_WAIT_POLICY=passive in the environment makes PyTorch suffer less from it.
"""

import argparse
import csv
import json
import math
import os
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import open_clip
import torch
from open_clip.loss import ClipLoss
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer

BATCHES = 4  # distinct batches, used in turn
WARM_UP = 3


def read_captions(path, count):
    """`count` captions taken evenly over the rows of a tab-separated index."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [f"{row['name']}, {row['class']}" for row in (rows[i * len(rows) // count] for i in range(count))]


def make_batches(config, captions, batch, device):
    size, context = config["vision_cfg"]["image_size"], config["text_cfg"]["context_length"]
    ids = SimpleTokenizer(context_length=context)(captions)
    pixels = torch.randint(256, (len(captions), size, size, 3), dtype=torch.uint8)
    return list(zip(pixels.to(device).split(batch), ids.to(device).split(batch)))


class Trainer:
    """One model with its optimiser; `step` is one training step."""

    def __init__(self, config, batches, device, bf16, compiled, fused):
        torch.manual_seed(0)
        self.batches, self.device, self.bf16, self.steps = batches, device, bf16, 0
        self.model = CLIP(**config).to(device).train()
        self.forward = torch.compile(self.model) if compiled else self.model
        self.loss = ClipLoss()
        self.mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN, device=device) * 255
        self.scale = 1 / (torch.tensor(open_clip.OPENAI_DATASET_STD, device=device) * 255)
        decayed = [p for p in self.model.parameters() if p.ndim >= 2]
        plain = [p for p in self.model.parameters() if p.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": 0.2}],
            lr=1e-4, betas=(0.9, 0.98), eps=1e-6, fused=fused, foreach=not fused,
        )

    def step(self):
        pixels, ids = self.batches[self.steps % len(self.batches)]
        self.steps += 1
        images = ((pixels - self.mean) * self.scale).permute(0, 3, 1, 2)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            loss = self.loss(*self.forward(images, ids))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, math.log(100))
        return loss

    def seconds_per_step(self, steps):
        """Median over `steps`. On a GPU events are read at the end, so that launches run ahead as in training."""
        marks = []

        def mark():
            if self.device == "cuda":
                marks.append(torch.cuda.Event(enable_timing=True))
                marks[-1].record()
            else:
                marks.append(time.perf_counter())

        for _ in range(WARM_UP):
            self.step()
        mark()
        for _ in range(steps):
            loss = self.step()
            mark()
        if not math.isfinite(loss.item()):
            raise SystemExit("the PyTorch loss is not finite")
        if self.device == "cuda":
            return statistics.median(a.elapsed_time(b) / 1000 for a, b in zip(marks, marks[1:]))
        return statistics.median(b - a for a, b in zip(marks, marks[1:]))


def faster_trainer(steps=5, **settings):
    """The trainer with the faster AdamW: fused or foreach."""
    trainers = {}
    for fused in (True, False):
        try:
            trainer = Trainer(fused=fused, **settings)
            trainers[trainer.seconds_per_step(steps)] = ("fused" if fused else "foreach", trainer)
        except RuntimeError as error:  # this build has no fused AdamW for the device
            if not fused:
                raise
            print(f"fused AdamW: {error}")
    return trainers[min(trainers)]


def run_perennial(args):
    """Samples per second: {with the padding cut: x, over the full context: y}."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "bench.json"
        subprocess.run(
            [args.perennial, "bench", "step", "--device", args.device, "--model", Path(args.model).stem,
             "--batch", str(args.batch), "--steps", str(args.steps), "--threads", str(args.threads),
             "--json", str(report)],
            check=True, stdout=subprocess.DEVNULL,
        )
        found = json.loads(report.read_text())
    return {"perennial": found["samples_per_second"], "perennial full context": found["samples_per_second_full_context"]}


def commit():
    """The commit that lies in the working folder, as far as git knows."""
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return found.stdout.strip() or None


def cpu_name():
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--perennial", default="target/release/perennial", help="the built program")
    parser.add_argument("--skip-perennial", action="store_true", help="measure PyTorch alone")
    parser.add_argument("--model", default="presets/models/emoji-small.json", help="open_clip model JSON")
    parser.add_argument("--captions", default="data/emoji/index.tsv", help="index with the columns name and class")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20, help="timed steps a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", nargs="+", choices=["f32", "bf16"], default=["f32", "bf16"])
    parser.add_argument("--compile", action="store_true", help="measure torch.compile beside eager")
    parser.add_argument("--json", help="write everything measured to this file")
    return parser.parse_args()


def main():
    args = parse_arguments()
    load_before = os.getloadavg()[0]
    torch.set_num_threads(args.threads)
    config = json.loads(Path(args.model).read_text())
    torch.manual_seed(0)
    batches = make_batches(config, read_captions(args.captions, args.batch * BATCHES), args.batch, args.device)

    trainers, optimizers = {}, {}
    for precision in args.precision:
        for compiled in [False, True] if args.compile else [False]:
            name = f"torch {precision}" + (" compiled" if compiled else "")
            optimizers[name], trainers[name] = faster_trainer(
                config=config, batches=batches, device=args.device, bf16=precision == "bf16", compiled=compiled)

    rounds = {}  # name -> samples per second, one a round
    for _ in range(args.rounds):
        for name, trainer in trainers.items():
            rounds.setdefault(name, []).append(args.batch / trainer.seconds_per_step(args.steps))
        if not args.skip_perennial:
            for name, speed in run_perennial(args).items():
                rounds.setdefault(name, []).append(speed)

    medians = {name: statistics.median(speeds) for name, speeds in rounds.items()}
    ratios = {f"{ours} / {theirs}": medians[ours] / medians[theirs]
              for ours in medians if ours.startswith("perennial") for theirs in trainers}
    device_name = torch.cuda.get_device_name() if args.device == "cuda" else cpu_name()
    print(f"{device_name}, torch {torch.__version__}, {args.threads} threads, batch {args.batch}, "
          f"{args.rounds} rounds of {args.steps} steps, load before {load_before:.1f}")
    print(f"{'samples/s':<24} {'median':>9} {'slowest':>9} {'fastest':>9}  AdamW")
    for name, speeds in rounds.items():
        print(f"{name:<24} {medians[name]:>9.1f} {min(speeds):>9.1f} {max(speeds):>9.1f}  {optimizers.get(name, '')}")
    for name, ratio in ratios.items():
        print(f"{name:<48} {ratio:>6.2f}x")
    if args.json:
        report = {
            "device": args.device, "device_name": device_name, "cpu": cpu_name(), "threads": args.threads,
            "load_before": load_before, "torch": torch.__version__, "open_clip": open_clip.__version__,
            "commit": commit(), "model": Path(args.model).stem, "config": config,
            "batch": args.batch, "steps": args.steps, "adamw": optimizers,
            "samples_per_second": medians, "samples_per_second_rounds": rounds, "ratios": ratios,
        }
        Path(args.json).write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
