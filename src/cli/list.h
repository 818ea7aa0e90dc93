// The installed workloads, with the sizes, data types and scales that they run at.
#pragma once

namespace nereus {

int run_list(int argc, char** argv);

}  // namespace nereus
