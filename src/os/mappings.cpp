// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <expected>
#include <span>
#include <string_view>

module fmmap.os;

import :mappings;

namespace fmmap::os {

namespace {

// Hands a file of /proc over piece by piece.
template <class Take>
auto read_all(char const* path, Take take) noexcept -> outcome<void> {
  auto const file = retry([&] { return open(working_directory, path, {}, 0); });
  if (!file) {
    return std::unexpected(file.error());
  }
  std::array<std::byte, 16'384> piece{};
  auto got = retry([&] { return read(*file, piece); });
  for (; got && *got > 0; got = retry([&] { return read(*file, piece); })) {
    take(std::string_view{reinterpret_cast<char const*>(piece.data()), *got});
  }
  auto const closed = close(*file);
  return got ? closed : std::unexpected(got.error());
}

} // namespace

auto count_mappings_left() noexcept -> outcome<std::size_t> {
  auto most = default_mappings;
  auto done = read_all("/proc/sys/vm/max_map_count", [&](std::string_view text) {
    (void)std::from_chars(text.data(), text.data() + text.size(), most);
  });
  std::size_t now = 0;
  if (done) {
    done = read_all("/proc/self/maps",
                    [&](std::string_view text) { now += static_cast<std::size_t>(std::ranges::count(text, '\n')); });
  }
  if (!done) {
    return std::unexpected(done.error());
  }
  auto const usable = most - (most / 8);
  return usable > now ? usable - now : 0;
}

} // namespace fmmap::os
