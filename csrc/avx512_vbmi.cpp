// AVX-512 with VNNI and VBMI: bytes are looked up, 128 at a time.
#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "ops.h"
#include "target.h"

ONEBIT_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c")

namespace onebit {
namespace avx512_vbmi {
namespace {

#define ONEBIT_VBMI
#include "avx512.inl"

}  // namespace
}  // namespace avx512_vbmi

const Ops kAvx512Vbmi = avx512_vbmi::make_ops("avx512_vbmi");

}  // namespace onebit

ONEBIT_TARGET_END
#endif
