// Text to a file with write(2) alone: no lock of stdio or of the logger, which a thread that never
// comes back may hold, and none of stdio's buffers.
#pragma once

#include <string_view>

namespace nereus {

// All of `text`, in one piece where the system takes it so. Where it cannot be written the rest is
// left out: a closed standard output must not end a run.
void plain_write(int file, std::string_view text);

}  // namespace nereus
