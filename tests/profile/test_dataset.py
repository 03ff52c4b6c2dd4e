"""Labelled pictures: every layout that is read gives what was written, and what is wrong is said in one line."""

import io
import pickle

import numpy as np
import pytest
from PIL import Image

from coinfer.profile.dataset import CIFAR_CLASSES, DataError, load_dataset

RANDOM = np.random.default_rng(5)
IMAGES = RANDOM.integers(0, 256, (12, 32, 32, 3), np.uint8)
LABELS = RANDOM.integers(0, 10, 12)


def write_binary(folder, name="data_batch_1.bin", images=IMAGES, labels=LABELS):
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    np.column_stack([labels.astype(np.uint8), planes]).astype(np.uint8).tofile(folder / name)


def jpeg_of(image) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=95)
    return file.getvalue()


def write_packed(path, images=IMAGES, labels=LABELS, **more):
    parts = [jpeg_of(image) for image in images]
    offsets = np.cumsum([0, *map(len, parts)])
    held = {
        "jpeg": np.frombuffer(b"".join(parts), np.uint8),
        "offsets": offsets,
        "class_names": np.array(CIFAR_CLASSES),
    }
    np.savez(path, **(held | ({} if labels is None else {"labels": labels.astype(np.uint8)}) | more))


def write_folders(folder, size=(8, 6), names=("ant", "bee")):
    for label, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(label + 2):
            Image.new("RGB", size, (50 * label, 10 * i, 7)).save(folder / name / f"{i}.png")


def test_cifars_binary_files(tmp_path):
    for i in range(3):
        write_binary(tmp_path, f"data_batch_{i + 1}.bin", IMAGES[4 * i : 4 * i + 4], LABELS[4 * i : 4 * i + 4])
    write_binary(tmp_path, "test_batch.bin", IMAGES[:2], LABELS[:2])
    (tmp_path / "batches.meta.txt").write_text("\n".join(reversed(CIFAR_CLASSES)) + "\n\n")
    train, test = load_dataset(tmp_path, "train"), load_dataset(tmp_path, "test")
    np.testing.assert_array_equal(train.images, IMAGES)
    np.testing.assert_array_equal(train.labels, LABELS)
    np.testing.assert_array_equal(test.images, IMAGES[:2])
    assert train.class_names == CIFAR_CLASSES[::-1]
    assert train.kind == "CIFAR-10, original pixels"


def test_packed_copies_say_which_kind_they_are(tmp_path):
    write_packed(tmp_path / "cifar10_train_1of2.npz", IMAGES[:6], LABELS[:6])
    write_packed(tmp_path / "cifar10_train_2of2.npz", IMAGES[6:], LABELS[6:])
    np.savez(tmp_path / "cifar10_test.npz", images=IMAGES, labels=LABELS, class_names=np.array(CIFAR_CLASSES))
    subset = {"train_images": IMAGES, "train_labels": LABELS, "test_images": IMAGES[:3], "test_labels": LABELS[:3]}
    np.savez(tmp_path / "subset.npz", **subset, class_names=np.array(CIFAR_CLASSES))
    np.savez(tmp_path / "others.npz", images=IMAGES, labels=LABELS % 3)
    told = []
    train = load_dataset(tmp_path, "train", lambda done, total, _: told.append((done, total)))
    for image, found in zip(IMAGES, train.images, strict=True):
        np.testing.assert_array_equal(found, np.asarray(Image.open(io.BytesIO(jpeg_of(image)))))
    np.testing.assert_array_equal(train.labels, LABELS)
    assert told[-1] == (6, 6)
    assert train.kind == load_dataset(tmp_path, "test").kind == "CIFAR-10, JPEG copy"
    exact = load_dataset(tmp_path / "subset.npz", "test")
    np.testing.assert_array_equal(exact.images, IMAGES[:3])
    assert exact.kind == "CIFAR-10, original pixels"
    others = load_dataset(tmp_path / "others.npz", "test")
    assert (others.kind, others.class_names) == ("others", ("0", "1", "2"))
    assert len(exact.take(2).labels) == len(exact.take(2).images) == 2


@pytest.mark.parametrize("inside", ["", "train"])
def test_folders_of_classes(tmp_path, inside):
    write_folders(tmp_path / "mine" / inside)
    found = load_dataset(tmp_path / "mine", "train")
    assert found.class_names == ("ant", "bee")
    assert found.labels.tolist() == [0, 1, 0, 1, 1]
    assert found.images.shape == (5, 6, 8, 3)
    assert found.images[-1, 0, 0].tolist() == [50, 20, 7]
    assert found.kind == f"folder {inside or 'mine'}"


def a_mix_of_sizes(folder):
    write_folders(folder)
    Image.new("RGB", (9, 9)).save(folder / "bee" / "large.png")


def loose_pictures(folder):
    Image.new("RGB", (9, 9)).save(folder / "a.png")


def pickles(folder):
    (folder / "data_batch_1").write_bytes(pickle.dumps({"labels": [1]}))


def a_broken_picture(folder):
    write_folders(folder)
    (folder / "ant" / "broken.png").write_bytes(b"no picture")


WRONG = {
    "an empty folder": (lambda folder: None, "no train pictures in it; expected one sub-folder"),
    "no labels": (loose_pictures, "pictures without labels; expected one sub-folder"),
    "sizes": (a_mix_of_sizes, r"pictures of several sizes: 8x6 and 9x9 \(.*large.png\); scale them to one size"),
    "pickles": (pickles, r"data_batch_1: this is CIFAR-10 as Python pickles, .* take the binary version"),
    "a broken picture": (a_broken_picture, r"broken.png: not a readable picture"),
    "half a file": (lambda folder: (folder / "data_batch_1.bin").write_bytes(bytes(3000)), "3000 bytes are no whole"),
    "a class too many": (
        lambda folder: write_binary(folder, labels=np.full(12, 10)),
        "label 10 is no class; there are 0 to 9",
    ),
    "packed without labels": (
        lambda folder: write_packed(folder / "train.npz", labels=None),
        "holds no labels for train; accuracy needs pictures whose class is known",
    ),
    "too few labels": (
        lambda folder: write_packed(folder / "train.npz", labels=LABELS[:4]),
        "12 pictures but 4 labels",
    ),
    "no npz": (lambda folder: (folder / "train.npz").write_bytes(b"PK no"), "not a readable npz file .*; expected"),
    "npz of objects": (
        lambda folder: np.savez(folder / "train.npz", labels=np.array([{}], object)),
        "not a readable npz file",
    ),
    "npz without pictures": (lambda folder: np.savez(folder / "train.npz", labels=LABELS), "no pictures for train"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_one_line(name, tmp_path):
    write, said = WRONG[name]
    write(tmp_path)
    with pytest.raises(DataError, match=said) as caught:
        load_dataset(tmp_path, "train")
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_one_line(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        load_dataset(tmp_path / "none", "test")
