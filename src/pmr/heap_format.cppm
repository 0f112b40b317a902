// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

// What a heap's file looks like behind its journal: segments of books and content; and in the content, the table of objects.
// docs/heap-file.md has every field. Implementation units only.
module fmmap.pmr:heap_format;

import fmmap.alloc;
import fmmap.core;
import fmmap.journal;

namespace fmmap::heap_format {

inline constexpr std::size_t page_bytes = journal::page_bytes;
inline constexpr std::size_t huge_page = std::size_t{2} << 20;

// --- In the header: what never changes --------------------------------------------------------------------------------

inline constexpr std::uint64_t magic = 0x7061'6568'706d'6d66; // "fmmpheap"
inline constexpr std::uint64_t version = 1;

// How the objects of a program are laid out, in numbers that have to be equal where the heap is opened.
struct trait {
  std::string_view name;
  std::uint64_t value;
  bool is_shape; // the size and the alignment of a type
};

inline constexpr std::size_t trait_count = 23;

[[nodiscard]] auto traits() -> std::array<trait, trait_count> const&;

// What a trait is elsewhere, and here.
[[nodiscard]] auto describe_difference(trait const& here, std::uint64_t there) -> std::string;

struct heap_header {
  std::uint64_t magic;
  std::uint64_t version;
  std::array<std::uint64_t, 2> identity; // random
  std::uint64_t slot;                    // the address of the overlay
  std::uint64_t reserve;                 // bytes of content at the most
  std::array<std::uint64_t, trait_count> traits;
};

static_assert(std::is_trivially_copyable_v<heap_header> && sizeof(heap_header) <= journal::owner_bytes);

// --- In the address space ---------------------------------------------------------------------------------------------

// In front of the content, memory of each process's own: in it, the resource that everything in the heap points to.
inline constexpr std::size_t overlay_bytes = huge_page;
inline constexpr std::size_t used_overlay = std::size_t{64} << 10;

// --- In the file ------------------------------------------------------------------------------------------------------

// What the allocator knows of a chunk, in lines of its own. All zeros is one of free pages.
struct chunk_record {
  std::array<std::uint8_t, alloc::chunk_pages> pages;
  std::array<std::uint8_t, journal::line_bytes - alloc::chunk_pages> unused;
  std::array<std::uint64_t, alloc::chunk_pages * alloc::words_per_page> free_blocks;

  auto operator==(chunk_record const&) const -> bool = default;
};

inline constexpr std::size_t lines_per_record = sizeof(chunk_record) / journal::line_bytes;
static_assert(std::is_trivially_copyable_v<chunk_record> && sizeof(chunk_record) == 9 * journal::line_bytes);

// Where content and its books lie. Both keep their distance modulo 2 MiB, so that the system can map huge pages.
class layout {
public:
  static constexpr std::uint64_t segment_content = std::uint64_t{1} << 30;
  static constexpr std::uint64_t segment_books = std::uint64_t{10} << 20;
  static_assert(segment_content / alloc::chunk_bytes * sizeof(chunk_record) <= segment_books);

  layout() = default;
  // Behind a journal that ends at `journal_end`.
  explicit constexpr layout(std::uint64_t journal_end) noexcept
      : begin_{(journal_end + huge_page - 1) / huge_page * huge_page} {}

  // Where a byte of the content lies in the file.
  [[nodiscard]] constexpr auto offset_of(std::uint64_t content) const noexcept -> std::uint64_t {
    return segment(content / segment_content) + segment_books + (content % segment_content);
  }

  // The same for content of one segment.
  [[nodiscard]] constexpr auto range_of(std::uint64_t begin, std::uint64_t end) const noexcept -> byte_range {
    return {.offset = offset_of(begin), .length = static_cast<std::size_t>(end - begin)};
  }

  [[nodiscard]] constexpr auto record_of(std::uint64_t chunk) const noexcept -> std::uint64_t {
    constexpr auto in_segment = segment_content / alloc::chunk_bytes;
    return segment(chunk / in_segment) + (chunk % in_segment * sizeof(chunk_record));
  }

  // The pages in which the books of that content begin, to where they end.
  [[nodiscard]] constexpr auto books_of(std::uint64_t begin, std::uint64_t end) const noexcept -> byte_range {
    auto const first = record_of(begin / alloc::chunk_bytes) / page_bytes * page_bytes;
    auto const last = record_of((end - 1) / alloc::chunk_bytes) + sizeof(chunk_record);
    return {.offset = first, .length = static_cast<std::size_t>(last - first)};
  }

  // How long the file is with so much content.
  [[nodiscard]] constexpr auto file_bytes(std::uint64_t content) const noexcept -> std::uint64_t {
    return content == 0 ? begin_ : offset_of(content - 1) + 1;
  }

  // How much content a file of that length has.
  [[nodiscard]] constexpr auto content_bytes(std::uint64_t file) const noexcept -> std::uint64_t {
    if (file <= begin_) {
      return 0;
    }
    auto const whole = (file - begin_) / segment(1, 0);
    auto const rest = (file - begin_) % segment(1, 0);
    return (whole * segment_content) + (rest > segment_books ? rest - segment_books : 0);
  }

  // Which byte of the content lies there, if one does.
  [[nodiscard]] constexpr auto content_at(std::uint64_t file) const noexcept -> std::optional<std::uint64_t> {
    if (file < begin_) {
      return std::nullopt;
    }
    auto const inside = (file - begin_) % (segment_books + segment_content);
    if (inside < segment_books) {
      return std::nullopt;
    }
    return ((file - begin_) / (segment_books + segment_content) * segment_content) + inside - segment_books;
  }

private:
  [[nodiscard]] static constexpr auto segment(std::uint64_t index, std::uint64_t begin) noexcept -> std::uint64_t {
    return begin + (index * (segment_books + segment_content));
  }
  [[nodiscard]] constexpr auto segment(std::uint64_t index) const noexcept -> std::uint64_t {
    return segment(index, begin_);
  }

  std::uint64_t begin_ = 0;
};

// Whether a heap can lie where a header says, and be as large.
[[nodiscard]] auto has_possible_addresses(heap_header const& header) noexcept -> bool;

// Whether the file of a heap can end there by its last commit.
[[nodiscard]] auto is_possible_end(heap_header const& header, layout const& where, std::uint64_t file_bytes) noexcept
    -> bool;

// --- In the content ---------------------------------------------------------------------------------------------------

inline constexpr std::uint64_t root_magic = 0x746f'6f72'706d'6d66; // "fmmproot"

// What the root is allocated with: a page at twice its alignment is a run of its own, at the beginning.
inline constexpr std::size_t root_alignment = 2 * page_bytes;

// The first page.
struct root {
  std::uint64_t magic;
  std::uint64_t first_object; // offset of its node, 0 of none
  std::uint64_t object_count;
};

// An object with a name: a node of a list. Its name and the name of its type follow.
struct object_node {
  std::uint64_t next;
  std::uint64_t previous; // 0 of the first
  std::uint64_t object;   // offset
  std::uint64_t size;
  std::uint64_t alignment;
  std::uint32_t name_length;
  std::uint32_t type_length;
};

static_assert(std::is_trivially_copyable_v<root> && std::is_trivially_copyable_v<object_node>);

} // namespace fmmap::heap_format
