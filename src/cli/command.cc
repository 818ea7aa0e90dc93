#include "cli/command.h"

#include "base/check.h"
#include "base/suggest.h"
#include "cli/help_text.h"

namespace nereus {
namespace {

// Names of options and subcommands, of the subcommand that was reached too.
std::vector<std::string> names_of(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) names.push_back(option->get_name());
  for (const CLI::App* sub : app.get_subcommands({})) {
    names.push_back(sub->get_name());
    for (const CLI::Option* option : sub->get_options()) names.push_back(option->get_name());
  }
  return names;
}

}  // namespace

std::optional<int> parse_command(CLI::App& app, int argc, char** argv) {
  const auto help = std::make_shared<HelpText>();
  app.formatter(help);
  for (CLI::App* sub : app.get_subcommands({})) sub->formatter(help);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp& e) {
    return app.exit(e);
  } catch (const CLI::CallForAllHelp& e) {
    return app.exit(e);
  } catch (const CLI::ParseError& e) {
    std::string near;
    for (int i = 1; i < argc && near.empty(); ++i) {
      const std::string word = std::string(argv[i]).substr(0, std::string(argv[i]).find('='));
      const std::vector<std::string> names = names_of(app);
      if (std::find(names.begin(), names.end(), word) == names.end()) near = nearest(word, names);
    }
    NEREUS_FAIL(kConfig, "{}: {}{}\n  `{} --help` shows the usage.", called_name(app.get_name()),
                e.what(), near.empty() ? "" : fmt::format("; did you mean {}?", near),
                called_name(app.get_name()));
  }
  return std::nullopt;
}

}  // namespace nereus
