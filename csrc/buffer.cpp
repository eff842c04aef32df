// Memory for weights: cut from large pieces whose pages are huge, where the system has such.
#include "buffer.h"

#include <errno.h>
#include <stdlib.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace onebit {

#if defined(__linux__) && defined(MADV_HUGEPAGE)
namespace {

constexpr size_t kHugePage = size_t{1} << 21;
constexpr size_t kPieceBytes = size_t{1} << 26;  // more than one layer's matrix
constexpr size_t kWorthIt = size_t{1} << 25;
constexpr int kCollapse = 25;  // MADV_COLLAPSE, from Linux 6.1 on

// A run of huge pages, and how many blocks of it are in use. Pages that nobody has touched take no
// memory, so neither does the unused end of a piece; it is not writable either, so it counts for no
// limit but one on addresses.
struct Piece {
  uint64_t id = 0;  // an address may come back
  size_t size = 0, used = 0, blocks = 0;
  size_t writable = 0;  // whole huge pages from the start on
  size_t small = 0;  // where the pages begin that are still to be made huge; the end where none are
};

std::mutex mutex;
std::map<char*, Piece>& pieces() {  // by address; never destroyed, as static objects may hold blocks
  static auto* all = [] {
    // A process that is forked while the thread of settle_pages holds the mutex does not have that
    // thread, and would wait for it for ever.
    pthread_atfork([] { mutex.lock(); }, [] { mutex.unlock(); }, [] { mutex.unlock(); });
    return new std::map<char*, Piece>;
  }();
  return *all;
}
char* current[2] = {};  // the piece that new blocks come from, with huge pages now or later
uint64_t ids = 0;

char* new_piece(size_t size, bool later) {
  void* start = mmap(nullptr, size + kHugePage, PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (start == MAP_FAILED) throw std::bad_alloc();
  char* from = static_cast<char*>(start);
  char* aligned = reinterpret_cast<char*>(
      (reinterpret_cast<uintptr_t>(from) + kHugePage - 1) & ~(kHugePage - 1));
  if (aligned > from) munmap(from, static_cast<size_t>(aligned - from));
  munmap(aligned + size, static_cast<size_t>(from + kHugePage - aligned));
  if (!later) madvise(aligned, size, MADV_HUGEPAGE);
  pieces()[aligned] = {++ids, size, 0, 0, 0, later ? 0 : size};
  return aligned;
}

void drop_piece(char* piece) {
  for (char*& one : current)
    if (one == piece) one = nullptr;
  munmap(piece, pieces()[piece].size);
  pieces().erase(piece);
}

struct Run {
  char* piece;
  uint64_t id;
  size_t begin, end;
};

// What is to be made huge and is filled; it then counts as done.
std::vector<Run> take_small_pages() {
  std::lock_guard<std::mutex> lock(mutex);
  std::vector<Run> runs;
  size_t total = 0;
  for (const auto& [start, p] : pieces()) {
    const size_t end = p.used / kHugePage * kHugePage;
    if (p.small < end) runs.push_back({start, p.id, p.small, end}), total += end - p.small;
  }
  if (total < kWorthIt) runs.clear();
  for (const Run& run : runs) pieces()[run.piece].small = run.end;
  return runs;
}

// False where the system cannot do it at once.
bool make_huge(const Run& run) {
  for (size_t at = run.begin; at < run.end; at += kHugePage) {
    std::lock_guard<std::mutex> lock(mutex);  // a piece does not go while it is worked on
    const auto found = pieces().find(run.piece);
    if (found == pieces().end() || found->second.id != run.id) return true;
    if (at == run.begin) madvise(run.piece + at, run.end - at, MADV_HUGEPAGE);
    if (madvise(run.piece + at, kHugePage, kCollapse) && errno == EINVAL) return false;
  }
  return true;
}

// Blocks are given back one by one, so they do not share pages, which may have up to 64 KB.
size_t whole_pages(size_t bytes) {
  static const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return (bytes + page - 1) / page * page;
}

}  // namespace

void* new_huge_zeros(size_t bytes, bool later) {
  if (bytes > PTRDIFF_MAX - 2 * kPieceBytes) throw std::bad_alloc();
  bytes = whole_pages(bytes);
  std::lock_guard<std::mutex> lock(mutex);
  char* piece = current[later];
  if (bytes > kPieceBytes / 2)
    piece = new_piece((bytes + kHugePage - 1) / kHugePage * kHugePage, later);
  else if (!piece || pieces()[piece].size - pieces()[piece].used < bytes)
    piece = current[later] = new_piece(kPieceBytes, later);
  Piece& p = pieces()[piece];
  const size_t end = (p.used + bytes + kHugePage - 1) / kHugePage * kHugePage;
  if (end > p.writable) {
    if (mprotect(piece + p.writable, end - p.writable, PROT_READ | PROT_WRITE)) {
      if (!p.blocks) drop_piece(piece);
      throw std::bad_alloc();
    }
    p.writable = end;
  }
  void* block = piece + p.used;
  p.used += bytes;
  ++p.blocks;
  return block;
}

void free_huge(void* block, size_t bytes) noexcept {
  bytes = whole_pages(bytes);
  std::lock_guard<std::mutex> lock(mutex);
  const auto found = std::prev(pieces().upper_bound(static_cast<char*>(block)));
  if (--found->second.blocks) {
    madvise(block, bytes, MADV_DONTNEED);
    return;
  }
  drop_piece(found->first);
}

void settle_pages(double delay_s) {
  std::vector<Run> runs = take_small_pages();
  if (runs.empty()) return;
  try {
    std::thread([runs = std::move(runs), delay_s] {
      std::this_thread::sleep_for(std::chrono::duration<double>(delay_s));
      for (const Run& run : runs)
        if (!make_huge(run)) return;
    }).detach();
  } catch (const std::system_error&) {  // no thread to be had: the pages stay small
  }
}

#else

void* new_huge_zeros(size_t bytes, bool) {
  void* block = nullptr;
  if (posix_memalign(&block, 64, bytes)) throw std::bad_alloc();
  std::fill_n(static_cast<char*>(block), bytes, char{0});
  return block;
}

void free_huge(void* block, size_t) noexcept { free(block); }

void settle_pages(double) {}

#endif

}  // namespace onebit
