#include "cli/download_progress.h"

#include <fmt/format.h>

#include <cstdio>

#include "base/text.h"
#include "cli/progress_bar.h"

namespace nereus {

std::string files_text(size_t files, int64_t bytes) {
  return fmt::format("{} file{}, {}", files, files == 1 ? "" : "s", size_text(bytes));
}

hub::DownloadReport download_progress() {
  const auto bar = std::make_shared<ProgressBar>(stdout);
  return [bar](const hub::DownloadProgress& p) {
    bar->show(p.bytes, p.of_bytes, 0, fmt::format(", {} of {} files", p.files, p.of_files));
  };
}

}  // namespace nereus
