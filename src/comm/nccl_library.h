// NCCL, opened when it is first needed: the program starts without it and can say so. Included by
// files that end in _nccl.cc only.
#pragma once

#include <nccl.h>
#include <nccl_device.h>

namespace nereus {

#define NEREUS_NCCL_FUNCTIONS(X)                 \
  X(get_version, ncclGetVersion)                 \
  X(get_unique_id, ncclGetUniqueId)              \
  X(error_string, ncclGetErrorString)            \
  X(last_error, ncclGetLastError)                \
  X(comm_init_rank, ncclCommInitRank)            \
  X(comm_split, ncclCommSplit)                   \
  X(comm_destroy, ncclCommDestroy)               \
  X(comm_abort, ncclCommAbort)                   \
  X(comm_get_async_error, ncclCommGetAsyncError) \
  X(group_start, ncclGroupStart)                 \
  X(group_end, ncclGroupEnd)                     \
  X(all_reduce, ncclAllReduce)                   \
  X(all_gather, ncclAllGather)                   \
  X(reduce_scatter, ncclReduceScatter)           \
  X(broadcast, ncclBroadcast)                    \
  X(send, ncclSend)                              \
  X(recv, ncclRecv)

// Symmetric windows: NCCL 2.28 and newer; null in an older library.
#define NEREUS_NCCL_WINDOW_FUNCTIONS(X)          \
  X(mem_alloc, ncclMemAlloc)                     \
  X(mem_free, ncclMemFree)                       \
  X(window_register, ncclCommWindowRegister)     \
  X(window_deregister, ncclCommWindowDeregister) \
  X(team_lsa, ncclTeamLsa)

struct NcclLibrary {
#define NEREUS_NCCL_MEMBER(member, function) decltype(&::function) member = nullptr;
  NEREUS_NCCL_FUNCTIONS(NEREUS_NCCL_MEMBER)
  NEREUS_NCCL_WINDOW_FUNCTIONS(NEREUS_NCCL_MEMBER)
#undef NEREUS_NCCL_MEMBER
  bool has_windows = false;
};

// Throws Error{kConfig} that says where it looked, or which version is too old.
const NcclLibrary& nccl();

}  // namespace nereus
