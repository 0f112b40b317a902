// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Prints bytes of a file without reading the rest of it: hex_dump FILE [OFFSET [LENGTH]]

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <expected>
#include <filesystem>
#include <ranges>
#include <span>
#include <string_view>
#include <system_error>

import fmmap;

namespace {

constexpr std::size_t row_size = 16;

auto parse(std::string_view text, auto& number) -> bool {
  auto const [end, why] = std::from_chars(text.data(), text.data() + text.size(), number);
  return why == std::errc{} && end == text.data() + text.size();
}

void print_row(std::uint64_t offset, std::span<std::byte const> row) {
  std::printf("%08llx ", static_cast<unsigned long long>(offset));
  for (auto const byte : row) {
    std::printf(" %02x", std::to_integer<unsigned>(byte));
  }
  std::putchar('\n');
}

auto dump(std::filesystem::path const& path, std::uint64_t offset, std::size_t length) -> fmmap::result<void> {
  auto const file = fmmap::mapped_file::open(path);
  if (!file) {
    return std::unexpected(file.error());
  }
  auto const part = file->bytes({.offset = offset, .length = length}); // checked: errc::out_of_range past the end
  if (!part) {
    return std::unexpected(part.error());
  }
  for (auto const row : fmmap::chunks(*part, row_size)) {
    print_row(offset, row);
    offset += row.size();
  }
  return {};
}

} // namespace

auto main(int argc, char** argv) -> int {
  std::uint64_t offset = 0;
  std::size_t length = fmmap::to_end;
  if (argc < 2 || argc > 4 || (argc > 2 && !parse(argv[2], offset)) || (argc > 3 && !parse(argv[3], length))) {
    std::fputs("usage: hex_dump FILE [OFFSET [LENGTH]]\n", stderr);
    return 2;
  }
  if (auto const done = dump(argv[1], offset, length); !done) {
    std::fprintf(stderr, "%s\n", done.error().message().c_str());
    return 1;
  }
  return 0;
}
