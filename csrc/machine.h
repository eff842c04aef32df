// What this machine can do at best: the limits that speeds are given as shares of. Measured with
// loops that do nothing else, on threads of their own, for a fixed time each.
#pragma once
#include <stddef.h>

namespace onebit {

// Bytes per second that `threads` read together from `bytes` of memory, each one sequential stream
// of its own part, again and again for `time_s`. It is DRAM that is measured where `bytes` is a few
// times the last cache. Throws std::bad_alloc.
double measure_read_bandwidth(size_t threads, size_t bytes, double time_s);

// Multiplications and additions of int8 per second that `threads` do together with the widest
// instruction that the kernels of `isa` use, its operands in registers: vpdpbusd, vpmaddubsw with
// vpaddw, sdot or smmla. 0 where there is none to compare with ("scalar", or an unknown name).
double measure_int8_peak(const char* isa, size_t threads, double time_s);

}  // namespace onebit
