#include "parallel.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

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
    fn_ = fn;
    context_ = context;
    units_ = n;
    left_.store(workers_.size(), std::memory_order_relaxed);
    {
      std::lock_guard<std::mutex> lock(sleep_);
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    work(0);
    for (int i = 0; left_.load(std::memory_order_acquire); ++i)
      i < kSpins ? pause_briefly() : std::this_thread::yield();
  }

  // Called with busy() held. Ends the workers; the next run starts the new number.
  void resize(size_t threads) {
    {
      std::lock_guard<std::mutex> lock(sleep_);
      stop_ = true;
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
    workers_.clear();
    stop_ = false;
    count_ = threads;
  }

 private:
  void start() {
    while (workers_.size() + 1 < count_) {
      const size_t index = workers_.size() + 1;
      const size_t seen = generation_.load(std::memory_order_relaxed);
      try {
        workers_.emplace_back([this, index, seen] { wait_for_work(index, seen); });
      } catch (const std::system_error&) {  // the system gives no more: go on with those we have
        count_ = workers_.size() + 1;
      }
    }
  }

  void work(size_t thread) {
    const size_t parts = workers_.size() + 1;
    const size_t begin = units_ * thread / parts, end = units_ * (thread + 1) / parts;
    if (begin < end) fn_(context_, begin, end);
  }

  void wait_for_work(size_t index, size_t seen) {
    for (;;) {
      for (int i = 0; i < kSpins && generation_.load(std::memory_order_acquire) == seen; ++i)
        pause_briefly();
      if (generation_.load(std::memory_order_acquire) == seen) {
        std::unique_lock<std::mutex> lock(sleep_);
        wake_.wait(lock, [&] { return generation_.load(std::memory_order_relaxed) != seen; });
      }
      seen = generation_.load(std::memory_order_acquire);
      if (stop_) return;
      work(index);
      left_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::atomic<size_t> count_;
  std::vector<std::thread> workers_;
  std::mutex busy_;  // one caller's work at a time
  std::mutex sleep_;
  std::condition_variable wake_;
  std::atomic<size_t> generation_{0};
  std::atomic<size_t> left_{0};
  bool stop_ = false;
  ParallelFn fn_ = nullptr;
  void* context_ = nullptr;
  size_t units_ = 0;
};

#if defined(__linux__)
// CPUs that a control group's cpu.max ("quota period", or "max period") allows, rounded up; 0 if it
// sets no limit or cannot be read.
size_t cpus_of_quota(const std::string& path) {
  FILE* file = fopen(path.c_str(), "r");
  if (!file) return 0;
  double quota = 0, period = 0;
  const int read = fscanf(file, "%lf %lf", &quota, &period);
  fclose(file);
  if (read != 2 || quota <= 0 || period <= 0) return 0;
  return std::max<size_t>(1, static_cast<size_t>((quota + period - 1) / period));
}

// The smallest quota from this process's control group up to the root (cgroup v2).
size_t cpus_of_group() {
  std::string group = "/";
  if (FILE* file = fopen("/proc/self/cgroup", "r")) {
    char line[4096];
    while (fgets(line, sizeof line, file))
      if (!strncmp(line, "0::/", 4)) group.assign(line + 3, strcspn(line + 3, "\n"));
    fclose(file);
  }
  size_t cpus = 0;
  for (;;) {
    const size_t here = cpus_of_quota("/sys/fs/cgroup" + group + "/cpu.max");
    if (here && (!cpus || here < cpus)) cpus = here;
    if (group.size() <= 1) return cpus;
    group.erase(std::max<size_t>(1, group.rfind('/')));
  }
}
#endif

size_t default_threads() {
  size_t cpus = std::max(1u, std::thread::hardware_concurrency());
#if defined(__linux__)
  cpu_set_t mask;
  if (!sched_getaffinity(0, sizeof mask, &mask)) cpus = std::max(1, CPU_COUNT(&mask));
  if (const size_t quota = cpus_of_group()) cpus = std::min(cpus, quota);
#endif
  return cpus;
}

// Never destroyed: its threads may outlive main's static objects.
std::atomic<Pool*> current{nullptr};

// A child process has a copy of the pool but none of its threads: it gets a new pool.
void after_fork() { current.store(new Pool(current.load()->count())); }

Pool& pool() {
  static const bool once = [] {
    current.store(new Pool(default_threads()));
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
  p.resize(n);
}

void run_parallel(size_t n, size_t grain, ParallelFn fn, void* context) {
  if (!n) return;
  Pool& p = pool();
  if (n <= grain || p.count() == 1) return fn(context, 0, n);
  std::unique_lock<std::mutex> lock(p.busy(), std::try_to_lock);
  if (!lock) return fn(context, 0, n);
  p.run(n, fn, context);
}

}  // namespace onebit
