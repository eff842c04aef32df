#include "parallel.h"

#include <pthread.h>
#include <stdint.h>
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

// Runs of a piece of work for each thread. More than one, so that a thread which the system has put
// aside holds up little: the others take its runs.
constexpr size_t kRunsPerThread = 4;

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
    const size_t runs = std::min(n, (workers_.size() + 1) * kRunsPerThread);
    fn_ = fn;
    context_ = context;
    units_ = n;
    done_.store(0, std::memory_order_relaxed);
    {
      std::lock_guard<std::mutex> lock(sleep_);
      const Tickets last{tickets_.load(std::memory_order_relaxed)};
      tickets_.store(Tickets::first(last.work() + 1, runs).bits, std::memory_order_release);
    }
    wake_.notify_all();
    take_runs();
    for (int i = 0; done_.load(std::memory_order_acquire) < runs; ++i)
      i < kSpins ? pause_briefly() : std::this_thread::yield();
  }

  // Called with busy() held. Ends the workers; the next run starts the new number.
  void resize(size_t threads) {
    {
      std::lock_guard<std::mutex> lock(sleep_);
      stop_.store(true, std::memory_order_release);
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
    workers_.clear();
    stop_.store(false, std::memory_order_release);
    count_ = threads;
  }

 private:
  // Which piece of work this is, into how many runs it is cut, and the next run to take. One
  // number, so that a thread which comes late cannot take a run of work that is over.
  struct Tickets {
    uint64_t bits;

    static Tickets first(uint64_t work, size_t runs) { return {work << 32 | uint64_t{runs} << 16}; }
    uint64_t work() const { return bits >> 32; }
    size_t runs() const { return bits >> 16 & 0xffff; }
    size_t next() const { return bits & 0xffff; }
    bool any() const { return next() < runs(); }
  };

  void start() {
    while (workers_.size() + 1 < count_) {
      try {
        workers_.emplace_back([this] { wait_for_work(); });
      } catch (const std::system_error&) {  // the system gives no more: go on with those we have
        count_ = workers_.size() + 1;
      }
    }
  }

  // While a run that was taken is not done, its work cannot end: fn_ and the rest stay as they are.
  void take_runs() {
    Tickets tickets{tickets_.load(std::memory_order_acquire)};
    while (tickets.any()) {
      if (!tickets_.compare_exchange_weak(tickets.bits, tickets.bits + 1,
                                          std::memory_order_acq_rel, std::memory_order_acquire))
        continue;
      const size_t run = tickets.next(), runs = tickets.runs();
      fn_(context_, units_ * run / runs, units_ * (run + 1) / runs);
      done_.fetch_add(1, std::memory_order_release);
      tickets.bits = tickets_.load(std::memory_order_acquire);
    }
  }

  bool something_to_do() const {
    return Tickets{tickets_.load(std::memory_order_acquire)}.any() ||
           stop_.load(std::memory_order_acquire);
  }

  void wait_for_work() {
    for (;;) {
      for (int i = 0; i < kSpins && !something_to_do(); ++i) pause_briefly();
      if (!something_to_do()) {
        std::unique_lock<std::mutex> lock(sleep_);
        wake_.wait(lock, [this] { return something_to_do(); });
      }
      if (stop_.load(std::memory_order_acquire)) return;
      take_runs();
    }
  }

  std::atomic<size_t> count_;
  std::vector<std::thread> workers_;
  std::mutex busy_;  // one caller's work at a time
  std::mutex sleep_;
  std::condition_variable wake_;
  std::atomic<uint64_t> tickets_{0};
  std::atomic<size_t> done_{0};  // runs
  std::atomic<bool> stop_{false};
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

size_t default_threads() {
  size_t cpus = std::max(1u, std::thread::hardware_concurrency());
#if defined(__linux__)
  cpu_set_t mask;
  if (!sched_getaffinity(0, sizeof mask, &mask)) cpus = std::max(1, CPU_COUNT(&mask));
  if (const size_t quota = cpus_of_group()) cpus = std::min(cpus, quota);
#endif
  return cpus;
}

size_t threads() { return pool().count(); }

void set_threads(size_t n) {
  Pool& p = pool();
  std::lock_guard<std::mutex> lock(p.busy());
  if (n != p.count()) p.resize(n);
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
