// Which table of operations runs: the best that the CPU and the system allow, or the one that the
// environment variable ONEBIT_ISA names.
#pragma once
#include <string>
#include <vector>

#include "ops.h"

namespace onebit {

// Names of the tables that run here, best first. Ends with "scalar".
std::vector<std::string> isas();

// The table in use. Reads ONEBIT_ISA at every call.
// Throws std::invalid_argument if it names one that does not run here.
const Ops& active_ops();

}  // namespace onebit
