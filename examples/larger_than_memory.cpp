// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Keeps containers in a file that are larger than the memory the program may have: larger_than_memory [DIRECTORY [MIB [LIMIT_MIB]]]
//
// The limit is RLIMIT_DATA, which counts the memory that is the process's own. The pages of a mapped file are the file's:
// the system writes them back and takes them away when it needs the memory. RLIMIT_AS would not do, it counts addresses.

#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <expected>
#include <filesystem>
#include <memory>
#include <memory_resource>
#include <new>
#include <string_view>
#include <system_error>
#include <unordered_map>
#include <vector>

#include <sys/resource.h>

import fmmap;

namespace {

struct record {
  std::uint64_t number = 0;
  std::array<std::byte, 224> more{};
  std::uint64_t number_again = 0;
};

auto is_record(record const& one, std::uint64_t number) -> bool {
  return one.number == number && one.number_again == number;
}

// As many records as a size is large; half of it goes to the vector, half to the map, which has 16 bytes beside each.
struct counts {
  explicit counts(std::size_t size) : in_vector{size / 2 / sizeof(record)}, in_map{size / 2 / (sizeof(record) + 16)} {}

  std::size_t in_vector;
  std::size_t in_map;
};

// Whether all of it can be stored in memory from there, and is found again.
auto stores_and_finds(counts const& many, std::pmr::memory_resource* from) -> bool {
  std::pmr::vector<record> list{from};
  list.reserve(many.in_vector); // a vector that grows has its old and its new memory for a moment
  for (std::uint64_t number = 0; number < many.in_vector; ++number) {
    list.push_back({.number = number, .more = {}, .number_again = number});
  }
  std::pmr::unordered_map<std::uint64_t, record> index{from};
  for (std::uint64_t number = 0; number < many.in_map; ++number) {
    index[number * number] = {.number = number, .more = {}, .number_again = number};
  }
  bool found = true;
  for (std::uint64_t number = 0; number < many.in_map; ++number) {
    found = found && is_record(index.at(number * number), number) && is_record(list[number], number);
  }
  return found;
}

auto parse(std::string_view text, std::size_t& mebibytes) -> bool {
  auto const [end, why] = std::from_chars(text.data(), text.data() + text.size(), mebibytes);
  return why == std::errc{} && end == text.data() + text.size() && mebibytes > 0 && mebibytes <= (std::size_t{1} << 20);
}

} // namespace

auto main(int argc, char** argv) -> int try {
  std::size_t size = 256;
  std::size_t limit = 64;
  if (argc > 4 || (argc > 2 && !parse(argv[2], size)) || (argc > 3 && !parse(argv[3], limit))) {
    std::fputs("usage: larger_than_memory [DIRECTORY [MIB [LIMIT_MIB]]]\n", stderr);
    return 2;
  }
  rlimit const own{.rlim_cur = limit << 20, .rlim_max = limit << 20};
  if (::setrlimit(RLIMIT_DATA, &own) != 0) {
    std::perror("setrlimit");
    return 1;
  }
  counts const many{size << 20};
  std::printf("%zu MiB of containers, %zu MiB of memory\n", size, limit);

  try {
    (void)stores_and_finds(many, std::pmr::new_delete_resource());
    std::puts("in memory: they fit");
  } catch (std::bad_alloc const& e) {
    std::printf("in memory: %s\n", e.what());
  }

  std::filesystem::path const directory{argc > 1 ? argv[1] : "."};
  auto const resource = fmmap::or_throw(fmmap::mapped_resource::temporary(directory)); // the file has no name
  auto const found = stores_and_finds(many, resource.get());
  auto const stats = resource->stats();
  std::printf("in a file: %s; at most %zu MiB of it were used\n", found ? "all stored and found" : "LOST",
              stats.peak_bytes >> 20);

  auto const status = fmmap::or_throw(fmmap::file_view::open("/proc/self/status"));
  for (std::string_view line : fmmap::lines(status.bytes())) {
    if (line.starts_with("RssAnon") || line.starts_with("RssFile") || line.starts_with("RssShmem")) {
      std::printf("%.*s\n", static_cast<int>(line.size()), line.data());
    }
  }
  return found && stats.peak_bytes > (limit << 20) ? 0 : 1;
} catch (std::exception const& e) { // a full disk is an fmmap::allocation_error, which is a std::bad_alloc
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
