import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from edge_inference.messages import ErrorCode, RequestError
from edge_inference.models.pictures import ORIENTATION, Pixels
from edge_inference.models.pictures import decode as decode_pixels
from tests.edge.digit_picture import digit_png


def decode(data: bytes, width: int, height: int, mode: str, resize: int | None = None) -> NDArray[np.float32]:
    """Decoded pixels from 0 to 1, however they are held."""
    pixels: Pixels = decode_pixels(data, width, height, mode, resize).pixels
    unit: NDArray[np.float32] = pixels.astype(np.float32) / np.float32(255 if pixels.dtype == np.uint8 else 1)
    return unit


DIGIT = np.arange(64).reshape(8, 8) % 17


def encoded(picture: Image.Image, kind: str = "PNG", orientation: int | None = None) -> bytes:
    stream, exif = io.BytesIO(), Image.Exif()
    if orientation is not None:
        exif[ORIENTATION] = orientation
    picture.save(stream, kind, exif=exif)
    return stream.getvalue()


GREY = Image.fromarray(np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8))
SEEDS = [
    encoded(GREY),
    encoded(GREY, "JPEG"),
    encoded(GREY, "JPEG", 6),
    encoded(GREY.convert("P")),
    encoded(GREY.convert("RGBA")),
]


def test_undoes_what_clients_do_to_a_digit() -> None:
    pixels = decode(digit_png(DIGIT), 8, 8, "L")

    assert pixels.shape == (8, 8, 1)
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(np.rint(pixels[:, :, 0] * 16), DIGIT)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "LA"])
def test_takes_any_kind_of_pixel_and_size(kind: str, mode: str) -> None:
    if kind == "JPEG" and mode in ("RGBA", "P", "LA"):
        mode = "CMYK"
    picture = Image.new("L", (100, 40), 255).convert(mode)

    for wanted, channels in (("L", 1), ("RGB", 3)):
        pixels = decode(encoded(picture, kind), 8, 6, wanted)

        assert pixels.shape == (6, 8, channels)
        np.testing.assert_allclose(pixels, 1, atol=0.02)


def png(colour: int, depth: int, samples: NDArray[np.int64], *blocks: tuple[bytes, bytes]) -> bytes:
    """Write a PNG by its specification: samples of shape (height, width, channels), no filter."""
    height, width, channels = samples.shape
    rows = samples.reshape(height, width * channels)
    if depth == 16:
        lines = [row.astype(">u2").tobytes() for row in rows]
    else:
        bits = ["".join(format(sample, f"0{depth}b") for sample in row) for row in rows]
        lines = [int(f"{row:0<{-(-len(row) // 8) * 8}}", 2).to_bytes(-(-len(row) // 8), "big") for row in bits]
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + line for line in lines))
    content = b"\x89PNG\r\n\x1a\n"
    for name, block in ((b"IHDR", header), *blocks, (b"IDAT", data), (b"IEND", b"")):
        content += struct.pack(">I", len(block)) + name + block + struct.pack(">I", zlib.crc32(name + block))
    return content


def luma(red: float, green: float, blue: float) -> float:
    """ITU-R BT.601."""
    return 0.299 * red + 0.587 * green + 0.114 * blue


PALETTE = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 150, 100]])
TOP = 65535
#: Kind of PNG: its colour type, depth and two pixels, what they are on 0 to 1 (grey or red, green, blue), extra blocks.
KINDS: dict[str, tuple[int, int, list[list[int]], list[tuple[float, ...]], list[tuple[bytes, bytes]]]] = {
    "grey, 1 bit": (0, 1, [[0], [1]], [(0,), (1,)], []),
    "grey, 2 bits": (0, 2, [[1], [3]], [(1 / 3,), (1,)], []),
    "grey, 4 bits": (0, 4, [[1], [15]], [(1 / 15,), (1,)], []),
    "grey, 8 bits": (0, 8, [[100], [255]], [(100 / 255,), (1,)], []),
    "grey, 16 bits, dark": (0, 16, [[300], [1000]], [(300 / TOP,), (1000 / TOP,)], []),
    "grey, 16 bits, light": (0, 16, [[30_000], [TOP]], [(30_000 / TOP,), (1,)], []),
    "grey with alpha": (4, 8, [[100, 0], [200, 128]], [(100 / 255,), (200 / 255,)], []),
    "grey with alpha, 16 bits": (4, 16, [[30_000, 0], [TOP, 9]], [(30_000 / TOP,), (1,)], []),
    "palette": (
        3,
        2,
        [[0], [3]],
        [(1, 0, 0), (200 / 255, 150 / 255, 100 / 255)],
        [(b"PLTE", PALETTE.astype("u1").tobytes())],
    ),
    "colour": (2, 8, [[10, 20, 30], [255, 0, 128]], [(10 / 255, 20 / 255, 30 / 255), (1, 0, 128 / 255)], []),
    "colour, 16 bits": (
        2,
        16,
        [[300, 20_000, TOP], [TOP, 0, 1000]],
        [(300 / TOP, 20_000 / TOP, 1), (1, 0, 1000 / TOP)],
        [],
    ),
    "colour with alpha": (
        6,
        8,
        [[10, 20, 30, 0], [255, 0, 128, 9]],
        [(10 / 255, 20 / 255, 30 / 255), (1, 0, 128 / 255)],
        [],
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_reaches_the_model_is_the_pixel_that_the_file_holds(kind: str) -> None:
    colour, depth, pixels, expected, blocks = KINDS[kind]
    data = png(colour, depth, np.array([pixels]), *blocks)

    grey = decode(data, 2, 1, "L")[0, :, 0]
    rgb = decode(data, 2, 1, "RGB")[0]

    # Of 16 bits a pixel a grey model gets all, others the eight highest: a level of them is 1/255.
    exact = 1e-6 if colour == 0 else 1.01 / 255
    np.testing.assert_allclose(grey, [each[0] if len(each) == 1 else luma(*each) for each in expected], atol=exact)
    np.testing.assert_allclose(rgb, [each * (3 // len(each)) for each in expected], atol=1.01 / 255)


def test_of_16_bits_grey_and_colour_give_the_same_eight() -> None:
    values = np.array([0, 255, 256, 300, 511, 30_000, 65_279, 65_280, TOP])
    grey = decode(png(0, 16, values.reshape(1, -1, 1)), len(values), 1, "RGB")
    colour = decode(png(2, 16, np.repeat(values.reshape(1, -1, 1), 3, 2)), len(values), 1, "RGB")

    np.testing.assert_allclose(grey[0, :, 0] * 255, values >> 8, atol=1e-3)
    np.testing.assert_array_equal(grey, colour)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_scales_16_bit_pixels(mode: str) -> None:
    picture = Image.fromarray(np.full((4, 4), 32768, np.uint16))

    np.testing.assert_allclose(decode(encoded(picture), 4, 4, mode), 0.5, atol=0.01)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _bomb(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(b"")) + _chunk(b"IEND", b"")


def outcome(data: bytes) -> tuple[int, ...] | ErrorCode:
    try:
        return decode(data, 8, 8, "L").shape
    except RequestError as error:
        return error.code


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(5001, 5000), (10_000, 10_000), (60_000, 60_000)])
def test_refuses_a_picture_with_too_many_pixels_before_decoding_it(size: tuple[int, int]) -> None:
    with pytest.raises(RequestError, match="at most 25000000 pixels") as caught:
        decode(_bomb(*size), 8, 8, "L")

    assert caught.value.code is ErrorCode.INVALID_IMAGE


@pytest.mark.parametrize(
    ("data", "got"),
    [
        (b"", "nothing"),
        (b"GIF89a", "6 bytes that begin with b'GIF89a'"),
        (b"\0\0\0\x18ftypheic\0", r"13 bytes that begin with b'\x00\x00\x00\x18ftypheic'"),
        (encoded(GREY, "BMP"), "bytes that begin with b'BM"),
        (encoded(GREY, "TIFF"), "bytes that begin with b'II"),
    ],
)
def test_refuses_other_formats_and_says_what_came(data: bytes, got: str) -> None:
    with pytest.raises(RequestError) as caught:
        decode(data, 8, 8, "L")

    assert str(caught.value).startswith("image must be a PNG or JPEG file, got ")
    assert got in str(caught.value)


@pytest.mark.parametrize("resize", [None, 20])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", range(10))
def test_turns_a_photograph_upright(kind: str, orientation: int, resize: int | None) -> None:
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:32, :48], pixels[:32, 48:], pixels[32:, :48] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    data = encoded(Image.fromarray(pixels), kind, orientation)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))

    found = decode(data, 12, 8, "RGB", resize)

    assert found.shape == (8, 12, 3)
    # Not each pixel: a JPEG is decoded at a smaller scale, which blurs the edges.
    assert np.abs(found - decode(encoded(upright), 12, 8, "RGB", resize)).mean() < 0.03


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "block", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0II*\0\xff\xff\xff\xff"]
)
def test_a_damaged_exif_block_leaves_the_picture_as_it_is(block: bytes) -> None:
    stream = io.BytesIO()
    GREY.save(stream, "JPEG", exif=block)

    assert decode(stream.getvalue(), 8, 8, "L").shape == (8, 8, 1)


@pytest.mark.parametrize("seed", SEEDS)
def test_refuses_a_picture_that_is_cut_off(seed: bytes) -> None:
    with pytest.raises(RequestError, match="image must be"):
        decode(seed[: len(seed) // 2], 8, 8, "L")


@given(st.binary() | st.sampled_from(SEEDS).flatmap(lambda seed: st.binary().map(lambda tail: seed[:-20] + tail)))
def test_any_bytes_are_a_picture_or_an_error(data: bytes) -> None:
    assert outcome(data) in ((8, 8, 1), ErrorCode.INVALID_IMAGE)


@pytest.mark.filterwarnings("ignore::UserWarning")
@given(st.sampled_from(SEEDS), st.data())
def test_a_damaged_picture_is_a_picture_or_an_error(seed: bytes, data: st.DataObject) -> None:
    damaged = bytearray(seed)
    for place in data.draw(st.lists(st.integers(0, len(seed) - 1), min_size=1, max_size=8)):
        damaged[place] = data.draw(st.integers(0, 255))

    assert outcome(bytes(damaged)) in ((8, 8, 1), ErrorCode.INVALID_IMAGE)


def test_cuts_the_centre_out_of_a_picture_whose_shorter_side_was_scaled() -> None:
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, 20:60] = 255  # the centre of the width

    cut = decode(encoded(Image.fromarray(pixels)), 8, 8, "RGB", resize=10)
    whole = decode(encoded(Image.fromarray(pixels)), 8, 8, "RGB")

    assert cut.min() == 1
    assert whole[0, 0, 0] == 0


def test_every_size_of_a_picture_has_a_centre_to_cut_out() -> None:
    shades = np.arange(30, dtype=np.uint8)[:, np.newaxis]

    for side in (29, 58, 116, 225, 1000, 4031):
        picture = Image.fromarray(np.resize(shades, (side + 40, side)))
        for turned in (picture, picture.transpose(Image.Transpose.ROTATE_90)):
            assert decode(encoded(turned), 224, 224, "L", resize=224).shape == (224, 224, 1)


def test_a_palette_picture_without_its_palette_is_damaged() -> None:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.uint8)).convert("P").save(stream, "PNG", transparency=0)
    palette = stream.getvalue()
    start = palette.index(b"PLTE") - 4
    length = int.from_bytes(palette[start : start + 4])

    with pytest.raises(RequestError, match="image must be complete and undamaged"):
        decode(palette[:start] + palette[start + length + 12 :], 8, 8, "L")
