// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory_resource>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <variant>
#include <vector>

module fmmap.pmr;

import fmmap.core;
import :heap_format;

namespace fmmap::heap_format {

namespace {

// Standard libraries differ in some of these shapes, and in what they make of a hash.
template <class T>
constexpr auto shape_of() -> std::uint64_t {
  return (std::uint64_t{sizeof(T)} << 8) | alignof(T);
}

} // namespace

auto traits() -> std::array<trait, trait_count> const& {
  using namespace std::string_view_literals;
  struct with_bits {
    std::uint32_t a : 3;
    std::uint32_t b : 7;
  };
  static std::array<trait, trait_count> const all{{
      {"the byte order", static_cast<std::uint64_t>(std::endian::native == std::endian::little ? 1 : 2)},
      {"the size of a page", system_page_size()},
      {"the size of a pointer", shape_of<void*>()},
      {"the size of std::size_t", shape_of<std::size_t>()},
      {"the size of long", shape_of<long>()},
      {"the size of long double", shape_of<long double>()},
      {"the size of wchar_t", shape_of<wchar_t>()},
      {"the alignment of std::max_align_t", shape_of<std::max_align_t>()},
      {"the size of bit-fields", shape_of<with_bits>()},
      {"the size of std::pmr::string", shape_of<std::pmr::string>()},
      {"the size of std::pmr::vector", shape_of<std::pmr::vector<int>>()},
      {"the size of std::pmr::vector<bool>", shape_of<std::pmr::vector<bool>>()},
      {"the size of std::pmr::deque", shape_of<std::pmr::deque<int>>()},
      {"the size of std::pmr::list", shape_of<std::pmr::list<int>>()},
      {"the size of std::pmr::map", shape_of<std::pmr::map<int, int>>()},
      {"the size of std::pmr::unordered_map", shape_of<std::pmr::unordered_map<int, int>>()},
      {"the size of std::optional", shape_of<std::optional<int>>()},
      {"the size of std::variant", shape_of<std::variant<int, double>>()},
      {"the size of std::tuple", shape_of<std::tuple<char, int, char>>()},
      {"what std::hash makes of strings", std::hash<std::string_view>{}("fmmap")},
      {"what std::hash makes of integers", std::hash<std::uint64_t>{}(0x0123'4567'89ab'cdef)},
      {"what std::hash makes of doubles", std::hash<double>{}(0.1)},
      {"what std::hash makes of long strings", std::hash<std::string_view>{}("what is longer than sixteen bytes"sv)},
  }};
  return all;
}

} // namespace fmmap::heap_format
