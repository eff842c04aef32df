#include "parallel.h"

#include <pthread.h>
#include <stdint.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "container.h"

namespace onebit {
namespace {

// About 20 us of looking before a thread goes to sleep: longer than the gap between two layers,
// shorter than anyone would notice on a machine that others use too.
constexpr int kSpins = 1000;

inline void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

class Pool {
 public:
  explicit Pool(size_t threads) : count_(threads) {}

  size_t count() const { return count_; }
  std::mutex& busy() { return busy_; }

  // Called with busy() held.
  void run(size_t n, ParallelFn fn, void* context) {
    start();
    const size_t count = workers_.size() + 1;
    fn_ = fn;
    context_ = context;
    done_.store(0, std::memory_order_relaxed);
    for (size_t i = 0; i < count; ++i)
      shares_[i].units.store(Units{n * i / count, n * (i + 1) / count}.bits(),
                             std::memory_order_release);
    work_.fetch_add(1);
    if (sleepers_.load()) {
      { std::lock_guard<std::mutex> lock(sleep_); }  // whoever is about to sleep has gone to
      wake_.notify_all();
    }
    take_runs(0, count);
    for (int i = 0; done_.load(std::memory_order_acquire) < n; ++i)
      i < kSpins ? pause_briefly() : std::this_thread::yield();
  }

  // Called with busy() held. Ends the workers; the next run starts the new number.
  void resize(size_t threads) {
    {
      std::lock_guard<std::mutex> lock(sleep_);
      stop_.store(true);
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
    workers_.clear();
    shares_.reset();
    stop_.store(false);
    count_ = threads;
  }

 private:
  // What nobody has taken yet of a share. One number: whoever takes a run by exchanging it has found
  // the share as it is now, even a thread that comes late, from work that is over.
  struct Units {
    size_t begin, end;

    static Units of(uint64_t bits) { return {bits >> 32, bits & 0xffffffff}; }
    uint64_t bits() const { return uint64_t{begin} << 32 | end; }
    bool any() const { return begin < end; }
    size_t run() const { return std::max<size_t>(1, (end - begin) / 4); }
  };
  struct alignas(64) Share {
    std::atomic<uint64_t> units{0};
  };

  void start() {
    if (!shares_) shares_.reset(new Share[count_]);
    while (workers_.size() + 1 < count_) {
      try {
        workers_.emplace_back([this, i = workers_.size() + 1] { wait_for_work(i); });
      } catch (const std::system_error&) {  // the system gives no more: go on with those we have
        count_ = workers_.size() + 1;
      }
    }
  }

  // Of the thread's own share from the front, then of the others' from the back.
  void take_runs(size_t self, size_t count) {
    for (size_t i = 0; i < count; ++i) {
      std::atomic<uint64_t>& share = shares_[(self + i) % count].units;
      uint64_t bits = share.load(std::memory_order_acquire);
      while (Units::of(bits).any()) {
        const Units all = Units::of(bits);
        Units run = all, rest = all;
        if (i == 0)
          run.end = rest.begin = all.begin + all.run();
        else
          run.begin = rest.end = all.end - all.run();
        if (!share.compare_exchange_weak(bits, rest.bits(), std::memory_order_acq_rel,
                                         std::memory_order_acquire))
          continue;
        // While a run that was taken is not done, its work cannot end: fn_ and context_ stay.
        fn_(context_, run.begin, run.end);
        done_.fetch_add(run.end - run.begin, std::memory_order_release);
        bits = share.load(std::memory_order_acquire);
      }
    }
  }

  void wait_for_work(size_t self) {
    uint64_t seen = 0;
    const auto something_to_do = [&] { return work_.load() != seen || stop_.load(); };
    for (;;) {
      for (int i = 0; i < kSpins && !something_to_do(); ++i) pause_briefly();
      if (!something_to_do()) {
        std::unique_lock<std::mutex> lock(sleep_);
        sleepers_.fetch_add(1);
        wake_.wait(lock, something_to_do);
        sleepers_.fetch_sub(1);
      }
      if (stop_.load()) return;
      seen = work_.load();
      take_runs(self, count_);
    }
  }

  std::atomic<size_t> count_;
  std::vector<std::thread> workers_;
  std::mutex busy_;  // one caller's work at a time
  std::mutex sleep_;
  std::condition_variable wake_;
  std::unique_ptr<Share[]> shares_;       // one for each thread, the calling one's first
  std::atomic<uint64_t> work_{0};         // how often there was some
  std::atomic<size_t> done_{0};           // units of it
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  ParallelFn fn_ = nullptr;
  void* context_ = nullptr;
};

// Never destroyed: its threads may outlive main's static objects.
std::atomic<Pool*> current{nullptr};

// A child process has a copy of the pool but none of its threads: it gets a new pool.
void after_fork() { current.store(new Pool(current.load()->count())); }

Pool& pool() {
  static const bool once = [] {
    current.store(new Pool(available_cpus()));
    pthread_atfork(nullptr, nullptr, after_fork);
    return true;
  }();
  (void)once;
  return *current.load();
}

}  // namespace

size_t threads() { return pool().count(); }

void set_threads(size_t n) {
  Pool& p = pool();
  std::lock_guard<std::mutex> lock(p.busy());
  if (n != p.count()) p.resize(n);
}

void run_parallel(size_t n, size_t grain, ParallelFn fn, void* context) {
  if (!n) return;
  Pool& p = pool();
  if (n <= grain || n >> 32 || p.count() == 1) return fn(context, 0, n);
  std::unique_lock<std::mutex> lock(p.busy(), std::try_to_lock);
  if (!lock) return fn(context, 0, n);
  p.run(n, fn, context);
}

}  // namespace onebit
