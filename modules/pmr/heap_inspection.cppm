// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <array>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

export module fmmap.pmr:heap_inspection;

import fmmap.core;

export namespace fmmap {

/// One of the two slots of the header of a heap's file. The valid one of the higher generation counts.
struct header_slot {
  /// Why it holds no header; empty where it holds one, and then the rest is of it.
  std::string flaw;
  std::uint64_t generation = 0;
  /// Of the first commit that may not be in place.
  std::uint64_t sequence = 0;
  /// Where in the journal the record of that commit begins, in bytes.
  std::uint64_t tail = 0;
  /// A number that the records since then have to repeat.
  std::uint64_t salt = 0;
  /// Whether who wrote last has closed the heap, and had met no error: else opening takes nothing that memory has for granted.
  bool is_closed = false;
};

/// A commit that is in the journal and not in place yet.
struct journal_record {
  std::uint64_t sequence = 0;
  /// Where in the file its record begins, in bytes; of one that is spilled, where the reference to it does.
  std::uint64_t offset = 0;
  /// How long the record is.
  std::uint64_t bytes = 0;
  /// Of the file, that it changes.
  std::uint64_t pages = 0;
  /// Of 64 bytes, of those pages.
  std::uint64_t lines = 0;
  /// Whether the record is longer than the journal and lies behind everything else.
  bool is_spilled = false;
};

/// What the journal has where its next record would begin.
enum class journal_end : unsigned char {
  /// Zeros, or what is left of something else.
  nothing,
  /// A record of a time before the last checkpoint.
  older_record,
  /// The next record, but not whole: its commit was cut short, and has never taken place.
  incomplete_record,
};

[[nodiscard]] auto to_string(journal_end end) noexcept -> std::string_view;

/// The journal of a heap's file.
struct journal_inspection {
  /// Which slot counts.
  std::size_t slot = 0;
  /// Where it begins in the file, and how long it is, in bytes.
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  /// Where in the file a record lies that is longer than that.
  std::uint64_t spill_offset = 0;
  /// How long the file is by the last commit.
  std::uint64_t committed_bytes = 0;
  /// In the order of their commits.
  std::vector<journal_record> records;
  journal_end after_records = journal_end::nothing;
  /// Of the next commit.
  std::uint64_t next_sequence = 0;
};

/// What the header says of a heap, and never changes.
struct heap_description {
  std::uint64_t version = 0;
  /// Two random numbers. A heap and its copies have the same.
  std::array<std::uint64_t, 2> identity{};
  /// Addresses: of the heap's first byte in each process, and of the first one that is in the file.
  std::uint64_t slot = 0;
  std::uint64_t base = 0;
  /// The most that it can ever hold, in bytes.
  std::uint64_t reserve = 0;
  /// In what the program that made it differs from this one, one sentence each. Then it cannot be opened here.
  std::vector<std::string> differences;
};

/// All slabs of blocks of one size.
struct size_class_usage {
  /// Of a block.
  std::uint64_t block_bytes = 0;
  std::uint64_t slabs = 0;
  /// Of all of them.
  std::uint64_t pages = 0;
  std::uint64_t used_blocks = 0;
  std::uint64_t free_blocks = 0;
};

/// A few pages of the content that are neighbours.
struct usage_cell {
  /// By what they are. `damaged_pages` cannot be what the books say.
  std::uint32_t free_pages = 0;
  std::uint32_t run_pages = 0;
  std::uint32_t slab_pages = 0;
  std::uint32_t damaged_pages = 0;
  /// What blocks that are allocated take of the slabs; each slab's are spread evenly over its pages.
  std::uint64_t used_block_bytes = 0;
};

/// What the books say of a heap's content. A page has 4096 bytes, and 16 of them are a chunk.
struct heap_usage {
  std::uint64_t content_bytes = 0;
  std::uint64_t free_pages = 0;
  /// Allocated whole.
  std::uint64_t run_pages = 0;
  std::uint64_t slab_pages = 0;
  std::uint64_t damaged_pages = 0;
  /// Those that there are slabs of, the smallest first.
  std::vector<size_class_usage> classes;
  /// All of the content, in parts of `pages_in_cell` pages each; 4096 at the most.
  std::vector<usage_cell> cells;
  std::uint64_t pages_in_cell = 0;
};

struct inspected_object {
  std::string name;
  /// As the compiler writes it.
  std::string type;
  /// In bytes, of the object itself.
  std::uint64_t bytes = 0;
  /// Where in the content it lies, and at which address where the heap is open.
  std::uint64_t offset = 0;
  std::uint64_t address = 0;
};

/// What the file of a heap is found to be. Where a part is damaged, those that are told by it are missing.
struct heap_inspection {
  /// Of the file, in bytes: its length, and what it has blocks for.
  std::uint64_t file_bytes = 0;
  std::uint64_t allocated_bytes = 0;
  std::array<header_slot, 2> slots;
  std::optional<journal_inspection> journal;
  std::optional<heap_description> heap;
  std::optional<heap_usage> usage;
  /// In the order of their names.
  std::vector<inspected_object> objects;
  /// Why it cannot be opened, and what is wrong else, one sentence each. None for what a crash may leave.
  std::vector<std::string> problems;
};

/// Called with how many pages have been looked at, of how many there are.
using inspection_progress = std::function<void(std::uint64_t done, std::uint64_t total)>;

/// Looks at the file of a heap: as its last commit has left it, be that in place or in the journal.
///
/// It writes nothing, needs none of the heap's addresses, and makes do with a file that cannot be opened: what is wrong with it is
/// among `problems`. Whatever the bytes are, looking at them is safe as long as nobody else writes the file, which a lock keeps
/// processes from that open it as a heap. What objects hold is not looked at.
///
/// Needs memory for the records in the journal, and for the pages that they change.
///
/// Errors: as `file::open`; `errc::in_use` while a process has it open for writing; `errc::not_a_heap` where no header was ever
/// written; `std::errc::not_enough_memory`; what else the system reports.
/// Thread safety: may be called from any thread.
[[nodiscard]] auto inspect_heap(std::filesystem::path const& path, inspection_progress const& progress = {})
    -> result<heap_inspection>;

} // namespace fmmap
