// `nereus profile TRACE [TRACE]`: where the time of a trace went; two side by side.
#pragma once

namespace nereus {

int run_profile(int argc, char** argv);

}  // namespace nereus
