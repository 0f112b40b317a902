// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <ranges>
#include <span>

export module fmmap.core:chunks;

import :error;
import :range;

export namespace fmmap {

/// Bytes in pieces of the same length, the last of which may be shorter. The pieces live as long as the bytes do.
class chunks : public std::ranges::view_interface<chunks> {
public:
  class iterator {
  public:
    using value_type = std::span<std::byte const>;
    using difference_type = std::ptrdiff_t;
    using iterator_concept = std::forward_iterator_tag;
    using iterator_category = std::input_iterator_tag;

    iterator() noexcept = default;

    [[nodiscard]] inline auto operator*() const noexcept -> std::span<std::byte const> {
      return rest_.first(std::min(length_, rest_.size()));
    }
    inline auto operator++() noexcept -> iterator& {
      rest_ = rest_.subspan(std::min(length_, rest_.size()));
      return *this;
    }
    inline auto operator++(int) noexcept -> iterator {
      auto const before = *this;
      ++*this;
      return before;
    }

    /// Of iterators of one sequence.
    [[nodiscard]] inline auto operator==(iterator const& other) const noexcept -> bool {
      return rest_.size() == other.rest_.size();
    }
    [[nodiscard]] inline auto operator==(std::default_sentinel_t) const noexcept -> bool { return rest_.empty(); }

  private:
    friend chunks;
    inline iterator(std::span<std::byte const> rest, std::size_t length) noexcept : rest_{rest}, length_{length} {}

    std::span<std::byte const> rest_;
    std::size_t length_ = 0;
  };

  chunks() noexcept = default;

  /// Divides `bytes` into pieces of `length` bytes. Throws `system_error` with `errc::invalid_options` for a length of 0: a
  /// range has no other way to say so.
  inline chunks(std::span<std::byte const> bytes, std::size_t length) : bytes_{bytes}, length_{length} {
    if (length == 0) {
      throw_error(error::make(make_error_code(errc::invalid_options), "divide", {},
                              {{.offset = 0, .length = bytes.size()}}, "a chunk has at least one byte"));
    }
  }

  [[nodiscard]] inline auto size() const noexcept -> std::size_t {
    return (bytes_.size() / length_) + (bytes_.size() % length_ == 0 ? 0 : 1);
  }
  [[nodiscard]] inline auto begin() const noexcept -> iterator { return {bytes_, length_}; }
  [[nodiscard]] inline auto end() const noexcept -> std::default_sentinel_t { return {}; }

private:
  std::span<std::byte const> bytes_;
  std::size_t length_ = 1;
};

} // namespace fmmap

template <>
inline constexpr bool std::ranges::enable_borrowed_range<fmmap::chunks> = true;
