// Reading TOML: the only file that sees toml++.
#include <toml++/toml.h>

#include <algorithm>
#include <cctype>
#include <set>
#include <sstream>

#include "base/check.h"
#include "base/suggest.h"
#include "config/load.h"
#include "config/other_names.h"
#include "config/set_value.h"

namespace nereus {
namespace {

std::string class_name(std::string section) {
  const size_t dot = section.rfind('.');
  if (dot != std::string::npos) section = section.substr(dot + 1);
  std::string out;
  bool upper = true;
  for (const char c : section) {
    if (c == '_') {
      upper = true;
    } else {
      out += upper ? static_cast<char>(std::toupper(static_cast<unsigned char>(c))) : c;
      upper = false;
    }
  }
  return out.empty() ? "JobConfig" : out;
}

std::string text_of(const toml::node& node) {
  std::stringstream out;
  node.visit([&](const auto& n) { out << n; });
  std::string text = out.str();
  if (const auto* s = node.as_string()) text = '"' + s->get() + '"';
  return text;
}

class Reader {
 public:
  Reader(const std::string& file, LoadedConfig& into)
      : file_(file), into_(into), keys_(keys(into.config)) {}

  void read(const toml::table& table, const std::string& prefix) {
    for (const auto& [name, node] : table) {
      const std::string path =
          prefix.empty() ? std::string(name.str()) : prefix + "." + std::string(name.str());
      const std::string where = fmt::format("{}:{}", file_, node.source().begin.line);
      if (const Key* key = find_key(keys_, path); key != nullptr) {
        if (!key->old_name.empty() && into_.origin.count(key->name) > 0)
          fail_both_names(*key, where);
        if (path == key->old_name) into_.notices.push_back(renamed_notice(*key, where));
        set(*key, node, where);
        check_value(*key, where);
        into_.origin[key->name] = where;
      } else {
        NEREUS_CHECK(kConfig, node.is_table(), "{}: {} = {}: [{}] is a table of keys, not a value",
                     where, path, text_of(node), path);
        read(*node.as_table(), path);
      }
    }
  }

  // Throws for the names that are no keys, all of the file.
  void check_names(const toml::table& table) {
    collect_unknown(table, "");
    if (unknown_.empty()) return;
    std::stable_sort(unknown_.begin(), unknown_.end(),
                     [](const Unknown& a, const Unknown& b) { return a.line < b.line; });
    std::string sentences, lines;
    std::vector<std::pair<std::string, Strings>> by_class;  // TorchTitan's sentence for each
    for (const Unknown& u : unknown_) {
      auto it = std::find_if(by_class.begin(), by_class.end(),
                             [&](const auto& c) { return c.first == u.of; });
      if (it == by_class.end()) it = by_class.insert(it, {u.of, {}});
      const std::string name = "'" + u.name + "'";
      if (std::find(it->second.begin(), it->second.end(), name) == it->second.end())
        it->second.push_back(name);
      lines += fmt::format("  {}:{}: {}\n", file_, u.line, u.message);
    }
    for (const auto& [of, names] : by_class)
      sentences +=
          fmt::format("Invalid field names in {} data: {{{}}}.\n", of, fmt::join(names, ", "));
    NEREUS_FAIL(kConfig, "{}{}  Correct or remove {}; docs/configuration.md lists every key.",
                sentences, lines, unknown_.size() == 1 ? "it" : "them");
  }

 private:
  bool is_section(const std::string& path) const {
    return std::any_of(keys_.begin(), keys_.end(), [&](const Key& k) {
      return k.name.size() > path.size() && k.name.starts_with(path) && k.name[path.size()] == '.';
    });
  }

  struct Unknown {
    std::string of, name;  // in TorchTitan's sentence: Training, seq_length
    int64_t line;
    std::string message;
  };

  void collect_unknown(const toml::table& table, const std::string& prefix) {
    for (const auto& [key, node] : table) {
      const std::string name(key.str()), path = prefix.empty() ? name : prefix + "." + name;
      if (find_key(keys_, path) != nullptr) continue;
      if (!is_section(path)) {
        add_unknown(prefix, name, node, {class_name(prefix), name});
      } else if (node.is_table()) {
        collect_unknown(*node.as_table(), path);
      }
    }
  }

  // Of a section that TorchTitan has and that is in several places here, each key.
  void add_unknown(const std::string& prefix, const std::string& name, const toml::node& node,
                   const std::pair<std::string, std::string>& sentence) {
    const std::string path = prefix.empty() ? name : prefix + "." + name;
    const auto* table = node.as_table();
    if (table != nullptr && std::any_of(table->begin(), table->end(), [&](const auto& item) {
          return is_other_name(path + "." + std::string(item.first.str()));
        })) {
      for (const auto& [inner, value] : *table)
        add_unknown(path, std::string(inner.str()), value, sentence);
      return;
    }
    std::string advice = other_name_advice(keys_, path, false);
    if (advice.empty()) {
      std::set<std::string> here;  // names valid at this place
      for (const Key& k : keys_) {
        if (!prefix.empty() && !k.name.starts_with(prefix + ".")) continue;
        const std::string rest = prefix.empty() ? k.name : k.name.substr(prefix.size() + 1);
        here.insert(rest.substr(0, rest.find('.')));
      }
      std::string near = nearest(name, Strings(here.begin(), here.end()));
      if (near.empty()) near = same_last_name(keys_, name);
      if (!near.empty()) advice = fmt::format("; did you mean {}?", near);
    }
    const std::string what =
        node.is_table()
            ? fmt::format("[{}] is not a section", path)
            : fmt::format("{}{} = {} is not a key", prefix.empty() ? "" : "[" + prefix + "] ", name,
                          text_of(node));
    unknown_.push_back({sentence.first, sentence.second, node.source().begin.line, what + advice});
  }

  void set(const Key& key, const toml::node& node, const std::string& where) const {
    std::visit([&](const auto& target) { assign_to(key, node, where, target); }, key.target);
  }
  template <class T>
  void assign_to(const Key& key, const toml::node& node, const std::string& where,
                 T* target) const {
    assign(key, node, where, *target);
  }
  void assign_to(const Key& key, const toml::node& node, const std::string& where,
                 const Choice& choice) const {
    Strings words;
    if (choice.form == Choice::Form::list) {
      assign(key, node, where, words);
    } else {
      std::string text;
      assign(key, node, where, text);
      if (choice.form == Choice::Form::one || !text.empty()) words = {text};
    }
    set_words(key, choice, words, where);
  }

  void assign(const Key& key, const toml::node& node, const std::string& where, bool& out) const {
    if (!node.is_boolean()) fail_type(key, text_of(node), where);
    out = node.as_boolean()->get();
  }
  void assign(const Key& key, const toml::node& node, const std::string& where,
              int64_t& out) const {
    if (!node.is_integer()) fail_type(key, text_of(node), where);
    out = node.as_integer()->get();
  }
  void assign(const Key& key, const toml::node& node, const std::string& where, double& out) const {
    if (node.is_integer()) {
      out = static_cast<double>(node.as_integer()->get());
    } else if (node.is_floating_point()) {
      out = node.as_floating_point()->get();
    } else {
      fail_type(key, text_of(node), where);
    }
  }
  void assign(const Key& key, const toml::node& node, const std::string& where,
              std::string& out) const {
    if (!node.is_string()) fail_type(key, text_of(node), where);
    out = node.as_string()->get();
  }
  template <class T>
  void assign(const Key& key, const toml::node& node, const std::string& where,
              std::vector<T>& out) const {
    // TorchTitan's fqns may be one string.
    if (key.name.ends_with(".fqns") && node.is_string())
      return set_from_text(key, node.as_string()->get(), where, false);
    if (!node.is_array()) fail_type(key, text_of(node), where);
    out.clear();
    for (const toml::node& item : *node.as_array()) {
      T value{};
      assign(key, item, where, value);
      out.push_back(std::move(value));
    }
  }
  template <class T>
  void assign(const Key& key, const toml::node& node, const std::string& where,
              std::optional<T>& out) const {
    T value{};
    assign(key, node, where, value);
    out = std::move(value);
    drop_empty(out);
  }

  const std::string& file_;
  LoadedConfig& into_;
  std::vector<Key> keys_;
  std::vector<Unknown> unknown_;
};

}  // namespace

void read_toml(const std::string& text, const std::string& file_name, LoadedConfig& into) {
  toml::table table;
  try {
    table = toml::parse(text, file_name);
  } catch (const toml::parse_error& e) {
    NEREUS_FAIL(kConfig, "Error while loading config file: {}\n  {}:{}:{}: {}", file_name,
                file_name, e.source().begin.line, e.source().begin.column, e.description());
  }
  Reader reader(file_name, into);
  reader.check_names(table);
  reader.read(table, "");
}

}  // namespace nereus
