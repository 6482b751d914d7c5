"""Loads the same JPEGs with open_clip's PyTorch loader and with Perennial, in turn, and prints the ratio.

    python benches/loader.py --perennial target/release/perennial [--folder DIR] [--rounds 5] [--json FILE]

Needs torch, torchvision, open_clip_torch and Pillow. Both do the same work with two workers each: read a JPEG of 640 x 480 in a
random order, decode it, and make 224 x 224 pixels of it, by the transform of evaluation (shorter edge to 224, middle) and by that of
training (random resized crop, scale 0.9 to 1). open_clip's transform also makes normalised f32 of the pixels; Perennial's batches
travel as bytes and are normalised where they are used. A third party is Perennial on the same pictures in a packed file.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import open_clip
import PIL
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from torch_clip import commit, cpu_name

SIZE, BATCH, WORKERS, PICTURES = 224, 64, 2, 2000


def photograph(generator):
    """640 x 480: detail at every scale, less of the finer as in photographs, and a few edges."""
    picture = np.full((480, 640, 3), 128.0)
    for octave in range(7):
        cells = (4 * 2**octave, 3 * 2**octave)
        noise = generator.normal(size=(cells[1], cells[0], 3)) * [1.0, 0.9, 0.8]
        for channel in range(3):
            plane = Image.fromarray((noise[..., channel] * 60 / 1.7**octave).astype(np.float32))
            picture[..., channel] += np.asarray(plane.resize((640, 480), Image.Resampling.BICUBIC))
    for _ in range(6):
        left, top = generator.integers(0, 560), generator.integers(0, 400)
        width, height = generator.integers(30, 200, size=2)
        picture[top : top + height, left : left + width] += generator.normal(size=3) * 40
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))


def generate(folder):
    """folder/train/c/*.jpg, and folder/val as another name of the same."""
    pictures = folder / "train" / "c"
    pictures.mkdir(parents=True, exist_ok=True)
    for number in range(PICTURES):
        path = pictures / f"{number:05}.jpg"
        if not path.exists():
            photograph(np.random.default_rng(number)).save(path, quality=90)
    if not (folder / "val").exists():
        (folder / "val").symlink_to("train")


class Torch:
    def __init__(self, folder, train):
        transform = open_clip.transform.image_transform(SIZE, is_train=train)
        # No fork after threads have started, and the workers stay from epoch to epoch.
        self.loader = DataLoader(
            ImageFolder(folder / ("train" if train else "val"), transform=transform),
            batch_size=BATCH,
            shuffle=True,
            num_workers=WORKERS,
            persistent_workers=True,
        )
        self.epoch()

    def epoch(self):
        start = time.perf_counter()
        count = sum(len(images) for images, _ in self.loader)
        return count / (time.perf_counter() - start)


def perennial(program, data, folder):
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        command = [program, "bench", "loader", "--data", data, "--folder", folder, "--image-size", SIZE, "--batch", BATCH]
        command += ["--loader-threads", WORKERS, "--json", report.name]
        subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
        measured = json.loads(Path(report.name).read_text())
    return {name: measured[name]["samples_per_second"][0] for name in ("evaluation", "training")}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--perennial", required=True, type=Path)
    parser.add_argument("--folder", type=Path, default=Path("target/loader"), help="for the pictures; made if they are not there")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="every round's rates, and the median ratios")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    generate(arguments.folder)
    packed = arguments.folder / "pictures.pack"
    if not packed.exists():
        command = [arguments.perennial, "pack", "--data", "folder", "--folder", arguments.folder, "--size", str(SIZE), "--out", packed]
        subprocess.run(command, check=True)

    loaders = {"evaluation": Torch(arguments.folder, train=False), "training": Torch(arguments.folder, train=True)}
    print(f"{PICTURES} JPEGs of 640 x 480 to {SIZE} x {SIZE}, {WORKERS} workers each; samples/s")
    print(f"{'round':<6} {'transform':<11} {'open_clip':>10} {'files':>10} {'ratio':>7} {'packed':>10} {'ratio':>7}")
    ratios, rounds = {}, []
    for number in range(arguments.rounds):
        # In turn, so that whatever else the machine does meets all of them.
        of_files = perennial(arguments.perennial, "folder", arguments.folder)
        of_torch = {name: loader.epoch() for name, loader in loaders.items()}
        of_pack = perennial(arguments.perennial, "packed", packed)
        for name, rate in of_torch.items():
            files, pack = of_files[name] / rate, of_pack[name] / rate
            ratios.setdefault(name, []).append((files, pack))
            rounds.append({"round": number + 1, "transform": name, "open_clip": rate, "files": of_files[name], "packed": of_pack[name]})
            print(
                f"{number + 1:<6} {name:<11} {rate:>10.1f} {of_files[name]:>10.1f} {files:>7.2f} {of_pack[name]:>10.1f} {pack:>7.1f}",
                flush=True,
            )
    medians = {name: [statistics.median(column) for column in zip(*found)] for name, found in ratios.items()}
    for name, (files, pack) in medians.items():
        print(f"median {name:<11}: files {files:.2f} x, packed {pack:.1f} x open_clip's loader")
    if arguments.json:
        report = {
            "cpu": cpu_name(),
            "commit": commit(),
            "workers": WORKERS,
            "versions": {"torch": torch.__version__, "open_clip": open_clip.__version__, "Pillow": PIL.__version__},
            "samples_per_second": rounds,
            "median_ratio": {name: {"files": files, "packed": pack} for name, (files, pack) in medians.items()},
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
