// Threads for a rank's chunks of a checkpoint, for as long as one is written or read: files, sums
// and types of several chunks at a time.
#pragma once

#include <cstdint>
#include <functional>

namespace nereus {

// How many are worth it for so many bytes: one for each 64 MB, at most four, no more than cores.
int chunk_threads(int64_t bytes);

// Calls work(thread, i) for each i in [0, n), ascending, on `threads` threads; with one on the
// calling thread. Returns when all have ended; the first exception ends the others after what they
// are at, and is thrown again.
void on_chunk_threads(int threads, int64_t n, const std::function<void(int, int64_t)>& work);

// The same for chunks that are made by several threads and used by the calling one, in order: at
// most `slots` are made and not used. make(slot, i), then use(slot, i).
void make_and_use_chunks(int threads, int slots, int64_t n,
                         const std::function<void(int, int64_t)>& make,
                         const std::function<void(int, int64_t)>& use);

}  // namespace nereus
