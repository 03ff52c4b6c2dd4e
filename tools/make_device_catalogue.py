"""Write src/coinfer/data/devices.csv, the catalogue of device classes, from published whole-network latencies.

    python tools/make_device_catalogue.py MODEL_LATENCY_CSV

The table holds one row per source, device, unit, thread count and network (columns source, device, unit, precision,
num_threads, batch, model, avg_ms). Taken are rows at batch 1 in the source's default precision of ncnn's benchmark page
(random weights: only times mean something) and of pytorch-image-models' results; the median where there are several.
"""

import argparse
from pathlib import Path

import pandas as pd

from coinfer.resources import DEVICES

NCNN = "github:Tencent/ncnn commit a4d2ea1d benchmark/README.md (BSD-3-Clause)"
TIMM = "github:huggingface/pytorch-image-models commit aa4b5850 results/benchmark-infer (Apache-2.0)"

# name: (description, how the source names the device (a prefix), unit, threads where stated)
CLASSES = {
    "raspberry-pi-zero-2": ("Raspberry Pi Zero 2 W, 4 threads", "Raspberry Pi Zero 2 W", "cpu", 4),
    "raspberry-pi-3": ("Raspberry Pi 3 B+, 4 threads", "Raspberry Pi 3", "cpu", 4),
    "raspberry-pi-4": ("Raspberry Pi 4 B, 4 threads", "Raspberry Pi 4", "cpu", 4),
    "raspberry-pi-5": ("Raspberry Pi 5, 4 threads", "Raspberry Pi 5 Broadcom BCM2712, Cortex-A76", "cpu", 4),
    "jetson-nano-cpu": ("Jetson Nano, processor, 4 threads", "NVIDIA Jetson Nano", "cpu", 4),
    "jetson-nano": ("Jetson Nano, GPU", "NVIDIA Jetson Nano", "gpu", 1),
    "jetson-tx2": ("Jetson TX2 NX, GPU", "NVIDIA Jetson TX2", "gpu", 1),
    "jetson-xavier": ("Jetson AGX Xavier, GPU", "NVIDIA Jetson AGX Xavier", "gpu", 1),
    "jetson-orin-nano-cpu": ("Jetson Orin Nano, processor, 6 threads", "NVIDIA Jetson Orin Nano", "cpu", 6),
    "jetson-orin-nano": ("Jetson Orin Nano, GPU", "NVIDIA Jetson Orin Nano", "gpu", 1),
    "jetson-orin": ("Jetson AGX Orin, GPU", "NVIDIA Jetson AGX Orin", "gpu", 1),
    "phone-entry": ("Phone of 2014, Snapdragon 410, 4 threads", "Qualcomm MSM8916", "cpu", 4),
    "phone-middle": ("Phone of 2020, Snapdragon 765G, 4 threads", "Qualcomm SDM765G", "cpu", 4),
    "phone-high": ("Phone of 2023, Snapdragon 8 Gen 2, 4 threads", "Qualcomm SM8550-AB", "cpu", 4),
    "laptop": ("Laptop, Intel Core i7-12700H", "Intel Core i7-12700H", "cpu", None),
    "laptop-arm": ("Laptop, Apple M1, 1 thread", "MacBook Pro (13-inch, M1, 2020)", "cpu", 1),
    "desktop": ("Desktop, Intel Core i7-13700K, 16 threads", "Intel® Core™ i7-13700K", "cpu", 16),
    "server-core": ("One core of a server, Azure D64s v6", "Microsoft Azure Standard D64s v6", "cpu", 1),
    "server-8-cores": ("Eight cores of a server, Azure D64s v6", "Microsoft Azure Standard D64s v6", "cpu", 8),
    "desktop-gpu": ("Desktop GPU, NVIDIA GeForce RTX 3060 Ti", "NVIDIA GeForce RTX 3060 Ti", "gpu", 16),
    "server-gpu": ("Server GPU, NVIDIA Tesla V100", "NVIDIA Tesla V100", "gpu", 1),
}

# Our name of a network: its name in the sources.
NETWORKS = {
    "alexnet": "alexnet",
    "vgg16": "vgg16",
    "resnet18": "resnet18",
    "resnet50": "resnet50",
    "mobilenetv2": "mobilenet_v2",
    "googlenet": "googlenet",
    "squeezenet": "squeezenet",
    "efficientnet_b0": "efficientnet_b0",
}


def rows_of(table: pd.DataFrame, prefix: str, unit: str, threads: int | None) -> pd.DataFrame:
    """The rows of one device class."""
    chosen = table[table["device"].str.startswith(prefix) & (table["unit"] == unit) & (table["batch"] == 1)]
    chosen = chosen[chosen["precision"].isin(["default", "fp32"])]
    if threads is not None:
        chosen = chosen[chosen["num_threads"] == threads]
    assert chosen[["device", "source"]].drop_duplicates().shape[0] == 1, (prefix, chosen["device"].unique())
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="model_latency.csv")
    table = pd.read_csv(parser.parse_args().table)
    table = table[table["source"].isin(["Tencent/ncnn", "huggingface/pytorch-image-models"])]
    out = []
    for name, (description, prefix, unit, threads) in CLASSES.items():
        rows = rows_of(table, prefix, unit, threads)
        latency_ms = rows.groupby("model")["avg_ms"].median()
        source = NCNN if rows["source"].iloc[0] == "Tencent/ncnn" else TIMM
        latency_s = {
            f"{ours}_s": round(latency_ms.get(theirs) * 1e-3, 6) if theirs in latency_ms else None
            for ours, theirs in NETWORKS.items()
        }
        out.append({"name": name, "description": description, "unit": unit, "source": source, **latency_s})
    DEVICES.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(out).to_csv(DEVICES, index=False)
    print(f"{len(out)} device classes in {DEVICES}")


if __name__ == "__main__":
    main()
