// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Maps a file and prints its size.

#include <cstddef>
#include <cstdio>
#include <expected>
#include <span>
#include <string>

import fmmap.core;

auto main(int argc, char** argv) -> int {
  if (argc != 2) {
    std::fputs("usage: consumer FILE\n", stderr);
    return 2;
  }
  auto const file = fmmap::mapped_file::open(argv[1]);
  if (!file) {
    std::fprintf(stderr, "%s\n", file.error().message().c_str());
    return 1;
  }
  std::printf("%zu\n", file->bytes().size());
  return 0;
}
