"""Train a small ResNet for pictures of one size: the network that gets a bottleneck, and what it is compared with.

    python experiments/bottlenecks/train_network.py --data runs/imagenette96 --out runs/resnet12
    python experiments/bottlenecks/train_network.py --data runs/imagenette96 --out runs/resnet12-webp5 --through WEBP:5
    python experiments/bottlenecks/train_network.py --data runs/imagenette96 --out runs/resnet12-small --width 12

The second one learns from pictures as they come out of a codec at some quality, the third is small enough for the
device itself. All train alike: same pictures, changes, epochs. A stopped training goes on where it was.
"""

import argparse
import io
from pathlib import Path

import numpy as np
import torch
from compare import picture_file
from PIL import Image
from rich.console import Console
from torch import Tensor, nn

from coinfer.exit_training import train as training
from coinfer.exit_training.branches import plain_network
from coinfer.exit_training.settings import ExitSettings
from coinfer.graph.open_model import open_model
from coinfer.profile.dataset import ImageDataset, load_dataset
from coinfer.progress import progress_bar

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pictures, each colour."""


class Block(nn.Module):
    """Two convolutions beside a short cut (He et al., CVPR 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        first = (nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())
        second = (nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
        self.long = nn.Sequential(*first, *second)
        same = inputs == outputs and stride == 1
        short = (nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.short = nn.Identity() if same else nn.Sequential(*short)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.long(x) + self.short(x))


def resnet12(width: int, classes: int) -> nn.Module:
    """Return twelve convolutions on the longest way from the picture to the answer, at new weights."""
    first = (nn.Conv2d(3, width, 5, 2, 2, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2))
    sizes = ((1, 2, 1), (2, 4, 2), (4, 4, 1), (4, 8, 2), (8, 8, 1))
    blocks = [Block(width * inputs, width * outputs, stride) for inputs, outputs, stride in sizes]
    return nn.Sequential(*first, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8 * width, classes)).eval()


def through(data: ImageDataset, codec: str | None) -> ImageDataset:
    """Return the pictures as they come out of a codec, such as WEBP:5, at its smallest files."""
    if codec is None:
        return data
    kind, quality = codec.split(":")
    seen = np.empty_like(data.images)
    for i, picture in enumerate(data.images):
        file = picture_file(picture, kind, int(quality))
        seen[i] = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
    return data._replace(images=seen, kind=f"{data.kind}, {codec}")


def export(width: int, data: ImageDataset, path: Path) -> None:
    """Write the untrained network as an ONNX file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    side = data.images.shape[1]
    torch.onnx.export(
        resnet12(width, len(data.class_names)),
        (torch.zeros(1, 3, side, side),),
        path,
        input_names=["input"],
        output_names=["logits"],
        opset_version=17,
        dynamo=False,
        do_constant_folding=False,
        training=torch.onnx.TrainingMode.PRESERVE,
    )
    describe_pictures(path)


def describe_pictures(path: Path) -> None:
    """Write how a picture becomes the network's input beside its file."""
    text = f"mean: {list(MEAN)}\nstd: {list(STD)}\nfit: cover\n"
    path.with_suffix(".input.yaml").write_text(text, encoding="utf-8")


def main() -> None:
    """Export the network, and train it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of pack_pictures.py")
    parser.add_argument("--out", type=Path, required=True, help="folder of the network and its training")
    parser.add_argument("--width", type=int, default=32, help="channels after the first convolution")
    parser.add_argument("--through", help="JPEG:QUALITY or WEBP:QUALITY; the pictures as they are without it")
    parser.add_argument("--epochs", type=int, default=30)
    parsed = parser.parse_args()
    torch.set_num_threads(1)
    parsed.out.mkdir(parents=True, exist_ok=True)
    data = through(load_dataset(parsed.data, "train"), parsed.through)
    untrained = parsed.out / "untrained" / f"{parsed.out.name}.onnx"
    export(parsed.width, data, untrained)
    settings = ExitSettings(
        epochs=parsed.epochs, batch=64, crop=data.images.shape[1] // 8, cutout=data.images.shape[1] // 4
    )
    with progress_bar(Console(), "training") as report:
        trained = training.train(
            plain_network(open_model(untrained)),
            data,
            settings,
            progress=lambda done, total, loss, accuracy: report(done, total, f"loss {loss:.3f} {accuracy}"),
            folder=parsed.out,
            resume=(parsed.out / training.CHECKPOINT).exists(),
        )
    path = training.save(trained, data.kind, parsed.out)
    describe_pictures(path)
    print(path, "held out:", trained.epochs[trained.best].holdout)


if __name__ == "__main__":
    main()
