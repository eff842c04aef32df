#include "dispatch.h"

#include <stdlib.h>
#include <string.h>

#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace onebit {
namespace {

#if defined(__x86_64__)
// __builtin_cpu_supports asks the CPU and, through XGETBV, the system. Not every compiler lets it
// know F16C (leaf 1, ecx bit 29) and AVX-VNNI (leaf 7.1, eax bit 4), so those bits are read here;
// their registers are AVX's.
bool has_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) && (c >> 29 & 1);
}
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}
bool has_avx_vnni() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return has_avx2() && __get_cpuid_count(7, 0, &a, &b, &c, &d) && a >= 1 &&
         __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}
bool has_avx512_vnni() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}
bool has_avx512_vbmi() { return has_avx512_vnni() && __builtin_cpu_supports("avx512vbmi"); }
#elif defined(__aarch64__)
#if defined(__linux__)
// The bits of arch/arm64/include/uapi/asm/hwcap.h; system headers may be older than the CPU.
bool has_dotprod() { return getauxval(AT_HWCAP) >> 20 & 1; }
bool has_i8mm() { return has_dotprod() && (getauxval(AT_HWCAP2) >> 13 & 1); }
#elif defined(__APPLE__)
bool has_feature(const char* name) {
  int value = 0;
  size_t size = sizeof value;
  return !sysctlbyname(name, &value, &size, nullptr, 0) && value;
}
bool has_dotprod() { return has_feature("hw.optional.arm.FEAT_DotProd"); }
bool has_i8mm() { return has_dotprod() && has_feature("hw.optional.arm.FEAT_I8MM"); }
#else
bool has_dotprod() { return false; }
bool has_i8mm() { return false; }
#endif
#endif

// The tables that run here, best first; asked once.
const std::vector<const Ops*>& tables() {
  static const std::vector<const Ops*> found = [] {
    std::vector<const Ops*> tables;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (has_avx512_vbmi()) tables.push_back(&kAvx512Vbmi);
    if (has_avx512_vnni()) tables.push_back(&kAvx512Vnni);
    if (has_avx_vnni()) tables.push_back(&kAvxVnni);
    if (has_avx2()) tables.push_back(&kAvx2);
#elif defined(__aarch64__)
    if (has_i8mm()) tables.push_back(&kNeonI8mm);
    if (has_dotprod()) tables.push_back(&kNeonDotprod);
#endif
    tables.push_back(&kScalar);
    return tables;
  }();
  return found;
}

}  // namespace

std::vector<std::string> isas() {
  std::vector<std::string> names;
  for (const Ops* ops : tables()) names.push_back(ops->isa);
  return names;
}

const Ops& active_ops() {
  const char* wanted = getenv("ONEBIT_ISA");
  if (!wanted || !*wanted) return *tables().front();
  for (const Ops* ops : tables())
    if (!strcmp(wanted, ops->isa)) return *ops;
  std::string list;
  for (const std::string& name : isas()) list += (list.empty() ? "" : ", ") + name;
  throw std::invalid_argument("ONEBIT_ISA=" + std::string(wanted) +
                              " does not run here. Available: " + list +
                              ". Unset ONEBIT_ISA to use " + tables().front()->isa + ".");
}

}  // namespace onebit
