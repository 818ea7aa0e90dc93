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
  X(comm_init_rank, ncclCommInitRankConfig)      \
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

struct NcclLibrary {
#define NEREUS_NCCL_MEMBER(member, function) decltype(&::function) member = nullptr;
  NEREUS_NCCL_FUNCTIONS(NEREUS_NCCL_MEMBER)
#undef NEREUS_NCCL_MEMBER
  // Symmetric windows: NCCL 2.28 and newer.
  bool has_windows = false;
  decltype(&ncclMemAlloc) mem_alloc = nullptr;
  decltype(&ncclMemFree) mem_free = nullptr;
  decltype(&ncclCommWindowRegister) window_register = nullptr;
  decltype(&ncclCommWindowDeregister) window_deregister = nullptr;
  ncclTeam_t (*team_lsa)(ncclComm_t) = nullptr;
};

// Throws Error{kConfig} that says where it looked, or which version is too old.
const NcclLibrary& nccl();

}  // namespace nereus
