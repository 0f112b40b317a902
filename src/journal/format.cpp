// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#define XXH_INLINE_ALL
#include <xxhash.h>

module fmmap.journal;

namespace fmmap::journal {

namespace {

constexpr std::size_t before_checksummed = offsetof(header, checksum) + sizeof(std::uint64_t);
static_assert(before_checksummed == offsetof(record_header, checksum) + sizeof(std::uint64_t));

} // namespace

auto checksum(std::span<std::byte const> bytes) noexcept -> std::uint64_t {
  return XXH3_64bits(bytes.data(), bytes.size());
}

auto checksum_of(slot const& s) noexcept -> std::uint64_t {
  return checksum(std::as_bytes(std::span{&s, 1}).subspan(before_checksummed));
}

auto is_valid(slot const& s, std::uint64_t file_bytes) noexcept -> bool {
  auto const& about = s.about;
  return about.magic == header_magic && about.checksum == checksum_of(s) && about.ring_bytes > 0 &&
         about.ring_bytes % page_bytes == 0 && file_bytes >= ring_begin &&
         about.ring_bytes <= file_bytes - ring_begin && about.tail % page_bytes == 0 && about.tail < about.ring_bytes;
}

auto record_view::find(std::span<std::byte const> bytes, header const& current, std::uint64_t sequence) noexcept
    -> std::optional<record_view> {
  if (bytes.size() < sizeof(record_header)) {
    return {};
  }
  auto const about = read<record_header>(bytes);
  if (about.magic != record_magic || about.salt != current.salt || about.sequence != sequence ||
      about.length < sizeof(record_header) || about.length > bytes.size()) {
    return {};
  }
  record_view const found{bytes.first(about.length)};
  if (about.checksum != checksum(found.bytes_.subspan(before_checksummed)) ||
      !found.has_only_changes_of((ring_begin + current.ring_bytes) / page_bytes)) {
    return {};
  }
  return found;
}

// Whether changes fill the record, and are of pages of the file after the ring.
auto record_view::has_only_changes_of(std::uint64_t first_page) const noexcept -> bool {
  auto const end_page = about().file_bytes / page_bytes;
  for (auto rest = bytes_.subspan(sizeof(record_header)); !rest.empty();) {
    if (rest.size() < sizeof(change_header)) {
      return false;
    }
    auto const change = read<change_header>(rest);
    auto const length = sizeof(change_header) + length_of(change.lines);
    if (change.page < first_page || change.page >= end_page || length > rest.size()) {
      return false;
    }
    rest = rest.subspan(length);
  }
  return true;
}

} // namespace fmmap::journal
