"""Holds this program against open_clip, transformers and Pillow: weights both ways, pictures, tokens. Prints a table; exit status 1
where a line of it fails.

    make interop                          everything
    python interop.py --perennial FILE --only weights --models ViT-B-16
    python interop.py --perennial FILE --only weights --models ViT-S-32:gelu --pictures 6       a short trial

Needs open_clip_torch, transformers, scikit-image (for its photographs). Downloads nothing: weights are random, of full size.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import ftfy
import numpy as np
import open_clip
import open_clip.tokenizer
import skimage
import torch
from PIL import Image
from safetensors.numpy import load_file
from safetensors.torch import save_file

from lines import lines
from pictures import pictures

FAILED = []
# Of the weights that are made for each, where the command line does not say another: both kinds are tried.
ACTIVATIONS = {"ViT-B-16": "quick_gelu"}
# Scores of two answers that lie nearer than this are equal but for rounding: ten times the largest distance of features, 1e-6.
TIE = 1e-5
# Texts without what only open_clip's cleaning would change: that is the business of the tokens' part.
TEXTS = """a photo of a cat
A Photo Of TWO dogs, on grass!
it's raining; they're 12 years old & we've seen 3.5% of it
zwei Hunde auf dem Sofa, naïve café
Фотография собаки в парке
φωτογραφία μιας γάτας
一张猫的照片
猫の写真
고양이 사진
صورة قطة
תמונה של חתול
एक बिल्ली की तस्वीर
ภาพถ่ายของแมว
an emoji: 😀 👩🏽‍🚀
https://example.com/path?query=1#part
x
supercalifragilisticexpialidocious antidisestablishmentarianism
the quick brown fox jumps over the lazy dog, and then it goes on and on until there is no room left in the context of this model, \
which has seventy seven tokens, start and end included, so that the rest of this sentence, whatever it may say, is not read by \
anyone at all, neither here nor there""".splitlines()

CLASSES = """cat,dog,horse,cow,sheep,bird,fish,frog,snake,spider,tree,flower,mushroom,mountain,river,sea,cloud,sun,moon,star,house,
bridge,road,car,bus,train,ship,plane,bicycle,chair,table,lamp,book,clock,cup,bottle,shoe,hat,face,hand""".replace("\n", "").split(",")


def row(what, figure, limit, good):
    print(f"{what:<78} {figure:>14} {limit:>12}  {'ok' if good else 'FAILED'}", flush=True)
    if not good:
        FAILED.append(what)


class Program:
    def __init__(self, path, folder):
        self.path, self.folder = path, folder

    def run(self, *arguments):
        done = subprocess.run([self.path, *map(str, arguments)], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(map(str, arguments))}\n{done.stdout}{done.stderr}")
        return done.stdout

    def embed(self, model, *arguments):
        out = self.folder / "embeddings.safetensors"
        self.run("embed", "--model", model, "--out", out, *arguments)
        return load_file(out)

    def texts(self, name, texts):
        file = self.folder / name
        file.write_bytes(("\n".join(texts) + "\n").encode())
        return file


def relative(found, expected):
    """The largest difference of a row, as part of the row's length; rows are unit vectors."""
    return float(np.linalg.norm(found - expected, axis=1).max())


def randomise(model, seed):
    """Weights that no layer can be mistaken in: nothing is 0 or 1, biases and norms included, and features vary with the input."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name == "logit_scale":
                tensor.fill_(3.7)
            elif name.endswith("attn_mask"):
                continue
            elif tensor.ndim == 1 and ("ln_" in name or "norm" in name or "layrnorm" in name) and name.endswith("weight"):
                tensor.copy_(1 + 0.2 * torch.randn(tensor.shape, generator=generator))
            elif tensor.ndim == 1:
                tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
            elif "embedding" in name and tensor.ndim == 2:
                tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
            else:
                tensor.copy_(1.5 * torch.randn(tensor.shape, generator=generator) / tensor[0].numel() ** 0.5)


def open_clip_features(model, preprocess, images, texts):
    tokenizer = open_clip.tokenizer.SimpleTokenizer()
    with torch.inference_mode():
        pixels = torch.stack([preprocess(Image.open(image).convert("RGB")) for image in images])
        image = torch.cat([model.encode_image(part, normalize=True) for part in pixels.split(8)])
        text = torch.cat([model.encode_text(part, normalize=True) for part in tokenizer(texts).split(16)])
    return image.numpy(), text.numpy()


def transformers_features(folder, images, texts):
    """By way of what a user would write; the processor's own preprocessing included."""
    from transformers import CLIPModel, CLIPProcessor, CLIPTokenizer

    model = CLIPModel.from_pretrained(folder, local_files_only=True).eval()
    processor = CLIPProcessor.from_pretrained(folder, local_files_only=True)
    tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    with torch.inference_mode():
        pixels = processor(images=[Image.open(image).convert("RGB") for image in images], return_tensors="pt")
        image = features(model.get_image_features(**pixels))
        text = features(model.get_text_features(**processor(text=texts, padding=True, truncation=True, return_tensors="pt")))
    ids = [tokenizer(text, truncation=True)["input_ids"] for text in texts]
    return image.numpy(), text.numpy(), ids


def features(output):
    """Normalised; newer versions of transformers wrap the tensor."""
    output = getattr(output, "pooler_output", output)
    return output / output.norm(dim=-1, keepdim=True)


def spread(rows):
    """One less the mean cosine between different rows: 0 where all are the same."""
    cosines = rows @ rows.T
    count = len(rows)
    return 1 - (cosines.sum() - count) / (count * (count - 1))


def weights(program, folder, arch, activation, images):
    name, quick_gelu = f"{arch} ({activation})", activation == "quick_gelu"
    model, _, preprocess = open_clip.create_model_and_transforms(arch, pretrained=None, force_quick_gelu=quick_gelu)
    model.eval()
    randomise(model, seed=len(name))
    theirs = folder / "open_clip.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items() if key != "attn_mask"}, theirs)
    pattern, few = folder / "images" / "*", folder / "images" / "0*"
    prompts = [f"a picture of {text}" for text in CLASSES]
    expected_images, expected_texts = open_clip_features(model, preprocess, images, TEXTS + prompts)
    expected_texts, expected_prompts = expected_texts[:len(TEXTS)], expected_texts[len(TEXTS):]
    row(f"{name}: features differ from input to input", f"{min(spread(expected_images), spread(expected_texts)):.3f}", ">= 0.01",
        min(spread(expected_images), spread(expected_texts)) >= 0.01)
    del model

    # The towers alone, on the very pixels and tokens: both sides read what the other side prepared.
    text_file = program.texts("texts.txt", TEXTS)
    given = ["--arch", architecture(program, folder, arch), "--activation", activation]
    own_images = program.embed(theirs, *given, "--images", pattern)["embeddings"]
    own_texts = program.embed(theirs, *given, "--texts", text_file)["embeddings"]
    # A pixel off by 1/255 is no matter of weights: the same pixels for both.
    pixels = program.embed(theirs, *given, "--images", pattern, "--inputs")["pixels"]

    def on_our_pixels(network, count=len(images)):
        mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(3, 1, 1)
        std = torch.tensor(open_clip.OPENAI_DATASET_STD).view(3, 1, 1)
        batch = (torch.from_numpy(pixels[:count]).permute(0, 3, 1, 2) / 255 - mean) / std
        with torch.inference_mode():
            return torch.cat([network(part) for part in batch.split(8)]).numpy()

    def check(what, found, expected):
        row(f"{name}: {what}", f"{relative(found, expected):.2e}", "<= 1e-5", relative(found, expected) <= 1e-5)

    network, _, _ = open_clip.create_model_and_transforms(arch, pretrained=str(theirs), force_quick_gelu=quick_gelu)
    network.eval()
    same_pixels = on_our_pixels(lambda part: network.encode_image(part, normalize=True))
    del network
    check("open_clip -> perennial: images", own_images, same_pixels)
    check("open_clip -> perennial: texts", own_texts, expected_texts)
    cosine = float((own_images * expected_images).sum(1).min())
    row(f"{name}: {len(images)} pictures end to end, smallest cosine", f"{cosine:.7f}", ">= 0.9999", cosine >= 0.9999)

    # Out to transformers.
    exported = folder / "hf"
    program.run("export", "--model", theirs, *given, "--format", "hf", "--out", exported)
    few_images = sorted(few.parent.glob(few.name))
    hf_images, hf_texts, hf_ids = transformers_features(exported, few_images, TEXTS)
    check("perennial export hf -> transformers: texts", hf_texts, expected_texts)
    cosine = float((hf_images * own_images[:len(few_images)]).sum(1).min())
    # For information: their processor prepares some pictures otherwise than open_clip, from the same configuration.
    row(f"{name}: {len(few_images)} of the pictures by transformers' own processor, smallest cosine", f"{cosine:.7f}", "", True)
    from transformers import CLIPModel
    hf = CLIPModel.from_pretrained(exported, local_files_only=True).eval()
    check("perennial export hf -> transformers: images", on_our_pixels(lambda part: features(hf.get_image_features(pixel_values=part))), own_images)

    # Back: other weights, that transformers saves, through here to open_clip.
    randomise(hf, seed=99)
    back = folder / "back"
    hf.save_pretrained(back)
    their_images = on_our_pixels(lambda part: features(hf.get_image_features(pixel_values=part)))
    tokens = open_clip.tokenizer.SimpleTokenizer()(TEXTS)
    with torch.inference_mode():
        their_texts = features(hf.get_text_features(input_ids=tokens)).numpy()
    del hf
    check("transformers -> perennial: images", program.embed(back, "--images", pattern)["embeddings"], their_images)
    check("transformers -> perennial: texts", program.embed(back, "--texts", text_file)["embeddings"], their_texts)
    exported = folder / "open_clip"
    program.run("export", "--model", back, "--format", "open_clip", "--out", exported)
    network, _, _ = open_clip.create_model_and_transforms(
        arch, pretrained=str(exported / "open_clip_model.safetensors"), force_quick_gelu=quick_gelu)
    network.eval()
    with torch.inference_mode():
        texts = torch.cat([network.encode_text(part, normalize=True) for part in tokens.split(16)]).numpy()
    check("transformers -> perennial -> open_clip: images", on_our_pixels(lambda part: network.encode_image(part, normalize=True)), their_images)
    check("transformers -> perennial -> open_clip: texts", texts, their_texts)
    del network
    # The same file by way of the folder: a few pictures tell whether it is.
    network, _, _ = open_clip.create_model_and_transforms(f"local-dir:{exported}")
    network.eval()
    again = on_our_pixels(lambda part: network.encode_image(part, normalize=True), len(few_images))
    check("the exported folder as open_clip's local-dir: images", again, their_images[:len(few_images)])
    del network

    evaluation(program, folder, given, theirs, images, expected_images, prompts, expected_prompts, name)
    # Another resolution, only when asked for.
    interpolated(program, folder, arch, quick_gelu, theirs, name)
    for kind in (torch.float16, torch.bfloat16):
        halves(program, folder, given, theirs, {"--texts": text_file, "--images": few}, kind, name)


def architecture(program, folder, arch):
    """A bundled model by its name; any other by open_clip's own description."""
    if arch in program.run("list", "models").split():
        return arch
    file = folder / f"{arch}.json"
    file.write_text(json.dumps(open_clip.get_model_config(arch)))
    return file


def evaluation(program, folder, given, theirs, images, image_rows, prompts, text_rows, name):
    """`perennial eval` against what open_clip's features say. Random weights know nothing, so that figures against the truth are those
    of chance and prove little: the labels are open_clip's own answers, and the captions stand in known places of its rankings."""
    scores = image_rows @ text_rows.T
    ranking = np.argsort(-scores, axis=1)
    # A table of the pictures, each with the class of the highest score; and every class has a sample for training too, so that the
    # choice is among all.
    answers = ranking[:, 0]
    table(folder / "test.csv", [(image, CLASSES[answer], "") for image, answer in zip(images, answers)])
    (folder / "classes").mkdir(exist_ok=True)
    samples = [shutil.copy(images[-1], folder / "classes" / f"{one}.png") for one in CLASSES]
    table(folder / "train.csv", [(sample, one, "") for sample, one in zip(samples, CLASSES)])
    (folder / "template.txt").write_text("a picture of {}\n")
    eval_csv = ["eval", "--model", theirs, *given, "--data", "csv", "--folder", folder, "--set", "data.csv.train=['train.csv']",
                "--set", "data.csv.test=['test.csv']"]
    said = program.run(*eval_csv, "--set", "data.csv.label=label", "--set", "data.csv.caption=", "--templates", folder / "template.txt")
    right = float(re.search(r"top_1_accuracy +([\d.]+)", said)[1])
    best_two = -np.sort(-scores, axis=1)[:, :2]
    tied = [image.name for image, (first, second) in zip(images, best_two) if first - second < TIE]
    least = 100 * (1 - len(tied) / len(images))
    row(f"{name}: eval, {len(images)} pictures among {len(CLASSES)} classes: per cent of open_clip's own answers", f"{right:.2f}",
        f">= {least:.2f}", right >= least - 0.01)
    print(f"    {len(set(answers))} different answers" + "".join(f"; a tie: {one}" for one in tied))

    # Retrieval: the caption of each picture is the one in place 1, 2, ... 12 of its ranking, so that every rank up to 10 counts.
    own = ranking[np.arange(len(images)), np.arange(len(images)) % 12]
    table(folder / "test.csv", [(image, "", prompts[place]) for image, place in zip(images, own)])
    said = program.run(*eval_csv, "--set", "data.csv.train=[]", "--set", "data.csv.label=", "--set", "data.csv.caption=caption", "--task", "retrieval")
    used = sorted(set(own))
    matches = own[:, None] == np.array(used)[None]
    for direction, scores, matches in [("image_to_text", scores[:, used], matches), ("text_to_image", scores[:, used].T, matches.T)]:
        found = [float(figure) for figure in re.search(rf"{direction} +([\d.]+) % +([\d.]+) % +([\d.]+) %", said).groups()]
        # Below the best match in each row: what is surely higher, and what may be.
        best = np.where(matches, scores, -np.inf).max(1, keepdims=True)
        surely, perhaps = ((np.where(matches, -np.inf, scores) > best + margin).sum(1) for margin in (TIE, -TIE))
        bounds = [[100 * float((rank < k).mean()) for k in (1, 5, 10)] for rank in (perhaps, surely)]
        good = all(low - 0.006 <= one <= high + 0.006 for one, low, high in zip(found, *bounds))
        shown = " ".join(f"{low:.2f}" if low == high else f"{low:.2f}-{high:.2f}" for low, high in zip(*bounds))
        row(f"{name}: eval, {direction} recall@1, 5, 10 of {len(used)} captions", " ".join(f"{one:.2f}" for one in found), shown, good)


def table(file, samples):
    """Writes a table of pictures: path, label and caption of each."""
    rows = [",".join([str(image.resolve()), label, caption]) for image, label, caption in samples]
    file.write_text("\n".join(["filepath,label,caption", *rows]) + "\n")


def interpolated(program, folder, arch, quick_gelu, theirs, name):
    size = 288
    config = dict(open_clip.get_model_config(arch), quick_gelu=quick_gelu)
    config["vision_cfg"] = dict(config["vision_cfg"], image_size=size)
    file = folder / "larger.json"
    file.write_text(json.dumps(config))
    network, _, _ = open_clip.create_model_and_transforms(arch, pretrained=str(theirs), force_image_size=size, force_quick_gelu=quick_gelu)
    network.eval()
    given = ["--arch", file, "--activation", "quick_gelu" if quick_gelu else "gelu", "--images", folder / "images" / "0*"]
    refused = subprocess.run([program.path, "embed", "--model", theirs, "--out", folder / "none", *map(str, given)], capture_output=True, text=True)
    good = refused.returncode == 2 and "--interpolate-positions" in refused.stderr
    row(f"{name}: another resolution without --interpolate-positions", "refused" if good else "accepted", "refused", good)
    own = program.embed(theirs, *given, "--interpolate-positions")["embeddings"]
    pixels = program.embed(theirs, *given, "--interpolate-positions", "--inputs")["pixels"]
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    with torch.inference_mode():
        expected = network.encode_image((torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std, normalize=True).numpy()
    row(f"{name}: interpolated to {size} px: images", f"{relative(own, expected):.2e}", "<= 1e-5", relative(own, expected) <= 1e-5)


def halves(program, folder, given, theirs, inputs, kind, name):
    from safetensors.torch import load_file as load_torch
    state = load_torch(theirs)
    narrow, wide = folder / "narrow.safetensors", folder / "wide.safetensors"
    save_file({key: tensor.to(kind) for key, tensor in state.items()}, narrow)
    save_file({key: tensor.to(kind).float() for key, tensor in state.items()}, wide)
    for what, where in inputs.items():
        found, expected = (program.embed(file, *given, what, where)["embeddings"] for file in (narrow, wide))
        difference = relative(found, expected)
        row(f"{name}: stored as {str(kind)[6:]}, against the same numbers in f32: {what[2:]}", f"{difference:.2e}", "0", difference == 0)


def preprocessing(program, folder, checkpoint, count):
    """Every pixel against torchvision's on what Pillow reads."""
    shutil.rmtree(folder / "hard", ignore_errors=True)
    (folder / "hard").mkdir()
    for name, data in pictures(count):
        (folder / "hard" / name).write_bytes(data)
    pixels = program.embed(checkpoint, "--images", folder / "hard" / "*", "--inputs")["pixels"]
    preprocess = open_clip.image_transform(pixels.shape[1], is_train=False)
    resize, crop = preprocess.transforms[:2]
    worst, unlike = {}, 0
    for file, found in zip(sorted((folder / "hard").iterdir()), pixels):
        expected = np.asarray(crop(resize(Image.open(file).convert("RGB"))))
        difference = int(np.abs(found.astype(int) - expected.astype(int)).max())
        kind = "-".join(file.stem.split("-")[1:-1])
        worst[kind] = max(worst.get(kind, 0), difference)
        unlike += difference > 1
        if difference > 1:
            print(f"    {file.name}: {difference}/255")
    row(f"preprocessing of {count} pictures of {len(worst)} kinds: largest difference", f"{max(worst.values())}/255", "<= 1/255", unlike == 0)


def tokens(program, folder, checkpoint, count):
    text = lines(count)
    found = program.embed(checkpoint, "--texts", program.texts("lines.txt", text), "--inputs")["tokens"]
    tokenizer = open_clip.tokenizer.SimpleTokenizer()
    expected = tokenizer(text).numpy()
    whole = ftfy.fix_text
    open_clip.tokenizer.ftfy.fix_text = lambda text: whole(text, fix_encoding=False)
    unrepaired = tokenizer(text).numpy()
    open_clip.tokenizer.ftfy.fix_text = whole
    unlike = [place for place in range(count) if (found[place] != expected[place]).any()]
    other = [place for place in unlike if (found[place] != unrepaired[place]).any()]
    row(f"tokens of {count} lines: lines that differ", f"{len(unlike)}", "", True)
    row("of these for another reason than ftfy's repair of mojibake", f"{len(other)}", "0", not other)
    for place in other[:20]:
        print(f"    line {place + 1}: {ascii(text[place])[:200]}")
    (folder / "unlike.txt").write_text("".join(f"{ascii(text[place])}\n" for place in unlike))


def photographs(folder, count):
    """Photographs of scikit-image and drawings of this program, PNG and JPEG; `count` of them at most, spread over all."""
    shutil.rmtree(folder / "images", ignore_errors=True)
    (folder / "images").mkdir()
    shipped = Path(skimage.__file__).parent / "data"
    found = sorted(file for file in shipped.iterdir() if file.suffix in (".png", ".jpg"))
    for number, file in enumerate(found):
        shutil.copy(file, folder / "images" / f"{number:02}-{file.name}")
    for vendor in sorted((Path(__file__).parents[2] / "data" / "emoji").glob("*.webp")):
        atlas = Image.open(vendor)
        for tile in (0, 77, 200):
            x, y = 32 * (tile % 48), 32 * (tile // 48)
            atlas.crop((x, y, x + 32, y + 32)).save(folder / "images" / f"emoji-{vendor.stem}-{tile}.png")
    every = sorted((folder / "images").iterdir())
    kept = {every[place * len(every) // count] for place in range(count)} if count < len(every) else set(every)
    for file in set(every) - kept:
        file.unlink()
    return sorted(kept)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--perennial", default="target/release/perennial")
    parser.add_argument("--folder", type=Path, default=Path("target/interop"))
    parser.add_argument("--only", default="weights,preprocessing,tokens")
    parser.add_argument("--models", default="ViT-B-32,ViT-B-16", help="open_clip's names, each with :gelu or :quick_gelu if need be")
    parser.add_argument("--pictures", type=int, default=50, help="of the photographs and drawings")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    program, only = Program(arguments.perennial, arguments.folder), arguments.only.split(",")
    start = time.time()
    print(f"open_clip {open_clip.__version__}, torch {torch.__version__}, Pillow {Image.__version__}, ftfy {ftfy.__version__}")
    images = photographs(arguments.folder, arguments.pictures)

    # A model that says what it is and takes no room: what preprocessing and tokens need is in its configuration.
    small = arguments.folder / "small.safetensors"
    config = {"embed_dim": 16, "quick_gelu": False,
              "vision_cfg": {"image_size": 224, "layers": 1, "width": 16, "head_width": 16, "patch_size": 32},
              "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1}}
    save_file({"logit_scale": torch.zeros(())}, small, {"model_cfg": json.dumps(config)})
    if "tokens" in only:
        tokens(program, arguments.folder, small, 10_000)
    if "preprocessing" in only:
        preprocessing(program, arguments.folder, small, 200)
    if "weights" in only:
        for model in arguments.models.split(","):
            arch, _, activation = model.partition(":")
            weights(program, arguments.folder, arch, activation or ACTIVATIONS.get(arch, "gelu"), images)
    print(f"{time.time() - start:.0f} s; {len(FAILED)} failed")
    sys.exit(bool(FAILED))


if __name__ == "__main__":
    main()
