#include "recurrence.h"

#include <string.h>

#include <algorithm>

#include "each_block.h"
#include "target.h"

namespace onebit {
namespace {

// Of one sequence, or of some of its channels.
struct RecurrenceOps {
  void (*forward)(size_t T, size_t d, size_t stride, const float* f, const float* i,
                  const float* before, float* h, float* last);
  void (*backward)(size_t T, size_t d, size_t stride, const float* f, const float* h,
                   const float* before, const float* dh, const float* dlast, float* df, float* di,
                   float* dbefore);
};

#define ONEBIT_BODY "recurrence.inl"
#include "widths.inl"

// A block is as wide as threads allow: rows are read in long pieces, which the CPU fetches ahead, and those
// of the token before stay in the first cache.
constexpr size_t kLeast = 64, kMost = 1024;

// f(sequence, first channel, channels) for blocks of channels of every sequence.
template <class F>
void each_channels(size_t B, size_t d, size_t threads_wanted, F&& f) {
  const size_t most = std::max<size_t>(1, std::min(threads_wanted, threads()));
  const size_t parts = std::max<size_t>(1, 4 * most / B);  // of each sequence; a few for each thread
  const size_t even = ((d + parts - 1) / parts + 15) / 16 * 16;
  const size_t width = most == 1 ? kMost : std::clamp(even, kLeast, kMost);
  const size_t across = (d + width - 1) / width, blocks = B * across;
  each_block(blocks, workers_of(blocks, most), [&](size_t block, size_t) {
    const size_t c = block % across * width;
    f(block / across, c, std::min(width, d - c));
  });
}

template <class T>
T* moved(T* x, size_t n) {
  return x ? x + n : nullptr;
}

}  // namespace

void recurrence(const Ops& ops, size_t B, size_t T, size_t d, const float* f, const float* i,
                const float* before, float* h, float* last, size_t threads_wanted) {
  const RecurrenceOps& rows = table_of(ops);
  each_channels(B, d, threads_wanted, [&](size_t b, size_t c, size_t channels) {
    const size_t row = b * T * d + c, state = b * d + c;
    rows.forward(T, channels, d, f + row, i + row, moved(before, state), h + row, moved(last, state));
  });
}

void recurrence_backward(const Ops& ops, size_t B, size_t T, size_t d, const float* f, const float* h,
                         const float* before, const float* dh, const float* dlast, float* df, float* di,
                         float* dbefore, size_t threads_wanted) {
  const RecurrenceOps& rows = table_of(ops);
  each_channels(B, d, threads_wanted, [&](size_t b, size_t c, size_t channels) {
    const size_t row = b * T * d + c, state = b * d + c;
    rows.backward(T, channels, d, f + row, h + row, moved(before, state), moved(dh, row),
                  moved(dlast, state), df + row, di + row, moved(dbefore, state));
  });
}

}  // namespace onebit
