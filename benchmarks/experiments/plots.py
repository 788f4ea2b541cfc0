"""Numbers as small drawings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

STYLE = {"svg.fonttype": "none", "svg.hashsalt": "visual-memory", "font.size": 9}


def draw(results: Mapping[str, Any], folder: Path) -> None:
    """An SVG for each study that has a curve."""
    folder.mkdir(parents=True, exist_ok=True)
    curves = {
        "rules": ("rules and k", "digits", "neighbours that vote (k)"),
        "emoji": ("rules and k", "emoji", "neighbours that vote (k)"),
        "size": ("memory size", None, "images of each class"),
        "corruption": ("label corruption", None, "wrong labels, %"),
        "neighbour": ("the i-th neighbour", None, "rank i of the neighbour"),
    }
    for name, (study, part, axis) in curves.items():
        if study in results:
            found = results[study] if part is None else results[study][part]
            _draw(found, axis, folder / f"{name}.svg", log=name != "corruption")


def _draw(found: Mapping[str, Any], axis: str, path: Path, *, log: bool) -> None:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 2.8), layout="constrained")
        axes = figure.subplots()
        for name, points in found.items():
            if not all(isinstance(point, dict) and "percent" in point for point in points.values()):
                continue
            x = [float(value) for value in points]
            rows = list(points.values())
            axes.plot(x, [row["percent"] for row in rows], marker=".", label=name.replace("_", " "))
            axes.fill_between(x, [r["low"] for r in rows], [r["high"] for r in rows], alpha=0.15)
        if log:
            axes.set_xscale("log")
        axes.set_xlabel(axis)
        axes.set_ylabel("accuracy, %")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        figure.savefig(path, format="svg", metadata={"Date": None})
