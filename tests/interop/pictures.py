"""Pictures that are hard to read: odd sizes, every mode and format. The same seed gives the same bytes."""

import io
import random
import struct
import zlib

import numpy as np
from PIL import Image

PRIMES = [2, 3, 5, 7, 11, 13, 31, 61, 127, 223, 227, 251, 307, 383, 509]
ENDLESS = [(1, 1), (1, 2), (2, 1), (1, 500), (500, 1), (3, 997), (997, 3), (7, 1500), (1500, 7), (224, 224), (225, 223), (240, 290),
           (300, 500), (640, 480), (480, 640)]


def content(draw, width, height):
    """RGB of a slope with edges and noise, u8 [height, width, 3]."""
    noise = np.random.default_rng(draw.randrange(2**32))
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    period = draw.choice([2, 3, 7, 24])
    slopes = np.stack([255 * x / max(width - 1, 1), 255 * y / max(height - 1, 1), 255 * ((x // period + y // period) % 2)], -1)
    part = draw.choice([0.0, 0.1, 0.5, 1.0])
    return np.clip(slopes * (1 - part) + noise.integers(0, 256, slopes.shape) * part, 0, 255).astype(np.uint8)


def raw_png(samples, depth, colour, chunks=()):
    """A PNG of kinds that Pillow does not write. `samples`: integers [height, width, channels]."""
    height, width, channels = samples.shape
    rows = []
    for row in samples.reshape(height, width * channels):
        if depth == 16:
            line = row.astype(">u2").tobytes()
        elif depth == 8:
            line = row.astype(np.uint8).tobytes()
        else:
            bits = "".join(format(int(value), f"0{depth}b") for value in row)
            bits += "0" * (-len(bits) % 8)
            line = bytes(int(bits[place:place + 8], 2) for place in range(0, len(bits), 8))
        rows.append(b"\0" + line)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header)]
    parts += [chunk(kind, data) for kind, data in chunks]
    return b"".join(parts + [chunk(b"IDAT", zlib.compress(b"".join(rows))), chunk(b"IEND", b"")])


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def wide(draw, pixels, channels):
    """16-bit samples of that many channels; half of the grey pictures lie below 256, where Pillow does not clip."""
    noise = np.random.default_rng(draw.randrange(2**32))
    planes = np.concatenate([pixels, pixels[..., :1]], -1)[..., :channels].astype(np.uint32)
    if channels == 1 and draw.random() < 0.5:
        return planes
    return planes * 257 + noise.integers(0, 200, planes.shape) * (planes < 255)


def quantised(draw, pixels):
    return Image.fromarray(pixels).quantize(draw.choice([2, 7, 16, 256]))


def orientation(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def alpha(draw, pixels):
    noise = np.random.default_rng(draw.randrange(2**32))
    return noise.integers(0, 256, (*pixels.shape[:2], 1), dtype=np.uint8)


def jpeg(mode, **options):
    def make(draw, pixels):
        image = Image.fromarray(pixels)
        chosen = {key: value(draw) if callable(value) else value for key, value in options.items()}
        return saved(image.convert(mode), "JPEG", quality=draw.choice([30, 75, 90, 98]), **chosen)
    return make


KINDS = {
    "png-grey": lambda d, p: saved(Image.fromarray(p).convert("L"), "PNG"),
    "png-grey-alpha": lambda d, p: saved(Image.fromarray(np.concatenate([p[..., :1], alpha(d, p)], -1)), "PNG"),
    "png-palette": lambda d, p: saved(quantised(d, p), "PNG"),
    "png-palette-transparent": lambda d, p: saved(quantised(d, p), "PNG", transparency=0),
    "png-palette-alphas": lambda d, p: saved(quantised(d, p), "PNG", transparency=bytes([0, 130])),
    "png-rgb": lambda d, p: saved(Image.fromarray(p), "PNG"),
    "png-rgb-key": lambda d, p: saved(Image.fromarray(p), "PNG", transparency=tuple(int(v) for v in p[0, 0])),
    "png-rgba": lambda d, p: saved(Image.fromarray(np.concatenate([p, alpha(d, p)], -1)), "PNG"),
    "png-1-bit": lambda d, p: saved(Image.fromarray(p).convert("1"), "PNG"),
    "png-2-bit": lambda d, p: raw_png(p[..., :1] >> 6, 2, 0),
    "png-4-bit": lambda d, p: raw_png(p[..., :1] >> 4, 4, 0),
    "png-grey-16": lambda d, p: raw_png(wide(d, p, 1), 16, 0),
    "png-grey-16-key": lambda d, p: raw_png(wide(d, p, 1), 16, 0, [(b"tRNS", struct.pack(">H", 77))]),
    "png-grey-alpha-16": lambda d, p: raw_png(wide(d, p, 2), 16, 4),
    "png-rgb-16": lambda d, p: raw_png(wide(d, p, 3), 16, 2),
    "png-rgba-16": lambda d, p: raw_png(wide(d, p, 4), 16, 6),
    "png-gamma": lambda d, p: raw_png(p.astype(np.uint32), 8, 2, [(b"gAMA", struct.pack(">I", 100000))]),
    "jpeg-444": jpeg("RGB", subsampling=0),
    "jpeg-422": jpeg("RGB", subsampling=1),
    "jpeg-420": jpeg("RGB", subsampling=2),
    "jpeg-progressive": jpeg("RGB", progressive=True, subsampling=lambda d: d.choice([0, 1, 2])),
    "jpeg-restarts": jpeg("RGB", restart_marker_blocks=3, subsampling=2),
    "jpeg-grey": jpeg("L"),
    "jpeg-cmyk": jpeg("CMYK"),
    "jpeg-cmyk-progressive": jpeg("CMYK", progressive=True),
    "jpeg-rotated": jpeg("RGB", exif=lambda d: orientation(d.choice([2, 3, 5, 6, 8]))),
    "webp-lossy": lambda d, p: saved(Image.fromarray(p), "WEBP", quality=d.choice([20, 80, 95])),
    "webp-lossless": lambda d, p: saved(Image.fromarray(p), "WEBP", lossless=True),
    "webp-alpha": lambda d, p: saved(Image.fromarray(np.concatenate([p, alpha(d, p)], -1)), "WEBP", quality=80),
    "webp-alpha-lossless": lambda d, p: saved(Image.fromarray(np.concatenate([p, alpha(d, p)], -1)), "WEBP", lossless=True, exact=True),
}


def pictures(count, seed=0, largest=None):
    """`count` names and the bytes of their files; with `largest`, edges of at most so many pixels."""
    draw = random.Random(seed)
    kinds = list(KINDS)
    for number in range(count):
        kind = kinds[number % len(kinds)]
        if largest:
            width, height = draw.randint(1, largest), draw.randint(1, largest)
        elif draw.random() < 0.3:
            width, height = draw.choice(ENDLESS)
        else:
            width, height = draw.choice(PRIMES), draw.choice(PRIMES)
        data = KINDS[kind](draw, content(draw, width, height))
        yield f"{number:03}-{kind}-{width}x{height}.{kind.split('-')[0]}", data
