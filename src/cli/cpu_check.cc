// The rest of the program is compiled for x86-64-v3 and would die of an illegal instruction on an
// older processor, in a static initializer even before main. So this runs before those, is compiled
// for the oldest x86-64, and uses nothing of the C++ library, whose inline functions the linker may
// take from another file.
#include <unistd.h>

namespace {

#if defined(__x86_64__)

__attribute__((constructor(101))) void refuse_older_cpus() {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2")) {
    return;
  }
  constexpr char kMessage[] =
      "error: this processor (or the virtual machine's model of it) lacks AVX2, FMA or BMI.\n"
      "  nereus is built for x86-64-v3: Intel since Haswell (2013), AMD since Excavator (2015).\n"
      "  On a virtual machine, choose the host's processor model (\"host\").\n";
  const ssize_t ignored = write(STDERR_FILENO, kMessage, sizeof(kMessage) - 1);
  (void)ignored;
  _exit(2);
}

#endif

}  // namespace
