#!/usr/bin/env python3
"""Draws a run's kernels_trace.json (the last step on a GPU) as an SVG, a row a stream.

    scripts/trace_svg.py kernels_trace.json TITLE > docs/pictures/step.svg
"""
import json
import sys

KINDS = [  # name, colour, what names it
    ("communication", "#d55e00", ("ncclDev", "meet_kernel", "peer_")),
    ("attention", "#cc79a7", ("sdpa", "cudnn", "flash")),
    ("GEMMs", "#0072b2", ("nvjet", "gemm", "cutlass", "splitK")),
    ("other kernels", "#009e73", ("",)),
]
WIDTH, LEFT, ROW = 1200, 150, 36


def kind(name):
    return next(i for i, k in enumerate(KINDS) if any(part in name for part in k[2]))


def main():
    runs = [r for r in json.load(open(sys.argv[1]))["traceEvents"]
            if r.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    begin = min(r["ts"] for r in runs)
    for r in runs:
        r["ts"] -= begin
    end = max(r["ts"] + r["dur"] for r in runs)
    scale = (WIDTH - LEFT) / end
    streams = sorted({r["tid"] for r in runs}, key=lambda t: -sum(r["dur"] for r in runs if r["tid"] == t))
    streams = [t for t in streams if sum(r["dur"] for r in runs if r["tid"] == t) * scale > 2]
    out = []
    for row, stream in enumerate(streams):
        y = 40 + row * ROW
        out.append(f'<text x="0" y="{y + 18}">{"kernels" if row == 0 else "concurrent"}</text>')
        boxes = []  # neighbours of one kind become one box
        for r in sorted((r for r in runs if r["tid"] == stream), key=lambda r: r["ts"]):
            k, x, w = kind(r["name"]), r["ts"] * scale, r["dur"] * scale
            if boxes and boxes[-1][0] == k and x - (boxes[-1][1] + boxes[-1][2]) < 0.25:
                boxes[-1][2] = x + w - boxes[-1][1]
            else:
                boxes.append([k, x, w])
        for k, x, w in boxes:
            if w >= 0.1:
                out.append(f'<rect x="{LEFT + x:.1f}" y="{y}" width="{w:.1f}" height="26" fill="{KINDS[k][1]}"/>')
    height = 40 + len(streams) * ROW + 50
    for i in range(0, int(end / 1000) + 1, 50):
        x = LEFT + i * 1000 * scale
        out.append(f'<text x="{x:.0f}" y="{height - 32}" font-size="11">{i} ms</text>')
    for i, k in enumerate(KINDS):
        x = LEFT + i * 160
        out.append(f'<rect x="{x}" y="{height - 20}" width="12" height="12" fill="{k[1]}"/>'
                   f'<text x="{x + 18}" y="{height - 9}" font-size="12">{k[0]}</text>')
    print(f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH + 20}" height="{height}" '
          f'font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="white"/>'
          f'<text x="0" y="20" font-size="15">{sys.argv[2]}</text>' + "\n".join(out) + "</svg>")


main()
