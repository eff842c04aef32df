#include "body.h"

#include <algorithm>
#include <chrono>

#include "parallel.h"

namespace onebit {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kColumns = 2560;
constexpr size_t kTiles = 768;  // 7.5 MB of t2, 6 MB of t1_6
constexpr int kRounds = 4;
constexpr size_t kPage = 4096;

struct Trial {
  ProductFn fn;
  size_t tile_bytes;
  double best_s = 1e9;

  size_t bytes() const { return kTiles * tile_bytes; }
};

}  // namespace

Layout faster_ternary(const Ops& ops, const uint8_t* data, size_t size) {
  Trial t2{ops.gemv_t2_i8, kTileRows * kColumns / 4}, t1_6{ops.gemv_t1_6_i8, kTileRows * kColumns / 5};
  static_assert(kRounds * kTiles * kTileRows * kColumns * 9 / 20 + 64 <= kTrialBytes);
  if (size < kTrialBytes) return Layout::t2;

  const Buffer<int8_t> x(kColumns);  // zeros, whose columns may be in any order
  const Buffer<float> scale(kTiles * kTileRows);
  Buffer<float> y(kTiles * kTileRows);
  const float x_scale = 1.0f;
  const int32_t low_sum = 0;
  const uint8_t* w = data + (64 - reinterpret_cast<uintptr_t>(data) % 64) % 64;
  for (int round = 0; round < kRounds; ++round)
    for (Trial* trial : {&t2, &t1_6}) {
      Product p;
      p.w = w;
      p.tile_bytes = trial->tile_bytes;
      p.rows = kTiles * kTileRows;
      p.columns = p.step = p.x_stride = kColumns;
      p.scale = scale.data();
      p.low = -1;
      p.x = x.data();
      p.tokens = 1;
      p.x_scale = &x_scale;
      p.low_sum = &low_sum;
      p.y = y.data();
      // The pages of a file are not this process's until they are touched; that is no part of it.
      parallel_for(trial->bytes() / kPage, 1, [&](size_t begin, size_t end) {
        for (size_t page = begin; page < end; ++page)
          (void)*static_cast<const volatile uint8_t*>(w + page * kPage);
      });
      const auto start = Clock::now();
      parallel_for(kTiles / 2, 1, [&](size_t begin, size_t end) {
        trial->fn(p, 2 * begin, 2 * end);
      });
      const std::chrono::duration<double> time = Clock::now() - start;
      trial->best_s = std::min(trial->best_s, time.count());
      w += trial->bytes();
    }
  return t1_6.best_s < t2.best_s ? Layout::t1_6 : Layout::t2;
}

}  // namespace onebit
