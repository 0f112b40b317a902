// SPDX-License-Identifier: MIT OR Apache-2.0
//
// The two lower layers: a file of 8 GiB that is nearly all hole, and a mapping of a few bytes of it: sparse_window [FILE]

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <expected>
#include <filesystem>
#include <span>
#include <vector>

import fmmap;

auto main(int argc, char** argv) -> int try {
  std::filesystem::path const path{argc > 1 ? argv[1] : "sparse_window.data"};
  std::filesystem::remove(path);
  constexpr std::uint64_t size = std::uint64_t{8} << 30;
  constexpr fmmap::byte_range part{.offset = size - 100'000, .length = 50'000}; // aligned to nothing

  auto file = fmmap::or_throw(fmmap::file::create_new(path));
  fmmap::or_throw(file.resize(size));   // a hole: no blocks, and a store there can end in SIGBUS on a full disk
  fmmap::or_throw(file.allocate(part)); // real blocks, or std::errc::no_space_on_device now

  auto window = fmmap::or_throw(fmmap::mapping::map(file, {.access = fmmap::access::read_write, .range = part}));
  std::ranges::fill(window.writable_bytes(), std::byte{7});
  fmmap::or_throw(window.flush());

  for (auto const& data : fmmap::or_throw(file.data_ranges())) {
    std::printf("%zu bytes of data at %llu\n", data.length, static_cast<unsigned long long>(data.offset));
  }
  auto const about = fmmap::or_throw(file.metadata());
  std::printf("%llu of %llu bytes have blocks\n", static_cast<unsigned long long>(about.allocated_bytes),
              static_cast<unsigned long long>(about.size));

  fmmap::or_throw(file.punch_hole(part)); // the blocks go, the size stays, the bytes read as zero
  fmmap::or_throw(file.remove());         // the name goes, durably; the handle and the mapping stay
  return window.bytes().front() == std::byte{0} ? 0 : 1;
} catch (fmmap::system_error const& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
