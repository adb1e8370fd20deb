"""Numbers survive the way to text and back, and hostile text never gets further than an error (headrace._codec).

The judges are numpy and Python's float (both exact), the struct module, and orjson.
"""

import json
import locale
import random
import struct
from fractions import Fraction

import numpy as np
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from headrace._codec import DecodeError, NotNumbers, RowBuffer, encode_csv, encode_json, encode_npy, json_into, view_npy

MAX_BYTES = 1 << 27


def decoded_json(body, dtype):
    rows = RowBuffer(dtype, MAX_BYTES)
    rows.append_json(body)
    return rows.array()


def decoded_csv(body, dtype):
    rows = RowBuffer(dtype, MAX_BYTES)
    rows.append_csv(body)
    return rows.array()


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def all_exponents(dtype, count, seed):
    """Finite floats, each bit pattern as likely as another, so all exponents and both signs; and all powers of two."""
    whole = (
        np.random.default_rng(seed)
        .integers(0, 2 ** (8 * dtype.itemsize), count, np.uint64)
        .astype(f"u{dtype.itemsize}")
        .view(dtype)
    )
    info = np.finfo(dtype)
    powers = np.ldexp(np.ones(1, dtype), np.arange(info.minexp - info.nmant, info.maxexp))
    edges = np.array([0.0, -0.0, info.max, info.tiny, info.smallest_subnormal], dtype)
    values = np.concatenate([whole, powers, np.nextafter(powers, dtype.type(0)), np.nextafter(powers, info.max), edges])
    return values[np.isfinite(values)]


@pytest.mark.parametrize(("dtype", "count"), [(np.dtype(np.float32), 2_000_000), (np.dtype(np.float64), 1_000_000)])
def test_all_exponents_survive_json_and_csv(dtype, count):
    values = all_exponents(dtype, count, seed=11)
    text = encode_json(values, key=None)
    assert same_bits(decoded_json(text, dtype), values)
    assert same_bits(np.array(orjson.loads(text), dtype), values)
    part = values[-(count // 4) :].reshape(-1, 1)
    assert same_bits(decoded_csv(encode_csv(part), dtype), part)


def test_float64_text_is_as_short_as_python_s():
    """repr gives the shortest digits, and of these the closest (Python documentation, float.__repr__)."""
    values = all_exponents(np.dtype(np.float64), 200_000, seed=12)
    for ours, value in zip(encode_json(values, key=None)[1:-1].decode().split(","), values.tolist(), strict=True):
        assert significant(ours) == significant(repr(value)), value


def test_float32_text_is_as_short_as_numpy_s():
    values = all_exponents(np.dtype(np.float32), 100_000, seed=13)
    for ours, value in zip(encode_json(values, key=None)[1:-1].decode().split(","), values, strict=True):
        assert significant(ours) == significant(np.format_float_scientific(value, unique=True)), value


def significant(text):
    """(sign and significant digits, position of the point) of a number's text."""
    mantissa, _, exponent = text.lower().partition("e")
    sign, mantissa = ("-", mantissa[1:]) if mantissa.startswith("-") else ("", mantissa)
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(digits) - len(fraction) + int(exponent or 0)
    return sign + digits.rstrip("0"), point if digits.rstrip("0") else 0


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), np.dtype(np.float64)])
def test_text_of_any_length_is_rounded_correctly(dtype):
    """1 to 40 digits, a point anywhere, exponents past both ends: as the exact reader rounds."""
    draw = random.Random(14)
    span, count = (60, 30_000) if dtype == np.float32 else (345, 150_000)
    texts = []
    for _ in range(count):
        digits = "".join(draw.choices("0123456789", k=draw.choice((1, 2, 5, 8, 9, 15, 16, 17, 18, 19, 20, 21, 40))))
        cut = draw.randrange(len(digits) + 1)
        whole = digits[:cut].lstrip("0") or "0"
        text = (
            draw.choice(("", "-"))
            + whole
            + ("." + digits[cut:] if digits[cut:] else "")
            + draw.choice(("", "", f"e{draw.randint(-span, span)}"))
        )
        if np.isfinite(exact(text, dtype)):
            texts.append(text)
    assert same_bits(
        decoded_json(f"[{','.join(texts)}]".encode(), dtype), np.array([exact(text, dtype) for text in texts], dtype)
    )


def exact(text, dtype):
    """Text to the nearest float, without rounding twice on the way to float32."""
    if dtype == np.float64:
        return np.float64(text)
    with np.errstate(over="ignore"):
        near = np.float32(text)  # numpy goes by way of float64, so its neighbours stand for election too
    if not np.isfinite(near):
        return near
    wanted = Fraction(text)
    choices = [
        c
        for c in (np.nextafter(near, np.float32(-np.inf)), near, np.nextafter(near, np.float32(np.inf)))
        if np.isfinite(c)
    ]
    best = min(choices, key=lambda c: (abs(Fraction(float(c)) - wanted), c.view(np.uint32) & 1))
    return np.copysign(best, np.float32(-1 if text.startswith("-") else 1))


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), np.dtype(np.float64)])
def test_ties_and_their_neighbours(dtype):
    """The exact middle of two floats, written out in full, goes to the even one; a last digit more or less decides."""
    values = np.abs(all_exponents(dtype, 3000, seed=15))
    values = values[values < np.finfo(dtype).max]
    texts, expected = [], []
    for low, high in zip(values, np.nextafter(values, np.finfo(dtype).max), strict=True):
        even = low if int(low.view(f"u{dtype.itemsize}")) % 2 == 0 else high  # numpy 1 divides a uint64 as a float
        text = middle(low, high)
        texts += [text, text + "1", below(text)]
        expected += [even, high, low]
    assert same_bits(decoded_json(f"[{','.join(texts)}]".encode(), dtype), np.array(expected, dtype))


def middle(low, high):
    """(low + high) / 2 in decimal, exactly, with a fraction."""
    exact_middle = (Fraction(float(low)) + Fraction(float(high))) / 2
    places = exact_middle.denominator.bit_length() - 1  # the denominator is a power of two
    scaled = exact_middle.numerator * 5**places
    digits = str(scaled).rjust(places + 1, "0")
    return f"{digits[: len(digits) - places]}.{digits[len(digits) - places :] or '0'}"


def below(text):
    """A little less than the number: its last digit that is not zero goes down by one, and a nine follows."""
    body = text.rstrip("0") if not text.endswith(".0") else text[:-2]
    whole, _, fraction = body.partition(".")
    number = int(whole + fraction) - 1
    digits = str(number).rjust(len(fraction) + 1, "0")
    return f"{digits[: len(digits) - len(fraction)]}.{digits[len(digits) - len(fraction) :]}9"


def test_no_locale_changes_a_number():
    before = locale.setlocale(locale.LC_NUMERIC)
    hard = (
        b"[9007199254740993.0000000000000000000000000000000000000000000000000001]"  # next to a tie: strtod has the word
    )
    try:
        for name in ("de_DE.UTF-8", "fr_FR.UTF-8", "C.UTF-8"):
            try:
                locale.setlocale(locale.LC_NUMERIC, name)
            except locale.Error:
                continue
            assert decoded_json(hard, "float64").tolist() == [9007199254740994.0]
    finally:
        locale.setlocale(locale.LC_NUMERIC, before)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=30))
def test_integers_survive(numbers):
    array = np.array(numbers, np.int64)
    text = encode_json(array, key=None)
    assert json.loads(text) == numbers
    assert same_bits(decoded_json(text, "int64"), array)


NUMERIC = (
    hnp.boolean_dtypes()
    | hnp.integer_dtypes()
    | hnp.unsigned_integer_dtypes()
    | hnp.floating_dtypes(sizes=(16, 32, 64))
)
ARRAYS = hnp.arrays(NUMERIC, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))


@given(ARRAYS, st.integers(0, 200))
def test_any_array_is_the_json_that_python_reads(array, room):
    text = encode_json(array)
    listed = orjson.loads(text)["predictions"]
    expected = array.astype(array.dtype.newbyteorder("=")).tolist()
    if array.dtype.kind == "f":
        flat = np.array(listed, np.float64).reshape(-1)
        np.testing.assert_array_equal(np.isnan(flat), ~np.isfinite(array.astype(np.float64)).reshape(-1))
        wide = array.astype(np.float64 if array.dtype.itemsize == 8 else np.float32).reshape(-1)
        np.testing.assert_array_equal(flat.astype(wide.dtype)[np.isfinite(wide)], wide[np.isfinite(wide)])
    else:
        assert listed == expected
    out = bytearray(room)
    length = json_into(array, out)
    assert (length == len(text) and out[:length] == text) if room >= len(text) else length == -1


@given(ARRAYS)
def test_any_array_survives_npy(array):
    assert same_bits(view_npy(encode_npy(array)), np.ascontiguousarray(array).reshape(array.shape))


SCALARS = (
    st.integers(-(10**25), 10**25)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.none()
    | st.booleans()
    | st.text(max_size=5)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["instances", "inputs", "data", "shape", "x"]), inner, max_size=3)
    ),
    max_leaves=12,
)


def check_against_orjson(body):
    """What we accept is JSON and has the values that orjson reads; what orjson refuses we refuse."""
    rows = RowBuffer("float64", 1 << 16)
    try:
        added = rows.append_json(body)
    except NotNumbers:
        assert rows.rows == 0
        return
    except DecodeError:
        assert rows.rows == 0
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError:
            return
        # Valid JSON that is refused for good: too deep, or a shape that does not fit the numbers.
        assert b"shape" in body or depth(value) > 31
        return
    value = orjson.loads(body)
    assert added == rows.rows
    if isinstance(value, dict):
        value = value.get("instances", value.get("inputs", value.get("data")))
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = value[0]["data"]
    flat = np.asarray(value, np.float64).reshape(-1)
    np.testing.assert_array_equal(
        rows.array().reshape(-1), flat
    )  # by value: -0 is an integer to orjson, so its sign is lost


def depth(value):
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


@given(VALUES)
@settings(max_examples=400)
@example({"instances": [[1, 2.5], [3, 4]]})
def test_any_json_agrees_with_orjson(value):
    check_against_orjson(json.dumps(value).encode())


SEEDS = [
    b'{"instances": [[1.5, -2e3, 0.25], [3, 4, 5]], "x": {"y": ["\\u00e9\\ud83d\\ude00", null, true]}}',
    b'{"inputs":[{"name":"a","shape":[2,2],"datatype":"FP32","data":[1,2,3,4]}]}',
    b'{"shape":[3],"data":[1e10,2.25,-0.5]}',
    b"[[[1,2],[3,4]],[[5,6],[7,8]]]",
    b"[0.1234567890123456789,12345678901234567890123,1e-320,1e308]",
]
TOKENS = [
    b"[",
    b"]",
    b"{",
    b"}",
    b",",
    b":",
    b'"',
    b"-",
    b".",
    b"e",
    b"0",
    b"9",
    b"null",
    b"NaN",
    b" ",
    b"\\",
    b"\\u12",
    b"\xc3",
    b"\xe2\x82\xac",
    b"\0",
    b'"data"',
]


def mutated(draw, body):
    body = bytearray(body)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(body) + 1)
        action = draw.randrange(4)
        if action == 0:
            body[at:at] = draw.choice(TOKENS)
        elif action == 1:
            del body[at : at + draw.randint(1, 3)]
        elif action == 2 and at < len(body):
            body[at] = draw.randrange(256)
        else:
            end = draw.randrange(at, len(body) + 1)
            body[at:at] = body[at:end]
    return bytes(body)


def test_mutated_json_agrees_with_orjson():
    draw = random.Random(16)
    for _ in range(60_000):
        check_against_orjson(mutated(draw, draw.choice(SEEDS)))


def test_mutated_csv_never_harms():
    draw = random.Random(17)
    seeds = [b'1.5,-2e3,0.25\r\n"3",4,nan\n\n5,6,7', b"a,b\n1,2\n"]
    accepted = 0
    for _ in range(20_000):
        rows = RowBuffer("float32", 1 << 12)
        try:
            accepted += rows.append_csv(mutated(draw, draw.choice(seeds)), draw.random() < 0.5)
        except DecodeError:
            assert rows.rows == 0
        assert len(rows.array()) == rows.rows
    assert accepted > 1000


def test_mutated_npy_never_harms():
    draw = random.Random(18)
    seed = encode_npy(np.arange(6, dtype=np.float32).reshape(2, 3))
    for _ in range(20_000):
        body = bytearray(seed)
        for _ in range(draw.randint(1, 3)):
            body[draw.randrange(110)] = draw.choice((draw.randrange(256), *b"0123456789(),'<>fiuOV"))
        try:
            view = view_npy(bytes(body))
        except DecodeError:
            continue
        assert view.nbytes == 24
        assert view.copy().dtype == view.dtype


def test_pieces_of_a_body_never_read_past_it():
    """Each prefix lies at the end of its own allocation, where a sanitizer sees one byte too many."""
    for seed in SEEDS:
        for length in range(len(seed)):
            with pytest.raises(DecodeError):
                RowBuffer("float64", 1 << 12).append_json(bytearray(seed[:length]))


def test_bits_of_float32_are_kept_by_struct_too():
    values = all_exponents(np.dtype(np.float32), 2000, seed=19)
    for text, value in zip(encode_json(values, key=None)[1:-1].split(b","), values, strict=True):
        assert struct.pack("<f", float(text)) == value.tobytes()
