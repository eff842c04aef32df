#include "memory.h"

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <string>

namespace onebit {
namespace {

#if defined(__linux__)
struct Number {
  bool found = false;
  uint64_t value = 0;
};

// The number after `key` at the start of a line; an empty key takes the first line.
Number number_in(const std::string& path, const char* key) {
  Number number;
  FILE* file = fopen(path.c_str(), "r");
  if (!file) return number;
  const size_t length = strlen(key);
  char line[256];
  while (!number.found && fgets(line, sizeof line, file)) {
    if (strncmp(line, key, length)) continue;
    number.found = sscanf(line + length, " %" SCNu64, &number.value) == 1;
    if (!length) break;  // "max", which is no number
  }
  fclose(file);
  return number;
}

// What is left of a limit; SIZE_MAX where there is none.
size_t left_of(const std::string& folder, const char* limit_file, const char* used_file,
               const char* cached_key) {
  const Number limit = number_in(folder + limit_file, "");
  const Number used = number_in(folder + used_file, "");
  if (!limit.found || !used.found) return SIZE_MAX;
  const uint64_t cached = number_in(folder + "/memory.stat", cached_key).value;
  const uint64_t taken = used.value - std::min(used.value, cached);
  return limit.value - std::min(limit.value, taken);
}

// The least that is left in this process's control group and those around it, version 2 or 1.
size_t left_in_groups() {
  std::string v2 = "/", v1 = "/";
  if (FILE* file = fopen("/proc/self/cgroup", "r")) {
    char line[4096];
    while (fgets(line, sizeof line, file)) {
      line[strcspn(line, "\n")] = 0;
      const char* memory = strstr(line, ":memory:");
      if (!strncmp(line, "0::/", 4)) v2 = line + 3;
      if (memory) v1 = memory + strlen(":memory:");
    }
    fclose(file);
  }
  size_t left = SIZE_MAX;
  for (std::string* group : {&v2, &v1})
    for (;;) {
      left = std::min(left, group == &v2 ? left_of("/sys/fs/cgroup" + *group, "/memory.max",
                                                   "/memory.current", "inactive_file ")
                                         : left_of("/sys/fs/cgroup/memory" + *group,
                                                   "/memory.limit_in_bytes",
                                                   "/memory.usage_in_bytes",
                                                   "total_inactive_file "));
      if (group->size() <= 1) break;
      group->erase(std::max<size_t>(1, group->rfind('/')));
    }
  return left;
}
#endif

}  // namespace

size_t available_memory() {
#if defined(__linux__)
  const Number available = number_in("/proc/meminfo", "MemAvailable:");
  const size_t machine = available.found ? available.value * 1024 : SIZE_MAX;
  return std::min(machine, left_in_groups());
#else
  return SIZE_MAX;
#endif
}

}  // namespace onebit
