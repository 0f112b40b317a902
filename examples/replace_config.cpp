// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Sets a value in a file of "key = value" lines and keeps all else as it is: replace_config FILE KEY VALUE
//
// Readers see the old file or the new one, never a mixture, and so does whoever looks after a crash. To be shown it, with
// a thread that reads a file all the time while another replaces it: replace_config --demo NEW_FILE
//
// Of two programs that do so at once one can lose what the other has set: that takes a lock around both.

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <expected>
#include <filesystem>
#include <ranges>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <vector>

import fmmap;

namespace {

// The content of the file with the value of `key` changed, or with a line for it at the end.
auto with_value(std::filesystem::path const& path, std::string const& key, std::string const& value) -> std::string {
  auto const setting = key + " = " + value;
  auto const old = fmmap::file_view::open(path);
  if (!old) {
    if (old.error() == std::errc::no_such_file_or_directory) {
      return setting + '\n';
    }
    fmmap::throw_error(old.error());
  }
  auto const old_text = old->text();
  std::string text;
  std::size_t copied = 0; // other lines go over with whatever they end in
  for (std::string_view line : fmmap::lines(old_text)) {
    if (line.starts_with(key + " = ")) {
      auto const at = static_cast<std::size_t>(line.data() - old_text.data());
      text.append(old_text.substr(copied, at - copied)).append(setting);
      copied = at + line.size();
    }
  }
  text.append(old_text.substr(copied));
  if (copied == 0) {
    text.append(text.empty() || text.ends_with('\n') ? "" : "\n").append(setting).append("\n");
  }
  return text;
}

auto set_value(std::filesystem::path const& path, std::string const& key, std::string const& value) -> std::string {
  auto const text = with_value(path, key, value);
  auto const fill = [&](std::span<std::byte> content) { std::memcpy(content.data(), text.data(), text.size()); };
  fmmap::or_throw(fmmap::replace_file(path, text.size(), fill)); // keeps permissions and owner
  return text;
}

constexpr std::string_view other_lines = "colour = blue\r\n# a comment\n\n";

// The file as version `version` of it is. Each has another length, and its number all over.
auto version_text(unsigned version) -> std::string {
  std::string text{other_lines};
  text += "value =";
  for (unsigned i = 0; i < 5000 + version * 20; ++i) {
    text += ' ' + std::to_string(version);
  }
  return text + '\n';
}

auto value_of(std::string const& text) -> std::string {
  auto const begin = other_lines.size() + std::string_view{"value = "}.size();
  return text.substr(begin, text.size() - begin - 1);
}

struct sightings {
  std::size_t reads = 0;
  std::size_t versions = 0; // different ones
  bool whole = true;        // each was one that was written, and none older than the one before
};

// Reads the file all the time.
void watch(std::stop_token const& stop, std::filesystem::path const& path, std::span<std::string const> texts,
           sightings& seen) {
  for (auto last = texts.begin(); !stop.stop_requested() && seen.whole; ++seen.reads) {
    auto const view = fmmap::file_view::open(path);
    auto const version = view ? std::find(last, texts.end(), view->text()) : texts.end();
    seen.whole = version != texts.end();
    seen.versions += version > last ? 1 : 0;
    last = version;
  }
}

// Replaces a file many times while another thread reads it. Returns whether all is as it should be.
auto demonstrate(std::filesystem::path const& path) -> bool {
  std::vector<std::string> texts;
  for (unsigned version = 0; version <= 300; ++version) {
    texts.push_back(version_text(version));
  }
  auto file = fmmap::or_throw(fmmap::file::create_new(path, {.permissions = 0640}));
  fmmap::or_throw(file.write_at(0, std::as_bytes(std::span{texts.front()})));
  auto const before = fmmap::or_throw(file.metadata());

  sightings seen;
  std::jthread watcher{[&](std::stop_token const& stop) { watch(stop, path, texts, seen); }};
  for (auto const& text : texts | std::views::drop(1)) {
    set_value(path, "value", value_of(text));
  }
  watcher.request_stop();
  watcher.join();
  auto after = fmmap::or_throw(fmmap::file::open(path));
  auto const about = fmmap::or_throw(after.metadata());
  auto const kept =
      about.permissions == before.permissions && about.owner == before.owner && about.group == before.group;
  fmmap::or_throw(after.remove());
  std::printf("%zu replacements, %zu reads of %zu versions: %s; mode and owner %s\n", texts.size() - 1, seen.reads,
              seen.versions, seen.whole ? "all whole" : "A MIXTURE", kept ? "kept" : "CHANGED");
  return seen.whole && kept;
}

// A line of its own, with one " = ", is all the file can hold.
auto is_setting(std::string_view key, std::string_view value) -> bool {
  return !key.empty() && !key.contains('=') && !key.contains('\n') && !value.contains('\n');
}

} // namespace

auto main(int argc, char** argv) -> int try {
  if (argc == 3 && std::string_view{argv[1]} == "--demo") {
    return demonstrate(argv[2]) ? 0 : 1;
  }
  if (argc != 4 || !is_setting(argv[2], argv[3])) {
    std::fputs("usage: replace_config FILE KEY VALUE, of one line each and no '=' in KEY\n"
               "       replace_config --demo NEW_FILE\n",
               stderr);
    return 2;
  }
  std::fputs(set_value(argv[1], argv[2], argv[3]).c_str(), stdout);
  return 0;
} catch (fmmap::system_error const& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
