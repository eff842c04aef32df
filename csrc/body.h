// Which layout of ternary codes is read faster: t2 has more bytes, t1_6 more instructions.
#pragma once
#include "matrix.h"

namespace onebit {

// Bytes that `faster_ternary` reads at most; with fewer it answers t2 without measuring.
constexpr size_t kTrialBytes = size_t{64} << 20;

// Multiplies with both in turns, with as many threads as products may use, for some milliseconds.
// The weights are the bytes given, whatever they mean: a file's pages come from memory as weights
// do, and nothing has to be written first.
Layout faster_ternary(const Ops& ops, const uint8_t* data, size_t size);

}  // namespace onebit
