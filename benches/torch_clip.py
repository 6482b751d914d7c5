r"""CLIP in PyTorch and in perennial, on the same machine: a training step, or single operations.

    python3.11 -m venv target/venv
    target/venv/bin/pip install torch==2.15.0 open_clip_torch==3.3.0
    cargo build --release
    target/venv/bin/python benches/torch_clip.py --perennial target/release/perennial \
        --model presets/models/emoji-small.json --batch 64 --steps 20 --device cpu
    python3 benches/torch_clip.py step    --device cuda --model presets/models/ViT-B-16.json --batch 256 --compile
    python3 benches/torch_clip.py kernels --device cuda --model presets/models/ViT-B-16.json --batch 256

Run it from the repository root. The model JSON is an open_clip model configuration; perennial gets its file
stem as a preset name. Where open_clip is installed PyTorch trains open_clip's own model; elsewhere the same
model in plain torch, below, with the same parameters and products (`--plain` asks for it). A step is: u8
pixels to normalised floats, forward, contrastive loss in f32, backward, gradient clip, AdamW; on a CPU in f32
and in bf16 autocast, on a GPU in bf16 autocast, with `--compile` also through torch.compile. Weights and
images are random, captions are "<name>, <class>" of the data index. PyTorch always encodes the full text
context, as open_clip does; perennial reports its speed with and without the padding. On a GPU the batches
come from pinned memory, each sent while the step before it runs, and every measurement is alone on the card;
MFU is the share of the 989 TFLOP/s that an H100 has on paper.

On a CPU the two programs take turns for `--rounds` rounds and the medians over the rounds are compared,
because a shared machine is noisy: the table shows the slowest and the fastest round too, and the load that
other work put on the machine before the start. Threads wait for each other in a step, so a busy core slows
all of them; OMP_WAIT_POLICY=passive in the environment makes PyTorch suffer less from it.

`kernels` times, in bf16 on a GPU and in f32 on a CPU, matrix products, attention, layer norm, AdamW and a copy
at the model's shapes and at those in perennial's own table. A product here is torch.matmul alone: perennial's
bias, activation and residual count against perennial.

A ratio is always perennial's speed over PyTorch's: above 1, perennial is faster.
"""

import argparse
import csv
import gc
import json
import math
import os
import platform
import signal
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

try:
    import open_clip
except ImportError:
    open_clip = None

BATCHES = 4  # distinct batches, used in turn
WARM_UP = 3
MEAN = (0.48145466, 0.4578275, 0.40821073)  # of the pixels that CLIP was first trained on
STD = (0.26862954, 0.26130258, 0.27577711)
H100_TFLOPS = 989  # dense bf16 on paper


class Deadline:
    """`timeout` ends a run with SIGTERM: what is under way fails, what was measured before is still reported."""

    passed = False

    def stop(self, *_):
        self.passed = True
        raise TimeoutError("stopped by the time limit")


deadline = Deadline()


# The model in plain torch, with open_clip's names of the parameters.


class QuickGelu(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class Attention(nn.Module):
    def __init__(self, width, heads, causal):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.in_proj_weight = nn.Parameter(torch.randn(3 * width, width) * width**-0.5)
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x):
        samples, tokens, width = x.shape
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = qkv.view(samples, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out_proj(y.transpose(1, 2).reshape(samples, tokens, width))


class Block(nn.Module):
    def __init__(self, width, heads, hidden, causal, activation):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads, causal)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, hidden))
        self.mlp.add_module("gelu", activation())
        self.mlp.add_module("c_proj", nn.Linear(hidden, width))

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, tower, activation):
        super().__init__()
        self.resblocks = nn.Sequential(
            *[Block(tower.width, tower.heads, tower.hidden, tower.causal, activation) for _ in range(tower.layers)])

    def forward(self, x):
        return self.resblocks(x)


class ImageTower(nn.Module):
    def __init__(self, tower, patch_size, embed_dim, activation):
        super().__init__()
        width = tower.width
        self.conv1 = nn.Conv2d(3, width, patch_size, patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width) * width**-0.5)
        self.positional_embedding = nn.Parameter(torch.randn(tower.tokens, width) * width**-0.5)
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(tower, activation)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.randn(width, embed_dim) * width**-0.5)

    def forward(self, images):
        patches = self.conv1(images).flatten(2).transpose(1, 2)
        head = self.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        x = torch.cat([head, patches], 1) + self.positional_embedding
        x = self.transformer(self.ln_pre(x))
        return self.ln_post(x[:, 0]) @ self.proj


class PlainClip(nn.Module):
    def __init__(self, config):
        super().__init__()
        activation = QuickGelu if config.get("quick_gelu") else nn.GELU
        image, text = towers(config)
        embed_dim = config["embed_dim"]
        self.visual = ImageTower(image, config["vision_cfg"]["patch_size"], embed_dim, activation)
        self.token_embedding = nn.Embedding(config["text_cfg"]["vocab_size"], text.width)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        self.positional_embedding = nn.Parameter(torch.randn(text.tokens, text.width) * 0.01)
        self.transformer = Transformer(text, activation)
        self.ln_final = nn.LayerNorm(text.width)
        self.text_projection = nn.Parameter(torch.randn(text.width, embed_dim) * text.width**-0.5)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, images, ids):
        image = self.visual(images)
        x = self.ln_final(self.transformer(self.token_embedding(ids) + self.positional_embedding))
        # The end token has the largest id.
        text = x[torch.arange(len(ids), device=ids.device), ids.argmax(-1)] @ self.text_projection
        return F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1), self.logit_scale.exp()


@dataclass
class Tower:
    """The sizes of one transformer."""

    width: int
    layers: int
    heads: int
    hidden: int
    tokens: int
    causal: bool

    def macs(self):
        """Multiply-accumulates of one sequence's forward pass, counted as `perennial bench` counts them."""
        products = self.tokens * self.width * (4 * self.width + 2 * self.hidden)
        return self.layers * (products + 2 * self.tokens**2 * self.width)


def towers(config):
    vision, text = config["vision_cfg"], config["text_cfg"]
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    hidden = [int(tower["width"] * tower.get("mlp_ratio", 4.0)) for tower in (vision, text)]
    return (
        Tower(vision["width"], vision["layers"], vision["width"] // vision.get("head_width", 64), hidden[0],
              patches + 1, causal=False),
        Tower(text["width"], text["layers"], text["heads"], hidden[1], text["context_length"], causal=True),
    )


def operations_per_pair(config):
    """Of one training step at the full context. A backward pass takes twice the products of the forward pass."""
    vision = config["vision_cfg"]
    image, text = towers(config)
    patch_projection = (image.tokens - 1) * 3 * vision["patch_size"] ** 2 * image.width
    ends = (image.width + text.width) * config["embed_dim"]
    return 6 * (patch_projection + ends + image.macs() + text.macs())


# One training step.


def read_captions(path, count):
    """`count` captions taken evenly over the rows of a tab-separated index."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [f"{row['name']}, {row['class']}" for row in (rows[i * len(rows) // count] for i in range(count))]


def random_ids(config, count):
    """Texts as long as the captions, for want of a tokenizer: start, 6 to 13 words, end, zeros."""
    context, vocabulary = config["text_cfg"]["context_length"], config["text_cfg"]["vocab_size"]
    ids = torch.randint(1, vocabulary - 2, (count, context))
    end = torch.randint(min(7, context - 1), min(15, context), (count, 1))
    place = torch.arange(context)
    ids[:, 0] = vocabulary - 2
    ids[place == end] = vocabulary - 1
    return ids.where(place <= end, 0)


def make_batches(config, count, batch, captions):
    """`count` samples in batches on the host: u8 pixels and token ids."""
    size, context = config["vision_cfg"]["image_size"], config["text_cfg"]["context_length"]
    if open_clip is None:
        ids = random_ids(config, count)
    else:
        ids = open_clip.SimpleTokenizer(context_length=context)(read_captions(captions, count))
    pixels = torch.randint(256, (count, size, size, 3), dtype=torch.uint8)
    return list(zip(pixels.split(batch), ids.split(batch)))


class Feed:
    """Batches in turn; to a GPU each is sent from pinned memory while the step before it runs."""

    def __init__(self, batches, device):
        self.on_gpu, self.taken = device == "cuda", 0
        self.batches = [[part.pin_memory() if self.on_gpu else part for part in batch] for batch in batches]
        if self.on_gpu:
            self.stream = torch.cuda.Stream()
            self.coming = self.send(0)

    def send(self, number):
        with torch.cuda.stream(self.stream):
            return [part.to("cuda", non_blocking=True) for part in self.batches[number % len(self.batches)]]

    def next(self):
        self.taken += 1
        if not self.on_gpu:
            return self.batches[(self.taken - 1) % len(self.batches)]
        here = torch.cuda.current_stream()
        here.wait_stream(self.stream)
        batch = self.coming
        for part in batch:
            part.record_stream(here)
        self.coming = self.send(self.taken)
        return batch


class Stopwatch:
    """Marks in time. On a GPU they are events, read at the end, so that launches run ahead as in training."""

    def __init__(self, device):
        self.on_gpu, self.marks = device == "cuda", []

    def mark(self):
        if self.on_gpu:
            self.marks.append(torch.cuda.Event(enable_timing=True))
            self.marks[-1].record()
        else:
            self.marks.append(time.perf_counter())

    def median_lap(self):
        pairs = list(zip(self.marks, self.marks[1:]))
        if self.on_gpu:
            torch.cuda.synchronize()
            return statistics.median(a.elapsed_time(b) / 1000 for a, b in pairs)
        return statistics.median(b - a for a, b in pairs)


class Loss(nn.Module):
    """From pixels and ids to the loss, so that torch.compile sees all of it."""

    def __init__(self, model, device, bf16):
        super().__init__()
        self.model, self.device, self.bf16 = model, device, bf16
        self.register_buffer("mean", torch.tensor(MEAN) * 255)
        self.register_buffer("scale", 1 / (torch.tensor(STD) * 255))

    def forward(self, pixels, ids):
        images = ((pixels - self.mean) * self.scale).permute(0, 3, 1, 2)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            image, text, scale = self.model(images, ids)
        logits = scale.float() * (image.float() @ text.float().T)
        target = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


class Trainer:
    """One model with its optimiser; `step` is one training step. `mode` is torch.compile's, or None for eager."""

    def __init__(self, config, batches, device, bf16, mode, fused):
        torch.manual_seed(0)
        self.device, self.feed = device, Feed(batches, device)
        self.model = PlainClip(config) if open_clip is None else open_clip.CLIP(**config)
        self.loss = Loss(self.model, device, bf16).to(device).train()
        if mode is not None:
            self.loss = torch.compile(self.loss, mode=mode)
        decayed = [p for p in self.model.parameters() if p.ndim >= 2]
        plain = [p for p in self.model.parameters() if p.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": 0.2}],
            lr=1e-4, betas=(0.9, 0.98), eps=1e-6, fused=fused, foreach=not fused,
        )

    def step(self):
        loss = self.loss(*self.feed.next())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, math.log(100))
        return loss

    def seconds_per_step(self, steps):
        for _ in range(WARM_UP):
            self.step()
        watch = Stopwatch(self.device)
        watch.mark()
        for _ in range(steps):
            loss = self.step()
            watch.mark()
        if not math.isfinite(loss.item()):
            raise RuntimeError("the PyTorch loss is not finite")
        return watch.median_lap()


def faster_trainer(steps=5, **settings):
    """The trainer with the faster AdamW, fused or foreach. On a GPU that is fused."""
    if settings["device"] == "cuda":
        return "fused", Trainer(fused=True, **settings)
    trainers = {}
    for fused in (True, False):
        try:
            trainer = Trainer(fused=fused, **settings)
            trainers[trainer.seconds_per_step(steps)] = ("fused" if fused else "foreach", trainer)
        except RuntimeError as error:  # this build has no fused AdamW for the device
            if not fused or deadline.passed:
                raise
            print(f"fused AdamW: {error}")
    return trainers[min(trainers)]


def measure_in_turns(args, config, batches, found):
    """For a CPU: all programs take turns."""
    trainers = {}
    for name, precision, mode in args.variants:
        found.optimizers[name], trainers[name] = faster_trainer(
            config=config, batches=batches, device=args.device, bf16=precision == "bf16", mode=mode)
    for _ in range(args.rounds):
        for name, trainer in trainers.items():
            found.add(name, args.batch / trainer.seconds_per_step(args.steps))
        found.add_ours(args)


def measure_alone(args, config, batches, found):
    """For a GPU: one program holds the card's memory at a time, and one that fails does not stop the next."""
    for name, precision, mode in args.variants:
        trainer = None
        gc.collect()
        torch.compiler.reset()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        try:
            found.optimizers[name], trainer = faster_trainer(
                config=config, batches=batches, device=args.device, bf16=precision == "bf16", mode=mode)
            for _ in range(args.rounds):
                found.add(name, args.batch / trainer.seconds_per_step(args.steps))
            found.peak_bytes[name] = torch.cuda.max_memory_allocated()
        except Exception as error:
            found.failures[name] = in_a_line(error)
            print(f"{name}: {found.failures[name]}", flush=True)
            if deadline.passed:
                break
    del trainer
    gc.collect()
    torch.cuda.empty_cache()
    found.add_ours(args)


def in_a_line(error):
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


class Found:
    """What was measured, by program."""

    def __init__(self):
        self.rounds, self.optimizers, self.peak_bytes, self.failures, self.ours = {}, {}, {}, {}, None

    def add(self, name, samples_per_second):
        self.rounds.setdefault(name, []).append(samples_per_second)

    def add_ours(self, args):
        """perennial's step: with the padding of the texts cut, and over the full context."""
        self.ours = perennial_report("step", args)
        for name, key in [("perennial", "samples_per_second"),
                          ("perennial full context", "samples_per_second_full_context")]:
            if self.ours and key in self.ours:
                self.add(name, self.ours[key])

    def medians(self):
        return {name: statistics.median(speeds) for name, speeds in self.rounds.items()}


def perennial_report(what, args):
    """The JSON of `perennial bench`: read from --ours, or from a run of it, or None."""
    if args.ours:
        return json.loads(Path(args.ours).read_text())
    if args.skip_perennial:
        return None
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "bench.json"
        subprocess.run(
            [args.perennial, "bench", what, "--device", args.device, "--model", Path(args.model).stem,
             "--batch", str(args.batch), "--steps", str(args.steps), "--threads", str(args.threads),
             "--json", str(report)],
            check=True, stdout=subprocess.DEVNULL,
        )
        return json.loads(report.read_text())


def bench_step(args, config):
    """Prints the table of steps; returns the report."""
    torch.manual_seed(0)
    batches = make_batches(config, args.batch * BATCHES, args.batch, args.captions)
    found = Found()
    measure = measure_alone if args.device == "cuda" else measure_in_turns
    measure(args, config, batches, found)

    medians = found.medians()
    ratios = {f"{ours} / {theirs}": medians[ours] / medians[theirs]
              for ours in medians if ours.startswith("perennial") for theirs in medians if theirs.startswith("torch")}
    operations = operations_per_pair(config)
    print(f"{args.rounds} rounds of {args.steps} steps")
    print(f"{'samples/s':<24} {'median':>9} {'slowest':>9} {'fastest':>9} {'ms':>9} {'TFLOP/s':>8} "
          f"{'MFU':>6} {'peak GiB':>9}  AdamW")
    speeds = {}
    for name, rounds in found.rounds.items():
        speeds[name] = speed = {"milliseconds": 1e3 * args.batch / medians[name]}
        # perennial's own length takes fewer operations: only perennial can count them.
        if name != "perennial":
            speed["tflops"] = medians[name] * operations / 1e12
            if args.device == "cuda":
                speed["mfu"] = speed["tflops"] / H100_TFLOPS
        if name in found.peak_bytes:
            speed["peak_bytes"] = found.peak_bytes[name]
        cells = [f"{speed['tflops']:>8.3f}" if "tflops" in speed else " " * 8,
                 f"{speed['mfu']:>6.1%}" if "mfu" in speed else " " * 6,
                 f"{speed['peak_bytes'] / 2**30:>9.2f}" if "peak_bytes" in speed else " " * 9]
        print(f"{name:<24} {medians[name]:>9.1f} {min(rounds):>9.1f} {max(rounds):>9.1f} "
              f"{speed['milliseconds']:>9.2f} {' '.join(cells)}  {found.optimizers.get(name, '')}")
    for name, ratio in ratios.items():
        print(f"{name:<48} {ratio:>6.2f}x")
    return {
        "adamw": found.optimizers, "operations_per_pair": operations, "samples_per_second": medians,
        "samples_per_second_rounds": found.rounds, "speeds": speeds, "ratios": ratios,
        "perennial": found.ours, "failures": found.failures, "targets": step_targets(medians),
    }


def step_targets(medians):
    """perennial at the full context, where it says that, against the fastest compiled PyTorch."""
    ours = medians.get("perennial full context", medians.get("perennial"))
    compiled = [speed for name, speed in medians.items() if name.startswith("torch") and "compiled" in name]
    if ours is None or not compiled:
        return []
    return [summarise("step >= 1.0 x torch.compile", 1.0, {"step": ours / max(compiled)})]


# Single operations.


@dataclass
class Peer:
    """An operation in PyTorch. `operands` makes one set of operands and returns the work on it."""

    operands: Callable[[], Callable[[], object]]
    operations: int
    bytes: int


class Peers:
    """What PyTorch has for the rows of `perennial bench kernels`, by the names and shapes used there."""

    def __init__(self, config, device):
        self.device, self.dtype = device, torch.bfloat16 if device == "cuda" else torch.float32
        self.size = self.dtype.itemsize
        self.image, self.text = towers(config)
        self.by_op = {
            "linear": self.linear, "linear backward data": self.linear_backward_data,
            "linear backward weight": self.linear_backward_weight,
            "attention": self.attention, "attention backward": self.attention_backward,
            "attention cudnn": self.attention_cudnn, "attention backward cudnn": self.attention_backward_cudnn,
            "layer_norm": self.layer_norm, "layer_norm backward": self.layer_norm_backward,
            "adamw": self.adamw, "gradient_norm": self.gradient_norm,
        }

    def values(self, *shape, dtype=None, grad=False):
        return torch.randn(*shape, device=self.device, dtype=dtype or self.dtype, requires_grad=grad)

    def find(self, op, shape):
        """The peer of a row, or None."""
        sizes = [int(word) for word in shape.split() if word.isdigit()]
        return self.by_op[op](*sizes) if op in self.by_op else None

    def product(self, left, right, sizes):
        rows, inputs, outputs = sizes

        def operands():
            a, b = left(), right()
            return lambda: torch.matmul(a, b)
        count = rows * inputs + inputs * outputs + rows * outputs
        return Peer(operands, 2 * rows * inputs * outputs, self.size * count)

    def linear(self, *sizes):
        rows, inputs, outputs = sizes
        return self.product(lambda: self.values(rows, inputs), lambda: self.values(outputs, inputs).T, sizes)

    def linear_backward_data(self, *sizes):
        rows, inputs, outputs = sizes
        return self.product(lambda: self.values(rows, outputs), lambda: self.values(outputs, inputs), sizes)

    def linear_backward_weight(self, *sizes):
        rows, inputs, outputs = sizes
        return self.product(lambda: self.values(rows, outputs).T, lambda: self.values(rows, inputs), sizes)

    def causal(self, heads, tokens):
        return (heads, tokens) != (self.image.heads, self.image.tokens)

    def attention_operands(self, samples, heads, tokens, head_dim, grad):
        """Queries, keys and values as they lie in a packed projection."""
        qkv = self.values(samples, tokens, 3, heads, head_dim).permute(2, 0, 3, 1, 4)
        return [part.detach().requires_grad_(grad) for part in qkv.unbind(0)]

    def attention(self, samples, heads, tokens, head_dim, backend=None):
        causal = self.causal(heads, tokens)

        def operands():
            q, k, v = self.attention_operands(samples, heads, tokens, head_dim, grad=False)
            return on_backend(backend, lambda: F.scaled_dot_product_attention(q, k, v, is_causal=causal))
        seen = -(-tokens // 2) if causal else tokens  # on average
        values = samples * heads * tokens * head_dim
        return Peer(operands, 4 * values * seen, 4 * self.size * values)

    def attention_backward(self, samples, heads, tokens, head_dim, backend=None):
        causal = self.causal(heads, tokens)

        def operands():
            inputs = self.attention_operands(samples, heads, tokens, head_dim, grad=True)
            out = on_backend(backend, lambda: F.scaled_dot_product_attention(*inputs, is_causal=causal))()
            dout = self.values(samples, tokens, heads, head_dim).transpose(1, 2)
            return lambda: torch.autograd.grad(out, inputs, dout, retain_graph=True)
        seen = -(-tokens // 2) if causal else tokens
        values = samples * heads * tokens * head_dim
        return Peer(operands, 10 * values * seen, 8 * self.size * values)

    def attention_cudnn(self, *sizes):
        return self.attention(*sizes, backend=SDPBackend.CUDNN_ATTENTION)

    def attention_backward_cudnn(self, *sizes):
        return self.attention_backward(*sizes, backend=SDPBackend.CUDNN_ATTENTION)

    def layer_norm(self, rows, width):
        def operands():
            x, gamma, beta = self.values(rows, width), self.values(width), self.values(width)
            return lambda: F.layer_norm(x, (width,), gamma, beta)
        return Peer(operands, 7 * rows * width, 2 * self.size * rows * width)

    def layer_norm_backward(self, rows, width):
        def operands():
            inputs = [self.values(*shape, grad=True) for shape in ((rows, width), (width,), (width,))]
            y, dy = F.layer_norm(inputs[0], (width,), *inputs[1:]), self.values(rows, width)
            return lambda: torch.autograd.grad(y, inputs, dy, retain_graph=True)
        return Peer(operands, 14 * rows * width, 3 * self.size * rows * width)

    def adamw(self, count):
        def operands():
            weights = self.values(count, dtype=torch.float32, grad=True)
            weights.grad = self.values(count, dtype=torch.float32)
            optimizer = torch.optim.AdamW([weights], lr=1e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2, fused=True)
            return optimizer.step
        return Peer(operands, 14 * count, 7 * 4 * count)

    def gradient_norm(self, count):
        def operands():
            gradients = self.values(count, dtype=torch.float32)
            return lambda: torch.linalg.vector_norm(gradients)
        return Peer(operands, 2 * count, 4 * count)

    def copy(self, count):
        def operands():
            source, target = [torch.randint(256, (count,), dtype=torch.uint8, device=self.device) for _ in range(2)]
            return lambda: target.copy_(source)
        return Peer(operands, 0, 2 * count)


def on_backend(backend, work):
    """`work` with one of the implementations of attention; PyTorch's own choice for None."""
    if backend is None:
        return work

    def chosen():
        with sdpa_kernel(backend):
            return work()
    return chosen


def time_peer(peer, device, seconds=0.2):
    """Median seconds of one run, in turn over sets of operands that together do not fit the L2 cache."""
    cache = torch.cuda.get_device_properties(0).L2_cache_size if device == "cuda" else 0
    works = [peer.operands() for _ in range(min(64, max(1, math.ceil(3 * cache / peer.bytes))))]
    for work in works:
        work()

    def median_of(count):
        if device == "cuda":
            torch.cuda.synchronize()
            torch.cuda._sleep(20_000_000)  # about 11 ms: the launches queue up behind it, and none is waited for
        watch = Stopwatch(device)
        watch.mark()
        for i in range(count):
            works[i % len(works)]()
            watch.mark()
        return watch.median_lap()

    return median_of(min(100, max(7, int(seconds / median_of(3)))))


def model_rows(config, batch):
    """The operations of the model at the full context, named as in `perennial bench kernels`."""
    image, text = towers(config)
    linears = [(batch * (image.tokens - 1), 3 * config["vision_cfg"]["patch_size"] ** 2, image.width)]
    for tower in (image, text):
        rows, width, hidden = batch * tower.tokens, tower.width, tower.hidden
        linears += [(rows, width, 3 * width), (rows, width, width), (rows, width, hidden), (rows, hidden, width)]
        for op in ("attention", "attention backward"):
            yield op, f"{batch} x {tower.heads} x {tower.tokens} x {width // tower.heads}"
        for op in ("layer_norm", "layer_norm backward"):
            yield op, f"{rows} x {width}"
    for sizes in linears:
        for op in ("linear", "linear backward data", "linear backward weight"):
            yield op, " x ".join(map(str, sizes))


def bench_kernels(args, config):
    """Prints the table of operations; returns the report."""
    ours = perennial_report("kernels", args)
    our_rows = {(row["op"], row["shape"]): row for row in ours["ops"]} if ours else {}
    names = dict.fromkeys([*our_rows, *model_rows(config, args.batch)])
    if not any(op == "adamw" for op, _ in names):
        count = sum(p.numel() for p in PlainClip(config).parameters())
        names.update({("gradient_norm", str(count)): None, ("adamw", str(count)): None})
    if args.device == "cuda":
        names.update({(f"{op} cudnn", shape): None for op, shape in list(names) if op.startswith("attention")})

    peers = Peers(config, args.device)
    on_gpu = args.device == "cuda"
    copy, width = peers.copy(1 << (30 if on_gpu else 26)), 8192 if on_gpu else 512
    product = peers.linear(width, width, width)
    ceilings = {"gflops": product.operations / time_peer(product, args.device) / 1e9,
                "gb_per_second": copy.bytes / time_peer(copy, args.device) / 1e9}
    print(f"ceilings: products {ceilings['gflops'] / 1e3:.1f} TFLOP/s, copies {ceilings['gb_per_second']:.1f} GB/s")
    print(f"{'op':<26} {'shape':<24} {'torch us':>10} {'TFLOP/s':>8} {'GB/s':>8} {'ours us':>10} {'ratio':>6} "
          f"{'of copy':>8}")
    rows, failures = [], {}
    for op, shape in names:
        peer, our_row = peers.find(op, shape), our_rows.get((op, shape))
        row = {"op": op, "shape": shape}
        if peer:
            try:
                row["seconds"] = seconds = time_peer(peer, args.device)
                row["gflops"], row["gb_per_second"] = peer.operations / seconds / 1e9, peer.bytes / seconds / 1e9
            except Exception as error:
                row["failure"] = in_a_line(error)
                # cuDNN's attention is one more peer; PyTorch chooses it where it can and should.
                if not op.endswith("cudnn"):
                    failures[f"{op} {shape}"] = row["failure"]
            if on_gpu:
                torch.cuda.empty_cache()
        if our_row:
            row["perennial_seconds"] = our_row["seconds"]
            row["perennial_share_of_copy"] = our_row["gb_per_second"] / ceilings["gb_per_second"]
            row["perennial_bytes"] = our_row["gb_per_second"] * 1e9 * our_row["seconds"]
            if "seconds" in row:
                row["ratio"] = row["seconds"] / our_row["seconds"]
        rows.append(row)
        print_row(row)
        if deadline.passed:
            failures["rows after it"] = "no time left"
            break
    return {"ceilings": ceilings, "perennial_ceilings": ours and ours.get("ceilings"), "ops": rows,
            "failures": failures, "targets": kernel_targets(rows, args.device)}


def print_row(row):
    def cell(key, width, scale=1.0, digits=1):
        return f"{row[key] * scale:>{width}.{digits}f}" if key in row else " " * width
    print(f"{row['op']:<26} {row['shape']:<24} {cell('seconds', 10, 1e6)} {cell('gflops', 8, 1e-3, digits=2)} "
          f"{cell('gb_per_second', 8)} {cell('perennial_seconds', 10, 1e6)} {cell('ratio', 6, digits=2)} "
          f"{cell('perennial_share_of_copy', 8, digits=2)}  {row.get('failure', '')}".rstrip(), flush=True)


def kernel_targets(rows, device):
    """The three targets over perennial's rows; an operation that fits the L2 cache is not bound by memory."""
    cache = torch.cuda.get_device_properties(0).L2_cache_size if device == "cuda" else 0
    products, attention, memory = {}, {}, {}
    for row in rows:
        op, name = row["op"], f"{row['op']} {row['shape']}"
        if op.startswith("linear") and "ratio" in row:
            products[name] = row["ratio"]
        elif op.startswith("attention") and "ratio" in row:
            attention[name] = row["ratio"]
        elif not op.startswith(("linear", "attention", "contrastive")) and row.get("perennial_bytes", 0) > cache:
            memory[name] = row["perennial_share_of_copy"]
    return [
        summarise("GEMM >= 0.85 x torch.matmul", 0.85, products),
        summarise("attention >= 1.0 x SDPA", 1.0, attention),
        summarise("memory-bound >= 0.8 x copy", 0.8, memory),
    ] if products or attention or memory else []


def summarise(name, least, values):
    """How many of the rows reach `least`, and which is the worst."""
    if not values:
        return {"target": name, "rows": 0, "reached": 0, "met": False}
    worst = min(values, key=values.get)
    return {"target": name, "rows": len(values), "reached": sum(value >= least for value in values.values()),
            "met": values[worst] >= least, "median": statistics.median(values.values()),
            "worst": values[worst], "worst_row": worst}


# The command.


def commit():
    """The commit that lies in the working folder, as far as git knows."""
    try:
        found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return found.stdout.strip() or None


def cpu_name():
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["step", "kernels"], default="step")
    parser.add_argument("--perennial", default="target/release/perennial", help="the built program")
    parser.add_argument("--skip-perennial", action="store_true", help="measure PyTorch alone")
    parser.add_argument("--ours", help="read this JSON of `perennial bench` in place of running it")
    parser.add_argument("--plain", action="store_true", help="the model in plain torch even if open_clip is there")
    parser.add_argument("--model", default="presets/models/emoji-small.json", help="open_clip model JSON")
    parser.add_argument("--captions", default="data/emoji/index.tsv", help="index with the columns name and class")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20, help="timed steps a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", nargs="+", choices=["f32", "bf16"], help="default: both; on a GPU bf16")
    parser.add_argument("--compile", nargs="*", metavar="MODE", choices=["default", "max-autotune"],
                        help="measure torch.compile beside eager, in these modes")
    parser.add_argument("--json", help="write everything measured to this file")
    args = parser.parse_args()
    precisions = args.precision or (["bf16"] if args.device == "cuda" else ["f32", "bf16"])
    modes = [] if args.compile is None else args.compile or ["default"]
    args.variants = []  # name, precision, torch.compile's mode
    for precision in precisions:
        for mode in [None, *modes]:
            name = f"torch {precision}" + {None: "", "default": " compiled"}.get(mode, f" compiled {mode}")
            args.variants.append((name, precision, mode))
    return args


def main():
    global open_clip
    args = parse_arguments()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"no CUDA: torch {torch.__version__} finds no GPU")
    if args.plain:
        open_clip = None
    signal.signal(signal.SIGTERM, deadline.stop)
    load_before = os.getloadavg()[0]
    torch.set_num_threads(args.threads)
    config = json.loads(Path(args.model).read_text())
    code = "plain torch" if open_clip is None else f"open_clip {open_clip.__version__}"
    device_name = torch.cuda.get_device_name() if args.device == "cuda" else cpu_name()
    print(f"{device_name}, torch {torch.__version__}, model of {code}, {Path(args.model).stem}, batch {args.batch}, "
          f"{args.threads} threads, load before {load_before:.1f}", flush=True)
    report = {
        "device": args.device, "device_name": device_name, "cpu": cpu_name(), "threads": args.threads,
        "load_before": load_before, "torch": torch.__version__, "model_code": code,
        "commit": commit(),
        "model": Path(args.model).stem, "config": config, "batch": args.batch, "steps": args.steps,
    }
    report |= (bench_step if args.what == "step" else bench_kernels)(args, config)
    for target in report["targets"]:
        worst = f", worst {target['worst']:.2f}: {target['worst_row']}" if target["rows"] else ""
        print(f"{'met   ' if target['met'] else 'MISSED'} {target['target']:<30} "
              f"{target['reached']} of {target['rows']} rows{worst}")
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=2) + "\n")
    if report["failures"]:
        raise SystemExit("; ".join(f"{name}: {why}" for name, why in report["failures"].items()))


if __name__ == "__main__":
    main()
