// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

export module fmmap.core:number;

namespace fmmap {

// Strict dialects have these types too, but neither name them without a warning nor count them among the integers.
// NOLINTBEGIN(modernize-use-using): a using-declaration does not take __extension__
__extension__ typedef __int128 signed_128;
__extension__ typedef unsigned __int128 unsigned_128;
// NOLINTEND(modernize-use-using)

template <class T, class... Others>
concept any_of = (std::same_as<T, Others> || ...);

} // namespace fmmap

export namespace fmmap {

/// An integer or floating-point number that can be stored in a byte order: those of 128 bits too, whatever the dialect.
///
/// Not `bool`, because not every byte is one, nor `long double`, whose bytes are not all its value.
template <class T>
concept number = (std::is_arithmetic_v<T> || any_of<T, signed_128, unsigned_128>) &&
                 std::same_as<T, std::remove_cv_t<T>> && !any_of<T, bool, long double>;

/// What can be copied from and to a file byte for byte. Not pointers, which mean nothing outside the process, nor `bool`;
/// that no member is one of these is the program's to see to.
template <class T>
concept plain_data = std::is_trivially_copyable_v<T> && std::is_object_v<T> && std::same_as<T, std::remove_cv_t<T>> &&
                     !std::is_array_v<T> && !std::is_pointer_v<T> && !std::is_member_pointer_v<T> && !any_of<T, bool>;

} // namespace fmmap

namespace fmmap {

// Whether `length` bytes at `offset` lie within `size`.
constexpr auto fits_within(std::size_t size, std::uint64_t offset, std::size_t length) noexcept -> bool {
  return length <= size && offset <= size - length;
}

template <number T>
constexpr auto with_bytes_swapped(T value) noexcept -> T {
  if constexpr (sizeof(T) == 16) {
    auto const halves = std::bit_cast<std::array<std::uint64_t, 2>>(value);
    return std::bit_cast<T>(std::array{std::byteswap(halves[1]), std::byteswap(halves[0])});
  } else {
    using bits =
        std::conditional_t<sizeof(T) == 1, std::uint8_t,
                           std::conditional_t<sizeof(T) == 2, std::uint16_t,
                                              std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>>>;
    return std::bit_cast<T>(std::byteswap(std::bit_cast<bits>(value)));
  }
}

// A number with its bytes in another order, or out of it: the same either way.
template <number T>
constexpr auto in_order(T value, std::endian order) noexcept -> T {
  return order == std::endian::native ? value : with_bytes_swapped(value);
}

// The bytes of `count` objects; more than there can be where that overflows.
template <class T>
constexpr auto bytes_of_objects(std::size_t count) noexcept -> std::size_t {
  return count > SIZE_MAX / sizeof(T) ? SIZE_MAX : count * sizeof(T);
}

template <plain_data T>
auto load(std::byte const* from) noexcept -> T {
  std::array<std::byte, sizeof(T)> bytes;
  std::memcpy(bytes.data(), from, sizeof(T));
  return std::bit_cast<T>(bytes);
}

template <plain_data T>
void store(std::byte* to, T const& value) noexcept {
  std::memmove(to, &value, sizeof(T)); // the value may lie in the file too
}

// Whether a T can lie there.
template <class T>
auto is_aligned_for(std::byte const* at) noexcept -> bool {
  return reinterpret_cast<std::uintptr_t>(at) % alignof(T) == 0;
}

} // namespace fmmap
