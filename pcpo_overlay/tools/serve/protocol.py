"""What ddpo-pytorch's client sends, and what it gets: pickles of builtins, and never anything else.

The body is a dict of ``images`` (JPEG files), ``queries`` (a list of questions for each image) and, for BERTScore,
``answers`` (what each should have been answered). A pickle is a program: this one may only build lists, tuples, dicts,
bytes and strings, which is looked up before it runs.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

#: Bytes of a body. 16 pictures of 1024 x 1024 pixels, of nothing but noise, stay below.
MOST_BYTES = 32 * 2**20
#: The client sends up to 16 images, with a question each.
MOST_IMAGES, MOST_QUESTIONS, MOST_CHARACTERS = 64, 256, 2000
#: Pixels of an image's side. Between them no ratio is one that the model's preprocessing refuses.
SIDES = (16, 2048)
#: The client's largest body has 200 operations. Each takes time, and some a place in a table.
MOST_OPERATIONS = 10_000

#: All that protocols 3 to 5 need for lists, tuples, dicts, bytes and strings; no class, function or persistent object.
_OPERATIONS = {
    "PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET",
    "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2",
    "TUPLE3", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
}  # fmt: skip


class Refused(Exception):
    """A request that is never answered, however often it is sent; the message says why, in a line."""


@dataclass(frozen=True)
class Request:
    """Images with the questions about each, and what was to be answered, if that is to be scored."""

    images: list[bytes]
    queries: list[list[str]]
    answers: list[list[str]] | None


class _Builtins(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise Refused(f"it names {module}.{name}")


def read(body: bytes) -> Request:
    """A request of what the client sent.

    Raises:
        Refused: it is none, or it is too much.
    """
    try:
        _check_operations(body)
        held = _Builtins(io.BytesIO(body)).load()
    except Refused:
        raise
    except Exception as error:  # of a broken pickle the library has a dozen
        raise Refused(f"the body is no pickle that can be read ({type(error).__name__})") from None
    if not isinstance(held, dict) or not {"images", "queries"} <= held.keys() <= {
        "images",
        "queries",
        "answers",
    }:
        raise Refused("the body is no dict of images, queries and, for BERTScore, answers")
    images = held["images"]
    if not isinstance(images, (list, tuple)) or not 1 <= len(images) <= MOST_IMAGES:
        raise Refused(f"images is no list of 1 to {MOST_IMAGES} JPEG files")
    for number, data in enumerate(images):
        _check_image(number, data)
    queries = _texts("queries", held["queries"], len(images))
    if "answers" not in held:
        return Request(list(images), queries, None)
    answers = _texts("answers", held["answers"], len(images))
    if [len(row) for row in answers] != [len(row) for row in queries]:
        raise Refused("answers has not as many texts as queries for every image")
    return Request(list(images), queries, answers)


def _check_operations(body: bytes) -> None:
    for number, (operation, argument, _) in enumerate(pickletools.genops(body)):
        if operation.name not in _OPERATIONS:
            raise Refused(
                f"its pickle holds {operation.name}; lists, dicts, bytes and strings of protocol 3 to 5 do"
            )
        # A memo of four billion places in ten bytes would take the memory of the machine.
        if number >= MOST_OPERATIONS or (
            operation.name.endswith("BINPUT") and int(argument or 0) >= MOST_OPERATIONS
        ):
            raise Refused(f"its pickle takes over {MOST_OPERATIONS} operations")


def _texts(name: str, rows: Any, images: int) -> list[list[str]]:
    if not isinstance(rows, (list, tuple)) or len(rows) != images:
        raise Refused(f"{name} is no list of as many lists as there are images, {images}")
    texts: list[Any] = []
    for row in rows:
        if not isinstance(row, (list, tuple)) or not row or len(texts) + len(row) > MOST_QUESTIONS:
            raise Refused(
                f"{name} does not hold a list of texts for each image, {MOST_QUESTIONS} in all at most"
            )
        texts += row
    for text in texts:
        if type(text) is not str or len(text) > MOST_CHARACTERS or not _is_unicode(text):
            raise Refused(f"{name} holds something that is no text of up to {MOST_CHARACTERS} characters")
        if "<|" in text:
            raise Refused(f"{name} holds <|, which begins the model's own marks")
    return [list(row) for row in rows]


def _is_unicode(text: str) -> bool:
    """Whether it holds no half of a character, which a pickle may and no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_image(number: int, data: Any) -> None:
    """Look at an image's head; it is decoded when its turn comes."""
    from PIL import Image

    if type(data) is not bytes:
        raise Refused(f"image {number} is not the bytes of a JPEG file")
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            size = image.size
    except Exception:  # what Pillow raises at a damaged head is not on any list
        raise Refused(f"image {number} is no JPEG file") from None
    if min(size) < SIDES[0] or max(size) > SIDES[1]:
        raise Refused(f"image {number} has {size[0]} x {size[1]} pixels; a side has {SIDES[0]} to {SIDES[1]}")


def decode(request: Request) -> list[Image]:
    """The images of a request, in RGB.

    Raises:
        Refused: one is damaged.
    """
    from PIL import Image

    images = []
    for number, data in enumerate(request.images):
        try:
            with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
                images.append(image.convert("RGB"))
        except Exception:
            raise Refused(f"image {number} is a damaged JPEG file") from None
    return images


def encode(answer: dict[str, list[list[Any]]]) -> bytes:
    """The body of an answer, of builtins: NumPy's scalars would ask the client for NumPy of the same kind."""
    return pickle.dumps(answer, protocol=4)
