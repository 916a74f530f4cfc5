"""What `predict` takes: every form of an image gives the prediction of its pixels, everything else one clear error."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

import kit
from kit import KitError, Run, space
from kit.data import fit, image
from kit.data.image import decode
from kit.run import predict
from kit.run.predict import TrainedModel, batches

GREY, RGB = (1, 8, 8), (3, 8, 8)
NUMERIC = [torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint16, torch.uint32, torch.uint64]
NUMERIC += ["u1", "i2", "i4", "i8", "u2", "u4", "u8", "f2", "f4", "f8", "longdouble"]


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    """For RGB images of 8×8 pixels; untrained, which changes nothing about what it is given."""
    torch.manual_seed(0)
    net = space.build("cell", 4, RGB, channels=4, cells=3, genotype=space.DARTS_V2)
    return TrainedModel(net, ["a", "b", "c", "d"]).eval()


def read(images, image: tuple[int, int, int]) -> torch.Tensor:
    """All of them, as a model of such an image sees them."""
    return torch.cat(list(batches(images, image)))


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def picture(pixels: torch.Tensor) -> Image.Image:
    """uint8 [C, H, W] as a PIL image."""
    return Image.fromarray(pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).contiguous().numpy())


# ---- forms ---------------------------------------------------------------------------------------


def test_every_form_of_the_same_images_gives_the_same_prediction(finished: Run, micro: str, tmp_path: Path):
    images = kit.load_dataset(micro).test.images[:7]
    expected, trained = finished.predict(images, batch_size=3), finished.model()
    files = [tmp_path / f"{i} ü.png" for i in range(7)]
    for file, pixels in zip(files, images):
        picture(pixels).save(file)
    forms = {
        "array": images.numpy(),
        "channels last": images.permute(0, 2, 3, 1),
        "in colour": images.expand(-1, 3, -1, -1),
        "list of matrices": list(images[:, 0].numpy()),
        "PIL": [picture(x) for x in images],
        "paths": files,
        "strings": [str(f) for f in files],
        "folder": tmp_path,
        "mixed": [files[0], picture(images[1]).convert("RGB"), images[2].numpy(), *images[3:, 0]],
        "backwards in memory": images.numpy()[:, :, ::-1][:, :, ::-1],
    }
    several = {
        "folders": [tmp_path],
        "pattern": str(tmp_path / "*.p?g"),
        "glob": iter(sorted(tmp_path.glob("*.png"))),
        "an array of paths": np.array([str(f) for f in files]),
    }
    forms |= several | {
        "grey matrices": images[:, 0],
        "big-endian": images.numpy().astype(">i4"),
        "one by one": (x for x in images),
    }
    for dtype in NUMERIC:
        forms[str(dtype)] = images.to(dtype) if isinstance(dtype, torch.dtype) else images[:, 0].numpy().astype(dtype)
    for name, form in forms.items():
        got = trained.predict(form, batch_size=3)
        assert torch.equal(got.probabilities, expected.probabilities) and got.names == expected.names, name
        assert (got.files == files) == (name in ("folder", "paths", "strings", *several)), name
    for one in (files[3], str(files[3]), picture(images[3]), images[3], images[3, 0], images[3, 0].numpy()):
        assert torch.equal(trained.predict(one).probabilities, trained.predict(images[3:4]).probabilities)
    for none in ([], images[:0]):
        assert trained.predict(none).probabilities.shape == (0, 10) and trained.predict(none).names == []
    assert torch.equal(finished.prepare(tmp_path), images)


def test_a_folder_is_read_with_its_subfolders_in_order(model: TrainedModel, tmp_path: Path):
    for name in ("b/2.png", "a/1.PNG", "3.jpg", ".hidden.png", ".cache/4.png", "a/.x/5.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        picture(noise(3, 8, 8)).save(tmp_path / name, format="PNG")
    (tmp_path / "notes.txt").write_text("no image")
    got = model.predict(tmp_path)
    assert [str(f.relative_to(tmp_path)) for f in got.files] == ["3.jpg", "a/1.PNG", "b/2.png"] and len(got.labels) == 3
    (tmp_path / "empty").mkdir()
    with pytest.raises(KitError, match=r"empty holds no image files \(.jpg, "):
        model.predict(tmp_path / "empty")
    with pytest.raises(KitError, match="nothing.png .FileNotFoundError"):
        model.predict(tmp_path / "nothing.png")


def test_a_list_may_mix_images_files_and_folders(model: TrainedModel, tmp_path: Path):
    files = [tmp_path / name for name in ("b.png", "a/1.png", "a/below/2.png")]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        picture(noise(3, 8, 8)).save(file)
    for given in (
        [files[0], tmp_path / "a"],
        (str(files[0]), str(tmp_path / "a")),
        [tmp_path / "b*", tmp_path / "[a]"],
    ):
        assert model.predict(given).files == files
    mixed = model.predict([noise(3, 8, 8), tmp_path / "a"])
    assert len(mixed.labels) == 3 and mixed.files is None
    (tmp_path / "a" / "broken.png").write_text("")
    with pytest.raises(KitError, match="1 images cannot be used: image 3 .*broken.png"):
        model.predict([files[0], tmp_path / "a"])


@pytest.mark.parametrize(
    ("shape", "image", "means"),
    [
        ((1, 8, 8), GREY, 1),
        ((3, 9, 7), GREY, 1),
        ((9, 7, 3), GREY, 1),
        ((3, 9, 7), RGB, 1),
        ((9, 7, 4), RGB, 1),
        ((9, 7), RGB, 1),
        ((2, 3, 9, 7), GREY, 2),
        ((2, 9, 7, 4), GREY, 2),
        ((5, 9, 7), GREY, 5),
        ((2, 9, 7), RGB, 2),
        ((3, 3, 3, 3), (3, 3, 3), 3),
    ],
)
def test_the_axes_of_an_array_are_told_apart(shape: tuple[int, ...], image: tuple[int, ...], means: int):
    for given in (noise(*shape), noise(*shape).numpy()):
        assert read(given, image).shape == (means, *image)


# ---- colour and size -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(8, 8), (20, 20), (31, 12), (12, 31), (5, 5), (6, 30)])
def test_sizes_are_adapted_as_the_training_images_are(size: tuple[int, int], tmp_path: Path):
    rgb = noise(3, *size)
    picture(rgb).save(tmp_path / "image.png")
    trained_on = torch.from_numpy(decode(tmp_path / "image.png", 8))  # what kit.data makes of the file
    assert torch.equal(fit(rgb[None], 8, 8)[0], trained_on)
    for form in (tmp_path / "image.png", rgb, picture(rgb), rgb.numpy(), rgb[None]):
        assert torch.equal(read(form, RGB)[0], trained_on)


def test_images_that_are_not_square_are_covered_and_cropped():
    rgb = noise(1, 3, 40, 30)
    for h, w in ((10, 6), (6, 10), (7, 20), (40, 30)):
        scale = max(h / 40, w / 30)
        larger = [int(40 * scale + 1e-6), int(30 * scale + 1e-6)]  # as torchvision rounds the longer side
        expected = F.center_crop(F.resize(rgb, larger, antialias=True), [h, w])
        assert torch.equal(read(rgb, (3, h, w)), expected)


def test_grey_and_colour_are_adapted_to_the_model():
    rgb, grey = noise(2, 3, 8, 8), noise(2, 1, 8, 8)
    luma = torch.stack([torch.from_numpy(np.array(picture(x).convert("L"))) for x in rgb])[:, None]
    for form in (rgb, [picture(x) for x in rgb], list(rgb)):
        assert torch.equal(read(form, GREY), luma)
    for form in (grey, [picture(x) for x in grey], list(grey[:, 0].numpy())):
        assert torch.equal(read(form, RGB), grey.expand(-1, 3, -1, -1))
    # what is transparent lies on white, in files and arrays
    clear = torch.cat([rgb[0], torch.zeros(1, 8, 8, dtype=torch.uint8)])
    for form in (clear.permute(1, 2, 0), picture(clear)):
        assert (read(form, RGB) == 255).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "PA"])
def test_pil_images_of_every_mode(mode: str):
    image = picture(noise(3, 8, 8)).convert("P" if mode == "PA" else "RGB").convert(mode)
    assert read(image, RGB).shape == (1, *RGB)


def test_a_photograph_is_turned_as_its_exif_says(tmp_path: Path):
    image, exif = picture(noise(3, 8, 12)), Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    upright = np.rot90(np.array(image), -1)
    for form in (tmp_path / "turned.png", Image.open(tmp_path / "turned.png")):
        assert torch.equal(read(form, (3, 12, 8))[0], torch.from_numpy(upright.copy()).permute(2, 0, 1))


# ---- refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (np.full((8, 8), np.nan), "float64 of shape"),
        (torch.rand(3, 8, 8), "float32 of shape"),
        (np.full((8, 8), 300), r"int64 of shape \[8, 8\]: 300 to 300 are not all whole numbers from 0 to 255"),
        (np.full((8, 8), 256, np.uint16), "uint16 of shape"),
        (np.full((8, 8), -1, np.int8), "int8 of shape"),
        (np.full((8, 8), 2**63, np.uint64), "uint64 of shape"),
        (np.full((8, 8), 1j), "complex128 of shape"),
        (torch.zeros(8, 8, dtype=torch.bool), "bool of shape"),
        (torch.full((8, 8), 4000, dtype=torch.uint16), "uint16 of shape"),
        (np.zeros((8, 8), bool), "bool of shape"),
        (np.array([[object()]]), "object of shape"),
        (np.zeros((8, 5, 8), np.uint8), r"uint8 of shape \[8, 5, 8\]"),
        (np.zeros(8, np.uint8), r"shape \[8\]"),
        (np.zeros((0, 8), np.uint8), r"shape \[0, 8\]"),
        (None, "NoneType is no image"),
        ([1], "list is no image"),
        (np.zeros((2, 3, 8, 8), np.uint8), r"shape \[2, 3, 8, 8\]"),
        (np.zeros((1, 9000), np.uint8), "too narrow to resize it"),
    ],
)
def test_one_error_names_every_image_that_cannot_be_used(given, why: str, model: TrainedModel, monkeypatch):
    monkeypatch.setattr(image, "MAX_PIXELS", 100_000)
    good = noise(3, 8, 8)
    with pytest.raises(KitError, match=rf"^1 images cannot be used: image 1 .*{why}.*allowed are a path, a fold"):
        model.predict([good, given, good], batch_size=1)


def test_broken_files_are_listed_with_their_reasons(model: TrainedModel, tmp_path: Path):
    buffer = io.BytesIO()
    picture(noise(3, 64, 64)).save(buffer, format="JPEG")
    whole = buffer.getvalue()
    contents = {"a-good.jpg": whole, "b-cut.jpg": whole[:600], "c-empty.png": b"", "d-text.png": b"not an image"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "e-deep.png")
    with pytest.raises(KitError) as error:
        model.predict(tmp_path)
    message = str(error.value)
    assert message.startswith("4 images cannot be used: image 1 ") and "a-good" not in message
    assert all(f"{name} (" in message for name in ("b-cut.jpg", "c-empty.png", "d-text.png", "e-deep.png"))
    with pytest.raises(KitError, match="9 images cannot be used: .*; and 4 more"):
        model.predict([tmp_path / "gone.png"] * 9)
    late = Image.open(io.BytesIO(whole[:-400]))  # opened, and decoded only when it is used
    with pytest.raises(KitError, match="image 0 .OSError"):
        model.predict(late)


@pytest.mark.parametrize("images", [{"a": 1}, None, 3, object(), np.zeros((1, 2, 3, 8, 8), np.uint8), iter([])])
def test_what_holds_no_images_is_refused_at_once(images, model: TrainedModel):
    with pytest.raises(KitError, match="allowed are a path"):
        model.predict(images)


@pytest.mark.parametrize("size", [0, -1, 2.0, None])
def test_the_batch_size_is_a_whole_number(size, model: TrainedModel):
    with pytest.raises(KitError, match="batch_size=.*whole number from 1"):
        model.predict(noise(2, 3, 8, 8), batch_size=size)


def test_memory_is_bounded_by_the_batch(model: TrainedModel, monkeypatch):
    seen = []
    monkeypatch.setattr(TrainedModel, "forward", lambda self, x: seen.append(len(x)) or torch.zeros(len(x), 4))
    assert len(model.predict(noise(10, 3, 8, 8), batch_size=4).labels) == 10 and seen == [4, 4, 2]
    seen.clear()
    with pytest.raises(KitError, match="1 images cannot be used: image 5 .NoneType"):
        model.predict([*noise(5, 3, 8, 8), None, *noise(3, 3, 8, 8)], batch_size=2)
    assert seen == [2, 2]


def test_preprocessing_says_what_is_done(model: TrainedModel):
    said = model.preprocessing
    assert said["image"] == [3, 8, 8] and said["pixels"].startswith("uint8") and "RGB" in said["channels"]
    assert "luma" in predict.preprocessing(GREY)["channels"]
