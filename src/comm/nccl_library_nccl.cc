#include <dlfcn.h>

#include <cstdlib>
#include <type_traits>

#include "base/check.h"
#include "comm/nccl_library.h"

namespace nereus {
namespace {

constexpr int kOldest = NCCL_VERSION(2, 18, 1);  // has ncclCommSplit

NcclLibrary open_library() {
  // Multicast through the switch (NVLS) hangs where the fabric manager does not run or a machine
  // shares it, and its sums have another order. NCCL's configuration struct has no switch for it.
  setenv("NCCL_NVLS_ENABLE", "0", /*overwrite=*/0);
  // Rings and trees are connected when a group is made, while all its ranks are there, and not when
  // a size first needs them: a rank would wait inside NCCL for ranks that may never come.
  setenv("NCCL_RUNTIME_CONNECT", "0", /*overwrite=*/0);
  void* handle = nullptr;
  for (const char* place : {"libnccl.so.2", "/usr/local/cuda/lib64/libnccl.so.2"})
    if (handle == nullptr) handle = dlopen(place, RTLD_NOW | RTLD_LOCAL);
  NEREUS_CHECK(kConfig, handle != nullptr,
               "NCCL is needed for several GPUs, and libnccl.so.2 was found neither by the loader "
               "(LD_LIBRARY_PATH, /etc/ld.so.conf) nor in /usr/local/cuda/lib64. Install NCCL 2, "
               "or put its folder on LD_LIBRARY_PATH.");
  NcclLibrary l;
  const char* missing = nullptr;
#define NEREUS_NCCL_LOAD(member, function)                                   \
  l.member = reinterpret_cast<decltype(l.member)>(dlsym(handle, #function)); \
  if (l.member == nullptr) missing = #function;
  NEREUS_NCCL_FUNCTIONS(NEREUS_NCCL_LOAD)
#undef NEREUS_NCCL_LOAD
  int version = 0;
  if (l.get_version != nullptr) l.get_version(&version);
  // The device's view of a window is of the version that this program was compiled with.
  l.has_windows = version / 100 == NCCL_VERSION_CODE / 100;
  const auto load = [&](auto& member, const char* function) {
    member = reinterpret_cast<std::decay_t<decltype(member)>>(dlsym(handle, function));
    l.has_windows = l.has_windows && member != nullptr;
  };
  load(l.mem_alloc, "ncclMemAlloc");
  load(l.mem_free, "ncclMemFree");
  load(l.window_register, "ncclCommWindowRegister");
  load(l.window_deregister, "ncclCommWindowDeregister");
  load(l.team_lsa, "ncclTeamLsa");
  NEREUS_CHECK(kConfig, missing == nullptr && version >= kOldest,
               "libnccl.so.2 is NCCL {}.{}.{}; 2.18.1 or newer is needed{}{}", version / 10000,
               version / 100 % 100, version % 100, missing == nullptr ? "" : ": it lacks ",
               missing == nullptr ? "" : missing);
  return l;
}

}  // namespace

const NcclLibrary& nccl() {
  static const NcclLibrary library = open_library();
  return library;
}

}  // namespace nereus
