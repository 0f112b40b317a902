// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>

// What a journaled file looks like: two slots for a header, the ring of records, after it the pages that transactions
// change, and behind all they can ever be, for a moment, a record that the ring cannot hold. docs/journal.md has every field.
//
// Whatever the bytes are, reading them is safe; what is wrong with them is found by checksums.
export module fmmap.journal:format;

export namespace fmmap::journal {

inline constexpr std::size_t page_bytes = 4096;
inline constexpr std::size_t line_bytes = 64; // of which transactions are made
inline constexpr std::size_t slot_count = 2;
inline constexpr std::uint64_t ring_begin = slot_count * page_bytes;

// Memory that direct I/O takes.
struct alignas(page_bytes) page {
  std::array<std::byte, page_bytes> bytes{};
};

// Says where the records are that may not have been applied. Of two slots that hold one, that of the higher generation counts.
struct header {
  std::uint64_t magic;
  std::uint64_t checksum; // of the slot from here on
  std::uint64_t generation;
  std::uint64_t salt;       // of the records since, so that none from another time of the file passes for one
  std::uint64_t sequence;   // of the first of them
  std::uint64_t tail;       // where in the ring that is
  std::uint64_t ring_bytes; // how long the ring is
  std::uint64_t file_bytes; // how long the file is at least
  std::uint64_t spill_at;   // where in the file a record goes that is longer than the ring: behind every page
  std::uint64_t closed;     // 1 when whoever has written last has closed the file, and met no error before
};

inline constexpr std::size_t owner_bytes = page_bytes - sizeof(header);

struct alignas(page_bytes) slot {
  header about{};
  std::array<std::byte, owner_bytes> of_owner{}; // whatever belongs to the file as such
};

// Begins a record. Changes follow: each a change_header, and the lines that its bits name, in order.
struct record_header {
  std::uint64_t magic;
  std::uint64_t checksum; // of the record from here on
  std::uint64_t salt;
  std::uint64_t sequence;
  std::uint64_t length;     // bytes, this header included
  std::uint64_t file_bytes; // how long the file is at least
};

struct change_header {
  std::uint64_t page;  // of the file
  std::uint64_t lines; // bit i: the page's line i
};

// Stands in the ring for a record that lies elsewhere.
struct reference {
  record_header about;    // of the reference itself
  std::uint64_t offset;   // in the file
  std::uint64_t length;   // bytes
  std::uint64_t checksum; // as the record has it
};

static_assert(sizeof(slot) == page_bytes && sizeof(record_header) == 48 && sizeof(change_header) == 16);
static_assert(sizeof(reference) == 72 && std::is_trivially_copyable_v<reference>);
static_assert(std::is_trivially_copyable_v<slot> && std::is_trivially_copyable_v<record_header>);
static_assert(page_bytes / line_bytes == 64, "the lines of a page are the bits of a word");

inline constexpr std::uint64_t header_magic = 0x315f'6165'6870'6d66;    // "fmphea_1"
inline constexpr std::uint64_t record_magic = 0x315f'6365'7270'6d66;    // "fmprec_1"
inline constexpr std::uint64_t reference_magic = 0x315f'6665'7270'6d66; // "fmpref_1"

[[nodiscard]] constexpr auto whole_pages(std::uint64_t bytes) noexcept -> std::uint64_t {
  return (bytes + page_bytes - 1) / page_bytes * page_bytes;
}

// What follows a change_header.
[[nodiscard]] constexpr auto length_of(std::uint64_t lines) noexcept -> std::size_t {
  return static_cast<std::size_t>(std::popcount(lines)) * line_bytes;
}

// Of the system's, for what may not come twice.
[[nodiscard]] auto random_number() -> std::uint64_t;

[[nodiscard]] auto checksum(std::span<std::byte const> bytes) noexcept -> std::uint64_t;

// What a slot's checksum ought to be.
[[nodiscard]] auto checksum_of(slot const& s) noexcept -> std::uint64_t;

// Gives a slot its checksum, and says which of them it is.
auto seal(slot& s) noexcept -> std::size_t;

// Why a slot holds no header that can be one of a file of that size; empty where it holds one.
[[nodiscard]] auto flaw_of(slot const& s, std::uint64_t size) noexcept -> std::string_view;

[[nodiscard]] inline auto is_valid(slot const& s, std::uint64_t size) noexcept -> bool {
  return flaw_of(s, size).empty();
}

// What `from` begins with, wherever that lies.
template <class T>
[[nodiscard]] auto value_at(std::span<std::byte const> from) noexcept -> T {
  T value;
  std::memcpy(&value, from.data(), sizeof value);
  return value;
}

// How long the record at the beginning of `bytes` says it is, where it says that it is this one; else 0.
[[nodiscard]] auto told_length(std::span<std::byte const> bytes, header const& current, std::uint64_t sequence) noexcept
    -> std::uint64_t;

// The changes of a record that lies in memory.
class record_view {
public:
  // The record at the beginning of `bytes`; nothing where there is not this one, whole.
  [[nodiscard]] static auto find(std::span<std::byte const> bytes, header const& current,
                                 std::uint64_t sequence) noexcept -> std::optional<record_view>;

  // Of a record that is known to be one.
  inline explicit record_view(std::span<std::byte const> bytes) noexcept : bytes_{bytes} {}

  [[nodiscard]] inline auto about() const noexcept -> record_header { return value_at<record_header>(bytes_); }
  [[nodiscard]] inline auto bytes() const noexcept -> std::span<std::byte const> { return bytes_; }

  // Calls `visit` with each page's number, mask of lines, and those lines. Returns whether changes fill the record: the first
  // that is not whole ends it.
  template <class Visit>
  auto for_each_change(Visit visit) const -> bool {
    auto rest = bytes_.subspan(sizeof(record_header));
    while (rest.size() >= sizeof(change_header)) {
      auto const change = value_at<change_header>(rest);
      rest = rest.subspan(sizeof change);
      auto const length = length_of(change.lines);
      if (length > rest.size()) {
        return false;
      }
      visit(change.page, change.lines, rest.first(length));
      rest = rest.subspan(length);
    }
    return rest.empty();
  }

private:
  [[nodiscard]] auto has_only_changes_of(std::uint64_t first_page) const -> bool;

  std::span<std::byte const> bytes_;
};

// Calls `visit` with the number of each line that a mask names, and that line, of those that follow each other in `content`.
template <class Visit>
void for_each_line(std::uint64_t lines, std::span<std::byte const> content, Visit visit) {
  for (; lines != 0; lines &= lines - 1) {
    visit(static_cast<std::size_t>(std::countr_zero(lines)), content.first<line_bytes>());
    content = content.subspan(line_bytes);
  }
}

// What stands in the ring for a record that is complete and lies at that offset.
[[nodiscard]] auto reference_to(record_view elsewhere, std::uint64_t offset) noexcept -> reference;

// The reference at the beginning of `bytes`; nothing where there is not this one, whole. What it refers to may be anything.
[[nodiscard]] auto find_reference(std::span<std::byte const> bytes, header const& current,
                                  std::uint64_t sequence) noexcept -> std::optional<reference>;

} // namespace fmmap::journal
