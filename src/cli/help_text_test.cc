#include "cli/help_text.h"

#include <gtest/gtest.h>

#include <cerrno>

#include "cli/command.h"

namespace nereus {
namespace {

TEST(HelpText, IsLikeThatOfTheCommandsWrittenByHand) {
  CLI::App app("Downloads things.\n", "nereus download");
  std::string folder;
  int workers = 4;
  bool dry_run = false;
  app.add_option("job", folder, "what to take")->required();
  app.add_option("-d,--dir", folder, "folder");
  app.add_option("--workers", workers, "files at once")
      ->capture_default_str()
      ->check(CLI::Range(1, 64));
  app.add_flag("--dry-run", dry_run, "print what is missing, and stop");
  app.add_option("--an-option-with-a-name-that-is-long", folder,
                 "which has a description of so many words that it goes on in the next line, below "
                 "where it began");
  app.footer("A word at the end.");
  std::vector<char*> argv = {const_cast<char*>("download"), const_cast<char*>("--help")};
  testing::internal::CaptureStdout();
  EXPECT_EQ(parse_command(app, 2, argv.data()), 0);
  EXPECT_EQ(
      testing::internal::GetCapturedStdout(),
      "Downloads things.\n"
      "\n"
      "Usage: nereus download job [OPTIONS]\n"
      "\n"
      "  job             what to take\n"
      "  -d, --dir TEXT  folder\n"
      "  --workers N     files at once (1 to 64, default 4)\n"
      "  --dry-run       print what is missing, and stop\n"
      "  --an-option-with-a-name-that-is-long TEXT\n"
      "                  which has a description of so many words that it goes on in the next "
      "line, below\n"
      "                  where it began\n"
      "  -h, --help      this text\n"
      "\n"
      "A word at the end.\n");
}

TEST(HelpText, CommandsBelowAreListedAndHaveTheSameForm) {
  int id = 0;
  const auto help = [&](std::vector<std::string> words) {
    CLI::App app("Shows jobs.", "nereus jobs");
    app.require_subcommand(0, 1);
    CLI::App* log = app.add_subcommand("log", "print a log");
    log->add_option("job", id, "job id")->required();
    words.insert(words.begin(), "jobs");
    std::vector<char*> argv;
    for (std::string& w : words) argv.push_back(w.data());
    testing::internal::CaptureStdout();
    parse_command(app, static_cast<int>(argv.size()), argv.data());
    return testing::internal::GetCapturedStdout();
  };
  EXPECT_EQ(help({"--help"}),
            "Shows jobs.\n\nUsage: nereus jobs [COMMAND] [OPTIONS]\n\n  log  print a log\n\n"
            "  -h, --help  this text\n\n"
            "`nereus jobs COMMAND --help` has the options of a command.\n");
  EXPECT_EQ(help({"log", "--help"}),
            "print a log\n\nUsage: nereus jobs log job [OPTIONS]\n\n  job         job id\n"
            "  -h, --help  this text\n");
}

// Under the recipe's name.
TEST(HelpText, CallsACommandAsItWasCalled) {
  EXPECT_EQ(called_name("nereus submit"), "nereus submit");
  char name[] = "llmb-run";
  char* const before = program_invocation_short_name;
  program_invocation_short_name = name;
  EXPECT_EQ(called_name("nereus submit"), "llmb-run submit");
  program_invocation_short_name = before;
}

}  // namespace
}  // namespace nereus
