// A printed configuration reads back as the configuration it was printed from.
#include <gmock/gmock.h>
#include <rapidcheck.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <type_traits>

#include "config/load.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

// Any text that TOML can hold: printable, quotes, control characters, two-byte characters.
std::string any_text() {
  const auto pieces = *rc::gen::container<std::vector<std::string>>(
      rc::gen::element<std::string>("a", "Z", "0", " ", "\"", "'", "\\", "#", "=", "[", "]", "\n",
                                    "\t", "\x01", "\x7f", "\xc3\xa9", "\\u0041", ","));
  std::string out;
  for (const std::string& piece : pieces) out += piece;
  return out;
}

// A value that the key's row allows.
void draw(const Key&, bool& out) { out = *rc::gen::arbitrary<bool>(); }
void draw(const Key& key, int64_t& out) {
  const int64_t least = key.minimum < 0 ? -1000 : key.minimum;
  out = *rc::gen::inRange<int64_t>(least, std::min<int64_t>(least + 1000000, key.maximum));
  if (key.or_minus_one && *rc::gen::arbitrary<bool>()) out = -1;
}
void draw(const Key& key, double& out) {
  const int part = *rc::gen::inRange(1, 1 << 30);
  out = part * std::pow(10.0, *rc::gen::inRange(-30, 20));
  if (*rc::gen::inRange(0, 8) == 0) out = 0;
  if (out > key.highest) out = key.highest / 3;
  if (out < key.lowest || (key.above_lowest && out == key.lowest)) out = key.lowest + 1.0 / part;
}
void draw(const Key& key, std::string& out) {
  out = key.allowed.empty() ? any_text() : *rc::gen::elementOf(key.allowed);
}
template <class T>
void draw(const Key& key, std::vector<T>& out) {
  out.resize(static_cast<size_t>(*rc::gen::inRange(0, 4)));
  for (T& item : out) draw(key, item);
}
template <class T>
void draw(const Key& key, std::optional<T>& out) {
  if (*rc::gen::arbitrary<bool>()) {
    draw(key, out.emplace());
  } else {
    out.reset();
  }
  if constexpr (std::is_same_v<T, std::string>)
    if (out && out->empty()) out.reset();  // an empty text is no value
}

template <class T>
void draw_into(const Key& key, T* target) {
  draw(key, *target);
}
void draw_into(const Key& key, const Choice& choice) {
  const int least = choice.form == Choice::Form::one ? 1 : 0;
  const int most = choice.form == Choice::Form::list ? 4 : 2;
  Strings words(static_cast<size_t>(*rc::gen::inRange(least, most)));
  for (std::string& w : words) draw(key, w);
  choice.set_words(words);
}

std::vector<std::string> values(JobConfig config) {
  std::vector<std::string> all;
  for (const Key& key : keys(config)) all.push_back(key.name + " = " + value_text(key));
  return all;
}

TEST(PrintConfig, ReadsBackAsTheSameConfiguration) {
  EXPECT_TRUE(rc::check("print_config round trip", [] {
    LoadedConfig printed, read;
    for (const Key& key : keys(printed.config)) {
      if (*rc::gen::inRange(0, 4) != 0) continue;
      std::visit([&](const auto& target) { draw_into(key, target); }, key.target);
      printed.origin[key.name] = any_text();  // a file may be called anything
    }
    read_toml(print_config(printed), "printed.toml", read);
    RC_ASSERT(values(read.config) == values(printed.config));
  }));
}

TEST(SaveConfig, WritesAllKeysAsTorchTitansJson) {
  const test::TemporaryFolder folder;
  JobConfig config;
  config.training.seq_len = 77;
  config.job.save_config_file = "a/config.json";
  const std::string path = folder.file("a/config.json");
  save_config(config, path);
  const nlohmann::json json = nlohmann::json::parse(test::read_file(path));
  EXPECT_EQ(json["training"]["seq_len"], 77);
  EXPECT_EQ(json["job"]["save_config_file"], "a/config.json");
  EXPECT_EQ(json["quantize"]["linear"]["float8"]["filter_fqns"],
            config.quantize.linear.float8.filter_fqns);
  EXPECT_TRUE(json["training"]["seed"].is_null());
  EXPECT_EQ(json["optimizer"]["lr"], config.optimizer.lr);
  size_t count = 0;
  for (const Key& key : keys(config)) {
    std::string pointer = "/" + key.name;
    std::replace(pointer.begin(), pointer.end(), '.', '/');
    EXPECT_TRUE(json.contains(nlohmann::json::json_pointer(pointer))) << key.name;
    ++count;
  }
  EXPECT_GT(count, 132u);
}

TEST(PrintConfig, SaysWhereEachValueCameFrom) {
  const test::TemporaryFolder folder;
  const std::string file = folder.write("c.toml", "[training]\nsteps = 3\n");
  TrainFlags flags;
  const std::string text =
      print_config(load_config(std::vector<std::string>{file, "--training.seq_len=64"}, flags));
  EXPECT_THAT(text, testing::HasSubstr("steps = 3  # " + file + ":2\n"));
  EXPECT_THAT(text, testing::HasSubstr("seq_len = 64  # command line\n"));
  EXPECT_THAT(text, testing::HasSubstr("local_batch_size = 8  # default\n"));
  EXPECT_THAT(text, testing::HasSubstr("# seed = None  # default\n"));
}

}  // namespace
}  // namespace nereus
