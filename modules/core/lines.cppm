// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>
#include <cstring>
#include <iterator>
#include <ranges>
#include <span>
#include <string_view>

export module fmmap.core:lines;

export namespace fmmap {

/// The lines of a text, found one by one as they are asked for.
///
/// A line ends with a line feed, which is not part of it, nor is a carriage return before it. A last line without an end
/// counts; an empty rest after the last line feed does not. The strings view the bytes and live as long as they do.
class lines : public std::ranges::view_interface<lines> {
public:
  class iterator {
  public:
    using value_type = std::string_view;
    using difference_type = std::ptrdiff_t;
    using iterator_concept = std::forward_iterator_tag;
    using iterator_category = std::input_iterator_tag;

    iterator() noexcept = default;

    [[nodiscard]] inline auto operator*() const noexcept -> std::string_view { return {begin_, length_}; }

    inline auto operator++() noexcept -> iterator& {
      find(next_);
      return *this;
    }

    inline auto operator++(int) noexcept -> iterator {
      auto const before = *this;
      ++*this;
      return before;
    }

    [[nodiscard]] inline auto operator==(iterator const& other) const noexcept -> bool {
      return begin_ == other.begin_;
    }
    [[nodiscard]] inline auto operator==(std::default_sentinel_t) const noexcept -> bool { return begin_ == end_; }

  private:
    friend lines;

    inline iterator(char const* begin, char const* end) noexcept : end_{end} { find(begin); }

    inline void find(char const* begin) noexcept {
      begin_ = begin;
      if (begin == end_) {
        return;
      }
      auto const rest = static_cast<std::size_t>(end_ - begin);
      auto const* const feed = static_cast<char const*>(std::memchr(begin, '\n', rest));
      next_ = feed == nullptr ? end_ : feed + 1;
      length_ = static_cast<std::size_t>((feed == nullptr ? end_ : feed) - begin);
      if (feed != nullptr && length_ > 0 && begin[length_ - 1] == '\r') {
        --length_;
      }
    }

    char const* begin_ = nullptr;
    std::size_t length_ = 0;
    char const* next_ = nullptr;
    char const* end_ = nullptr;
  };

  lines() noexcept = default;
  inline explicit lines(std::string_view text) noexcept : text_{text} {}
  inline explicit lines(std::span<std::byte const> bytes) noexcept
      : text_{reinterpret_cast<char const*>(bytes.data()), bytes.size()} {}

  [[nodiscard]] inline auto begin() const noexcept -> iterator { return {text_.data(), text_.data() + text_.size()}; }
  [[nodiscard]] inline auto end() const noexcept -> std::default_sentinel_t { return {}; }

private:
  std::string_view text_;
};

} // namespace fmmap

template <>
inline constexpr bool std::ranges::enable_borrowed_range<fmmap::lines> = true;
