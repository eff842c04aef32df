#include "machine.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "target.h"

namespace onebit {
namespace {

using Clock = std::chrono::steady_clock;

// Units of work per second of all threads together. work(thread) does one piece, some tens of
// microseconds, and returns its units. All begin at once and stop at the same moment, so none is
// measured while another is not running yet or is done. A thread that the system does not give is
// not made up for.
template <class Work>
double rate_of(size_t threads, double time_s, Work&& work) {
  std::atomic<size_t> ready{0};
  std::atomic<bool> go{false};
  std::atomic<double> units{0};
  Clock::time_point begin, end;
  auto run = [&](size_t thread) {
    work(thread);  // wakes the core, and the pages
    ready.fetch_add(1);
    while (!go.load()) std::this_thread::yield();
    double done = 0;
    do {
      done += work(thread);
    } while (Clock::now() < end);  // once at least: the system may give us no time until then
    double before = units.load();
    while (!units.compare_exchange_weak(before, before + done)) {
    }
  };
  std::vector<std::thread> others;
  try {
    for (size_t i = 1; i < threads; ++i) others.emplace_back(run, i);
  } catch (const std::system_error&) {
  }
  while (ready.load() < others.size()) std::this_thread::yield();
  work(0);
  begin = Clock::now();
  end = begin + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(time_s));
  go.store(true);
  run(0);
  for (std::thread& other : others) other.join();
  return units.load() / std::chrono::duration<double>(Clock::now() - begin).count();
}

// Reads a piece of memory, 64-byte aligned, in the widest loads: narrow ones keep too few lines on
// their way for one core to reach what the memory gives.
constexpr size_t kPiece = size_t{1} << 20;
using ReadFn = void (*)(const uint8_t* p);

#define ONEBIT_READ(bytes)                                                                        \
  typedef uint64_t Vector __attribute__((vector_size(bytes)));                                    \
  const auto* v = reinterpret_cast<const Vector*>(p);                                             \
  Vector a{}, b{}, c{}, d{};                                                                      \
  for (size_t i = 0; i < kPiece / bytes; i += 4) {                                                \
    a += v[i];                                                                                    \
    b += v[i + 1];                                                                                \
    c += v[i + 2];                                                                                \
    d += v[i + 3];                                                                                \
  }                                                                                               \
  const Vector sum = (a + b) + (c + d);                                                           \
  asm volatile("" : : "m"(sum)) /* it has a use, for all that the compiler knows */

void read_16(const uint8_t* p) { ONEBIT_READ(16); }
#if defined(__x86_64__)
ONEBIT_TARGET_BEGIN("avx2")
void read_32(const uint8_t* p) { ONEBIT_READ(32); }
ONEBIT_TARGET_END
ONEBIT_TARGET_BEGIN("avx512f")
void read_64(const uint8_t* p) { ONEBIT_READ(64); }
ONEBIT_TARGET_END
#endif

ReadFn widest_read() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return read_64;
  if (__builtin_cpu_supports("avx2")) return read_32;
#endif
  return read_16;
}

// Memory in huge pages where the system has them, written, so that every page is there; whole
// pieces.
struct Stream {
  explicit Stream(size_t bytes) : size((bytes + kPiece - 1) / kPiece * kPiece) {
    void* p = nullptr;
    if (posix_memalign(&p, size_t{1} << 21, size)) throw std::bad_alloc();
    memory.reset(static_cast<uint8_t*>(p));
#if defined(MADV_HUGEPAGE)
    madvise(p, size, MADV_HUGEPAGE);
#endif
    memset(p, 1, size);
  }

  double read(ReadFn fn) {
    fn(memory.get() + at);
    at = at + kPiece < size ? at + kPiece : 0;
    return kPiece;
  }

  struct Free {
    void operator()(uint8_t* p) const { free(p); }
  };
  size_t size, at = 0;
  std::unique_ptr<uint8_t, Free> memory;
};

// One piece of multiplications on 12 sums: enough for two units of five cycles each, few enough for
// 16 registers. Written in assembly, so that every compiler keeps them there. Returns how many
// multiplications and additions it was.
using Int8Fn = double (*)();
constexpr int kSums = 12, kRepeats = 4096;

// step(sum) is the text of one step; %12 is free for its use, %13 and %14 are the factors.
#define ONEBIT_INT8_LOOP(Vector, constraint, per_step, step)                                     \
  Vector a{}, b{}, c{}, d{}, e{}, f{}, g{}, h{}, i{}, j{}, k{}, l{}, scratch;                    \
  const Vector w = Vector{} + 0x01010101, x = Vector{} + 0x02020202;                             \
  for (int n = 0; n < kRepeats; ++n)                                                             \
    asm volatile(step("%0") step("%1") step("%2") step("%3") step("%4") step("%5") step("%6")    \
                     step("%7") step("%8") step("%9") step("%10") step("%11")                    \
                 : "+" constraint(a), "+" constraint(b), "+" constraint(c), "+" constraint(d),   \
                   "+" constraint(e), "+" constraint(f), "+" constraint(g), "+" constraint(h),   \
                   "+" constraint(i), "+" constraint(j), "+" constraint(k), "+" constraint(l),   \
                   "=&" constraint(scratch)                                                      \
                 : constraint(w), constraint(x));                                                \
  return double{per_step} * kSums * kRepeats

#if defined(__x86_64__)
typedef int32_t Vector32 __attribute__((vector_size(32)));
typedef int32_t Vector64 __attribute__((vector_size(64)));

ONEBIT_TARGET_BEGIN("avx512f,avx512bw,avx512vnni")
#define ONEBIT_STEP(sum) "vpdpbusd %14, %13, " sum "\n\t"
double vpdpbusd_512() { ONEBIT_INT8_LOOP(Vector64, "v", 128, ONEBIT_STEP); }
#undef ONEBIT_STEP
ONEBIT_TARGET_END

ONEBIT_TARGET_BEGIN("avx2")
#define ONEBIT_STEP(sum) "%{vex%} vpdpbusd %14, %13, " sum "\n\t"
double vpdpbusd_256() { ONEBIT_INT8_LOOP(Vector32, "x", 64, ONEBIT_STEP); }
#undef ONEBIT_STEP
#define ONEBIT_STEP(sum) "vpmaddubsw %14, %13, %12\n\tvpaddw %12, " sum ", " sum "\n\t"
double vpmaddubsw_256() { ONEBIT_INT8_LOOP(Vector32, "x", 64, ONEBIT_STEP); }
#undef ONEBIT_STEP
ONEBIT_TARGET_END
#elif defined(__aarch64__)
typedef int32_t Vector16 __attribute__((vector_size(16)));

#define ONEBIT_STEP(sum) ".arch armv8.2-a+dotprod\n\tsdot " sum ".4s, %13.16b, %14.16b\n\t"
double sdot() { ONEBIT_INT8_LOOP(Vector16, "w", 32, ONEBIT_STEP); }
#undef ONEBIT_STEP
#define ONEBIT_STEP(sum) ".arch armv8.6-a+i8mm\n\tsmmla " sum ".4s, %13.16b, %14.16b\n\t"
double smmla() { ONEBIT_INT8_LOOP(Vector16, "w", 64, ONEBIT_STEP); }
#undef ONEBIT_STEP
#endif

struct Peak {
  const char* isa;
  Int8Fn run;
};
const Peak kPeaks[] = {
#if defined(__x86_64__)
    {"avx512_vbmi", vpdpbusd_512},
    {"avx512_vnni", vpdpbusd_512},
    {"avx_vnni", vpdpbusd_256},
    {"avx2", vpmaddubsw_256},
#elif defined(__aarch64__)
    {"neon_i8mm", smmla},
    {"neon_dotprod", sdot},
#endif
    {"scalar", nullptr},
};

}  // namespace

double measure_read_bandwidth(size_t threads, size_t bytes, double time_s) {
  std::vector<Stream> streams;
  streams.reserve(threads);
  for (size_t i = 0; i < threads; ++i) streams.emplace_back(bytes / threads + 1);
  const ReadFn read = widest_read();
  return rate_of(threads, time_s, [&](size_t thread) { return streams[thread].read(read); });
}

double measure_int8_peak(const char* isa, size_t threads, double time_s) {
  for (const Peak& peak : kPeaks)
    if (!strcmp(peak.isa, isa) && peak.run)
      return rate_of(threads, time_s, [&](size_t) { return peak.run(); });
  return 0;
}

}  // namespace onebit
