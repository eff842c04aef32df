#include "container.h"

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <string>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

namespace onebit {

#if defined(__linux__)
namespace {

struct Number {
  bool found = false;
  uint64_t value = 0;
};

// The number after `key` at the start of a line; an empty key takes the first line. "max" and -1,
// which stand for no limit, are no numbers.
Number number_in(const std::string& path, const char* key = "") {
  Number number;
  FILE* file = fopen(path.c_str(), "r");
  if (!file) return number;
  const size_t length = strlen(key);
  char line[256];
  while (!number.found && fgets(line, sizeof line, file)) {
    if (strncmp(line, key, length)) continue;
    const char* text = line + length + strspn(line + length, " ");
    number.found = *text != '-' && sscanf(text, "%" SCNu64, &number.value) == 1;
    if (!length) break;
  }
  fclose(file);
  return number;
}

// The folders of this process's control groups that limit what `controller` is about, of version 2
// and of version 1: its own group, and those around it.
std::vector<std::string> group_folders(const std::string& root, const std::string& controller) {
  std::vector<std::string> folders;
  FILE* file = fopen((root + "/proc/self/cgroup").c_str(), "r");
  char line[4096];
  while (file && fgets(line, sizeof line, file)) {  // "4:cpu,cpuacct:/group", version 2 "0::/group"
    line[strcspn(line, "\n")] = 0;
    const char* names = strchr(line, ':');
    const char* path = names ? strchr(names + 1, ':') : nullptr;
    if (!path || path[1] != '/') continue;
    const std::string list = "," + std::string(names + 1, path) + ",";
    const bool is_v1 = list.find("," + controller + ",") != std::string::npos;
    if (!is_v1 && list != ",,") continue;
    const std::string mount = root + "/sys/fs/cgroup" + (is_v1 ? "/" + controller : "");
    for (std::string group = path + 1; !group.empty(); group.erase(group.rfind('/')))
      if (group != "/") folders.push_back(mount + group);
    folders.push_back(mount);  // in a container, its own group
  }
  if (file) fclose(file);
  return folders;
}

// Those that a group's quota gives time for, rounded up; 0 if it sets none.
size_t cpus_of_quota(const std::string& folder) {
  double quota = 0, period = 0;
  if (FILE* file = fopen((folder + "/cpu.max").c_str(), "r")) {  // "quota period", "max period"
    if (fscanf(file, "%lf %lf", &quota, &period) != 2) quota = 0;
    fclose(file);
  } else {
    quota = static_cast<double>(number_in(folder + "/cpu.cfs_quota_us").value);
    period = static_cast<double>(number_in(folder + "/cpu.cfs_period_us").value);
  }
  if (quota <= 0 || period <= 0) return 0;
  return std::max<size_t>(1, static_cast<size_t>((quota + period - 1) / period));
}

// What is left of a limit; SIZE_MAX where there is none.
size_t left_of(const Number& limit, const Number& used, const Number& cached) {
  if (!limit.found || !used.found) return SIZE_MAX;
  const uint64_t taken = used.value - std::min(used.value, cached.value);
  return limit.value - std::min(limit.value, taken);
}

}  // namespace

size_t available_cpus(const std::string& root) {
  size_t cpus = std::max(1u, std::thread::hardware_concurrency());
  cpu_set_t mask;
  if (!sched_getaffinity(0, sizeof mask, &mask)) cpus = std::max(1, CPU_COUNT(&mask));
  for (const std::string& folder : group_folders(root, "cpu"))
    if (const size_t quota = cpus_of_quota(folder)) cpus = std::min(cpus, quota);
  return cpus;
}

size_t available_memory(const std::string& root) {
  const Number machine = number_in(root + "/proc/meminfo", "MemAvailable:");
  size_t left = machine.found ? machine.value * 1024 : SIZE_MAX;
  for (const std::string& folder : group_folders(root, "memory")) {
    const std::string stat = folder + "/memory.stat";
    left = std::min({left,
                     left_of(number_in(folder + "/memory.max"),  // version 2
                             number_in(folder + "/memory.current"),
                             number_in(stat, "inactive_file ")),
                     left_of(number_in(folder + "/memory.limit_in_bytes"),
                             number_in(folder + "/memory.usage_in_bytes"),
                             number_in(stat, "total_inactive_file "))});
  }
  return left;
}

#else

size_t available_cpus(const std::string&) {
  return std::max(1u, std::thread::hardware_concurrency());
}
size_t available_memory(const std::string&) { return SIZE_MAX; }

#endif

}  // namespace onebit
