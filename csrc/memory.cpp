#include "memory.h"

#include <mutex>

#include "decoder.h"

namespace onebit {

size_t Memory::length() const {
  std::lock_guard<std::mutex> lock(owner_.mutex_);
  return length_;
}

}  // namespace onebit
