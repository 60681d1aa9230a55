"""Pictures on their way to a device: made to fit into a message, and shown in a terminal."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from twin import TwinError

if TYPE_CHECKING:
    from PIL.Image import Image

#: What devices read as it is.
READ_BY_DEVICES = ("JPEG", "PNG")
_SIDES = (1024, 768, 512, 384, 256, 192, 128, 96, 64, 32)
_QUALITIES = (90, 75, 60, 45)
_COLUMNS = 32
#: What Pillow's decoders raise of damaged files.
_DAMAGE = (
    OSError,
    ArithmeticError,
    AssertionError,
    EOFError,
    LookupError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)


def fitted(content: bytes, name: str, limit_bytes: int) -> tuple[bytes, str]:
    """Make a picture small enough for a message; one that fits and that devices read stays as it is.

    Args:
        content: A file of any format that Pillow reads.
        name: The file's, for messages.
        limit_bytes: The largest result.

    Returns:
        The file to send, and what was done to it; nothing if nothing was.

    Raises:
        TwinError: It is no picture, or too small a limit is left for any.
    """
    picture = _opened(content, name)
    if picture.format in READ_BY_DEVICES and len(content) <= limit_bytes:
        return content, ""
    from PIL import ImageOps

    upright = _eight_bits(ImageOps.exif_transpose(picture))
    for side in _SIDES:
        smaller = upright.copy()
        smaller.thumbnail((side, side))
        for quality in _QUALITIES:
            file = io.BytesIO()
            smaller.save(file, "JPEG", quality=quality)
            if file.tell() <= limit_bytes:
                was = f"{picture.format}, {picture.width} x {picture.height}, {len(content)} bytes"
                now = f"JPEG of {smaller.width} x {smaller.height}, {file.tell()} bytes"
                return file.getvalue(), f"{name} ({was}) is sent as {now}: a message takes no more than {limit_bytes}"
    raise TwinError(f"a picture must fit into {limit_bytes} bytes, {name} does not: raise the model's maxRequestBytes")


def _opened(content: bytes, name: str) -> Image:
    from PIL import Image, UnidentifiedImageError

    try:
        picture = Image.open(io.BytesIO(content))
        picture.load()
    except (*_DAMAGE, Image.DecompressionBombError) as exc:
        reason = "of no known format" if isinstance(exc, UnidentifiedImageError) else exc
        raise TwinError(f"--image must be a picture, got {name}: {reason}: give a JPEG or PNG file") from exc
    if picture.mode == "F":
        raise TwinError(f"--image must have 8 or 16 bits a value, got {name} of floats: give a JPEG or PNG file")
    return picture


def _eight_bits(picture: Image) -> Image:
    """Grey or colour; of 16 bits the eight highest, as a device takes them: a conversion alone would clip."""
    if picture.mode.startswith("I"):
        return picture.convert("I").point(lambda value: value / 256).convert("L")
    return picture.convert("L" if picture.mode in ("1", "L", "LA") else "RGB")


def half_blocks(content: bytes, columns: int = _COLUMNS) -> str:
    """Draw a picture for a terminal of 24-bit colours, two pixels a character.

    Args:
        content: The file.
        columns: The most characters in a line.

    Returns:
        Lines that end with a reset of the colours.
    """
    from PIL import Image

    picture = _eight_bits(_opened(content, "the picture")).convert("RGB")
    if max(picture.size) > columns:
        picture.thumbnail((columns, columns))
    elif factor := columns // (2 * max(picture.size)):
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    even = Image.new("RGB", (picture.width, picture.height + picture.height % 2))
    even.paste(picture)
    pixels = even.tobytes()

    def colour(x: int, y: int) -> str:
        start = 3 * (y * even.width + x)
        return ";".join(str(value) for value in pixels[start : start + 3])

    lines = (
        "".join(f"\x1b[38;2;{colour(x, y)}m\x1b[48;2;{colour(x, y + 1)}m▀" for x in range(even.width))
        for y in range(0, even.height, 2)
    )
    return "".join(f"{line}\x1b[0m\n" for line in lines)
