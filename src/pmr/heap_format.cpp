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

import fmmap.alloc;
import fmmap.core;
import :heap_format;

namespace fmmap::heap_format {

namespace {

template <class T>
constexpr auto shape_of(std::string_view name) -> trait {
  return {.name = name, .value = (std::uint64_t{sizeof(T)} << 8U) | alignof(T), .is_shape = true};
}

template <class T>
auto hash_of(std::string_view name, T const& value) -> trait {
  return {.name = name, .value = std::hash<T>{}(value), .is_shape = false};
}

auto text_of(std::uint64_t value, bool is_shape) -> std::string {
  return is_shape ? std::to_string(value >> 8U) + " bytes aligned to " + std::to_string(value & 0xffU)
                  : std::to_string(value);
}

} // namespace

auto traits() -> std::array<trait, trait_count> const& {
  using namespace std::string_view_literals;
  struct with_bits {
    std::uint32_t a : 3;
    std::uint32_t b : 7;
  };
  // Standard libraries differ in some of these shapes, and in what they make of a hash.
  static std::array<trait, trait_count> const all{{
      {.name = "the byte order", .value = std::endian::native == std::endian::little ? 1U : 2U, .is_shape = false},
      {.name = "the size of a page", .value = system_page_size(), .is_shape = false},
      shape_of<void*>("a pointer"),
      shape_of<std::size_t>("std::size_t"),
      shape_of<long>("long"),
      shape_of<long double>("long double"),
      shape_of<wchar_t>("wchar_t"),
      shape_of<std::max_align_t>("std::max_align_t"),
      shape_of<with_bits>("bit-fields"),
      shape_of<std::pmr::string>("std::pmr::string"),
      shape_of<std::pmr::vector<int>>("std::pmr::vector"),
      shape_of<std::pmr::vector<bool>>("std::pmr::vector<bool>"),
      shape_of<std::pmr::deque<int>>("std::pmr::deque"),
      shape_of<std::pmr::list<int>>("std::pmr::list"),
      shape_of<std::pmr::map<int, int>>("std::pmr::map"),
      shape_of<std::pmr::unordered_map<int, int>>("std::pmr::unordered_map"),
      shape_of<std::optional<int>>("std::optional"),
      shape_of<std::variant<int, double>>("std::variant"),
      shape_of<std::tuple<char, int, char>>("std::tuple"),
      hash_of("what std::hash makes of strings", "fmmap"sv),
      hash_of("what std::hash makes of integers", std::uint64_t{0x0123'4567'89ab'cdef}),
      hash_of("what std::hash makes of doubles", 0.1),
      hash_of("what std::hash makes of long strings", "what is longer than sixteen bytes"sv),
  }};
  return all;
}

auto has_possible_addresses(heap_header const& header) noexcept -> bool {
  constexpr std::uint64_t address_limit = std::uint64_t{1} << 56;
  return header.slot % huge_page == 0 && header.slot != 0 && header.slot < address_limit &&
         header.reserve % alloc::chunk_bytes == 0 && header.reserve != 0 && header.reserve < address_limit;
}

auto is_possible_end(heap_header const& header, layout const& where, std::uint64_t file_bytes) noexcept -> bool {
  auto const content = where.content_bytes(file_bytes);
  return content % page_bytes == 0 && content != 0 && content <= header.reserve &&
         where.file_bytes(content) == file_bytes;
}

auto describe_difference(trait const& here, std::uint64_t there) -> std::string {
  return std::string{here.name} + " differs: " + text_of(there, here.is_shape) + " there, " +
         text_of(here.value, here.is_shape) + " here";
}

} // namespace fmmap::heap_format
