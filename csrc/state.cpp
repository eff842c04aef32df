#include "state.h"

#include <string.h>

#include <mutex>
#include <stdexcept>
#include <string>

#include "container.h"
#include "decoder.h"

namespace onebit {
namespace {

[[noreturn]] void fail(const std::string& message) {
  throw std::invalid_argument("state: " + message);
}

}  // namespace

State::State(Decoder& owner, size_t layers, size_t hidden)
    : Memory(owner, PTRDIFF_MAX), hidden_(hidden) {
  const size_t count = checked_product(layers, hidden);
  // The system would promise more than it has, and end the process once it is used.
  if (checked_product(count, sizeof(float)) > available_memory()) throw std::bad_alloc();
  h_ = Buffer<float>(count);
}

void State::clear() {
  memset(h_.data(), 0, h_.size_bytes());
  length_ = 0;
}

void State::set_length(size_t length) {
  std::lock_guard<std::mutex> lock(owner_.mutex_);
  if (length == length_) return;
  if (length)
    fail("length " + std::to_string(length) + " of " + std::to_string(length_) +
         " tokens; what was taken in cannot be taken out one by one. Set it to 0, or copy the state "
         "before.");
  clear();
}

void State::copy_prefix(const Memory& memory, size_t n) {
  const auto* from = dynamic_cast<const State*>(&memory);
  if (!from || &from->owner_ != &owner_) fail("the prefix belongs to another decoder.");
  std::lock_guard<std::mutex> lock(owner_.mutex_);
  if (n && n != from->length_)
    fail("a prefix of " + std::to_string(n) + " tokens cannot be taken out of a state of " +
         std::to_string(from->length_) + "; it is copied whole.");
  if (!n) return clear();
  if (from != this) memcpy(h_.data(), from->h_.data(), h_.size_bytes());
  length_ = n;
}

}  // namespace onebit
