#include "base/files.h"

#include "base/check.h"

namespace nereus {

namespace fs = std::filesystem;

bool is_there(const fs::path& path) {
  std::error_code unknown;
  return fs::exists(path, unknown);
}

bool is_folder(const fs::path& path) {
  std::error_code unknown;
  return fs::is_directory(path, unknown);
}

std::string what_is_at(const fs::path& path) {
  std::error_code error;
  switch (fs::status(path, error).type()) {
    case fs::file_type::not_found:
      return "there is no such file or folder";
    case fs::file_type::none:
      return error.message();
    case fs::file_type::directory:
      return "it is a folder";
    case fs::file_type::regular:
      return "it is a file";
    default:
      return "it is neither a file nor a folder";
  }
}

std::vector<fs::directory_entry> entries_of(const fs::path& folder, std::error_code& error) {
  std::vector<fs::directory_entry> out;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
    out.push_back(*it);
  return out;
}

std::string absolute_path(const fs::path& path) {
  std::error_code error;
  const fs::path out = fs::absolute(path, error);
  NEREUS_CHECK(kConfig, !error,
               "{}: it has no place: the folder that this program was started in: {}. Change to "
               "another folder, or name it from the root on.",
               path.string(), error.message());
  return out.lexically_normal().string();
}

}  // namespace nereus
