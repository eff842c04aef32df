// From two bits a code to five codes a byte, in pieces of as many rows as a register has lanes.
// Included after lanes.inl.

typedef uint32_t WordPiece __attribute__((vector_size(ONEBIT_PIECE)));
typedef uint16_t ShortPiece __attribute__((vector_size(ONEBIT_PIECE)));

// Each byte q of 0 to 242 becomes ceil(256 q / 243), which is q + ceil(13 q / 243). The second term
// is floor((3507 q + 65266) / 65536), with 3507 = 13 * 256 + 179 and 65266 = 254 * 256 + 242.
ONEBIT_INLINE ShortPiece above(ShortPiece q) {
  return (13 * q + 254 + ((179 * q + 242) >> 8)) >> 8;
}
ONEBIT_INLINE WordPiece fixed_point(WordPiece w) {
  ShortPiece q;
  memcpy(&q, &w, sizeof q);
  const ShortPiece sum = above(q & 0xff) | above(q >> 8) << 8;
  WordPiece more;
  memcpy(&more, &sum, sizeof more);
  return w + more;  // no byte passes 255
}

// A piece of a block: vectors 0..4 of t2 hold quads of columns, quad 4 i + m (columns 16 i + 4 m and
// on, one a byte) in pair m of vector i. Vectors 0..3 of t1_6 hold 20 columns each.
ONEBIT_INLINE void block_of_trits(const uint8_t* pairs, uint8_t* tile) {
  constexpr uint32_t kPair = 0x03030303, kByte = 0xff;
  WordPiece w[5];
  for (int i = 0; i < 5; ++i) memcpy(&w[i], pairs + 64 * i, ONEBIT_PIECE);

  // The quads by vectors of t1_6: pair b of quads[i] is quad 5 b + i.
  WordPiece quads[5];
  for (int i = 0; i < 5; ++i) {
    WordPiece v = {};
    for (int b = 0; b < 4; ++b) v |= w[b + (b + i) / 4] & (kPair << 2 * ((b + i) % 4));
    const uint32_t stays = 0x01010101 * (kByte >> 2 * (i % 4));  // in its byte, on the way down
    quads[i] = i % 4 ? (v >> 2 * i & stays) | (v << (8 - 2 * i) & ~stays) : v;
  }

  // By digits: byte j of digits[d] has columns 5 j + d, pair b those of vector b. Byte p of a quad has
  // the columns that leave p when divided by four, so one turn of a lane is right for every j.
  WordPiece digits[5];
  for (int d = 0; d < 5; ++d) {
    WordPiece v = {};
    for (int j = 0; j < 4; ++j) v |= quads[j + (j + d) / 4] & (kByte << 8 * ((j + d) % 4));
    digits[d] = d % 4 ? v >> 8 * d | v << (32 - 8 * d) : v;
  }

  for (int b = 0; b < 4; ++b) {
    WordPiece q = digits[0] >> 2 * b & kPair;
    for (int d = 1; d < 5; ++d) q = q + q + q + (digits[d] >> 2 * b & kPair);
    q = fixed_point(q);
    memcpy(tile + 64 * b, &q, ONEBIT_PIECE);
  }
}

void t1_6_of_t2(const uint8_t* t2, size_t blocks, uint8_t* tile) {
  for (size_t i = 0; i < blocks; ++i)
    for (size_t at = 0; at < 64; at += ONEBIT_PIECE)
      block_of_trits(t2 + 320 * i + at, tile + 256 * i + at);
}
