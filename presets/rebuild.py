"""Makes the lists of this folder from the packages that publish them: prompts and readable names of ImageNet's classes (open_clip,
MIT), the names that ImageNet itself gives its classes and those of its variants (timm, Apache-2.0), and the class orders, which are
numpy's legacy permutations with seed 1993, as the literature on class-incremental learning draws them.

    pip install numpy && pip download --no-deps open_clip_torch timm
    python presets/rebuild.py open_clip_torch-*.whl timm-*.whl
"""

import sys
import zipfile
from pathlib import Path

import numpy as np

here = Path(__file__).parent
open_clip, timm = map(zipfile.ZipFile, sys.argv[1:3])
published = {}
exec(open_clip.read("open_clip/zero_shot_metadata.py"), published)


def synsets(name):
    return timm.read(f"timm/data/_info/{name}_synsets.txt").decode().split()


def permuted(names):
    np.random.seed(1993)
    return [names[i] for i in np.random.permutation(len(names))]


def write(name, lines):
    (here / name).write_text("".join(line + "\n" for line in lines))


imagenet, names = synsets("imagenet"), published["IMAGENET_CLASSNAMES"]
assert len(imagenet) == len(names) == 1000 and imagenet == sorted(imagenet)
write("prompts/imagenet.txt", [template("{}") for template in published["OPENAI_IMAGENET_TEMPLATES"]])
write("class_names/imagenet.tsv", [f"{key}\t{name}" for key, name in zip(imagenet, names)])
# ImageNet-V2's folders are numbers.
write("class_names/imagenet-v2.tsv", [f"{key}\t{name}" for key, name in enumerate(names)])
write("class_orders/imagenet.txt", permuted(imagenet))
write("class_orders/imagenet-r.txt", synsets("imagenet_r"))
write("class_orders/imagenet-a.txt", synsets("imagenet_a"))
# CIFAR-100's own names are in the order of its labels.
write("class_orders/cifar100.txt", permuted((here / "class_names/cifar100.txt").read_text().splitlines()))
