// Reads YAML, with error messages that name the file and line. For .cc files only: yaml-cpp is a
// slow header.
#pragma once

#include <yaml-cpp/yaml.h>

#include <map>
#include <string>
#include <vector>

#include "base/check.h"

namespace nereus::recipe {

class YamlFile {
 public:
  // `what` in messages: "cluster configuration". Throws Error{kConfig} for a file that cannot be
  // read or is not a map.
  YamlFile(const std::string& path, const std::string& what);

  const YAML::Node& root() const { return root_; }
  const std::string& path() const { return path_; }

  // "PATH:LINE: MESSAGE" as an Error{kConfig}; without the line for a node that is not there.
  [[noreturn]] void fail(const YAML::Node& at, const std::string& message) const;

  // Members of a map by name; `where` is the map's own name in messages, "slurm.gpu". A key that is
  // not there, or null, gives "" (text) or an empty map or list.
  YAML::Node map(const YAML::Node& parent, const std::string& where, const std::string& key) const;
  std::string text(const YAML::Node& parent, const std::string& where,
                   const std::string& key) const;
  std::string required_text(const YAML::Node& parent, const std::string& where,
                            const std::string& key) const;
  std::vector<std::string> texts(const YAML::Node& parent, const std::string& where,
                                 const std::string& key) const;
  std::map<std::string, std::string> strings(const YAML::Node& parent, const std::string& where,
                                             const std::string& key) const;

 private:
  void check_keys(const YAML::Node& node) const;  // no key twice

  std::string path_;
  YAML::Node root_;
};

// Who may read a file that is written: whom the umask lets, or its owner alone, from the first byte
// on.
enum class Readers { all, owner };

// Replaces the file in one step, so that a reader sees the old one or the new one. Throws
// Error{kConfig}: the folder, and why.
void write_file(const std::string& path, const std::string& text, Readers = Readers::all);

}  // namespace nereus::recipe
