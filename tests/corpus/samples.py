"""Samples of one shard. Each becomes a row or a reject, and does not affect the others."""

import struct
import tarfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from tests.corpus.case import Case
from tests.pictures import file, picture

Samples = Case[Callable[[str], list[bytes]]]  # returns the tar members of a sample with this key

CAPTION = b"a red heart"
HOSTILE = """<script>alert(1)</script><img src=x onerror="alert(2)"> "'>&amp; {{ 7 * 7 }} {caption}"""


def flip_bit(data: bytes, offset: int) -> bytes:
    """Return the data with one bit changed in the byte at `offset`."""
    offset %= len(data)
    return data[:offset] + bytes([data[offset] ^ 0x10]) + data[offset + 1 :]


def png(width: int, height: int, pixels: bytes, *chunks: tuple[bytes, bytes], depth: int = 8, colour: int = 2) -> bytes:
    """Return a PNG with any chunks. `pixels` are compressed."""
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n"
    for name, content in [header, *chunks, (b"IDAT", pixels), (b"IEND", b"")]:
        data += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return data


def compressed_zeros(length: int) -> bytes:
    """Return `length` compressed zeros."""
    compressor, block = zlib.compressobj(), bytes(1 << 20)
    return b"".join(compressor.compress(block) for _ in range(length >> 20)) + compressor.flush()


IMAGE = picture(64, 64)
JPEG, PNG = file(IMAGE, "JPEG", quality=90), file(IMAGE, "PNG")
BOMB = compressed_zeros(64 << 20)  # 64 KB that decompress to 64 MB


def member(name: str, data: bytes = b"", *, format: int = tarfile.PAX_FORMAT, **header: Any) -> bytes:
    """Return the bytes of a tar member. `header` has fields of its header, which may be false."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in header.items():
        setattr(info, field, value)
    return info.tobuf(format, "utf-8", "surrogateescape") + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def sample(
    key: str, image: bytes = PNG, caption: bytes = CAPTION, extension: str = "png", **header: Any
) -> list[bytes]:
    return [member(f"{key}.{extension}", image, **header), member(f"{key}.txt", caption, **header)]


def image(name: str, description: str, data: bytes, result: str, message: str = "", extension: str = "png") -> Samples:
    return Case(name, description, lambda key: sample(key, data, extension=extension), (result,), message)


def caption(name: str, description: str, text: bytes, result: str, message: str = "") -> Samples:
    return Case(name, description, lambda key: sample(key, caption=text), (result,), message)


def json(name: str, description: str, text: bytes, result: str, message: str = "") -> Samples:
    return Case(name, description, lambda key: [*sample(key), member(f"{key}.json", text)], (result,), message)


def rotated_by_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return file(picture(64, 32), "JPEG", exif=exif)


def cut_exif() -> bytes:
    data, exif = file(IMAGE, "JPEG", dpi=(72, 72)), b"Exif\0\0II*\0\x08\0\0\0\x09\0\x12\x01\x03\0"
    return data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]


ROW, CORRUPT, ANIMATED = "row", "reject decode CorruptImage", "reject decode AnimatedImage"
BOMBED, UNSAFE, INVALID = "reject decode DecompressionBomb", "reject index UnsafeMember", "reject read InvalidJson"
NO_CAPTION, ENCODING = "reject read MissingCaption", "reject read CaptionEncoding"
MORE = [IMAGE.rotate(90)]
UNREADABLE = "not a readable image"
DHT = JPEG.index(b"\xff\xc4")

IMAGES: list[Samples] = [
    image("image-empty", "an image of 0 bytes", b"", "reject index EmptyMember", "0 bytes"),
    image("image-text", "an HTML error page named .jpg", b"<html>404</html>", CORRUPT, UNREADABLE, "jpg"),
    image("image-svg", "an SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>", CORRUPT, UNREADABLE),
    image("image-pdf", "a PDF named .jpg", file(IMAGE, "PDF"), CORRUPT, UNREADABLE, "jpg"),
    image("image-eps", "an EPS (Pillow would run Ghostscript on it)", file(IMAGE, "EPS"), CORRUPT, UNREADABLE),
    image("jpeg-cut", "a JPEG that is cut within its pixels", JPEG[: len(JPEG) // 2], CORRUPT, "truncated", "jpg"),
    image(
        "jpeg-header-flipped", "a JPEG with a flipped bit in its tables", flip_bit(JPEG, DHT + 10), CORRUPT, "broken"
    ),
    image(
        "jpeg-pixels-flipped",
        "a JPEG with a flipped bit in its pixels (JPEG has no checksum)",
        flip_bit(JPEG, -700),
        ROW,
    ),
    image("png-crc", "a PNG with a wrong checksum of its pixels", flip_bit(PNG, -30), CORRUPT, "checksum"),
    image("png-header-crc", "a PNG with a wrong checksum of its header", flip_bit(PNG, 29), CORRUPT, UNREADABLE),
    image("png-unfinished", "a PNG without its end", PNG[:-12], CORRUPT, "truncated PNG"),
    image(
        "png-gigapixel",
        "a PNG of 10^9 pixels in 130 KB",
        png(32000, 32000, compressed_zeros(128 << 20), depth=1, colour=0),
        BOMBED,
        "1024000000 pixels",
    ),
    image(
        "png-profile-bomb",
        "a PNG with a colour profile that decompresses to 64 MB",
        png(1, 1, zlib.compress(bytes(4)), (b"iCCP", b"a\0\0" + BOMB)),
        BOMBED,
    ),
    image(
        "png-text-bomb",
        "a PNG with a text that decompresses to 64 MB",
        png(1, 1, zlib.compress(bytes(4)), (b"zTXt", b"a\0\0" + BOMB)),
        BOMBED,
    ),
    image(
        "gif-animated",
        "an animated GIF",
        file(IMAGE, "GIF", save_all=True, append_images=MORE),
        ANIMATED,
        "GIF",
    ),
    image("webp-animated", "an animated WebP", file(IMAGE, "WEBP", save_all=True, append_images=MORE), ANIMATED),
    image("png-animated", "an animated PNG", file(IMAGE, "PNG", save_all=True, append_images=MORE), ANIMATED),
    image("tiff-pages", "a TIFF of two pages", file(IMAGE, "TIFF", save_all=True, append_images=MORE), ANIMATED),
    image("gif-still", "a GIF of one frame", file(IMAGE, "GIF"), ROW),
    image("tiff", "a TIFF named .png", file(IMAGE, "TIFF"), ROW),
    image("bmp", "a BMP", file(IMAGE, "BMP"), ROW, extension="bmp"),
    image("pixel", "an image of 1 x 1 pixels", file(picture(1, 1), "PNG"), ROW),
    image("strip", "an image of 1 x 10,000 pixels", file(picture(1, 10_000), "PNG"), ROW),
    image(
        "grey-16",
        "a 16-bit grey image",
        file(Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)), "PNG"),
        ROW,
    ),
    image(
        "grey-float",
        "a 32-bit grey image",
        file(Image.fromarray(np.ones((64, 64), np.float32)), "TIFF"),
        CORRUPT,
        "32-bit",
    ),
    image("cmyk", "a CMYK JPEG", file(IMAGE.convert("CMYK"), "JPEG"), ROW, extension="jpg"),
    image("palette", "a palette image with transparency", file(IMAGE.convert("P"), "PNG", transparency=0), ROW),
    image("turned", "a JPEG that is rotated by its EXIF orientation", rotated_by_exif(), ROW, extension="jpg"),
    image(
        "profile",
        "an image with a colour profile (it is not applied)",
        file(IMAGE, "PNG", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()),
        ROW,
    ),
    image("exif-malformed", "a JPEG with a cut EXIF block (it counts as upright)", cut_exif(), ROW, extension="jpg"),
]

CAPTIONS: list[Samples] = [
    Case(
        "caption-missing",
        "a sample without a caption",
        lambda key: sample(key)[:1],
        ("reject index MissingCaption",),
        "no .txt",
    ),
    Case(
        "caption-json",
        "a caption only in the .json",
        lambda key: [sample(key)[0], member(f"{key}.json", b'{"caption": "a red heart"}')],
        ("reject index MissingCaption",),
        "write it to a .txt",
    ),
    caption("caption-empty", "a caption of 0 bytes", b"", NO_CAPTION, "blank"),
    caption("caption-blank", "a caption of only blanks", b" \t\r\n\xe3\x80\x80", NO_CAPTION, "blank"),
    caption("caption-mark-only", "a caption of only a byte order mark", b"\xef\xbb\xbf", NO_CAPTION, "blank"),
    caption("caption-latin", "a caption in Latin-1", "café".encode("latin-1"), ENCODING, "not UTF-8"),
    caption("caption-utf-16", "a caption in UTF-16", "a heart".encode("utf-16"), ENCODING, "not UTF-8"),
    caption("caption-mark", "a caption with a byte order mark (the mark is removed)", b"\xef\xbb\xbf" + CAPTION, ROW),
    caption("caption-nul", "a caption with NUL bytes", b"a red\0 heart\0", ROW),
    caption("caption-html", "a caption with HTML and a script (reports escape it)", HOSTILE.encode(), ROW),
    caption("caption-long", "a caption of 10^5 characters (`caption_truncated` is true)", b"a cat " * 16_667, ROW),
    caption("caption-urls", "a caption that would slow down a quadratic search for passwords", b"://:" * 25_000, ROW),
    caption(
        "caption-emoji",
        "a caption with emoji, right-to-left text and control characters",
        "👩‍👩‍👧 قلب أحمر \u202e\x1b[31m\x07\x85".encode(),
        ROW,
    ),
]

JSONS: list[Samples] = [
    json("json-empty", "a .json of 0 bytes", b"", INVALID, "line 1"),
    json("json-malformed", "a .json that is cut", b'{"a": ', INVALID, "line 1"),
    json("json-list", "a .json with a list instead of an object", b"[1, 2]", INVALID, "not an object"),
    json("json-deep", "a .json with 10^5 nested lists", b"[" * 100_000, INVALID, "recursion"),
    json("json-latin", "a .json in Latin-1", b'{"a": "\xe9"}', INVALID, "utf-8"),
    json("json-mark", "a .json with a byte order mark", b"\xef\xbb\xbf{}", INVALID, "BOM"),
    json("json-digits", "a .json with a number of 5,000 digits", b'{"a": ' + b"9" * 5000 + b"}", INVALID, "4300"),
    json("json-huge", "a .json of 4 MB (it is kept byte for byte)", b'{"a": "' + b"x" * (4 << 20) + b'"}', ROW),
    json("json-nan", "a .json with NaN (it is kept byte for byte)", b'{"a": NaN}', ROW),
    json("json-twice", "a .json with the same field twice (it is kept byte for byte)", b'{"a": 1, "a": 2}', ROW),
]


def linked(kind: bytes) -> Callable[[str], list[bytes]]:
    return lambda key: [member(f"{key}.png", type=kind, linkname="/etc/passwd"), member(f"{key}.txt", CAPTION)]


def with_members(*names: str, **header: Any) -> Callable[[str], list[bytes]]:
    """Return a builder of a valid sample with further members between its own."""
    return lambda key: [sample(key)[0], *(member(n.replace("KEY", key), **header) for n in names), sample(key)[1]]


def named(pattern: str, format: int = tarfile.PAX_FORMAT) -> Callable[[str], list[bytes]]:
    files = {"png": PNG, "txt": CAPTION}
    return lambda key: [member(f"{pattern.replace('KEY', key)}.{e}", files[e], format=format) for e in files]


def sparse(key: str) -> list[bytes]:
    """Return a sparse file in GNU tar's pax format: a map of its data, and the data."""
    headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": f"{key}.png",
        "GNU.sparse.realsize": "9",
    }
    return [member(f"{key}.png", b"1\n0\n9\n".ljust(512, b"\0") + b"123456789", pax_headers=headers), *sample(key)[1:]]


def only(*extensions: str) -> Callable[[str], list[bytes]]:
    return lambda key: [
        member(f"{key}.{extension}", PNG if extension.lower() == "png" else CAPTION) for extension in extensions
    ]


MISSING, TWICE = "reject index MissingImage", "reject index DuplicateKey"
DOTTED = "reject index DottedKey"
LITTER = ["._KEY.png", "__MACOSX/KEY.png", "x/.DS_Store", "__index__", "README"]

MEMBERS: list[Samples] = [
    Case(
        "member-folder",
        "a folder among the members of a sample (it is ignored)",
        with_members("d.png", type=tarfile.DIRTYPE),
        (ROW,),
    ),
    Case(
        "member-litter",
        "hidden files, macOS's ._ files, names in double underscores, names without a dot (they are ignored)",
        with_members(*LITTER),
        (ROW,),
    ),
    Case("member-symlink", "an image that is a symlink", linked(tarfile.SYMTYPE), (UNSAFE,), "link"),
    Case("member-hardlink", "an image that is a hard link", linked(tarfile.LNKTYPE), (UNSAFE,), "link"),
    Case("member-device", "an image that is a device", linked(tarfile.CHRTYPE), (UNSAFE,), "device"),
    Case("member-pipe", "an image that is a named pipe", linked(tarfile.FIFOTYPE), (UNSAFE,), "device"),
    Case("member-sparse", "an image that is a sparse file", sparse, (UNSAFE,), "sparse"),
    Case("name-absolute", "a member with an absolute path", named("/KEY"), (UNSAFE,), "leads out of the tar"),
    Case("name-outside", "a member with .. in its path", named("x/../../KEY"), (UNSAFE,), "leads out of the tar"),
    Case("name-latin", "a key that is not UTF-8", named("KEY\udce9"), ("reject index KeyEncoding",), "not UTF-8"),
    Case("name-long", "a name of 5,000 characters, in the pax format", named("d/" * 2500 + "KEY"), (ROW,)),
    Case(
        "name-long-gnu",
        "a name of 5,000 characters, in the GNU format",
        named("d/" * 2500 + "KEY", tarfile.GNU_FORMAT),
        (ROW,),
    ),
    Case(
        "name-slow",
        "a name of 10^5 characters with many folders and no dot (it is ignored)",
        lambda key: [member("a/" * 50_000 + key)],
        (),
    ),
    Case("name-newline", "a folder with a newline and a dot in its name", named("a\nb.c/KEY"), (ROW,)),
    Case(
        "name-html",
        "a key with HTML and a script (reports escape it)",
        named("<img src=x onerror=alert(3)> KEY"),
        (ROW,),
    ),
    Case(
        "name-html-alone",
        "a key with HTML and a script, without a caption",
        lambda key: sample(f"<img src=x onerror=alert(4)> {key}")[:1],
        ("reject index MissingCaption",),
    ),
    Case("extension-html", "an extension with HTML", only("<img src=x onerror=alert(5)>"), (MISSING,), "alert(5)"),
    Case("name-upper", "extensions in upper case", only("PNG", "TXT"), (ROW,)),
    Case(
        "name-dots",
        "two images with a further dot in their names",
        lambda key: [*sample(f"{key}/v1.5"), *sample(f"{key}/v1.6")],
        (DOTTED, DOTTED),
        "first dot",
    ),
    Case(
        "name-mask",
        "a second image that accompanies the first, key.mask.png (it is not read)",
        with_members("KEY.mask.png"),
        (ROW,),
    ),
    Case("name-dot-slash", "names that begin with ./ (keys do not have it)", named("./KEY"), (ROW,)),
    Case("extension-unknown", "only unknown extensions", only("mp4", "cls"), (MISSING,), "mp4, cls"),
    Case(
        "video",
        "a video of 3 MB between image and caption (it is not read)",
        lambda key: [sample(key)[0], member(f"{key}.mp4", bytes(3 << 20)), sample(key)[1]],
        (ROW,),
    ),
    Case(
        "images-several",
        "a .png and a .jpg with the same key",
        only("png", "jpg", "txt"),
        ("reject index SeveralImages",),
        "keep one",
    ),
    Case(
        "images-twice",
        "two .png members with the same key",
        only("png", "png", "txt"),
        ("reject index MissingCaption", TWICE),
        "has the same key",
    ),
    Case(
        "key-twice",
        "two samples with the same key (the first is used)",
        lambda key: [*sample(key), *sample(key)],
        (ROW, TWICE),
    ),
    Case(
        "key-apart",
        "a sample with another sample between its members",
        lambda key: [sample(key)[0], *sample(f"{key}/other"), sample(key)[1]],
        (ROW, ROW),
    ),
]

SAMPLES = [*IMAGES, *CAPTIONS, *JSONS, *MEMBERS]
