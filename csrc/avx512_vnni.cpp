// AVX-512 with VNNI, for CPUs without VBMI.
#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "ops.h"
#include "target.h"

ONEBIT_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")

namespace onebit {
namespace avx512_vnni {
namespace {

#include "avx512.inl"

}  // namespace
}  // namespace avx512_vnni

const Ops kAvx512Vnni = avx512_vnni::make_ops("avx512_vnni");

}  // namespace onebit

ONEBIT_TARGET_END
#endif
