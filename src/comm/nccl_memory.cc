#include "comm/nccl_memory.h"

#include <algorithm>
#include <bit>

#include "comm/nccl_ranks.h"

namespace nereus {
namespace {

constexpr int64_t kMiB = 1 << 20;
constexpr int64_t kComes = 10 * kMiB, kGoes = 2 * kMiB;
constexpr int64_t kShared = 8 * kMiB;  // steps of 512 KiB on their way over a network

// NCCL's send and recv use a power of two of channels; rings as many as are allowed, and as the
// links between two GPUs have use for.
constexpr int kMostRings = 24;
int64_t pair_channels(int sms) { return std::bit_ceil(static_cast<unsigned>(sms)); }

int64_t start_bytes(int sms) { return 4 * kMiB + (6 * kMiB + kShared) * pair_channels(sms); }

}  // namespace

int64_t nccl_group_bytes(const NcclGroup& g) {
  const int sms = g.sms;
  const int64_t ring = kComes + kGoes;
  const int64_t neighbours = g.network ? 6 * kComes : g.ranks > 2 ? 2 * ring : ring;
  return start_bytes(sms) + std::min(sms, kMostRings) * neighbours +
         pair_channels(sms) * ring * g.pairs + (g.over_network ? pair_channels(sms) * kShared : 0);
}

int64_t nccl_link_bytes(int from, int to, bool sends) {
  const int sms = link_sms(from, to);
  const bool network = sms == kNetworkLinkSms;
  return nccl_group_bytes({.sms = sms, .network = network}) +
         pair_channels(sms) * (sends && !network ? kGoes : kComes);
}

}  // namespace nereus
