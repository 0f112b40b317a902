// SPDX-License-Identifier: MIT OR Apache-2.0
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

// Numbers and bytes, put together byte by byte: what the library's own arithmetic is held against.

template <std::size_t Size>
using bits_of_size = std::conditional_t<
    Size == 1, std::uint8_t,
    std::conditional_t<
        Size == 2, std::uint16_t,
        std::conditional_t<Size == 4, std::uint32_t, std::conditional_t<Size == 8, std::uint64_t, unsigned __int128>>>>;

// The number whose bytes these are, the most significant one last or first.
template <class T>
auto number_from(std::span<std::byte const> bytes, std::endian order) -> T {
  unsigned __int128 value = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i) {
    auto const next = bytes[order == std::endian::big ? i : sizeof(T) - 1 - i];
    value = value << 8 | std::to_integer<unsigned>(next);
  }
  return std::bit_cast<T>(static_cast<bits_of_size<sizeof(T)>>(value));
}

// The object that has these bytes in memory.
template <class T>
auto object_from(std::span<std::byte const> bytes) -> T {
  T value;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

inline auto same_bytes(std::span<std::byte const> a, std::span<std::byte const> b) -> bool {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size()) == 0);
}

// Whether an object has these bytes; not ==, which NaN is not to itself.
template <class T>
auto has_bytes(T const& value, std::span<std::byte const> bytes) -> bool {
  return same_bytes(std::as_bytes(std::span{&value, 1}), bytes.first(std::min(sizeof value, bytes.size())));
}
