// recurrence.cpp over sixteen channels at a time. Needs lanes.inl. Of the row before, h and di are still in
// the first cache, so each number of the tensors comes from memory once.

ONEBIT_INLINE Lanes or_zero(const float* x, size_t c, size_t count) {
  return x ? load_up_to(x + c, count) : splat(0.0f);
}

// f(channel, how many) for sixteen channels after the other.
template <class F>
ONEBIT_INLINE void each_sixteen_channels(size_t d, F&& f) {
  size_t c = 0;
  for (; c + 16 <= d; c += 16) f(c, size_t{16});
  if (c < d) f(c, d - c);
}

void forward_rows(size_t T, size_t d, size_t stride, const float* f, const float* i,
                  const float* before, float* h, float* last) {
  for (size_t t = 0; t < T; ++t) {
    const size_t row = t * stride;
    each_sixteen_channels(d, [&](size_t c, size_t count) {
      const Lanes kept = load_up_to(f + row + c, count) * or_zero(before, c, count);
      store_up_to(h + row + c, kept + load_up_to(i + row + c, count), count);
    });
    before = h + row;
  }
  if (last) memcpy(last, before, d * sizeof *last);
}

void backward_rows(size_t T, size_t d, size_t stride, const float* f, const float* h,
                   const float* before, const float* dh, const float* dlast, float* df, float* di,
                   float* dbefore) {
  for (size_t t = T; t-- > 0;) {
    const size_t row = t * stride, next = row + stride;
    const float* h_before = t ? h + row - stride : before;
    const bool end = t + 1 == T;
    // rows go down in memory and channels up: asked for a row ahead, as no CPU guesses that
    const size_t ahead = t > 1 ? stride : 0;
    each_sixteen_channels(d, [&](size_t c, size_t count) {
      __builtin_prefetch(f + row - ahead + c);
      if (dh) __builtin_prefetch(dh + row - ahead + c);
      if (h_before) __builtin_prefetch(h_before - ahead + c);
      const Lanes carried = end ? or_zero(dlast, c, count)
                                : load_up_to(f + next + c, count) * load_up_to(di + next + c, count);
      const Lanes slope = or_zero(dh ? dh + row : nullptr, c, count) + carried;
      store_up_to(di + row + c, slope, count);
      store_up_to(df + row + c, slope * or_zero(h_before, c, count), count);
    });
  }
  if (!dbefore) return;
  each_sixteen_channels(d, [&](size_t c, size_t count) {
    store_up_to(dbefore + c, load_up_to(f + c, count) * load_up_to(di + c, count), count);
  });
}

constexpr RecurrenceOps kTable = {forward_rows, backward_rows};
