#include "block_search.h"

#include <math.h>
#include <string.h>

#include <algorithm>

#include "each_block.h"
#include "target.h"

namespace onebit {
namespace {

using Kind = BlockFormat::Kind;

constexpr BlockFormat kFormats[] = {
    {"q8_0", Kind::nearest, 32, -127, 127, 0, 0, false},
    {"q6_k", Kind::k_quant, 16, -32, 31, -128, 127, false},
    {"q5_k", Kind::k_quant, 32, 0, 31, 0, 63, true},
    {"q5_1", Kind::with_minimum, 32, 0, 31, 0, 0, true},
    {"q5_0", Kind::symmetric, 32, -16, 15, 0, 0, false},
    {"q4_k", Kind::k_quant, 32, 0, 15, 0, 63, true},
    {"q4_1", Kind::with_minimum, 32, 0, 15, 0, 0, true},
    {"q4_0", Kind::symmetric, 32, -8, 7, 0, 0, false},
    {"q3_k", Kind::k_quant, 16, -4, 3, -32, 31, false},
    {"q2_k", Kind::k_quant, 16, 0, 3, 0, 15, true},
    {"tq2_0", Kind::ternary, 256, -1, 1, 0, 0, false},
    {"tq1_0", Kind::ternary, 256, -1, 1, 0, 0, false},
};

// A matrix's groups, in the order of its memory.
struct Groups {
  const float* w;
  const float* h;  // null, or of columns
  size_t columns;
  int8_t* codes;
  float* scale;
  float* minimum;
};

// The first code that the largest weight is tried at, for each of the tries; see _STEPS in search.py.
struct Tries {
  float at[64];
  int count = 0;
};

Tries tries_of(const BlockFormat& format) {
  Tries tries;
  const bool minimum = format.has_minimum;
  const double most = format.high, half = -format.low;
  const bool few = most - format.low + 1 <= 8;
  const auto each = [&](auto&& code) {
    for (int i = few ? -36 : -30; i < (few ? 21 : 11); i += 2)
      tries.at[tries.count++] = (float)code(few ? i / 20.0 : i / 10.0);
  };
  if (minimum)
    each([&](double step) { return most + step; });
  else
    each([&](double step) { return -(half + step); });
  if (!minimum && few) each([&](double step) { return half - 1 + step; });
  return tries;
}

struct SearchOps {
  // Groups first .. first + count - 1, at most 16 of them, and whole blocks.
  void (*fit)(const BlockFormat&, const Tries&, const Groups&, size_t first, size_t count);
};

#define ONEBIT_BODY "block_search.inl"
#include "widths.inl"

constexpr size_t kGroupsAtOnce = 16 * 16;  // that a thread takes

}  // namespace

const BlockFormat* block_format(const char* name) {
  for (const BlockFormat& format : kFormats)
    if (!strcmp(format.name, name)) return &format;
  return nullptr;
}

void round_to_blocks(const Ops& ops, const BlockFormat& format, const float* w, const float* h,
                     size_t N, size_t K, int8_t* codes, float* scale, float* minimum,
                     size_t threads_wanted) {
  const SearchOps& search = table_of(ops);
  const Tries tries = tries_of(format);
  const Groups groups{w, h, K, codes, scale, minimum};
  const size_t count = N * (K / format.group);
  each_sixteen(count, kGroupsAtOnce, threads_wanted, [&](size_t first, size_t n) {
    search.fit(format, tries, groups, first, n);
  });
}

}  // namespace onebit
