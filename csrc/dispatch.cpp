#include "dispatch.h"

#include <stdlib.h>
#include <string.h>

#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace onebit {
namespace {

#if defined(__x86_64__)
// __builtin_cpu_supports asks the CPU and, through XGETBV, the system. It does not know F16C
// everywhere, so that bit is read here (leaf 1, ecx bit 29; its registers are AVX's).
bool has_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) && (c >> 29 & 1);
}
bool has_avx2() { return __builtin_cpu_supports("avx2") && has_f16c(); }
bool has_avx512_vnni() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}
#endif

// The tables that run here, best first; asked once.
const std::vector<const Ops*>& tables() {
  static const std::vector<const Ops*> found = [] {
    std::vector<const Ops*> tables;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (has_avx512_vnni()) tables.push_back(&kAvx512Vnni);
    if (has_avx2()) tables.push_back(&kAvx2);
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
