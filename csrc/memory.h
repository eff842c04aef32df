// How much memory there is left to take.
#pragma once
#include <stddef.h>

namespace onebit {

// Bytes that this process can take before the machine, or a control group that the process is in,
// runs out. Files that are only cached count as free. SIZE_MAX where the system does not say.
size_t available_memory();

}  // namespace onebit
