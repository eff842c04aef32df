// Threads that wait for work and split it by rows.
//
// Each thread has a share of consecutive units and takes runs from its front, large ones first, so
// that it reads one stream of memory; who is done takes runs from the ends of others' shares. No
// unit's result depends on another, so results are the same for any number of threads.
#pragma once
#include <stddef.h>

#include <type_traits>

namespace onebit {

// Threads that a product may use, the calling one included; available_cpus() where nobody has set it.
size_t threads();
void set_threads(size_t n);  // n >= 1

// Calls fn(context, begin, end) for runs that cover 0..n-1, and returns when all are done. fn must
// not throw. With n <= grain, one thread, or the threads busy with another caller's work,
// everything runs on the calling thread.
using ParallelFn = void (*)(void* context, size_t begin, size_t end);
void run_parallel(size_t n, size_t grain, ParallelFn fn, void* context);

// The same for a callable: parallel_for(n, grain, [&](size_t begin, size_t end) {...}).
template <class F>
void parallel_for(size_t n, size_t grain, F&& f) {
  run_parallel(
      n, grain,
      [](void* context, size_t begin, size_t end) {
        (*static_cast<std::remove_reference_t<F>*>(context))(begin, end);
      },
      &f);
}

}  // namespace onebit
