// Blocks of work, taken by a limited number of threads as each is done with its last.
#pragma once
#include <algorithm>
#include <atomic>

#include "parallel.h"

namespace onebit {

// Threads that so many blocks are worth, of those wanted and those there are.
inline size_t workers_of(size_t blocks, size_t wanted) {
  return std::max<size_t>(1, std::min({blocks, wanted, threads()}));
}

// Calls f(block, worker) for every block, `workers` at once at most.
template <class F>
void each_block(size_t blocks, size_t workers, F&& f) {
  std::atomic<size_t> next{0};
  parallel_for(workers, 1, [&](size_t begin, size_t end) {
    for (size_t worker = begin; worker < end; ++worker)
      for (size_t block; (block = next.fetch_add(1)) < blocks;) f(block, worker);
  });
}

// Calls f(first, count) for every sixteen of 0 .. n - 1, the last ones fewer; a thread takes
// `at_once` at a time, a multiple of sixteen.
template <class F>
void each_sixteen(size_t n, size_t at_once, size_t wanted, F&& f) {
  const size_t blocks = (n + at_once - 1) / at_once;
  each_block(blocks, workers_of(blocks, wanted), [&](size_t block, size_t) {
    const size_t last = std::min((block + 1) * at_once, n);
    for (size_t first = block * at_once; first < last; first += 16)
      f(first, std::min<size_t>(16, last - first));
  });
}

}  // namespace onebit
