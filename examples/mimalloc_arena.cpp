// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Counts the words of a file in a map that lies in an arena of its own, over a file without a name: none of it is in the
// memory of malloc, and all of it goes with the arena.
//
// usage: mimalloc_arena FILE

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <exception>
#include <expected>
#include <filesystem>
#include <functional>
#include <memory>
#include <memory_resource>
#include <new>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

import fmmap.core;
import fmmap.pmr;
import fmmap.pmr.mimalloc;

namespace {

using word_counts = std::pmr::unordered_map<std::pmr::string, std::size_t>;

void count_words(std::string_view text, word_counts& counts) {
  constexpr std::string_view blanks = " \t\r\n";
  for (auto at = text.find_first_not_of(blanks); at < text.size(); at = text.find_first_not_of(blanks, at)) {
    auto const end = std::min(text.find_first_of(blanks, at), text.size());
    ++counts[std::pmr::string{text.substr(at, end - at)}];
    at = end;
  }
}

} // namespace

auto main(int argc, char** argv) -> int try {
  if (argc != 2) {
    std::fputs("usage: mimalloc_arena FILE\n", stderr);
    return 2;
  }
  auto const text = fmmap::or_throw(fmmap::file_view::open(argv[1]));
  auto const arena = fmmap::or_throw(fmmap::mimalloc_resource::temporary(".", std::size_t{256} << 20));
  word_counts counts{arena.get()};
  try {
    count_words({reinterpret_cast<char const*>(text.bytes().data()), text.bytes().size()}, counts);
  } catch (fmmap::allocation_error const& full) {
    std::fprintf(stderr, "%s\n", full.what());
    return 1;
  }
  std::printf("%zu words in %zu of %zu bytes\n", counts.size(), arena->stats().used_bytes, arena->storage().size());

  // The containers of std::pmr that nobody gives a resource have mimalloc's ordinary heap from here on.
  std::pmr::set_default_resource(fmmap::mimalloc_upstream_resource());
  std::pmr::vector<std::pair<std::size_t, std::string_view>> sorted;
  for (auto const& [word, count] : counts) {
    sorted.emplace_back(count, word);
  }
  std::ranges::sort(sorted, std::greater{});
  for (auto const& [count, word] : std::span{sorted}.first(std::min<std::size_t>(5, sorted.size()))) {
    std::printf("%6zu %.*s\n", count, static_cast<int>(word.size()), word.data());
  }
  return 0;
} catch (std::exception const& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
