"""Healthy problems of seven domains, whose tasks can be learned: any finding is a false alarm.

Tables, images, text, physics, prices, sequences and sound; real data, or a process that the
docstring states.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sklearn import datasets

from tests.bench.faults import problems
from tests.bench.faults.problems import Arrays, Json, Problem, binary, classes, number, spec_of
from tests.support.command import ROOT

BARS = ROOT / "docker" / "nasdaq.csv.gz"
Floats = NDArray[np.float64]


def _problem(arrays: Arrays, *tasks: Json, **sections: Json) -> Problem:
    spec = spec_of("healthy", *tasks)
    for name, section in sections.items():
        spec[name] = section if name == "model" else {**spec[name], **section}
    return Problem(arrays, spec)


# --- images ---------------------------------------------------------------------------------


def digits_as_images() -> Problem:
    """Images of digits for convolutions: which digit, and at which height its ink lies."""
    arrays = problems.digits().arrays
    return _problem(
        {**arrays, "features": arrays["features"].reshape(-1, 8, 8, 1)},
        classes("digit", 10),
        number("height"),
        model={"kind": "conv2d", "width": 8},
        train={"epochs": 12},
    )


def pixels() -> Problem:
    """Images of digits with noise: at each pixel, the image without it."""
    images = datasets.load_digits().images[:400] / 16
    noise = np.random.default_rng(1).normal(0, 0.3, images.shape)
    clean = {**number("clean"), "level": "position"}
    return _problem(
        {"features": (images + noise)[..., None], "clean": images},
        clean,
        model={"kind": "conv2d", "width": 8},
        train={"epochs": 8},
    )


def photographs() -> Problem:
    """Patches of scikit-learn's two photographs: of which one, and how bright beside the patch."""
    draw = np.random.default_rng(2)
    pictures = [each / 255 for each in datasets.load_sample_images().images]
    which = draw.integers(2, size=600)
    top, left = draw.integers(0, 410, 600), draw.integers(0, 620, 600)
    cut = [pictures[w][t : t + 16, x : x + 20] for w, t, x in zip(which, top, left, strict=True)]
    patches = np.stack(cut)
    return _problem(
        {
            "features": patches[:, ::2, :16:2],
            "which": which,
            "beside": patches[:, :, 16:].mean((1, 2, 3)),
        },
        binary("which"),
        number("beside"),
        model={"kind": "conv2d", "width": 8},
        train={"epochs": 12},
    )


def own_convolutions() -> Problem:
    """Images of digits for a network of one's own."""
    arrays, spec = problems.digits()
    spec["model"] = {"kind": "python", "file": "convolution.py"}
    return Problem(arrays, spec)


# --- text ------------------------------------------------------------------------------------


def _text() -> list[str]:
    named = ("load_iris", "load_wine", "load_breast_cancer", "load_diabetes", "load_digits")
    return [" ".join(getattr(datasets, name)().DESCR.lower().split())[:2200] for name in named]


def _windows(length: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str]]:
    """Windows of characters of the texts, the text of each, and the character behind each."""
    draw, texts = np.random.default_rng(3), _text()
    of = draw.integers(len(texts), size=count)
    start = [int(draw.integers(len(texts[k]) - length - 1)) for k in of]
    cut = [texts[k][s : s + length + 1] for k, s in zip(of, start, strict=True)]
    codes = np.array([[min(ord(letter), 127) for letter in window[:-1]] for window in cut])
    return codes, of, [window[-1] for window in cut]


def documents() -> Problem:
    """Windows of 60 characters of five English texts: of which one, and how many blanks."""
    codes, of, _ = _windows(60, 800)
    counts = np.stack([(codes == code).sum(1) for code in range(32, 127)], 1).astype(float)
    return _problem(
        {"features": codes, "text": of, "blanks": counts[:, 0]},
        classes("text", 5),
        number("blanks"),
        data={"inputs": {"features": {"kind": "tokens"}}},
        model={"kind": "conv1d", "width": 32, "layers": 3},
        train={"epochs": 10},
    )


def next_letters() -> Problem:
    """12 characters of English text: is the next one a vowel, another letter, or neither?"""
    codes, _, letters = _windows(12, 1200)
    kind = [0 if each in "aeiou" else 1 if each.isalpha() else 2 for each in letters]
    return _problem(
        {"features": codes, "kind": np.array(kind)},
        classes("kind", 3),
        data={"inputs": {"features": {"kind": "tokens"}}},
        model={"kind": "lstm", "hidden": 24, "dropout": {"input": 0.0, "heads": 0.1}},
        train={"epochs": 8},
    )


def categories() -> Problem:
    """Three codes with 6, 4 and 10 values, each with an effect of its own, and normal noise."""
    draw = np.random.default_rng(4)
    codes = np.stack([draw.integers(n, size=700) for n in (6, 4, 10)], 1)
    effects = [draw.normal(size=n) for n in (6, 4, 10)]
    y = sum(effect[codes[:, k]] for k, effect in enumerate(effects)) + draw.normal(0, 0.3, 700)
    return _problem(
        {"features": codes, "amount": 40 + 12 * y, "high": (y > np.median(y)).astype(int)},
        number("amount"),
        binary("high"),
        data={"inputs": {"features": {"kind": "codes"}}},
    )


# --- physics ---------------------------------------------------------------------------------


def pendulum() -> Problem:
    """Length, gravity and amplitude of a pendulum: its period, to second order, and its speed."""
    draw = np.random.default_rng(5)
    length, gravity = draw.uniform(0.2, 2, 500), draw.uniform(1.6, 11, 500)
    angle = draw.uniform(0.05, 1.2, 500)
    period = 2 * np.pi * np.sqrt(length / gravity) * (1 + angle**2 / 16)
    speed = np.sqrt(2 * gravity * length * (1 - np.cos(angle)))
    return _problem(
        {"features": np.stack([length, gravity, angle], 1), "period": period, "speed": speed},
        number("period"),
        number("speed"),
    )


def oscillator() -> Problem:
    """32 noisy readings of a damped oscillation: its frequency and its damping."""
    draw = np.random.default_rng(6)
    rate, damping = draw.uniform(0.5, 3, (500, 1)), draw.uniform(0.05, 0.6, (500, 1))
    time = np.linspace(0, 5, 32)
    x = np.exp(-damping * time) * np.cos(rate * time) + draw.normal(0, 0.03, (500, 32))
    return _problem(
        {"features": x[..., None], "rate": rate[:, 0], "damping": damping[:, 0]},
        number("rate"),
        number("damping"),
        model={"kind": "conv1d", "width": 24, "layers": 4},
        train={"epochs": 15},
    )


def heat() -> Problem:
    """Temperatures along a rod: those after 20 steps of diffusion, and the largest of them."""
    start = np.random.default_rng(7).normal(20, 5, (400, 24))
    later = start.copy()
    for _ in range(20):
        beside = np.pad(later, ((0, 0), (1, 1)), "edge")
        later = later + 0.2 * (beside[:, 2:] - 2 * later + beside[:, :-2])
    return _problem(
        {"features": start[..., None], "later": later, "largest": later.max(1)},
        {**number("later"), "level": "step"},
        number("largest"),
        model={"kind": "conv1d", "width": 24, "layers": 4},
        train={"epochs": 15},
    )


# --- prices ----------------------------------------------------------------------------------


def volatility() -> Problem:
    """20 daily moves of NASDAQ: the size of the next five, and whether it is above the median."""
    close = np.log(np.loadtxt(BARS, delimiter=",", skiprows=1, usecols=4))
    size = np.log(np.abs(np.diff(close)) + 1e-3)
    rows = np.lib.stride_tricks.sliding_window_view(size, 25)[::3]
    ahead = rows[:, 20:].mean(1)
    return _problem(
        {"features": rows[:, :20], "size": ahead, "rough": (ahead > np.median(ahead)) * 1},
        number("size"),
        binary("rough"),
        model={"kind": "mlp", "hidden": [16]},
        optimizer={"lr": 0.001},
        train={"epochs": 15},
    )


def bars() -> Problem:
    """The small job that the repository ships: windows of NASDAQ bars and their expansions."""
    spec = json.loads((ROOT / "docker" / "smoke.json").read_text("utf-8"))
    spec["data"] |= {"path": str(BARS), "windows": 2500}
    del spec["$schema"]
    return Problem({}, spec)


# --- sequences and sound ---------------------------------------------------------------------


def machines() -> Problem:
    """24 readings of three sensors: wear, the sum of the first, and whether it gets over 60."""
    load = np.random.default_rng(9).normal(size=(400, 24, 3))
    wear = 300 + 20 * load[:, :, 0].cumsum(1)
    return _problem(
        {"features": load, "wear": wear, "failed": (wear.max(1) > 360) * 1},
        {**number("wear"), "level": "step"},
        binary("failed"),
        model={"kind": "lstm", "hidden": 24, "dropout": {"input": 0.0, "heads": 0.1}},
        train={"epochs": 12},
    )


def autoregression() -> Problem:
    """20 values of x[t] = 1.5 x[t−1] − 0.8 x[t−2] + noise: the next value, and its sign."""
    draw = np.random.default_rng(10)
    x = draw.normal(size=(600, 61))
    for t in range(2, 61):
        x[:, t] += 1.5 * x[:, t - 1] - 0.8 * x[:, t - 2]
    return _problem(
        {"features": x[:, 40:60, None], "next": x[:, 60], "up": (x[:, 60] > 0) * 1},
        number("next"),
        binary("up"),
        model={"kind": "transformer", "width": 24},
        train={"epochs": 12},
    )


def chords() -> Problem:
    """128 samples of three tones with noise: which of five chords, and how loud."""
    draw = np.random.default_rng(11)
    tones = np.array([[4, 5, 6], [10, 12, 15], [3, 4, 5], [6, 8, 9], [5, 6, 8]])
    which, loud = draw.integers(5, size=600), draw.uniform(0.5, 2, 600)
    angle = 2 * np.pi * tones[which][:, :, None] * np.linspace(0, 1, 128)
    wave = loud[:, None] * np.sin(angle).sum(1) + draw.normal(0, 0.5, (600, 128))
    return _problem(
        {"features": wave, "chord": which, "loud": loud},
        classes("chord", 5),
        number("loud"),
    )


def visits() -> Problem:
    """Hour, weekday and rain: visits, which are Poisson with a rate of their product."""
    draw = np.random.default_rng(12)
    hour, day, rain = draw.uniform(0, 24, 700), draw.integers(7, size=700), draw.uniform(0, 1, 700)
    rate = np.exp(1.5 + np.sin(hour / 24 * 2 * np.pi) + 0.5 * (day > 4) - rain)
    visits = {"name": "visits", "level": "sample", "loss": {"kind": "poisson_nll"}}
    return _problem(
        {"features": np.stack([hour, day, rain], 1), "visits": draw.poisson(rate)}, visits
    )


HEALTHY: dict[str, Callable[[], Problem]] = {
    "table: wine": problems.wine,
    "table: tumours": problems.tumours,
    "table: diabetes": problems.diabetes,
    "table: visits": visits,
    "image: digits": problems.digits,
    "image: digits, convolutions": digits_as_images,
    "image: digits, own network": own_convolutions,
    "image: pixels": pixels,
    "image: photographs": photographs,
    "text: documents": documents,
    "text: next letters": next_letters,
    "text: categories": categories,
    "physics: pendulum": pendulum,
    "physics: oscillator": oscillator,
    "physics: heat": heat,
    "prices: volatility": volatility,
    "prices: bars": bars,
    "sequence: machines": machines,
    "sequence: autoregression": autoregression,
    "sound: chords": chords,
}
"""By domain and name."""
