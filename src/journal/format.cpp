// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>
#include <cstdint>
#include <optional>
#include <random>
#include <span>
#include <string_view>

#define XXH_INLINE_ALL
#include <xxhash.h>

module fmmap.journal;

import fmmap.os;

namespace fmmap::journal {

namespace {

constexpr std::size_t before_checksummed = offsetof(header, checksum) + sizeof(std::uint64_t);
static_assert(before_checksummed == offsetof(record_header, checksum) + sizeof(std::uint64_t));

// Whether a file with this header may be that long by a header or a record.
auto can_be_size(std::uint64_t file_bytes, header const& current) noexcept -> bool {
  return file_bytes >= ring_begin + current.ring_bytes && file_bytes <= current.spill_at;
}

// Whether a record, or what refers to one, is this one.
auto is_this(record_header const& about, std::uint64_t magic, header const& current, std::uint64_t sequence) noexcept
    -> bool {
  return about.magic == magic && about.salt == current.salt && about.sequence == sequence;
}

// What `bytes` begins with, record or reference, where it is this one and whole.
auto find_sealed(std::span<std::byte const> bytes, std::uint64_t magic, header const& current,
                 std::uint64_t sequence) noexcept -> std::optional<std::span<std::byte const>> {
  if (bytes.size() < sizeof(record_header)) {
    return {};
  }
  auto const about = value_at<record_header>(bytes);
  if (!is_this(about, magic, current, sequence) || about.length < sizeof(record_header) ||
      about.length > bytes.size() || !can_be_size(about.file_bytes, current)) {
    return {};
  }
  auto const sealed = bytes.first(about.length);
  if (about.checksum != checksum(sealed.subspan(before_checksummed))) {
    return {};
  }
  return sealed;
}

} // namespace

auto random_number() -> std::uint64_t {
  std::random_device source;
  return (std::uint64_t{source()} << 32) | source();
}

auto checksum(std::span<std::byte const> bytes) noexcept -> std::uint64_t {
  return XXH3_64bits(bytes.data(), bytes.size());
}

auto checksum_of(slot const& s) noexcept -> std::uint64_t {
  return checksum(std::as_bytes(std::span{&s, 1}).subspan(before_checksummed));
}

auto seal(slot& s) noexcept -> std::size_t {
  s.about.checksum = checksum_of(s);
  return s.about.generation % slot_count;
}

auto flaw_of(slot const& s, std::uint64_t size) noexcept -> std::string_view {
  auto const& about = s.about;
  if (about.magic != header_magic) {
    return about.magic == 0 ? "nothing was written there" : "it does not begin as a header does";
  }
  if (about.checksum != checksum_of(s)) {
    return "its bytes are not those that its checksum is of";
  }
  if (about.ring_bytes == 0 || about.ring_bytes % page_bytes != 0 || size < ring_begin ||
      about.ring_bytes > size - ring_begin) {
    return "its journal does not lie in the file";
  }
  if (about.tail % page_bytes != 0 || about.tail >= about.ring_bytes) {
    return "its first record does not lie in the journal";
  }
  if (about.spill_at % page_bytes != 0 || about.spill_at > os::largest_offset ||
      !can_be_size(about.file_bytes, about)) {
    return "its length can be none";
  }
  return {};
}

auto told_length(std::span<std::byte const> bytes, header const& current, std::uint64_t sequence) noexcept
    -> std::uint64_t {
  auto const about = value_at<record_header>(bytes);
  return is_this(about, record_magic, current, sequence) ? about.length : 0;
}

auto record_view::find(std::span<std::byte const> bytes, header const& current, std::uint64_t sequence) noexcept
    -> std::optional<record_view> {
  auto const sealed = find_sealed(bytes, record_magic, current, sequence);
  if (!sealed) {
    return {};
  }
  record_view const found{*sealed};
  return found.has_only_changes_of((ring_begin + current.ring_bytes) / page_bytes) ? std::optional{found}
                                                                                   : std::nullopt;
}

// Whether changes fill the record, and each has lines, of a page of the file after the ring.
auto record_view::has_only_changes_of(std::uint64_t first_page) const -> bool {
  auto const end_page = about().file_bytes / page_bytes;
  auto is_inside = true;
  auto const is_full = for_each_change([&](std::uint64_t number, std::uint64_t lines, std::span<std::byte const>) {
    is_inside = is_inside && lines != 0 && number >= first_page && number < end_page;
  });
  return is_full && is_inside;
}

auto reference_to(record_view elsewhere, std::uint64_t offset) noexcept -> reference {
  auto const referred = elsewhere.about();
  reference made{.about = referred, .offset = offset, .length = referred.length, .checksum = referred.checksum};
  made.about.magic = reference_magic;
  made.about.length = sizeof made;
  made.about.checksum = checksum(std::as_bytes(std::span{&made, 1}).subspan(before_checksummed));
  return made;
}

auto find_reference(std::span<std::byte const> bytes, header const& current, std::uint64_t sequence) noexcept
    -> std::optional<reference> {
  auto const sealed = find_sealed(bytes, reference_magic, current, sequence);
  if (!sealed || sealed->size() != sizeof(reference)) {
    return {};
  }
  return value_at<reference>(*sealed);
}

} // namespace fmmap::journal
