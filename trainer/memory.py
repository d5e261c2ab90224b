"""Loads from an address, for compiled code that reads mapped files: `load_u16(address, i)` is the i-th value there.

Values need not be aligned. Little-endian machines only, as the shards are. Whoever calls these has checked the bounds.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic


def _loader(bits: int, result: types.Type) -> Any:
    @intrinsic
    def load(typingctx: Any, address: Any, index: Any) -> tuple[Signature, Any]:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            stored = ir.IntType(bits)
            base = builder.inttoptr(arguments[0], stored.as_pointer())
            value = builder.load(builder.gep(base, [arguments[1]]))
            value.align = 1
            return value

        return result(types.int64, types.int64), generate

    return load


load_u8 = _loader(8, types.uint8)
load_u16 = _loader(16, types.uint16)
load_u32 = _loader(32, types.uint32)
load_i32 = _loader(32, types.int32)
load_i64 = _loader(64, types.int64)
load_u64 = _loader(64, types.uint64)
