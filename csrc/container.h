// How many CPUs this process may use, and how much memory it may take.
#pragma once
#include <stddef.h>

#include <string>

namespace onebit {

// `root` stands before the names of the system's files in /proc and /sys, for tests.

// The CPUs of its affinity mask, and no more than the quotas of its control groups give time for.
size_t available_cpus(const std::string& root = "");

// Bytes that it can take before the machine, or a control group that it is in, runs out. Files that
// are only cached count as free. SIZE_MAX where the system does not say.
size_t available_memory(const std::string& root = "");

}  // namespace onebit
