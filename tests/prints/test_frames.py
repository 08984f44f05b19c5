"""What local runners write is taken apart again, however it comes."""

from __future__ import annotations

import select

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_flame.prints.frames import (
    BOTH,
    END,
    FREE,
    KEEP,
    NOBODY,
    Piece,
    Unpacker,
    beginning,
    change,
    frames,
    short,
)

pytestmark = pytest.mark.unit

WORD = b"0123456789ab"
# What is made of pieces of frames, too.
TEXT = st.text(alphabet="a\n\r\x1e\x1f0 19\u2600\U0001f600", max_size=12)
NAMES = st.sampled_from(["", "f-1", "rate=0.1", "\u2600"])
WRITTEN = st.one_of(
    st.tuples(st.just("raw"), TEXT),
    st.tuples(st.sampled_from([BOTH, KEEP]), st.integers(1, 2), st.integers(1, 99), NAMES, TEXT),
)


def framed(kind: str, stream: int, call: int, name: str, text: str) -> bytes:
    return b"".join(frames(beginning(WORD, kind, stream, call, name), text.encode()))


@given(st.lists(WRITTEN, max_size=12), st.integers(1, 40))
def test_however_it_is_cut_each_byte_is_whose_it_was(
    written: list[tuple[str, ...]], size: int
) -> None:
    data = b"".join(
        item[1].encode() if item[0] == "raw" else framed(*item)  # type: ignore[arg-type]
        for item in written
    )
    unpacker = Unpacker(WORD)
    pieces: list[Piece] = []
    for at in range(0, len(data), size):
        pieces += unpacker.add(data[at : at + size], (7, "alone"))
    pieces += unpacker.over()
    expected = [
        (FREE, 0, item[1]) if item[0] == "raw" else (item[0], item[2], item[4]) for item in written
    ]
    assert together([(p.kind, p.call if p.stream else 0, p.text) for p in pieces]) == together(
        [(kind, call, text.encode()) for kind, call, text in expected if text]  # type: ignore
    )


def together(pieces: list[tuple[str, int, bytes]]) -> list[tuple[str, int, bytes]]:
    """Neighbours of one kind as one."""
    made: list[tuple[str, int, bytes]] = []
    for kind, call, text in pieces:
        if made and made[-1][:2] == (kind, call):
            made[-1] = (kind, call, made[-1][2] + text)
        elif text:
            made.append((kind, call, text))
    return made


@given(st.binary(max_size=200), st.integers(1, 50))
def test_bytes_of_any_kind_pass(data: bytes, size: int) -> None:
    unpacker = Unpacker(WORD)
    got = b"".join(
        p.text for at in range(0, len(data), size) for p in unpacker.add(data[at : at + size])
    )
    assert got + b"".join(p.text for p in unpacker.over()) == data


@pytest.mark.parametrize("tail", [b"b", b"b1 ", b"b1 x y\x1f3\x1fabc", b"b1 2 n\x1fmany\x1f", b""])
def test_what_only_begins_like_a_frame_is_text(tail: bytes) -> None:
    data = b"before\x1e" + WORD + tail + b"\n" * 600
    unpacker = Unpacker(WORD)
    got = unpacker.add(data) + unpacker.over()
    assert b"".join(p.text for p in got) == data


@given(st.text(alphabet="a\u00e9\u2600\U0001f600\n", max_size=200), st.integers(1, 60))
def test_a_frame_is_written_at_once_and_cuts_no_character(text: str, times: int) -> None:
    made = frames(beginning(WORD, BOTH, 1, 12, "n" * 90), (text * times).encode())
    assert all(len(frame) <= select.PIPE_BUF for frame in made)
    pieces = Unpacker(WORD).add(b"".join(made))
    assert "".join(piece.text.decode() for piece in pieces) == text * times


def test_a_mark_says_whose_it_is_what_has_no_frame_before_it_and_after() -> None:
    one, two = change(WORD, (1, "one"), NOBODY), change(WORD, NOBODY, (4, "\u2600 four"))
    printed = framed(BOTH, 2, 3, "three", "said")
    unpacker = Unpacker(WORD)
    pieces = unpacker.add(b"a" + printed + b"b" + one + b"c" + two + b"d", (9, "too early"))
    assert [(p.text, p.call, p.name) for p in pieces] == [
        (b"a", 1, "one"),
        (b"said", 3, "three"),
        (b"b", 1, "one"),
        (b"c", 0, ""),
        (b"d", 4, "\u2600 four"),
    ]
    assert [p.name for p in unpacker.add(b"e", (9, "before"))] == ["before"]
    assert [p.name for p in unpacker.add(two + b"e", (9, "before"))] == ["\u2600 four"]
    odd = b"".join(frames(beginning(WORD, "m", 0, 1, "one"), b"odd"))
    assert [p.name for p in unpacker.add(odd + b"e", (9, "before"))] == [""]


def test_an_end_is_told() -> None:
    (piece,) = Unpacker(WORD).add(framed(END, 1, 3, "f", ""), (9, "other"))
    assert piece == Piece(END, 1, 3, "f", b"")


def test_names_have_no_control_characters_and_an_end() -> None:
    assert short("a\x1e\x1f\r\nb  c") == "a b c"
    assert short("x" * 500) == "x" * 94 + " \u2026"
    assert len(short("\u2600" * 96).encode()) == 3 * 96
