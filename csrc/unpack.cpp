#include "unpack.h"

#include <algorithm>
#include <atomic>
#include <new>

#include "parallel.h"
#include "unpack_tiles.h"

namespace onebit {
namespace {

enum class Outcome { good, damaged, too_wide, uneven, no_memory };

struct CodeRange {
  int least = 127, greatest = -128;
  bool zero = false;

  void add(const int8_t* codes, size_t n) {
    int8_t low = 127, high = -128, zeros = 0;
    for (size_t i = 0; i < n; ++i) {
      low = std::min(low, codes[i]);
      high = std::max(high, codes[i]);
      zeros = static_cast<int8_t>(zeros | (codes[i] == 0));
    }
    least = std::min<int>(least, low);
    greatest = std::max<int>(greatest, high);
    zero |= zeros != 0;
  }
};

CodeRange all_codes(const Stored& s) { return {s.least, s.greatest, s.format->zero}; }

// Bits of a code in the layout of so many different ones.
size_t bits_of_codes(int codes) { return codes <= 16 ? 4 : codes <= 64 ? 6 : 8; }

// Says which codes come, and whether the zero-points go off them, or a minimum makes up for them.
// Without them codes may want wider ones, but there is no minimum beside each float16 scale.
void decide_zero(Stored& s) {
  s.least = s.format->least;
  s.greatest = s.format->greatest;
  if (!s.zero) return;
  const auto [low, high] = std::minmax_element(s.zero, s.zero + s.rows * s.scale_groups);
  const int least = s.least - *high, greatest = s.greatest - *low;
  const size_t held = bits_of_codes(s.greatest - s.least + 1);
  const size_t bare = bits_of_codes(greatest - least + 1), group = s.columns / s.scale_groups;
  constexpr size_t kWithMinimum = 64, kScale = 16;  // bits of a group's factors
  if (least < -128 || greatest > 127 || bare * group + kScale > held * group + kWithMinimum) {
    s.zero = nullptr;
    return;
  }
  s.minimum = nullptr;
  s.least = least;
  s.greatest = greatest;
}

Layout narrowest(const Stored& s, const CodeRange& range) {
  if (range.least >= -1 && range.greatest <= 1) {
    const bool binary = !range.zero && (s.groups() == 1 || s.columns / s.groups() % 32 == 0);
    return binary ? Layout::b1 : Layout::t2;
  }
  const int codes = range.greatest - range.least + 1;
  return codes <= 16 ? Layout::i4 : codes <= 64 ? Layout::i6 : Layout::i8;
}

// Finds the range of codes that the layout is to hold. Rows are looked at only as long as a
// narrower layout than the format's own is left; as a rule the first one is enough.
Outcome find_range(const Stored& s, CodeRange* range) {
  const CodeRange all = all_codes(s);
  Buffer<int8_t> codes(s.columns);
  for (size_t n = 0; n < s.rows; ++n) {
    if (!s.codes(n, codes.data())) return Outcome::damaged;
    range->add(codes.data(), s.columns);
    const Layout seen = narrowest(s, *range);
    if (seen == narrowest(s, all)) {
      *range = all;
      return Outcome::good;
    }
    // Code 2 of q2_0 is rare: rather than look for it, fill a ternary matrix and see.
    if (seen == Layout::t2 && ternary_way(s, seen)) return Outcome::good;
  }
  return Outcome::good;
}

// One thread's memory on its way through the tiles.
class Filler {
 public:
  Filler(const Ops& ops, const Stored& s, Matrix& m)
      : ops_(ops), s_(s), m_(m), short_way_(ternary_way(s, m.layout)), codes_(kTileRows * s.columns),
        scale_(kTileRows * s.groups()), minimum_(s.has_minimum() ? scale_.size() : 0) {
    if (!short_way_) short_way_ = wide_way(s, m.layout, m.low);
    if (!short_way_ && m.layout == Layout::t1_6) {
      short_way_ = ternary_way(s, Layout::t2);
      if (short_way_) t2_ = tile_of_t2(m);
    }
  }

  // Whether every row that was filled has the same factors in all its groups.
  bool even() const { return even_; }

  Outcome fill(size_t tile) {
    const size_t first = tile * kTileRows, rows = std::min(kTileRows, s_.rows - first);
    bool good = true;
    for (size_t r = 0; r < rows; ++r) good &= factors(first + r, r);
    if (!good) return Outcome::damaged;
    if (m_.groups < s_.groups()) {
      if (!even_) return Outcome::uneven;
      for (size_t r = 0; r < rows; ++r) scale_.data()[r] = scale_.data()[r * s_.groups()];
    }
    if (short_way_ && rows == kTileRows) {
      const bool trits = t2_.size() != 0;
      if (!short_way_(s_, first, trits ? t2_.data() : m_.data.data() + tile * m_.tile_bytes))
        return s_.greatest > 1 ? Outcome::too_wide : Outcome::damaged;
      if (trits) set_trits(ops_, m_, tile, t2_);
      set_factors(m_, tile, scale_.data(), minimum_.data());
      return Outcome::good;
    }
    for (size_t r = 0; r < rows; ++r)
      good &= s_.codes(first + r, codes_.data() + r * s_.columns);
    if (!good) return Outcome::damaged;
    if ((m_.layout == Layout::t2 || m_.layout == Layout::t1_6) && s_.greatest > 1) {
      CodeRange range;
      range.add(codes_.data(), rows * s_.columns);
      if (range.greatest > 1) return Outcome::too_wide;
    }
    set_tile(m_, tile, codes_.data(), scale_.data(), minimum_.data());
    return Outcome::good;
  }

 private:
  bool factors(size_t n, size_t r) {
    const size_t G = s_.groups();
    float* scale = scale_.data() + r * G;
    float* minimum = minimum_.size() ? minimum_.data() + r * G : nullptr;
    const bool good = s_.format->factors(s_, n, scale, minimum);
    for (size_t g = 1; g < G; ++g)
      even_ &= scale[g] == scale[0] && (!minimum || minimum[g] == minimum[0]);
    return good;
  }

  const Ops& ops_;
  const Stored& s_;
  Matrix& m_;
  TileFn short_way_;
  bool even_ = true;
  Buffer<uint8_t> t2_;             // of a tile, on the way to t1_6
  Buffer<int8_t> codes_;           // [16][K]
  Buffer<float> scale_, minimum_;  // [16][groups]
};

Outcome fill(const Ops& ops, const Stored& s, Matrix& m) {
  std::atomic<Outcome> outcome{Outcome::good};
  std::atomic<bool> even{true};
  parallel_for(m.tiles, 4, [&](size_t begin, size_t end) {
    try {
      Filler filler(ops, s, m);
      for (size_t tile = begin; tile < end && outcome.load() == Outcome::good; ++tile) {
        const Outcome one = filler.fill(tile);
        if (one != Outcome::good) outcome.store(one);
      }
      if (!filler.even()) even.store(false);
    } catch (const std::bad_alloc&) {
      outcome.store(Outcome::no_memory);
    }
  });
  if (outcome.load() == Outcome::good && m.groups > 1)
    even.load() ? join_groups(m) : shrink_factors(m);
  return outcome.load();
}

}  // namespace

bool matrix_of_stored(const Ops& ops, const Stored& stored, Layout ternary, Matrix* matrix) {
  Stored s = stored;
  decide_zero(s);
  CodeRange range;
  if (find_range(s, &range) != Outcome::good) return false;
  for (;;) {
    Layout layout = narrowest(s, range);
    if (layout == Layout::t2) layout = ternary;
    const size_t groups = layout == Layout::t1_6 ? 1 : s.groups();
    *matrix = matrix_like(layout, s.rows, s.columns, groups, range.least, s.has_minimum(),
                          Pages::huge_later);
    const Outcome outcome = fill(ops, s, *matrix);
    if (outcome == Outcome::no_memory) throw std::bad_alloc();
    if (outcome == Outcome::too_wide)
      range = all_codes(s);  // what was seen of the codes is no more than that they pass 1
    else if (outcome == Outcome::uneven)
      ternary = Layout::t2;
    else
      return outcome == Outcome::good;
  }
}

}  // namespace onebit
