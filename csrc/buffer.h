// Memory aligned to a cache line, of checked size.
#pragma once
#include <stdint.h>
#include <stdlib.h>

#include <memory>
#include <new>

namespace onebit {

// a * b, or std::bad_alloc where it does not fit.
inline size_t checked_product(size_t a, size_t b) {
  size_t product;
  if (__builtin_mul_overflow(a, b, &product)) throw std::bad_alloc();
  return product;
}

// Zeros in huge pages, 64-byte aligned: a stream of them reads a quarter faster than one of small
// pages. Memory is taken 2 MB at a time, so this is for what will be filled.
//
// To find huge pages may take the system longer than to fill small ones, and a model's first token
// waits for its weights. So `later` takes memory whose pages `settle_pages` makes huge afterwards.
void* new_huge_zeros(size_t bytes, bool later);
void free_huge(void* block, size_t bytes) noexcept;

// Makes the pages huge of all that was taken `later` so far, in a thread of its own that begins
// after `delay_s`. Little memory is left as it is.
void settle_pages(double delay_s);

enum class Pages { small, huge, huge_later };

// `count` values of zero, 64-byte aligned. The system hands out large zeros page by page as they
// are touched, so an unused end costs nothing.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t count, Pages pages = Pages::small) : size_(count) {
    if (!count) return;
    const size_t bytes = checked_product(count, sizeof(T));
    if (pages != Pages::small && bytes >= kHugeFrom) {
      memory_ = {new_huge_zeros(bytes, pages == Pages::huge_later), Free{bytes}};
      data_ = static_cast<T*>(memory_.get());
      return;
    }
    if (bytes > PTRDIFF_MAX - 64) throw std::bad_alloc();
    memory_.reset(calloc(bytes + 64, 1));
    if (!memory_) throw std::bad_alloc();
    const auto address = reinterpret_cast<uintptr_t>(memory_.get());
    data_ = reinterpret_cast<T*>((address + 63) & ~uintptr_t{63});
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  size_t size() const { return size_; }
  size_t size_bytes() const { return size_ * sizeof(T); }

  // At least `count` values. Contents are lost when it grows.
  void grow(size_t count) {
    if (count > size_) *this = Buffer(count);
  }

 private:
  static constexpr size_t kHugeFrom = 1 << 16;

  struct Free {
    size_t huge_bytes = 0;
    void operator()(void* p) const { huge_bytes ? free_huge(p, huge_bytes) : free(p); }
  };
  std::unique_ptr<void, Free> memory_;
  T* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace onebit
