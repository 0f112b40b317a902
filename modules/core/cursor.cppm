// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <span>
#include <string_view>
#include <type_traits>

export module fmmap.core:cursor;

import :error;
import :number;
import :range;

namespace fmmap {

// The error of an access to `range` of memory `size` bytes long, with the name of the file it belongs to. The range is
// counted from `base` on in the error.
[[nodiscard, gnu::cold]] auto outside(std::string_view operation, std::string_view path, byte_range range,
                                      std::uint64_t size, std::uint64_t base = 0) -> std::unexpected<error>;

// The error of a view of memory where no T can lie.
[[nodiscard, gnu::cold]] auto misaligned(std::string_view path, byte_range range, std::size_t alignment)
    -> std::unexpected<error>;

// A position in a run of bytes: what reading and writing have in common.
template <class Byte>
class cursor {
public:
  /// In bytes, from the start of what the cursor goes over.
  [[nodiscard]] inline auto position() const noexcept -> std::uint64_t { return position_; }

  /// Bytes between the position and the end.
  [[nodiscard]] inline auto remaining() const noexcept -> std::size_t { return bytes_.size() - position_; }

  /// Bytes the cursor goes over.
  [[nodiscard]] inline auto size() const noexcept -> std::size_t { return bytes_.size(); }

  [[nodiscard]] inline auto at_end() const noexcept -> bool { return remaining() == 0; }

  /// Goes to `position`; the end is one. Errors: `errc::out_of_range`; the position is then as before.
  [[nodiscard]] inline auto seek(std::uint64_t position) -> result<void> {
    if (position > bytes_.size()) [[unlikely]] {
      return outside("seek to", path_, {.offset = position, .length = 0}, bytes_.size(), base_);
    }
    position_ = static_cast<std::size_t>(position);
    return {};
  }

  /// Goes `length` bytes on. Errors: `errc::out_of_range`; the position is then as before.
  [[nodiscard]] inline auto skip(std::size_t length) -> result<void> {
    if (length > remaining()) [[unlikely]] {
      return outside_here("skip", length);
    }
    position_ += length;
    return {};
  }

protected:
  cursor() noexcept = default;
  inline cursor(std::span<Byte> bytes, std::string_view path, std::uint64_t base) noexcept
      : bytes_{bytes}, path_{path}, base_{base} {}

  // The next `length` bytes, which are then behind the position; null when there are not so many.
  [[nodiscard]] inline auto take(std::size_t length) noexcept -> Byte* {
    if (length > remaining()) [[unlikely]] {
      return nullptr;
    }
    auto* const begin = bytes_.data() + position_;
    position_ += length;
    return begin;
  }

  [[nodiscard, gnu::cold]] inline auto outside_here(std::string_view operation, std::size_t length) const
      -> std::unexpected<error> {
    return outside(operation, path_, exactly(position_, length), bytes_.size(), base_);
  }

  std::span<Byte> bytes_;
  std::size_t position_ = 0;
  std::string_view path_;
  std::uint64_t base_ = 0; // where the bytes begin in what `path_` names, for messages
};

} // namespace fmmap

export namespace fmmap {

/// Reads bytes one after the other. What fails leaves the position where it was.
///
/// Thread safety: one thread at a time. Invalidated by: what ends the bytes it reads, or the object that made it.
class byte_reader : public cursor<std::byte const> {
public:
  /// A reader of nothing.
  byte_reader() noexcept = default;

  /// Reads `bytes`. In errors they are bytes of `path` from `base` on.
  inline explicit byte_reader(std::span<std::byte const> bytes, std::string_view path = {},
                              std::uint64_t base = 0) noexcept
      : cursor{bytes, path, base} {}

  /// The next `sizeof(T)` bytes as they are in memory, aligned or not. Errors: `errc::out_of_range`.
  template <plain_data T>
  [[nodiscard]] auto read() -> result<T> {
    auto const* const from = take(sizeof(T));
    if (from == nullptr) [[unlikely]] {
      return outside_here("read", sizeof(T));
    }
    return load<T>(from);
  }

  /// The next number, stored with its least significant byte first. Errors: `errc::out_of_range`.
  template <number T>
  [[nodiscard]] auto read_le() -> result<T> {
    return read_number<T>(std::endian::little);
  }

  /// The next number, stored with its most significant byte first. Errors: `errc::out_of_range`.
  template <number T>
  [[nodiscard]] auto read_be() -> result<T> {
    return read_number<T>(std::endian::big);
  }

  /// The next `length` bytes, where they lie. Errors: `errc::out_of_range`.
  [[nodiscard]] inline auto bytes(std::size_t length) -> result<std::span<std::byte const>> {
    if (length > remaining()) [[unlikely]] {
      return outside_here("view", length);
    }
    return std::span{take(length), length};
  }

  /// The next `count` objects, where they lie. Errors: `errc::out_of_range`; `errc::misaligned`.
  template <plain_data T>
  [[nodiscard]] auto view(std::size_t count) -> result<std::span<T const>> {
    if (count > remaining() / sizeof(T)) [[unlikely]] {
      return outside_here("view", bytes_of_objects<T>(count));
    }
    if (count == 0) {
      return std::span<T const>{};
    }
    auto const* const from = bytes_.data() + position_;
    if (!is_aligned_for<T>(from)) [[unlikely]] {
      return misaligned(path_, {.offset = base_ + position_, .length = count * sizeof(T)}, alignof(T));
    }
    position_ += count * sizeof(T);
    return std::span{reinterpret_cast<T const*>(from), count};
  }

  /// Copies the next bytes. Returns how many: fewer than asked only at the end.
  inline auto read_some(std::span<std::byte> out) noexcept -> std::size_t {
    auto const count = std::min(out.size(), remaining());
    if (count > 0) {
      std::memmove(out.data(), take(count), count);
    }
    return count;
  }

  /// Copies the next bytes, all of them. Errors: `errc::out_of_range`; nothing is copied then.
  [[nodiscard]] inline auto read_exactly(std::span<std::byte> out) -> result<void> {
    if (out.size() > remaining()) [[unlikely]] {
      return outside_here("read", out.size());
    }
    read_some(out);
    return {};
  }

  /// The bytes up to the next `delimiter` and with it, or up to the end where there is none.
  [[nodiscard]] inline auto read_until(std::byte delimiter) noexcept -> std::span<std::byte const> {
    auto const left = rest();
    auto const before = static_cast<std::size_t>(std::ranges::find(left, delimiter) - left.begin());
    auto const length = std::min(before + 1, left.size());
    return {take(length), length};
  }

  /// What is left, without going on.
  [[nodiscard]] inline auto rest() const noexcept -> std::span<std::byte const> { return bytes_.subspan(position_); }

private:
  template <number T>
  [[nodiscard]] auto read_number(std::endian order) -> result<T> {
    auto value = read<T>();
    if (value) [[likely]] {
      *value = in_order(*value, order);
    }
    return value;
  }
};

/// Writes bytes one after the other, over those that are there: it never makes a file longer. What fails writes nothing and
/// leaves the position where it was.
///
/// Thread safety: one thread at a time. Invalidated by: what ends the bytes it writes, or the object that made it.
class byte_writer : public cursor<std::byte> {
public:
  /// A writer of nothing.
  byte_writer() noexcept = default;

  /// Writes `bytes`. In errors they are bytes of `path` from `base` on.
  inline explicit byte_writer(std::span<std::byte> bytes, std::string_view path = {}, std::uint64_t base = 0) noexcept
      : cursor{bytes, path, base} {}

  /// Writes the bytes of `value` as they are in memory. Errors: `errc::out_of_range`.
  template <plain_data T>
  [[nodiscard]] auto write(std::type_identity_t<T> const& value) -> result<void> {
    auto* const to = take(sizeof(T));
    if (to == nullptr) [[unlikely]] {
      return outside_here("write", sizeof(T));
    }
    store<T>(to, value);
    return {};
  }

  /// Writes a number, its least significant byte first. Errors: `errc::out_of_range`.
  template <number T>
  [[nodiscard]] auto write_le(std::type_identity_t<T> value) -> result<void> {
    return write<T>(in_order(value, std::endian::little));
  }

  /// Writes a number, its most significant byte first. Errors: `errc::out_of_range`.
  template <number T>
  [[nodiscard]] auto write_be(std::type_identity_t<T> value) -> result<void> {
    return write<T>(in_order(value, std::endian::big));
  }

  /// Writes as many bytes as there is room for. Returns how many.
  inline auto write_some(std::span<std::byte const> in) noexcept -> std::size_t {
    auto const count = std::min(in.size(), remaining());
    if (count > 0) {
      std::memmove(take(count), in.data(), count);
    }
    return count;
  }

  /// Writes all of `in`. Errors: `errc::out_of_range`.
  [[nodiscard]] inline auto write_exactly(std::span<std::byte const> in) -> result<void> {
    if (in.size() > remaining()) [[unlikely]] {
      return outside_here("write", in.size());
    }
    write_some(in);
    return {};
  }

  /// What is left, without going on.
  [[nodiscard]] inline auto rest() const noexcept -> std::span<std::byte> { return bytes_.subspan(position_); }
};

} // namespace fmmap
