// How far a download is, on standard output: a bar with rate and time left.
#pragma once

#include <memory>

#include "hub/download.h"

namespace nereus {

// "3 files, 1.2 GB"
std::string files_text(size_t files, int64_t bytes);

// One for each download.
hub::DownloadReport download_progress();

}  // namespace nereus
