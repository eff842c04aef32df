// What a decoder remembers of one sequence: keys and values (cache.h) or a state (state.h).
#pragma once
#include <stddef.h>

namespace onebit {

class Decoder;

class Memory {
 public:
  virtual ~Memory() = default;
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  // Tokens taken in.
  size_t length() const;
  // Tokens that it can take in.
  size_t capacity() const { return capacity_; }
  virtual size_t size_bytes() const = 0;

  // Forgets the newest tokens down to `length`. Throws std::invalid_argument for a length that this
  // kind of memory cannot go back to.
  virtual void set_length(size_t length) = 0;

  // Holds the first n tokens of `from` and nothing else. Throws std::invalid_argument if `from` is of
  // another decoder or kind, holds fewer, or cannot give so few.
  virtual void copy_prefix(const Memory& from, size_t n) = 0;

 protected:
  friend class Decoder;

  Memory(Decoder& owner, size_t capacity) : owner_(owner), capacity_(capacity) {}

  Decoder& owner_;  // its lock guards what changes
  const size_t capacity_;
  size_t length_ = 0;
};

}  // namespace onebit
