// Memory for weights: cut from large pieces whose pages are huge, where the system has such.
#include "buffer.h"

#include <stdlib.h>

#include <algorithm>
#include <map>
#include <mutex>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace onebit {

#if defined(__linux__) && defined(MADV_HUGEPAGE)
namespace {

constexpr size_t kHugePage = size_t{1} << 21, kPage = 4096;
constexpr size_t kPieceBytes = size_t{1} << 26;  // more than one layer's matrix

// A run of huge pages, and how many blocks of it are in use. Pages that nobody has touched take no
// memory, so neither does the unused end of a piece.
struct Piece {
  size_t size = 0, used = 0, blocks = 0;
};

std::mutex mutex;
std::map<char*, Piece>& pieces() {  // by address; never destroyed, as static objects may hold blocks
  static auto* all = new std::map<char*, Piece>;
  return *all;
}
char* current = nullptr;  // the piece that new blocks come from

char* new_piece(size_t size) {
  void* start = mmap(nullptr, size + kHugePage, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (start == MAP_FAILED) throw std::bad_alloc();
  char* from = static_cast<char*>(start);
  char* aligned = reinterpret_cast<char*>(
      (reinterpret_cast<uintptr_t>(from) + kHugePage - 1) & ~(kHugePage - 1));
  if (aligned > from) munmap(from, static_cast<size_t>(aligned - from));
  munmap(aligned + size, static_cast<size_t>(from + kHugePage - aligned));
  madvise(aligned, size, MADV_HUGEPAGE);
  pieces()[aligned] = {size, 0, 0};
  return aligned;
}

}  // namespace

void* new_huge_zeros(size_t bytes) {
  if (bytes > PTRDIFF_MAX - 2 * kPieceBytes) throw std::bad_alloc();
  bytes = (bytes + kPage - 1) / kPage * kPage;
  std::lock_guard<std::mutex> lock(mutex);
  char* piece = current;
  if (bytes > kPieceBytes / 2)
    piece = new_piece((bytes + kHugePage - 1) / kHugePage * kHugePage);
  else if (!piece || pieces()[piece].size - pieces()[piece].used < bytes)
    piece = current = new_piece(kPieceBytes);
  Piece& p = pieces()[piece];
  void* block = piece + p.used;
  p.used += bytes;
  ++p.blocks;
  return block;
}

void free_huge(void* block, size_t bytes) noexcept {
  bytes = (bytes + kPage - 1) / kPage * kPage;
  std::lock_guard<std::mutex> lock(mutex);
  const auto found = std::prev(pieces().upper_bound(static_cast<char*>(block)));
  if (--found->second.blocks) {
    madvise(block, bytes, MADV_DONTNEED);
    return;
  }
  if (found->first == current) current = nullptr;
  munmap(found->first, found->second.size);
  pieces().erase(found);
}

#else

void* new_huge_zeros(size_t bytes) {
  void* block = nullptr;
  if (posix_memalign(&block, 64, bytes)) throw std::bad_alloc();
  std::fill_n(static_cast<char*>(block), bytes, char{0});
  return block;
}

void free_huge(void* block, size_t) noexcept { free(block); }

#endif

}  // namespace onebit
