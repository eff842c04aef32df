// Compiles the file that ONEBIT_BODY names once for each width of vectors, and chooses among its
// tables, each called kTable, by what a CPU has. It stands inside a namespace of its own, behind
// all headers (see target.h); the body may use what lanes.inl defines.

namespace rows_16 {
#define ONEBIT_PIECE 16
#include "lanes.inl"
#include ONEBIT_BODY
#undef ONEBIT_PIECE
}  // namespace rows_16

#if defined(__x86_64__)
ONEBIT_TARGET_BEGIN("avx2,fma,f16c")
namespace rows_32 {
#define ONEBIT_PIECE 32
#include "lanes.inl"
#include ONEBIT_BODY
#undef ONEBIT_PIECE
}  // namespace rows_32
ONEBIT_TARGET_END

ONEBIT_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
namespace rows_64 {
#define ONEBIT_PIECE 64
#include "lanes.inl"
#include ONEBIT_BODY
#undef ONEBIT_PIECE
}  // namespace rows_64
ONEBIT_TARGET_END
#endif

inline const auto& table_of(const Ops& ops) {
#if defined(__x86_64__)
  if (!strncmp(ops.isa, "avx512", 6)) return rows_64::kTable;
  if (!strncmp(ops.isa, "avx", 3)) return rows_32::kTable;
#endif
  return rows_16::kTable;
}
