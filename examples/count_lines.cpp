// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Counts the lines of a file without copying it: count_lines FILE

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <expected>
#include <ranges>
#include <span>
#include <string_view>

import fmmap;

auto main(int argc, char** argv) -> int {
  if (argc != 2) {
    std::fputs("usage: count_lines FILE\n", stderr);
    return 2;
  }
  auto const view = fmmap::file_view::open(argv[1]); // small files are read, others mapped
  if (!view) {
    std::fprintf(stderr, "%s\n", view.error().message().c_str());
    return 1;
  }
  std::size_t count = 0;
  std::size_t longest = 0;
  for (std::string_view line : fmmap::lines(view->bytes())) {
    ++count;
    longest = std::max(longest, line.size());
  }
  std::printf("%zu lines, the longest of %zu bytes, in %zu bytes %s\n", count, longest, view->bytes().size(),
              view->is_mapped() ? "mapped" : "read");
  return 0;
}
