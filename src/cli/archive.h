// The runs of all workloads as one .tar.zst.
#pragma once

namespace nereus {

int run_archive(int argc, char** argv);

}  // namespace nereus
