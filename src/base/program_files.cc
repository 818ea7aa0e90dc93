#include "base/program_files.h"

#include <filesystem>
#include <system_error>

namespace nereus {

std::string program_file(const std::string& name) {
  std::error_code ignored;
  return program_file(name, std::filesystem::read_symlink("/proc/self/exe", ignored).string());
}

std::string program_file(const std::string& name, const std::string& program) {
  const std::filesystem::path above = std::filesystem::path(program).parent_path().parent_path();
  for (const auto& path : {above / "share" / "nereus" / name, above / name}) {
    std::error_code ignored;
    if (!above.empty() && std::filesystem::exists(path, ignored)) return path.string();
  }
  return name;
}

}  // namespace nereus
