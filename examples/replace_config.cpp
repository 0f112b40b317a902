// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Sets a value in a file of "key = value" lines: replace_config FILE KEY VALUE
//
// Readers see the old file or the new one, never a mixture, and so does whoever looks after a crash.

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <expected>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>

import fmmap;

namespace {

// The content of the file with the line of `key` changed, or added at the end.
auto with_value(std::filesystem::path const& path, std::string const& key, std::string const& value) -> std::string {
  auto const setting = key + " = " + value + '\n';
  auto const old = fmmap::file_view::open(path);
  if (!old) {
    if (old.error() == std::errc::no_such_file_or_directory) {
      return setting;
    }
    fmmap::throw_error(old.error());
  }
  std::string text;
  bool found = false;
  for (std::string_view line : fmmap::lines(old->bytes())) {
    if (line.starts_with(key + " = ")) {
      text += setting;
      found = true;
    } else {
      text.append(line).append("\n");
    }
  }
  return found ? text : text + setting;
}

} // namespace

auto main(int argc, char** argv) -> int try {
  if (argc != 4) {
    std::fputs("usage: replace_config FILE KEY VALUE\n", stderr);
    return 2;
  }
  auto const path = argv[1];
  auto const text = with_value(path, argv[2], argv[3]);
  auto const fill = [&](std::span<std::byte> content) { std::memcpy(content.data(), text.data(), text.size()); };
  fmmap::or_throw(fmmap::replace_file(path, text.size(), fill));
  std::fputs(text.c_str(), stdout);
  return 0;
} catch (fmmap::system_error const& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
