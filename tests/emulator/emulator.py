"""Runs kernels on the CPU from Python, for tries: see docs/emulator.md."""

import ctypes

import numpy as np


class Schedule(ctypes.Structure):
    _fields_ = [
        ("order", ctypes.c_int),
        ("completion", ctypes.c_int),
        ("seed", ctypes.c_uint64),
        ("threads", ctypes.c_int),
    ]


IN_ORDER, RANDOM_ORDER = 0, 1
EARLY, LATE, RANDOM = 0, 1, 2


class Error(Exception):
    pass


class Emulator:
    def __init__(self, library):
        self.library = ctypes.CDLL(library)
        self.flavour = ["plain", "race", "asan", "count"][self.library.emulator_flavour()]

    def launch(self, kernel, grid, block, arguments, shared=0, order=IN_ORDER, completion=LATE, seed=1, threads=1):
        """Arguments: numpy arrays (by pointer), int (int32), float (f32), None (a null pointer), or any ctypes value."""
        values = [self._argument(a) for a in arguments]
        pointers = [ctypes.cast(ctypes.pointer(v), ctypes.c_void_p) for v in values]
        error = ctypes.create_string_buffer(4096)
        schedule = Schedule(order, completion, seed, threads)
        failed = self.library.emulator_launch(
            kernel.encode(),
            self._size(grid),
            self._size(block),
            ctypes.c_uint32(shared),
            (ctypes.c_void_p * len(pointers))(*pointers),
            ctypes.byref(schedule),
            None,
            error,
            ctypes.c_size_t(len(error)),
        )
        if failed:
            raise Error(error.value.decode())

    def tensor_map(self, matrix, box_rows, box_columns=64):
        """Of a two-dimensional numpy array of bf16 bits (uint16), whose rows may be apart."""
        assert matrix.dtype == np.uint16 and matrix.strides[1] == 2
        map = (ctypes.c_ubyte * 128)()
        self.library.emulator_tensor_map(map, ctypes.c_void_p(matrix.ctypes.data), ctypes.c_uint64(matrix.shape[1]),
                                         ctypes.c_uint64(matrix.shape[0]), ctypes.c_uint64(matrix.strides[0]),
                                         ctypes.c_uint32(box_columns), ctypes.c_uint32(box_rows))
        return map

    def forbid(self, address, size):
        self.library.emulator_forbid(ctypes.c_void_p(address), ctypes.c_size_t(size), 1)

    @staticmethod
    def _size(dimensions):
        sizes = (dimensions,) if isinstance(dimensions, int) else tuple(dimensions)
        return (ctypes.c_uint32 * 3)(*(sizes + (1, 1))[:3])

    @staticmethod
    def _argument(value):
        if value is None:
            return ctypes.c_void_p(None)
        if isinstance(value, np.ndarray):
            return ctypes.c_void_p(value.ctypes.data)
        if isinstance(value, (int, np.integer)):
            return ctypes.c_int(value)
        if isinstance(value, (float, np.floating)):
            return ctypes.c_float(value)
        return value


def to_bf16(values):
    """The bits of f32 values rounded to bf16, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)
