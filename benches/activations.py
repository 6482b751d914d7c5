#!/usr/bin/env python3
"""Fits the polynomials of GELU and its derivative in kernels/linear_epilogue.cuh, and says how far the kernels' arithmetic is off.

    pip install numpy scipy
    python3 benches/activations.py          # the coefficients in the kernels against float64, for every bf16
    python3 benches/activations.py --fit    # fits them again: a few minutes

For a = |x|, Phi the normal distribution function and phi its density,

    gelu(-a) = -a Phi(-a)                        Phi(-a)              = 2^p(a)
    gelu'(-a) = Phi(-a) - a phi(a)               gelu'(-a) / (z - a)  = 2^q(a),  z its zero

p and q are minimax in absolute error, so that what comes of them is in relative error, over all a at which the result is a normal
number. They are evaluated by Horner's rule in f32 in a itself: rounding there is as large as the error of the fit, so among many
fits, over ranges that differ a little and with low coefficients that differ by a few units in the last place, the one is kept
that is best as f32 evaluates it at all bf16. Leading coefficients are negative: beyond the range 2^p is 0 without a clamp.
"""

import re
import sys
from pathlib import Path

import numpy as np
from numpy.polynomial import chebyshev, polynomial
from scipy.optimize import linprog
from scipy.special import erfcx, log_ndtr

KERNEL = Path(__file__).parent.parent / "kernels/linear_epilogue.cuh"
ZERO = 0.7517915246935645
SCALE = 4  # the powers are 2^4 times what they stand for, so that ex2 does not flush them
BF16 = (np.arange(0, 0x7F80, dtype=np.uint32) << 16).view(np.float32)  # all that are not negative


def p(a):
    return log_ndtr(-a) / np.log(2) + SCALE


def q(a):
    return np.log2((0.5 * erfcx(a / np.sqrt(2)) - a / np.sqrt(2 * np.pi)) / (ZERO - a)) - a * a / 2 / np.log(2) + SCALE


def minimax(f, degree, end):
    """The polynomial, in a, that is nearest to f on [0, end]: a linear programme at Chebyshev's points."""
    points = 800
    u = np.cos(np.pi * (np.arange(points) + 0.5) / points)
    v, y = chebyshev.chebvander(u, degree), f((u + 1) / 2 * end)
    one = np.ones((points, 1))
    result = linprog(
        np.r_[np.zeros(degree + 1), 1],
        A_ub=np.block([[v, -one], [-v, -one]]),
        b_ub=np.r_[y, -y],
        bounds=[(None, None)] * (degree + 1) + [(0, None)],
        method="highs",
    )
    in_a = np.zeros(1)
    for c in chebyshev.cheb2poly(result.x[:-1])[::-1]:
        in_a = polynomial.polyadd(polynomial.polymul(in_a, [-1, 2 / end]), [c])
    return in_a[: degree + 1]


def fit(f, degree, end):
    """The same with coefficients that are f32: each is rounded, from the highest on, and the rest fitted to what is left."""
    coefficients = np.zeros(degree + 1)
    for k in range(degree, -1, -1):
        fixed = coefficients.copy()
        rest = lambda a: f(a) - polynomial.polyval(a, fixed)
        coefficients[k] = np.float32(minimax(rest, k, end)[k])
    return coefficients.astype(np.float32)


def horner(coefficients, a):
    """As fmaf computes it: one rounding a step."""
    value = np.full(a.shape, coefficients[-1], np.float32)
    with np.errstate(over="ignore"):
        for c in coefficients[-2::-1]:
            value = (value.astype(np.float64) * a.astype(np.float64) + np.float64(c)).astype(np.float32)
    return value.astype(np.float64)


def error(f, last, coefficients):
    """The largest relative error of 2^polynomial at a bf16 up to `last`; infinite if it does not go on to fall behind."""
    inside = BF16 <= last
    value = horner(coefficients, BF16)
    found = np.abs(np.exp2(value[inside] - f(BF16[inside].astype(np.float64))) - 1).max()
    return found if (value[~inside] < value[inside].min()).all() else np.inf


def search(f, last, degree):
    random, best = np.random.default_rng(0), (np.inf, None)
    for trial in range(60):
        coefficients = fit(f, degree, 13.19 + 0.005 * trial)
        found = error(f, last, coefficients)
        for _ in range(400):
            other = coefficients.copy()
            for k in np.flatnonzero(random.random(5) < 0.5):
                other[k] = np.nextafter(other[k], np.float32(random.choice([-9, 9])))
            if error(f, last, other) < found:
                found, coefficients = error(f, last, other), other
        if found < best[0]:
            best = (found, coefficients)
            print(f"  {found:.2e}", flush=True)
    return best[1]


def written(name):
    """The coefficients of a function of the kernel, from the highest on in its text."""
    body = KERNEL.read_text().split(f"DEVICE float {name}(")[1].split("\n}\n")[0]
    number = r"(-?[0-9.]+(?:e-?[0-9]+)?)f"
    first = re.search(rf"log2 = {number};", body)[1]
    return np.array([first, *re.findall(rf"log2 = fmaf\(log2, a, {number}\)", body)][::-1], dtype=np.float32)


# To the last bf16 at which the result is 2^-126 or more.
for name, f, last, degree in (("normal_tail", p, 13.1875, 9), ("gelu_derivative", q, 13.3125, 11)):
    print(f"{name}: a polynomial of degree {degree}")
    if "--fit" in sys.argv:
        coefficients = search(f, last, degree)
        print(f"    float log2 = {coefficients[-1]:.9g}f;")
        for c in coefficients[-2::-1]:
            print(f"    log2 = fmaf(log2, a, {c:.9g}f);")
    else:
        coefficients = written(name)
        assert len(coefficients) == degree + 1, f"{KERNEL} reads differently"
    print(f"  largest relative error at a bf16: {error(f, last, coefficients):.2e}")
