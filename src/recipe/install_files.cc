#include "recipe/install_files.h"

#include <unistd.h>

#include <filesystem>

#include "base/atomic_file.h"
#include "base/check.h"

namespace nereus::recipe {
namespace {

namespace fs = std::filesystem;

void check(const std::error_code& error, const std::string& what) {
  NEREUS_CHECK(kConfig, !error, "{}: {}.", what, error.message());
}

void copy_contents(const std::string& from, const std::string& to) {
  std::error_code error;
  fs::copy_file(from, to, error);
  check(error, fmt::format("{} cannot be copied to {}", from, to));
}

// `made` takes the place of whatever `to` is.
void replace(const std::string& made, const std::string& to) {
  std::error_code error;
  // A folder with something in it does not give way to a rename, nor a file to a folder.
  const bool aside = fs::exists(fs::symlink_status(to, error)) &&
                     (fs::is_directory(fs::symlink_status(to, error)) ||
                      fs::is_directory(fs::symlink_status(made, error)));
  const std::string old = aside ? fmt::format("{}.{}.old", to, ::getpid()) : "";
  check(put_in_place(made, to, old), to);
  if (aside) fs::remove_all(old, error);  // not what another node has open, over NFS
}

}  // namespace

void make_link(const std::string& target, const std::string& to) {
  std::error_code error;
  const PartialPath made(to);
  fs::create_symlink(target, made.path(), error);
  check(error, made.path());
  replace(made.path(), to);
}

void copy_file(const std::string& from, const std::string& to) {
  std::error_code error;
  if (fs::equivalent(from, to, error) && !fs::is_symlink(to, error)) return;
  const PartialPath made(to);
  copy_contents(from, made.path());
  replace(made.path(), to);
}

void copy_folder(const std::string& from, const std::string& to) {
  std::error_code error;
  if (fs::equivalent(from, to, error) && !fs::is_symlink(to, error)) return;
  const PartialPath made(to);
  fs::create_directories(made.path(), error);
  check(error, made.path());
  // Not fs::copy: it gives the folders their modes first, and cannot write to those of a source
  // that is read-only.
  constexpr auto kFollow = fs::directory_options::follow_directory_symlink;
  for (fs::recursive_directory_iterator it(from, kFollow, error), end; !error && it != end;
       it.increment(error)) {
    const std::string copy = made.path() / fs::path(it->path()).lexically_relative(from);
    if (std::error_code ignored; !it->is_directory(ignored)) {
      copy_contents(it->path().string(), copy);
      continue;
    }
    fs::create_directory(copy, error);
    check(error, copy);
  }
  check(error, fmt::format("{} cannot be read", from));
  replace(made.path(), to);
}

}  // namespace nereus::recipe
