// Where the log's lines go, for programs whose standard output is their result.
#pragma once

namespace nereus::log {

void use_standard_error();  // from here on

}  // namespace nereus::log
