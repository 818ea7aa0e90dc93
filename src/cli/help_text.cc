#include "cli/help_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <sstream>
#include <utility>
#include <vector>

namespace nereus {
namespace {

constexpr size_t kWidth = 100, kNames = 28;  // columns: of a line, of names at most

using Row = std::pair<std::string, std::string>;  // what is typed, what it does

// "INT:INT in [1 - 64]" -> "1 to 64"; "" for a type without limits.
std::string limits(const std::string& type) {
  const size_t begin = type.find(" in ["), middle = type.find(" - ", begin);
  if (begin == std::string::npos || middle == std::string::npos) return "";
  return type.substr(begin + 5, middle - begin - 5) + " to " +
         type.substr(middle + 3, type.find(']') - middle - 3);
}

Row row_of(const CLI::Option& option) {
  const std::string type = option.get_type_name();
  std::string name = option.get_positional() ? option.get_name(true, false) : "";
  if (option.nonpositional()) {
    name = option.get_name(false, true);
    if (const size_t comma = name.find(','); comma != std::string::npos)
      name.insert(comma + 1, " ");
    if (option.get_expected_max() > 0)
      name += type.find("INT") != std::string::npos ? " N"
              : type.starts_with("FLOAT")           ? " X"
                                                    : " TEXT";
  }
  std::string notes = limits(type);
  const auto note = [&notes](const std::string& text) {
    notes += (notes.empty() ? "" : ", ") + text;
  };
  if (!option.get_default_str().empty()) note("default " + option.get_default_str());
  if (option.get_required() && option.nonpositional()) note("required");
  return {name, option.get_description() + (notes.empty() ? "" : " (" + notes + ")")};
}

std::string text_of(const std::vector<Row>& rows) {
  size_t names = 0;
  for (const auto& [name, does] : rows)
    if (name.size() <= kNames) names = std::max(names, name.size());
  const std::string indent(names + 4, ' ');
  std::string out;
  for (const auto& [name, does] : rows) {
    std::string line = fmt::format("  {:<{}}", name, names);
    if (name.size() > names) {
      out += line + "\n";
      line = std::string(names + 2, ' ');
    }
    line += " ";
    std::istringstream words(does);
    for (std::string word; words >> word;) {
      if (line.size() + 1 + word.size() > kWidth && line.size() > indent.size()) {
        out += line + "\n";
        line = indent.substr(1);
      }
      line += " " + word;
    }
    out += line + "\n";
  }
  return out;
}

}  // namespace

std::string called_name(const std::string& name) {
  const std::string own = "nereus ";
  const bool renamed = std::string(program_invocation_short_name) == "llmb-run";
  return renamed && name.starts_with(own) ? "llmb-run " + name.substr(own.size()) : name;
}

std::string HelpText::make_help(const CLI::App* app, std::string name, CLI::AppFormatMode) const {
  std::string usage = called_name(name);
  std::vector<Row> arguments, options, commands;
  std::optional<Row> help;
  for (const CLI::Option* option : app->get_options()) {
    if (option == app->get_help_ptr()) {
      help = {"-h, --help", "this text"};
      continue;
    }
    (option->nonpositional() ? options : arguments).push_back(row_of(*option));
  }
  for (const CLI::App* command : app->get_subcommands({}))
    commands.emplace_back(command->get_name(), command->get_description());
  if (!commands.empty()) usage += app->get_require_subcommand_min() > 0 ? " COMMAND" : " [COMMAND]";
  for (const CLI::Option* option : app->get_options())
    if (!option->nonpositional()) {
      const std::string typed = option->get_name(true, false);
      const std::string all = typed + (option->get_expected_max() > 1 ? "..." : "");
      usage += " " + (option->get_required() ? all : "[" + all + "]");
    }
  usage += " [OPTIONS]";
  std::string out = app->get_description();
  while (out.ends_with('\n')) out.pop_back();
  out += fmt::format("\n\nUsage: {}\n\n", usage);
  if (!commands.empty()) out += text_of(commands) + "\n";
  arguments.insert(arguments.end(), options.begin(), options.end());
  if (help) arguments.push_back(*help);
  out += text_of(arguments);
  if (!app->get_footer().empty()) out += "\n" + app->get_footer() + "\n";
  if (!commands.empty())
    out += fmt::format("\n`{} COMMAND --help` has the options of a command.\n", called_name(name));
  return out;
}

}  // namespace nereus
