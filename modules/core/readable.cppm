// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

export module fmmap.core:readable;

import :cursor;
import :error;
import :file;
import :number;
import :range;

namespace fmmap {

// The first error of a range that is to be read: the handle is closed, or the range does not lie within it.
[[nodiscard, gnu::cold]] inline auto unreadable(auto const& from, std::string_view operation, byte_range range)
    -> std::unexpected<error> {
  if (!from.is_open()) {
    return std::unexpected(error::make(make_error_code(errc::closed), operation));
  }
  return outside(operation, from.path(), range, from.bytes().size());
}

// `range` with its length counted out where it reaches to the end; unchanged where it does not lie within `size` bytes.
constexpr auto counted_out(byte_range range, std::size_t size) noexcept -> byte_range {
  if (range.length == to_end && range.offset <= size) {
    range.length = size - static_cast<std::size_t>(range.offset);
  }
  return range;
}

// Creates a file at `path`, which must not exist, with these bytes, or none.
[[nodiscard]] auto copy_to_file(std::span<std::byte const> bytes, std::filesystem::path const& path,
                                clone_options const& options) -> result<void>;

} // namespace fmmap

export namespace fmmap {

/// Reading the bytes of a file from memory, checked: what `mapped_file`, `mutable_mapped_file` and `file_view` have in common.
///
/// Offsets are in bytes from the start of what was opened. Nothing needs to be aligned, except for `view`.
///
/// Reading bytes that another process has cut off the file raises SIGBUS; see `guarded`.
///
/// Errors, of every function: `errc::out_of_range`, naming what was asked for and what there is; `errc::closed`.
class readable {
protected:
  readable() noexcept = default;
  readable(readable const&) noexcept = default;
  readable(readable&&) noexcept = default;
  auto operator=(readable const&) noexcept -> readable& = default;
  auto operator=(readable&&) noexcept -> readable& = default;
  ~readable() = default;

public:
  /// `length` bytes at `offset`, where they lie. `to_end` is a length like any other here: it may have come from a file.
  [[nodiscard]] auto bytes(this auto const& self, std::uint64_t offset, std::size_t length)
      -> result<std::span<std::byte const>> {
    std::span<std::byte const> const all = self.bytes();
    if (!fits_within(all.size(), offset, length) || !self.is_open()) [[unlikely]] {
      return unreadable(self, "view", exactly(offset, length));
    }
    return all.subspan(static_cast<std::size_t>(offset), length);
  }

  /// The bytes of `range`, where they lie.
  [[nodiscard]] auto bytes(this auto const& self, byte_range range) -> result<std::span<std::byte const>> {
    return self.part("view", range);
  }

  /// All bytes, as text. Ends as a span of them does.
  [[nodiscard]] auto text(this auto const& self) noexcept -> std::string_view {
    std::span<std::byte const> const all = self.bytes();
    return {reinterpret_cast<char const*>(all.data()), all.size()};
  }

  /// The `sizeof(T)` bytes at `offset` as they are in memory.
  template <plain_data T>
  [[nodiscard]] auto read(this auto const& self, std::uint64_t offset) -> result<T> {
    std::span<std::byte const> const all = self.bytes();
    if (!fits_within(all.size(), offset, sizeof(T))) [[unlikely]] {
      return unreadable(self, "read", {.offset = offset, .length = sizeof(T)});
    }
    return load<T>(all.data() + offset);
  }

  /// The number at `offset`, stored with its least significant byte first.
  template <number T>
  [[nodiscard]] auto read_le(this auto const& self, std::uint64_t offset) -> result<T> {
    return self.template number_at<T>(offset, std::endian::little);
  }

  /// The number at `offset`, stored with its most significant byte first.
  template <number T>
  [[nodiscard]] auto read_be(this auto const& self, std::uint64_t offset) -> result<T> {
    return self.template number_at<T>(offset, std::endian::big);
  }

  /// `count` objects from `offset` on, where they lie.
  ///
  /// Errors: `errc::misaligned` where no T can lie in memory, unless the count is 0; `read` has no such limit.
  template <plain_data T>
  [[nodiscard]] auto view(this auto const& self, std::uint64_t offset, std::size_t count)
      -> result<std::span<T const>> {
    return self.template objects_at<T>(offset, bytes_of_objects<T>(count));
  }

  /// All objects from `offset` to the end, where they lie; the last has to be whole. Errors: as with a count.
  template <plain_data T>
  [[nodiscard]] auto view(this auto const& self, std::uint64_t offset = 0) -> result<std::span<T const>> {
    return self.template objects_at<T>(offset, bytes_to_end<T>(self.bytes().size(), offset));
  }

  /// Copies bytes from `offset` on. Returns how many: fewer than asked only at the end.
  auto read_at(this auto const& self, std::uint64_t offset, std::span<std::byte> out) noexcept -> std::size_t {
    std::span<std::byte const> const all = self.bytes();
    auto const count = available(offset, out.size(), all.size());
    if (count > 0) {
      std::memmove(out.data(), all.data() + offset, count);
    }
    return count;
  }

  /// Copies bytes from `offset` on, as many as `out` takes, or none.
  [[nodiscard]] auto read_exactly(this auto const& self, std::uint64_t offset, std::span<std::byte> out)
      -> result<void> {
    auto const from = self.part("read", {.offset = offset, .length = out.size()});
    if (!from) [[unlikely]] {
      return std::unexpected(from.error());
    }
    self.read_at(offset, out);
    return {};
  }

  /// A copy of the bytes of `range`.
  [[nodiscard]] auto to_vector(this auto const& self, byte_range range = whole) -> result<std::vector<std::byte>> {
    auto const from = self.part("copy", range);
    if (!from) [[unlikely]] {
      return std::unexpected(from.error());
    }
    return std::vector<std::byte>(from->begin(), from->end());
  }

  /// Copies the bytes of `range`, as they are in memory, to a file at `path` that must not exist.
  ///
  /// Errors: `std::errc::file_exists`; as `file::clone_to`; `std::errc::bad_address` when another process has cut the bytes off
  /// the file. No file is then left at `path`.
  [[nodiscard]] auto copy_to(this auto const& self, std::filesystem::path const& path, byte_range range = whole,
                             clone_options options = {}) -> result<void> {
    auto const from = self.part("copy", range);
    if (!from) [[unlikely]] {
      return std::unexpected(from.error());
    }
    return copy_to_file(*from, path, options);
  }

  /// Reads the bytes of `range` one after the other. Positions are counted from the start of the range.
  [[nodiscard]] auto reader(this auto const& self, byte_range range = whole) -> result<byte_reader> {
    auto const from = self.part("read", range);
    if (!from) [[unlikely]] {
      return std::unexpected(from.error());
    }
    return byte_reader{*from, self.path(), range.offset};
  }

protected:
  template <number T>
  [[nodiscard]] auto number_at(this auto const& self, std::uint64_t offset, std::endian order) -> result<T> {
    auto value = self.template read<T>(offset);
    if (value) [[likely]] {
      *value = in_order(*value, order);
    }
    return value;
  }

  // The bytes that `range` names.
  [[nodiscard]] auto part(this auto const& self, std::string_view operation, byte_range range)
      -> result<std::span<std::byte const>> {
    std::span<std::byte const> const all = self.bytes();
    auto const counted = counted_out(range, all.size());
    if (!fits_within(all.size(), counted.offset, counted.length) || !self.is_open()) [[unlikely]] {
      return unreadable(self, operation, range);
    }
    return all.subspan(static_cast<std::size_t>(counted.offset), counted.length);
  }

  template <plain_data T>
  [[nodiscard]] auto objects_at(this auto const& self, std::uint64_t offset, std::size_t length)
      -> result<std::span<T const>> {
    std::span<std::byte const> const all = self.bytes();
    if (!fits_within(all.size(), offset, length) || !self.is_open()) [[unlikely]] {
      return unreadable(self, "view", exactly(offset, length));
    }
    if (length == 0) {
      return std::span<T const>{};
    }
    if (!is_aligned_for<T>(all.data() + offset)) [[unlikely]] {
      return misaligned(self.path(), {.offset = offset, .length = length}, alignof(T));
    }
    return std::span{reinterpret_cast<T const*>(all.data() + offset), length / sizeof(T)};
  }

  // The bytes of the objects from `offset` to the end of `size` bytes; more than there are where the last is not whole.
  template <class T>
  [[nodiscard]] static constexpr auto bytes_to_end(std::size_t size, std::uint64_t offset) noexcept -> std::size_t {
    auto const rest = offset > size ? 0 : size - static_cast<std::size_t>(offset);
    return (rest + sizeof(T) - 1) / sizeof(T) * sizeof(T);
  }
};

} // namespace fmmap
