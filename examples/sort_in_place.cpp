// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Sorts a file in place that is larger than the memory the program may have: sort_in_place [DIRECTORY [MIB [LIMIT_MIB]]]
//
// The limit is RLIMIT_DATA, which counts the memory that is the process's own: the heap and other private mappings that
// can be written. The pages of a mapped file are the file's: the system writes them back and takes them away when it needs
// the memory. RLIMIT_AS would not do, it counts addresses, those of the mapped file too.

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <expected>
#include <new>
#include <random>
#include <span>
#include <string_view>
#include <system_error>
#include <vector>

#include <sys/resource.h>

import fmmap;

namespace {

// The same for the same numbers in any order, and hardly for others.
auto checksum(std::span<std::uint64_t const> numbers) -> std::uint64_t {
  std::uint64_t sum = 0;
  for (auto const number : numbers) {
    auto const mixed = (number ^ (number >> 31)) * 0x9e37'79b9'7f4a'7c15;
    sum += mixed ^ (mixed >> 29);
  }
  return sum;
}

auto fits_into_a_vector(std::size_t count) -> bool {
  try {
    std::vector<std::uint64_t> const copy(count);
    std::uint64_t const volatile& looked_at = copy.back(); // else the compiler leaves the vector out
    return looked_at == 0;
  } catch (std::bad_alloc const&) {
    return false;
  }
}

auto parse(std::string_view text, std::size_t& mebibytes) -> bool {
  auto const [end, why] = std::from_chars(text.data(), text.data() + text.size(), mebibytes);
  return why == std::errc{} && end == text.data() + text.size() && mebibytes > 0 && mebibytes <= (std::size_t{1} << 28);
}

} // namespace

auto main(int argc, char** argv) -> int try {
  std::size_t size = 64;
  std::size_t limit = 16;
  if (argc > 4 || (argc > 2 && !parse(argv[2], size)) || (argc > 3 && !parse(argv[3], limit))) {
    std::fputs("usage: sort_in_place [DIRECTORY [MIB [LIMIT_MIB]]]\n", stderr);
    return 2;
  }
  rlimit const own{.rlim_cur = limit << 20, .rlim_max = limit << 20};
  if (::setrlimit(RLIMIT_DATA, &own) != 0) {
    std::perror("setrlimit");
    return 1;
  }
  // Without a name, the file is gone when the program is, however it ends.
  auto file = fmmap::or_throw(fmmap::mutable_mapped_file::temporary(argc > 1 ? argv[1] : ".", {.size = size << 20}));
  auto const numbers = fmmap::or_throw(file.writable_view<std::uint64_t>());
  auto const fits = fits_into_a_vector(numbers.size());
  std::printf("a file of %zu MiB, %zu MiB of memory: a vector of all numbers %s\n", size, limit,
              fits ? "fits" : "does not fit");
  if (fits && limit < size) {
    std::puts("NOT LIMITED");
    return 1;
  }

  std::ranges::generate(numbers, std::mt19937_64{std::random_device{}()});
  auto const before = checksum(numbers);
  std::ranges::sort(numbers);
  fmmap::or_throw(file.flush());

  auto const sorted = std::ranges::is_sorted(numbers);
  auto const same = checksum(numbers) == before;
  std::printf("%zu numbers: %s, %s\n", numbers.size(), sorted ? "sorted" : "NOT SORTED",
              same ? "none lost" : "CHANGED");
  auto const status = fmmap::or_throw(fmmap::file_view::open("/proc/self/status"));
  for (std::string_view line : fmmap::lines(status.bytes())) {
    if (line.starts_with("RssAnon") || line.starts_with("RssFile") || line.starts_with("RssShmem")) {
      std::printf("%.*s\n", static_cast<int>(line.size()), line.data());
    }
  }
  return sorted && same ? 0 : 1;
} catch (fmmap::system_error const& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
