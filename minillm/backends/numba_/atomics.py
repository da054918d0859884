"""What threads need to work on one thing: operations on a shared number that nothing comes between, and a clock.

Two threads that do `board[i] += 1` at once may both read 5 and both write 6. An atomic operation reads and writes in one
go, and everything that a thread wrote before it is there for the thread that reads it. Numba has none for the CPU, so
each is an `@intrinsic` of a few lines, in the words of LLVM (as simd.py says for vectors).

    look, put              read, write: what a thread wrote before is there for the thread that reads it
    fetch_add, replace     change, and say what was there before

`job` and `call_job` are for team.py: a compiled function and its arguments, as two numbers that another thread can call.
"""

import platform
import sys
import time

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from minillm.backends.numba_.simd import address, call

I32, I64 = ir.IntType(32), ir.IntType(64)
CODE = ir.FunctionType(ir.VoidType(), [I64, I64])  # address of the arguments, number of the thread
NAP_US = 50
CLOCK = getattr(time, "CLOCK_UPTIME_RAW", getattr(time, "CLOCK_MONOTONIC", None))  # what time.monotonic reads: macOS, Linux


@intrinsic
def look(typing, board, i):
    """Read board[i]."""

    def emit(context, b, signature, args):
        return b.load_atomic(address(context, b, signature.args[0], *args), "seq_cst", 8)

    return types.int64(board, types.int64), emit


@intrinsic
def put(typing, board, i, value):
    """Write board[i]."""

    def emit(context, b, signature, args):
        b.store_atomic(args[2], address(context, b, signature.args[0], *args[:2]), "release", 8)
        return context.get_dummy_value()

    return types.void(board, types.int64, types.int64), emit


@intrinsic
def fetch_add(typing, board, i, value):
    """Add to board[i] and return what was there before."""

    def emit(context, b, signature, args):
        return b.atomic_rmw("add", address(context, b, signature.args[0], *args[:2]), args[2], "seq_cst")

    return types.int64(board, types.int64, types.int64), emit


@intrinsic
def replace(typing, board, i, old, new):
    """Write board[i] if it is still `old`, and say whether: how one of several threads learns that it came first."""

    def emit(context, b, signature, args):
        place = address(context, b, signature.args[0], *args[:2])
        return b.extract_value(b.cmpxchg(place, args[2], args[3], "seq_cst", "seq_cst"), 1)

    return types.boolean(board, types.int64, types.int64, types.int64), emit


PAUSE: dict[str, tuple[str, list]] = dict.fromkeys(("x86_64", "AMD64", "i686"), ("llvm.x86.sse2.pause", []))
PAUSE |= dict.fromkeys(("aarch64", "arm64"), ("llvm.aarch64.hint", [I32(1)]))


@intrinsic
def pause(typing):
    """Let the core rest for some cycles, in a loop that waits."""

    def emit(context, b, signature, _):
        if platform.machine() in PAUSE:
            name, args = PAUSE[platform.machine()]
            call(b, name, ir.VoidType(), *args)
        return context.get_dummy_value()

    return types.void(), emit


@intrinsic
def nap(typing):
    """Sleep for some fifty microseconds."""

    def emit(context, b, signature, _):
        if sys.platform != "win32":
            call(b, "usleep", I32, I32(NAP_US))
        return context.get_dummy_value()

    return types.void(), emit


@intrinsic
def nanoseconds(typing):
    """Read the clock of time.monotonic; on Windows, which has no such function, the cycles of the core."""

    def emit(context, b, signature, _):
        if CLOCK is None:
            return call(b, "llvm.readcyclecounter", I64)
        both = cgutils.alloca_once(b, ir.ArrayType(I64, 2))  # struct timespec
        call(b, "clock_gettime", I32, I32(CLOCK), both)
        whole, rest = (b.extract_value(b.load(both), i) for i in (0, 1))
        return b.add(b.mul(whole, I64(10**9)), rest)

    return types.int64(), emit


@intrinsic
def job(typing, function, args):
    """Make (code, address of the arguments) of function(number of the thread, *args). They live as long as the caller's call."""
    inner = function.get_call_type(typing, (types.int64, *args.types), {})

    def emit(context, b, signature, values):
        made = signature.args[0].dispatcher.overloads[inner.args]
        context.add_linking_libs([made.library])
        kept = cgutils.alloca_once_value(b, values[1])
        outer = ir.Function(b.module, CODE, "job." + made.fndesc.mangled_name)
        outer.linkage = "internal"
        body = ir.IRBuilder(outer.append_basic_block())
        items = cgutils.unpack_tuple(body, body.load(body.inttoptr(outer.args[0], kept.type)))
        callee = context.declare_function(b.module, made.fndesc)
        context.call_conv.call_function(body, callee, inner.return_type, inner.args, [outer.args[1], *items])
        body.ret_void()
        return context.make_tuple(b, signature.return_type, [b.ptrtoint(outer, I64), b.ptrtoint(kept, I64)])

    return types.UniTuple(types.int64, 2)(function, args), emit


@intrinsic
def call_job(typing, code, args, number):
    """Call what `job` made, as thread `number`."""

    def emit(context, b, signature, values):
        b.call(b.inttoptr(values[0], CODE.as_pointer()), values[1:])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), emit
