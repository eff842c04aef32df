// Compile a region of a file for an instruction set that the rest of the program does not assume.
// Include every header before the region: library code inside it would be compiled for that set
// too.
#pragma once

#define ONEBIT_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define ONEBIT_TARGET_BEGIN(isa) \
  ONEBIT_PRAGMA(clang attribute push(__attribute__((target(isa))), apply_to = function))
#define ONEBIT_TARGET_END ONEBIT_PRAGMA(clang attribute pop)
#else
#define ONEBIT_TARGET_BEGIN(isa) ONEBIT_PRAGMA(GCC push_options) ONEBIT_PRAGMA(GCC target(isa))
#define ONEBIT_TARGET_END ONEBIT_PRAGMA(GCC pop_options)
#endif

#define ONEBIT_INLINE inline __attribute__((always_inline))
// Before a loop over registers, so that they are not an array in memory.
#define ONEBIT_UNROLL _Pragma("GCC unroll 16")
