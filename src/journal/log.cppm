// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>
#include <cstdint>
#include <deque>
#include <expected>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <ranges>
#include <span>
#include <string>
#include <string_view>
#include <vector>

export module fmmap.journal:log;

import fmmap.core;
import fmmap.os;
import :format;
import :transaction;

export namespace fmmap::journal {

// How far a transaction has to be brought before it counts as committed. After a crash there are all transactions up to one
// that is not older than the last that survives such a crash.
enum class level : unsigned char {
  none,    // survives nothing: its record is written with a later one
  process, // survives the process, and with it all earlier ones do
  power,   // survives power loss, and with it all earlier ones do
};

// The file, open twice: through the page cache, and past it where the file system can; else both are the same descriptor.
// The descriptors stay the caller's.
struct journaled_file {
  os::descriptor cached;
  os::descriptor direct;
  std::string path; // for errors
};

// Since the file was opened.
struct log_stats {
  std::uint64_t commits;
  std::uint64_t journal_bytes; // written into the ring and behind the content
  std::uint64_t checkpoints;
};

// One thread at a time, but for `unapplied_lines`. Where a write or a sync fails nothing more is done, and every call
// returns that error: what is on the disk is known again when the file has been opened anew.
class log {
public:
  // Makes a file a journaled one, with blocks behind header and ring, and in its header what its owner wants there. All of
  // it is durable then, but for the name. Whatever the file has behind the ring is the content, up to `file_bytes`, which
  // the caller makes before or after. All numbers are of whole pages of the format.
  //
  // `spill_at`: an offset that the file will never reach, where records that the ring cannot hold lie while they are
  // committed.
  //
  // Errors: what the system reports; the file is of no use then.
  [[nodiscard]] static auto create(journaled_file file, std::uint64_t ring_bytes, std::uint64_t file_bytes,
                                   std::uint64_t spill_at, std::span<std::byte const, owner_bytes> of_owner)
      -> result<log>;

  // Opens the journal of a file, completes what was committed and not in place yet, and forgets what was not committed. A
  // file that is shorter than `file_bytes()` is made as long, without blocks; nothing is left at `spill_at()`.
  //
  // `accepts` is asked before anything is written, about what the header says; its error is returned.
  //
  // Errors: `std::errc::bad_message` when no slot is valid; what the system reports.
  [[nodiscard]] static auto open(journaled_file file, std::function<result<void>(log const& found)> const& accepts = {})
      -> result<log>;

  // For readers: finds what was committed and is not in place, and writes nothing, so descriptors for reading will do. Only
  // const members may be called then. `most` is how many bytes of records may be read into memory.
  //
  // Errors: as those of `open`; `std::errc::message_size` where there is more, or a record says that it is longer.
  [[nodiscard]] static auto examine(journaled_file file, std::uint64_t most = std::numeric_limits<std::uint64_t>::max())
      -> result<log>;

  [[nodiscard]] inline auto ring_bytes() const noexcept -> std::uint64_t { return slot_.about.ring_bytes; }
  [[nodiscard]] inline auto content_begin() const noexcept -> std::uint64_t { return ring_begin + ring_bytes(); }
  [[nodiscard]] inline auto spill_at() const noexcept -> std::uint64_t { return slot_.about.spill_at; }
  [[nodiscard]] inline auto of_owner() const noexcept -> std::span<std::byte const, owner_bytes> {
    return slot_.of_owner;
  }

  // Why nothing more is done, once something has failed.
  [[nodiscard]] inline auto failure() const noexcept -> std::optional<error> const& { return failed_; }

  // How long the file is by the last transaction. A transaction may be about a longer one, once there are blocks.
  [[nodiscard]] inline auto file_bytes() const noexcept -> std::uint64_t { return file_bytes_; }

  // Of the next transaction, and where in the ring its record goes if there is room.
  [[nodiscard]] inline auto sequence() const noexcept -> std::uint64_t { return sequence_; }
  [[nodiscard]] inline auto head() const noexcept -> std::uint64_t { return head_; }

  // The slot that counts.
  [[nodiscard]] inline auto current() const noexcept -> slot const& { return slot_; }

  [[nodiscard]] inline auto stats() const noexcept -> log_stats { return stats_; }

  // Lines of a page that have been committed and are not in place yet. Whoever compares with the file to find out what has
  // changed has to add them to what is different. A line leaves when it has been written in place, never before: who asks
  // first and compares then misses none.
  //
  // Thread safety: may be called by any thread, also while another one is in a call of this object.
  [[nodiscard]] auto unapplied_lines(std::uint64_t number) const noexcept -> std::uint64_t;

  // Calls `visit` with the number of a page, a mask of its lines, and those lines, for every change that is not in place
  // yet. Of a line that comes several times the last is the content.
  template <class Visit>
  void for_each_unapplied(Visit visit) const {
    for (auto const& one : records_) {
      one.what.view().for_each_change(std::ref(visit));
    }
  }

  // Calls `visit` with each record that is not in place yet, where in the ring it lies, or what refers to it, and whether it
  // lies elsewhere.
  template <class Visit>
  void for_each_record(Visit visit) const {
    for (auto const& one : records_) {
      visit(one.what.view(), one.at, !one.reference.empty());
    }
  }

  // Commits a transaction about a file that is `file_bytes` long, `spill_at()` at most. Where the ring has no room for it,
  // there is a checkpoint first.
  //
  // One without changes, about a file as long as before, only brings the earlier ones to that level.
  //
  // A transaction that is longer than the ring is written behind the content, and is in place when the call returns, the
  // file as long as it was before: nobody else may change its length meanwhile.
  //
  // Errors: `std::errc::no_space_on_device`, EDQUOT or `std::errc::file_too_large` when there are no blocks behind the
  // content for a transaction longer than the ring; nothing has happened then, and others can be committed. What the
  // system reports else: then it may have been committed or not.
  [[nodiscard]] auto commit(transaction what, level wanted, std::uint64_t file_bytes) -> result<void>;

  // Writes changes in place without a record of them, durable when this returns, for the transaction that is committed next.
  // A crash may leave them there without that transaction, so whatever was committed before has to mean the same with them.
  // It is brought in place first: opening would write it once more, over them.
  //
  // Errors: what the system reports; some of it may be in place then.
  [[nodiscard]] auto write_without_record(transaction const& what) -> result<void>;

  // Writes all durable transactions in place.
  [[nodiscard]] auto apply() -> result<void>;

  // Makes all transactions durable, in place, and the ring free.
  [[nodiscard]] auto checkpoint() -> result<void>;

  // Makes durable what the owner has done to the file by other ways, to pages that no record in the ring is about.
  [[nodiscard]] auto sync() -> result<void>;

  // Notes in the file that it is closed without an error, so that who opens it next takes what memory has of it for what the disk
  // has. Nothing but that follows. Does nothing after an error. Errors: what the system reports.
  [[nodiscard]] auto close() -> result<void>;

private:
  struct record {
    transaction what;
    std::uint64_t at; // in the ring
    level reached;
    std::vector<page> reference; // what lies there, when the transaction lies elsewhere

    [[nodiscard]] inline auto in_ring() const noexcept -> std::span<page const> {
      return reference.empty() ? what.pages() : std::span<page const>{reference};
    }
    [[nodiscard]] inline auto end() const noexcept -> std::uint64_t { return at + in_ring().size_bytes(); }
  };

  // Of the ring, in memory.
  struct ring_part {
    std::uint64_t begin;
    std::vector<page> pages;
  };

  // Of a page, in a record.
  struct change {
    std::uint64_t page;
    std::size_t order; // among all that are looked at; the later one counts
    std::uint64_t lines;
    std::span<std::byte const> content;
  };

  // What other threads may ask for.
  struct unapplied {
    std::mutex mutex;
    line_masks lines;
  };

  log(journaled_file file, slot const& current);

  [[nodiscard]] auto read_slots() -> result<void>;
  [[nodiscard]] auto recover() -> result<void>;
  [[nodiscard]] auto find_records() -> result<void>;
  [[nodiscard]] auto drop_what_is_not_on_disk() -> result<void>;
  [[nodiscard]] auto read_ring(ring_part& part, std::uint64_t at, std::uint64_t length)
      -> result<std::span<std::byte const>>;
  [[nodiscard]] auto find_record(ring_part& part, std::uint64_t at) -> result<bool>;
  [[nodiscard]] auto find_spilled(reference const& to, std::uint64_t at) -> result<bool>;
  [[nodiscard]] auto check_length(std::uint64_t at, std::uint64_t length) -> result<void>;

  void add(record one);
  [[nodiscard]] auto find_room(std::uint64_t length) const noexcept -> std::optional<std::uint64_t>;
  [[nodiscard]] auto make_room(std::uint64_t length) -> result<std::uint64_t>;
  [[nodiscard]] auto commit_in_ring(transaction what, level wanted, std::uint64_t file_bytes) -> result<void>;
  [[nodiscard]] auto commit_spilled(transaction what, std::uint64_t file_bytes) -> result<void>;
  [[nodiscard]] auto spill(std::span<page const> pages) -> result<void>;
  [[nodiscard]] auto bring_to(level wanted) -> result<void>;
  [[nodiscard]] auto write_in_ring(std::ranges::subrange<std::deque<record>::iterator> run, level wanted)
      -> result<void>;
  [[nodiscard]] auto write_in_place(std::ranges::input_range auto&& records) -> result<void>;
  [[nodiscard]] auto write_page_in_place(std::span<change const> of_page) -> result<void>;
  [[nodiscard]] auto apply_all() -> result<void>;    // once all of it is durable
  [[nodiscard]] auto write_header() -> result<void>; // that of a checkpoint
  [[nodiscard]] auto note_closed(bool closed) -> result<void>;
  [[nodiscard]] auto write_slot(slot next) -> result<void>;

  [[nodiscard]] auto read(std::uint64_t at, std::span<std::byte> bytes) -> result<void>;
  [[nodiscard]] auto write(os::descriptor const& to, std::uint64_t at, std::span<std::byte const> bytes, bool durably)
      -> result<void>;
  [[nodiscard]] auto transfer(os::descriptor const& to, std::uint64_t at, std::span<std::byte const> bytes,
                              bool durably) -> os::outcome<void>;
  [[nodiscard]] auto gives_up_direct(os::descriptor used, int code) noexcept -> bool;
  [[nodiscard]] auto check(os::outcome<void> const& done, std::string_view operation) -> result<void>;
  auto fail(int code, std::string_view operation, std::optional<byte_range> range = {}) -> std::unexpected<error>;

  slot slot_; // the one that counts; first, for it is aligned to a page
  journaled_file file_;
  std::uint64_t tail_ = 0;     // where the first record since the checkpoint lies, which may be the ring's beginning
  std::uint64_t head_ = 0;     // where the next record goes
  std::uint64_t sequence_ = 0; // of it
  std::uint64_t file_bytes_ = 0;
  std::uint64_t may_read_ = std::numeric_limits<std::uint64_t>::max(); // of records, in bytes
  std::deque<record> records_;                                         // that are not in place yet
  std::unique_ptr<unapplied> unapplied_ = std::make_unique<unapplied>();
  std::optional<error> failed_;
  log_stats stats_{};
};

} // namespace fmmap::journal
