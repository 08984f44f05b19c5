"""Colors of curves, as people with different eyes see them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dask_flame.charts.colors import CALL_LINES, VARIABLES

pytestmark = pytest.mark.unit

#: Machado, Oliveira and Fernandes (2009), severity 1, for linear RGB.
VISION = {
    "normal": np.eye(3),
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
    "grey": [[0.2126, 0.7152, 0.0722]] * 3,
}
TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


def linear(color: str) -> np.ndarray:
    values = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(color: str, vision: str) -> np.ndarray:
    """Return CIE L*a*b* of a color as it is seen."""
    seen = np.clip(np.array(VISION[vision]) @ linear(color), 0, 1)
    x, y, z = TO_XYZ @ seen / TO_XYZ.sum(axis=1)
    fx, fy, fz = (np.cbrt(v) if v > 216 / 24389 else (24389 / 27 * v + 16) / 116 for v in (x, y, z))
    return np.array([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)])


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colors as WCAG defines it."""
    low, high = sorted(float(TO_XYZ[1] @ linear(color)) for color in (one, other))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("vision", VISION)
def test_twenty_lines_are_told_apart(theme: str, vision: str) -> None:
    least = 9.0 if vision == "grey" else 25.0
    twenty = CALL_LINES[:20]
    close = [
        (one, other)
        for one, other in itertools.combinations(twenty, 2)
        if np.linalg.norm(lab(one[theme], vision) - lab(other[theme], vision)) < least
    ]
    assert [pair for pair in close if pair[0]["dash"] == pair[1]["dash"]] == []
    # Without dashes, even twenty colors of this kind are too many.
    assert close or vision == "normal"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_lines_stand_out_from_the_background(theme: str) -> None:
    ground = VARIABLES["ground"][theme == "dark"]
    assert min(contrast(line[theme], ground) for line in CALL_LINES) >= 3


def test_no_two_of_forty_lines_are_the_same_and_none_is_dotted() -> None:
    looks = {(line["light"], line["dash"]) for line in CALL_LINES}
    assert len(looks) == len(CALL_LINES) == 40
    assert "dotted" not in {line["dash"] for line in CALL_LINES}
