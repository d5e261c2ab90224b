"""What lies between the matrix products of the LM: norms, rotary embedding, softmax, SwiGLU, each fused, each exact.

Two passes over the same bytes must give the same integers, or nothing decodes: in a batch of 1 or of 64, byte by byte
from a cache or all at once, on any processor. So nothing that is summed is a float. Matrix products are int8 x int8 ->
int32; squares, probabilities and entropies are summed as integers; the largest of a row does not depend on order.
Floats are only touched element by element, by IEEE addition, multiplication, division and square root, in float32, in
the order written here: the compiler may neither contract nor reassociate them (numba's default). Powers of two come
from a polynomial of such steps. (numba's other error model would test each divisor, and no loop became vectors.)

Numbers in int8 stand for x = integer * scale: one scale for a row (activations), for a row and head (queries, keys),
for an output channel (weights) or for a channel (values).

Legend: N positions, W width, H heads, D width of a head, A = 3 * H * D, F hidden width of SwiGLU, K = 256 byte values,
B = K + 1, M positions of a cache, P positions that all contexts share, Q queries, T keys.
"""

import numpy as np
from numba import njit

TOP = np.float32(127.0)
FIXED = np.float32(4096.0)  # squares are summed of numbers in units of 1 / 4096
CLAMP = np.float32(1 << 20)  # of these at most, so that sums stay within 63 bits
EPSILON = np.float32(1e-6)
TINY = np.float32(1e-30)
ONE = np.float32(1.0)
LOG2E = np.float32(1.4426950408889634)
MAGIC = np.float32(12582912.0)  # 1.5 * 2**23: adding it and taking it away rounds to an integer, ties to even
KEY_UNIT = np.float32(8191.0)  # the likeliest key's weight: 2,048 keys times 127 stay within 31 bits
BYTE_UNIT = np.float32(65535.0)  # the likeliest byte's weight
SIGMOID_UNIT = np.float32(1 << 21)
FAR = np.float32(24.0)  # lesser powers of two are nothing
ENTROPY_UNIT = 1024

# 2**-f on [0, 1): Chebyshev interpolation of degree 5, off by less than 6e-8.
C0, C1, C2 = np.float32(0.9999999403953552), np.float32(-0.6931431293487549), np.float32(0.24017895758152008)
C3, C4, C5 = np.float32(-0.05529811978340149), np.float32(0.009209180250763893), np.float32(-0.000946877000387758)


@njit(inline="always")
def _round(x):  # type: ignore[no-untyped-def]
    return (x + MAGIC) - MAGIC


@njit(inline="always")
def _power(t, unit):  # type: ignore[no-untyped-def]
    """unit * 2**-t for t >= 0, as an integer: rounded, then shifted down by whole powers. `unit` is at most 2**21."""
    t = min(t, FAR)
    n = np.int32(t)
    f = t - np.float32(n)
    p = C5
    p = p * f + C4
    p = p * f + C3
    p = p * f + C2
    p = p * f + C1
    p = p * f + C0
    return np.int32(_round(p * unit)) >> n


@njit(inline="always")
def _largest(bits, one):  # type: ignore[no-untyped-def]
    """The largest magnitude of a row of floats given as int32, whose order is the same: so the search vectorises."""
    found = np.int32(0)
    for i in range(len(bits)):
        found = max(found, bits[i] & np.int32(0x7FFFFFFF))
    one.view(np.int32)[0] = found
    return one[0]


@njit(inline="always")
def _square(x):  # type: ignore[no-untyped-def]
    fixed = np.int64(_round(min(max(x * FIXED, -CLAMP), CLAMP)))
    return fixed * fixed


@njit(inline="always")
def _inverse_rms(squares, count):  # type: ignore[no-untyped-def]
    mean = np.float32(squares) / (np.float32(count) * (FIXED * FIXED))
    return ONE / np.sqrt(mean + EPSILON)


@njit(cache=True, nogil=True, error_model="numpy")
def norm(x_NW, gain_W, out_NW, scale_N):  # type: ignore[no-untyped-def]
    """RMSNorm with a gain, to int8."""
    width = x_NW.shape[1]
    row, one = np.empty(width, np.float32), np.empty(1, np.float32)
    bits = row.view(np.int32)
    for n in range(len(x_NW)):
        squares = np.int64(0)
        for w in range(width):
            squares += _square(x_NW[n, w])
        for w in range(width):
            row[w] = x_NW[n, w] * gain_W[w]
        top = _largest(bits, one)
        inverse = TOP / max(top, TINY)
        for w in range(width):
            out_NW[n, w] = np.int8(_round(row[w] * inverse))
        scale_N[n] = (top / TOP) * _inverse_rms(squares, width)


@njit(cache=True, nogil=True, error_model="numpy")
def quantise(x_NW, out_NW, scale_N):  # type: ignore[no-untyped-def]
    """To int8, the largest of each row becoming 127."""
    one = np.empty(1, np.float32)
    for n in range(len(x_NW)):
        top = _largest(x_NW[n].view(np.int32), one)
        inverse = TOP / max(top, TINY)
        for w in range(x_NW.shape[1]):
            out_NW[n, w] = np.int8(_round(x_NW[n, w] * inverse))
        scale_N[n] = top / TOP


@njit(cache=True, nogil=True, error_model="numpy")
def add(x_NW, product_NW, scale_N, weight_W):  # type: ignore[no-untyped-def]
    """Add a matrix product to the stream."""
    for n in range(len(x_NW)):
        for w in range(x_NW.shape[1]):
            x_NW[n, w] = x_NW[n, w] + (np.float32(product_NW[n, w]) * weight_W[w]) * scale_N[n]


@njit(cache=True, nogil=True, error_model="numpy")
def swiglu(product_NG, scale_N, weight_G, out_NF, out_scale_N):  # type: ignore[no-untyped-def]
    """silu(gate) * up, to int8; gates are the first half of the product, (N, 2 * F)."""
    hidden = out_NF.shape[1]
    row, one = np.empty(hidden, np.float32), np.empty(1, np.float32)
    bits = row.view(np.int32)
    for n in range(len(product_NG)):
        scale = scale_N[n]
        for f in range(hidden):
            gate = (np.float32(product_NG[n, f]) * weight_G[f]) * scale
            up = (np.float32(product_NG[n, hidden + f]) * weight_G[hidden + f]) * scale
            power = np.float32(_power(abs(gate) * LOG2E, SIGMOID_UNIT)) / SIGMOID_UNIT  # exp(-|gate|)
            over = ONE if gate >= 0 else power
            row[f] = ((over / (ONE + power)) * gate) * up
        top = _largest(bits, one)
        inverse = TOP / max(top, TINY)
        for f in range(hidden):
            out_NF[n, f] = np.int8(_round(row[f] * inverse))
        out_scale_N[n] = top / TOP


@njit(cache=True, nogil=True, error_model="numpy")
def split_heads(product_NA, scale_N, weight_A, gains_2D, cos_TD, sin_TD, position_N, score, inverse_HD,  # type: ignore[no-untyped-def]
                q_NHD, q_NH, k_NHD, k_NH, v_NHD):  # fmt: skip
    """Queries and keys normed, rotated, to int8 with a scale for each head; values to int8 by their channel's scale.

    `score` is multiplied into the scale of queries, so that dot products come as powers of two.
    """
    heads, width = q_NHD.shape[1:]
    half = width // 2
    row, one = np.empty(width, np.float32), np.empty(1, np.float32)
    bits = row.view(np.int32)
    for n in range(len(product_NA)):
        scale, cos_D, sin_D = scale_N[n], cos_TD[position_N[n]], sin_TD[position_N[n]]
        for part in range(2):
            out_NHD, out_NH = (q_NHD, q_NH) if part == 0 else (k_NHD, k_NH)
            for h in range(heads):
                at, squares = (part * heads + h) * width, np.int64(0)
                for d in range(width):
                    x = (np.float32(product_NA[n, at + d]) * weight_A[at + d]) * scale
                    squares += _square(x)
                    row[d] = x * gains_2D[part, d]
                for d in range(half):
                    first, second = row[d], row[half + d]
                    row[d] = first * cos_D[d] - second * sin_D[d]
                    row[half + d] = second * cos_D[d] + first * sin_D[d]
                top = _largest(bits, one)
                inverse = TOP / max(top, TINY)
                for d in range(width):
                    out_NHD[n, h, d] = np.int8(_round(row[d] * inverse))
                found = (top / TOP) * _inverse_rms(squares, width)
                out_NH[n, h] = found * score if part == 0 else found
        for h in range(heads):
            at = (2 * heads + h) * width
            for d in range(width):
                x = ((np.float32(product_NA[n, at + d]) * weight_A[at + d]) * scale) * inverse_HD[h, d]
                v_NHD[n, h, d] = np.int8(_round(min(max(x, -TOP), TOP)))


@njit(cache=True, nogil=True, error_model="numpy")
def attend(q_NHD, q_NH, k_MHD, k_MH, v_MHD, shared_k_PHD, shared_k_PH, shared_v_PHD, first_N, last_N, value_HD, out_NA):  # type: ignore[no-untyped-def]
    """Attention of each position to the shared ones and to [first, last] of a cache; for few keys, or few queries."""
    heads, width = q_NHD.shape[1:]
    shared = len(shared_k_PHD)
    most = 1
    for n in range(len(q_NHD)):
        most = max(most, shared + last_N[n] - first_N[n] + 1)
    score_T, sum_D = np.empty(most, np.float32), np.empty(width, np.int32)
    for n in range(len(q_NHD)):
        keys = last_N[n] - first_N[n] + 1
        for h in range(heads):
            q_D = q_NHD[n, h]
            top = np.float32(-np.inf)
            for t in range(shared + keys):
                if t < shared:
                    k_D, scale = shared_k_PHD[t, h], shared_k_PH[t, h]
                else:
                    k_D, scale = k_MHD[first_N[n] + t - shared, h], k_MH[first_N[n] + t - shared, h]
                dot = np.int32(0)
                for d in range(width):
                    dot += np.int32(q_D[d]) * np.int32(k_D[d])
                score_T[t] = (np.float32(dot) * scale) * q_NH[n, h]
                top = max(top, score_T[t])
            total = np.int64(0)
            sum_D[:] = 0
            for t in range(shared + keys):
                weight = _power(top - score_T[t], KEY_UNIT)
                if weight:
                    total += weight
                    v_D = shared_v_PHD[t, h] if t < shared else v_MHD[first_N[n] + t - shared, h]
                    for d in range(width):
                        sum_D[d] += weight * np.int32(v_D[d])
            for d in range(width):
                out_NA[n, h * width + d] = (np.float32(sum_D[d]) * value_HD[h, d]) / np.float32(total)


@njit(cache=True, nogil=True, error_model="numpy")
def softmax(dot_HQT, q_HQ, k_HT, begin, part_H2QT, total_HQ):  # type: ignore[no-untyped-def]
    """Weights of the keys up to each query's own, `begin` + its number, as 128 * high + low; the rest are zero."""
    heads, queries, keys = dot_HQT.shape
    score_T, one = np.empty(keys, np.float32), np.empty(1, np.float32)
    bits_T = score_T.view(np.int32)
    for h in range(heads):
        for q in range(queries):
            dot_T, k_T, high_T, low_T = dot_HQT[h, q], k_HT[h], part_H2QT[h, 0, q], part_H2QT[h, 1, q]
            count, found, total = min(begin + q + 1, keys), np.int32(-0x80000000), np.int32(0)
            for t in range(count):
                score_T[t] = (np.float32(dot_T[t]) * k_T[t]) * q_HQ[h, q]
            for t in range(count):
                found = max(found, bits_T[t] ^ ((bits_T[t] >> 31) & np.int32(0x7FFFFFFF)))  # floats' order, as integers
            one.view(np.int32)[0] = found ^ ((found >> 31) & np.int32(0x7FFFFFFF))
            top = one[0]
            for t in range(count):
                weight = _power(top - score_T[t], KEY_UNIT)
                total += weight
                high_T[t] = np.int8(weight >> 7)
                low_T[t] = np.int8(weight & 127)
            high_T[count:], low_T[count:] = 0, 0
            total_HQ[h, q] = total


@njit(cache=True, nogil=True, error_model="numpy")
def mix(sum_HPD, total_HQ, value_HD, out_QA):  # type: ignore[no-untyped-def]
    """The values' weighted means from both parts of their sums, of a head those of all queries high, then low."""
    heads, queries = total_HQ.shape
    width = sum_HPD.shape[2]
    for h in range(heads):
        for q in range(queries):
            total = np.float32(total_HQ[h, q])
            for d in range(width):
                both = 128 * sum_HPD[h, q, d] + sum_HPD[h, queries + q, d]
                out_QA[q, h * width + d] = (np.float32(both) * value_HD[h, d]) / total


@njit(inline="always")
def _weights(product_K, scale, weight_K, score_K, out_K):  # type: ignore[no-untyped-def]
    """Weights of the bytes, their sum, and the entropy in 1 / ENTROPY_UNIT bits."""
    top = np.float32(-np.inf)
    for k in range(256):
        score_K[k] = (np.float32(product_K[k]) * weight_K[k]) * scale
        top = max(top, score_K[k])
    total, sum_bits = np.int64(0), np.int64(0)
    for k in range(256):
        t = min(top - score_K[k], FAR)
        weight = _power(t, BYTE_UNIT)
        out_K[k] = weight
        total += weight
        sum_bits += np.int64(weight) * np.int64(np.int32(t * np.float32(ENTROPY_UNIT)))
    return total, max(sum_bits // total + _log2(total) - 16 * ENTROPY_UNIT, 0)


@njit(inline="always")
def _log2(x):  # type: ignore[no-untyped-def]
    """Of an integer from 1 to below 2**30, in 1 / ENTROPY_UNIT, rounded down: by squaring, in integers."""
    whole = 0
    while x >> (whole + 1):
        whole += 1
    y, bits = x << (30 - whole), np.int64(0)
    for _ in range(10):
        y = (y * y) >> 30
        bits <<= 1
        if y >> 31:
            y >>= 1
            bits += 1
    return whole * ENTROPY_UNIT + bits


@njit(cache=True, nogil=True, error_model="numpy")
def predict(product_NK, scale_N, weight_K, target_N, below_N, share_N, total_N, entropy_N):  # type: ignore[no-untyped-def]
    """Of each target byte: the weight of all lesser bytes, its own, that of all; and the entropy before it is known."""
    score_K, out_K = np.empty(256, np.float32), np.empty(256, np.int32)
    for n in range(len(product_NK)):
        total_N[n], entropy_N[n] = _weights(product_NK[n], scale_N[n], weight_K, score_K, out_K)
        below = np.int64(0)
        for k in range(target_N[n]):
            below += out_K[k]
        below_N[n], share_N[n] = below, out_K[target_N[n]]


@njit(cache=True, nogil=True, error_model="numpy")
def tables(product_NK, scale_N, weight_K, below_NB, entropy_N):  # type: ignore[no-untyped-def]
    """Of each position: the cumulated weights of all bytes, from 0 to their sum, and the entropy."""
    score_K, out_K = np.empty(256, np.float32), np.empty(256, np.int32)
    for n in range(len(product_NK)):
        _, entropy_N[n] = _weights(product_NK[n], scale_N[n], weight_K, score_K, out_K)
        below_NB[n, 0] = 0
        for k in range(256):
            below_NB[n, k + 1] = below_NB[n, k] + out_K[k]
