import numpy as np
import pytest
from PIL import Image

from coinfer.graph.image_input import ImageInput
from coinfer.runtime.codec.codec import decode, encode_image
from coinfer.runtime.images import (
    ImageError,
    class_names,
    load_image,
    load_images,
    pixels_of,
    preprocess,
    to_pixels,
)

IMAGENET = ImageInput(224, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR = ImageInput(32, 32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def test_shipped_photos_are_small_and_come_with_their_attribution():
    photos = load_images()
    assert [name for name, _ in photos] == sorted(name for name, _ in photos)
    assert len(photos) >= 6
    for _, pixels in photos:
        assert pixels.dtype == np.uint8
        assert max(pixels.shape[:2]) <= 512
        assert 20 < pixels.mean() < 235


def test_class_names_are_in_the_networks_order():
    names = class_names()
    assert len(names) == 1000
    assert (names[0], names[1], names[281], names[999]) == ("tench", "goldfish", "tabby", "toilet tissue")


def test_the_centre_is_cut_out():
    wide = np.zeros((100, 300, 3), np.uint8)
    wide[:, :100], wide[:, 100:200], wide[:, 200:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    for image in (IMAGENET, CIFAR):
        pixels = to_pixels(wide, image)
        assert pixels.shape == (image.height, image.width, 3)
        assert (pixels[:, 2:-2] == (0, 255, 0)).all()


def test_proportions_are_kept():
    square = np.zeros((600, 400, 3), np.uint8)
    square[250:350, 150:250] = 255
    bright = to_pixels(square, IMAGENET)[:, :, 0] > 127
    rows, columns = bright.any(1).sum(), bright.any(0).sum()
    assert abs(int(rows) - int(columns)) <= 1
    assert rows == pytest.approx(100 * 256 / 400, abs=1)


def test_mirrored_pictures_give_mirrored_pixels():
    _, photo = load_images()[0]
    pixels = to_pixels(photo, IMAGENET).astype(int)
    mirrored = to_pixels(np.ascontiguousarray(photo[:, ::-1]), IMAGENET).astype(int)
    assert np.abs(mirrored[:, ::-1] - pixels).max() <= 1


def test_a_picture_of_the_right_size_is_left_alone():
    pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3)).astype(np.uint8)
    assert to_pixels(pixels, IMAGENET) is pixels
    assert (to_pixels(Image.fromarray(pixels), IMAGENET) == pixels).all()


def test_preprocessing_follows_its_formula():
    pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3)).astype(np.uint8)
    tensor = preprocess(pixels, IMAGENET)
    assert tensor.dtype == np.float32
    expected = ((pixels / 255 - IMAGENET.mean) / IMAGENET.std).transpose(2, 0, 1)[None]
    assert (tensor == expected.astype(np.float32)).all()


def test_grey_and_transparent_pictures_become_rgb():
    grey = Image.new("L", (50, 40), 99)
    assert (to_pixels(grey, CIFAR) == 99).all()
    assert (to_pixels(Image.new("RGBA", (50, 40), (9, 8, 7, 0)), CIFAR) == (9, 8, 7)).all()


@pytest.mark.parametrize("shape", [(3, 32, 32), (32, 32), (32, 32, 4), (0, 32, 3)])
def test_arrays_that_are_no_pictures_are_refused(shape):
    with pytest.raises(ImageError, match=r"uint8 \[height, width, 3\], not uint8"):
        to_pixels(np.zeros(shape, np.uint8), CIFAR)


def test_float_pictures_are_refused():
    with pytest.raises(ImageError, match="not float64"):
        to_pixels(np.zeros((32, 32, 3)), CIFAR)


def test_cameras_that_were_turned(tmp_path):
    picture = Image.fromarray(np.repeat(np.array([[[255, 0, 0]], [[0, 0, 255]]], np.uint8), 20, 0).repeat(10, 1))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    picture.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    pixels = load_image(tmp_path / "turned.jpg")
    assert pixels[0, 0, 2] > 200 > 50 > pixels[0, 0, 0]


def test_folders_and_files_that_cannot_be_used_are_named(tmp_path):
    with pytest.raises(ImageError, match="not a folder"):
        load_images(tmp_path / "none")
    with pytest.raises(ImageError, match="no picture in it"):
        load_images(tmp_path)
    with pytest.raises(ImageError, match="no such file"):
        load_image(tmp_path / "none.jpg")
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(ImageError, match=r"text\.jpg: not a readable picture .UnidentifiedImageError."):
        load_images(tmp_path)
    photo = tmp_path / "cut.png"
    Image.new("RGB", (90, 90), (1, 2, 3)).save(photo)
    photo.write_bytes(photo.read_bytes()[:60])
    with pytest.raises(ImageError, match=r"cut\.png: not a readable picture"):
        load_image(photo)


# --- other layouts, colours and types


OTHERS = [
    ImageInput(5, 7, (0.5, 0.4, 0.3), (0.2, 0.3, 0.1), layout="nhwc"),
    ImageInput(5, 7, (104.0, 117.0, 123.0), (1.0, 1.0, 1.0), scale=1.0, colors="bgr"),
    ImageInput(5, 7, (0.5,), (0.25,), colors="gray"),
    ImageInput(5, 7, (0.0,) * 3, (1.0,) * 3, scale=1.0, layout="nhwc", dtype="uint8"),
    ImageInput(5, 7, (0.5,) * 3, (0.5,) * 3, dtype="float16"),
]


@pytest.mark.parametrize("image", OTHERS)
def test_every_form_follows_the_same_formula(image):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    found = preprocess(pixels, image)
    assert (found.dtype.name, found.shape) == (image.dtype, image.shape)
    seen = to_pixels(pixels, image)
    if image.colors != "gray":
        assert (seen == (pixels[:, :, ::-1] if image.colors == "bgr" else pixels)).all()
    expected = (seen * image.scale - np.array(image.mean)) / np.array(image.std)
    expected = expected[None] if image.layout == "nhwc" else expected.transpose(2, 0, 1)[None]
    np.testing.assert_allclose(found, expected.astype(image.dtype), rtol=1e-3, atol=1e-6)
    assert (pixels_of(found, image) == seen).all()


@pytest.mark.parametrize("image", OTHERS)
@pytest.mark.parametrize("rate_bps", [np.inf, 1e5])
def test_every_form_is_sent_as_pixels_with_the_very_bits_of_preprocessing(image, rate_bps):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    payload = encode_image(to_pixels(pixels, image), image, rate_bps=rate_bps)
    received = decode(payload)
    assert received.tobytes() == preprocess(pixels, image).tobytes()
    assert (received.dtype.name, received.shape) == (image.dtype, image.shape)
    assert payload[12] == (1 if image.dtype == "float32" and image.layout == "nchw" and image.channels == 3 else 2)
    close = decode(encode_image(to_pixels(pixels, image), image, jpeg_quality=95))
    assert (close.dtype, close.shape) == (received.dtype, received.shape)


def test_a_letterbox_shows_all_of_the_picture_between_bars():
    wide = np.full((100, 200, 3), 255, np.uint8)
    pixels = to_pixels(wide, ImageInput(80, 80, (0.0,) * 3, (1.0,) * 3, fit="letterbox", pad=7))
    assert (pixels[:20] == 7).all()
    assert (pixels[20:60] == 255).all()
    assert (pixels[60:] == 7).all()


def test_stretching_shows_all_of_the_picture():
    halves = np.zeros((100, 200, 3), np.uint8)
    halves[:, 100:] = 255
    pixels = to_pixels(halves, ImageInput(80, 80, (0.0,) * 3, (1.0,) * 3, fit="stretch"))
    assert (pixels[:, :38] == 0).all()
    assert (pixels[:, 42:] == 255).all()
