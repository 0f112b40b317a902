// SPDX-License-Identifier: MIT OR Apache-2.0
//
// The first screen of README: appends to a file, changes it in place, makes that durable, reads it: first_look [FILE]

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <expected>
#include <filesystem>
#include <span>
#include <string_view>

import fmmap;

auto main(int argc, char** argv) -> int try {
  std::filesystem::path const path{argc > 1 ? argv[1] : "first_look.data"};
  std::filesystem::remove(path);
  constexpr std::string_view text{"one\ntwo\nthree\n"};

  auto log = fmmap::or_throw(fmmap::mutable_mapped_file::open(path, {.reserve = std::size_t{1} << 30}));
  auto const at = fmmap::or_throw(log.append(std::as_bytes(std::span{text}))); // the file grows, the address stays
  log.writable_bytes()[at] = std::byte{'O'};                                   // a store into the file
  fmmap::or_throw(log.flush());                                                // now it survives a power failure

  auto const view = fmmap::or_throw(fmmap::file_view::open(path)); // small files are read, larger ones mapped
  for (std::string_view line : fmmap::lines(view.bytes())) {
    std::printf("%zu bytes: %.*s\n", line.size(), static_cast<int>(line.size()), line.data());
  }

  auto const missing = fmmap::mapped_file::open("missing.bin"); // no exception unless or_throw is asked for one
  if (!missing) {
    std::puts(missing.error().message().c_str()); // cannot open "missing.bin": No such file or directory
  }

  fmmap::or_throw(log.remove());
  return 0;
} catch (fmmap::system_error const& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
