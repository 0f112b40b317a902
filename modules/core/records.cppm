// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <compare>
#include <cstddef>
#include <iterator>
#include <ranges>
#include <span>

export module fmmap.core:records;

import :number;

export namespace fmmap {

/// Bytes as a sequence of objects of one type, each copied out as it is asked for, so that they need not be aligned.
///
/// What follows the last whole object is not part of the sequence: `rest` has it. Lives as long as the bytes do.
template <plain_data T>
class records : public std::ranges::view_interface<records<T>> {
public:
  class iterator {
  public:
    using value_type = T;
    using difference_type = std::ptrdiff_t;
    using iterator_concept = std::random_access_iterator_tag;
    using iterator_category = std::input_iterator_tag; // it gives copies

    iterator() noexcept = default;

    [[nodiscard]] auto operator*() const noexcept -> T { return load<T>(at_); }
    [[nodiscard]] auto operator[](difference_type n) const noexcept -> T { return *(*this + n); }

    auto operator++() noexcept -> iterator& { return *this += 1; }
    auto operator--() noexcept -> iterator& { return *this += -1; }
    auto operator++(int) noexcept -> iterator {
      auto const before = *this;
      ++*this;
      return before;
    }
    auto operator--(int) noexcept -> iterator {
      auto const before = *this;
      --*this;
      return before;
    }
    auto operator+=(difference_type n) noexcept -> iterator& {
      at_ += n * step;
      return *this;
    }
    auto operator-=(difference_type n) noexcept -> iterator& { return *this += -n; }

    [[nodiscard]] friend auto operator+(iterator from, difference_type n) noexcept -> iterator { return from += n; }
    [[nodiscard]] friend auto operator+(difference_type n, iterator from) noexcept -> iterator { return from += n; }
    [[nodiscard]] friend auto operator-(iterator from, difference_type n) noexcept -> iterator { return from -= n; }
    [[nodiscard]] friend auto operator-(iterator a, iterator b) noexcept -> difference_type {
      return (a.at_ - b.at_) / step;
    }
    [[nodiscard]] auto operator==(iterator const&) const noexcept -> bool = default;
    [[nodiscard]] auto operator<=>(iterator const&) const noexcept -> std::strong_ordering = default;

  private:
    friend records;
    static constexpr auto step = static_cast<difference_type>(sizeof(T));

    explicit iterator(std::byte const* at) noexcept : at_{at} {}

    std::byte const* at_ = nullptr;
  };

  records() noexcept = default;
  explicit records(std::span<std::byte const> bytes) noexcept : bytes_{bytes} {}

  [[nodiscard]] auto size() const noexcept -> std::size_t { return bytes_.size() / sizeof(T); }
  [[nodiscard]] auto begin() const noexcept -> iterator { return iterator{bytes_.data()}; }
  [[nodiscard]] auto end() const noexcept -> iterator { return iterator{bytes_.data() + (size() * sizeof(T))}; }

  /// The bytes after the last whole object.
  [[nodiscard]] auto rest() const noexcept -> std::span<std::byte const> { return bytes_.subspan(size() * sizeof(T)); }

private:
  std::span<std::byte const> bytes_;
};

} // namespace fmmap

template <class T>
inline constexpr bool std::ranges::enable_borrowed_range<fmmap::records<T>> = true;
