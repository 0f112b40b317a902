// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

// A record while it is made, in memory that direct I/O takes; and what several are about.
export module fmmap.journal:transaction;

import :format;

export namespace fmmap::journal {

class transaction {
public:
  transaction() { extend(sizeof(record_header)); }

  // A record that has been found, as it is.
  explicit transaction(record_view found) { std::ranges::copy(found.bytes(), extend(found.bytes().size())); }

  // The same, with the pages that it has been read into.
  inline transaction(std::vector<page> pages, std::size_t length) noexcept
      : pages_{std::move(pages)}, length_{length} {}

  // Whether it has no changes.
  [[nodiscard]] inline auto is_empty() const noexcept -> bool { return length_ == sizeof(record_header); }

  // What it takes in the ring.
  [[nodiscard]] inline auto size_in_ring() const noexcept -> std::uint64_t { return whole_pages(length_); }

  // Adds those lines of a page's content that `lines` names. Of a page that is added twice the later content counts.
  void change(std::uint64_t number, std::uint64_t lines, std::span<std::byte const, page_bytes> content) {
    if (lines == 0) {
      return;
    }
    auto* to = extend(sizeof(change_header) + length_of(lines));
    to = put(to, change_header{.page = number, .lines = lines});
    for (auto rest = lines; rest != 0; rest &= rest - 1) {
      auto const line = static_cast<std::size_t>(std::countr_zero(rest));
      std::memcpy(to, content.data() + (line * line_bytes), line_bytes);
      to += line_bytes;
    }
  }

  // Adds all changes of another one, as if they came after those that are here.
  void add(transaction const& other) {
    auto const changes = other.record().subspan(sizeof(record_header));
    std::ranges::copy(changes, extend(changes.size()));
  }

  // Completes the record.
  void seal(header const& current, std::uint64_t sequence, std::uint64_t file_bytes) {
    record_header about{.magic = record_magic,
                        .checksum = 0,
                        .salt = current.salt,
                        .sequence = sequence,
                        .length = length_,
                        .file_bytes = file_bytes};
    put(first_byte(), about);
    about.checksum = checksum(record().subspan(offsetof(record_header, salt)));
    put(first_byte(), about);
  }

  [[nodiscard]] inline auto view() const noexcept -> record_view { return record_view{record()}; }

  // As it is written.
  [[nodiscard]] inline auto pages() const noexcept -> std::span<page const> { return pages_; }

private:
  [[nodiscard]] inline auto first_byte() noexcept -> std::byte* { return reinterpret_cast<std::byte*>(pages_.data()); }
  [[nodiscard]] inline auto record() const noexcept -> std::span<std::byte const> {
    return std::as_bytes(pages()).first(length_);
  }

  auto extend(std::size_t more) -> std::byte* {
    auto const begin = length_;
    length_ += more;
    pages_.resize(whole_pages(length_) / page_bytes);
    return first_byte() + begin;
  }

  template <class T>
  static auto put(std::byte* to, T const& value) noexcept -> std::byte* {
    std::memcpy(to, &value, sizeof value);
    return to + sizeof value;
  }

  std::vector<page> pages_;
  std::size_t length_ = 0;
};

// Lines by pages. Pages that are near each other in the file are near each other here.
class line_masks {
public:
  void add(record_view changes) {
    changes.for_each_change([this](std::uint64_t page, std::uint64_t lines, std::span<std::byte const>) {
      leaves_[page / leaf_pages][page % leaf_pages] |= lines;
    });
  }

  [[nodiscard]] inline auto of(std::uint64_t page) const noexcept -> std::uint64_t {
    auto const found = leaves_.find(page / leaf_pages);
    return found == leaves_.end() ? 0 : found->second[page % leaf_pages];
  }

private:
  static constexpr std::size_t leaf_pages = 512;
  std::unordered_map<std::uint64_t, std::array<std::uint64_t, leaf_pages>> leaves_;
};

} // namespace fmmap::journal
