// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>
#include <cstdint>
#include <deque>
#include <expected>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>

export module fmmap.journal:log;

import fmmap.core;
import fmmap.os;
import :format;
import :transaction;

export namespace fmmap::journal {

// How far a transaction has to be brought before it counts as committed. After power loss there are all transactions up to
// one that is not older than the last of `power`.
enum class level : unsigned char {
  process, // survives the process
  power,   // survives power loss, and with it all earlier ones do
};

// The file, open twice: through the page cache, and past it where the file system can. The descriptors stay the caller's.
struct journaled_file {
  os::descriptor cached;
  os::descriptor direct;
  std::string path; // for errors
};

// One thread at a time. Where a write or a sync fails nothing more is done, and every call returns that error: what is on
// the disk is known again when the file has been opened anew.
class log {
public:
  // Makes an empty file a journaled one, with blocks behind all of it, a content that reads as zero, and in its header what
  // its owner wants there. All of it is durable then, but for the name.
  //
  // Errors: what the system reports; the file is of no use then.
  [[nodiscard]] static auto create(journaled_file file, std::uint64_t ring_bytes, std::uint64_t content_bytes,
                                   std::span<std::byte const, owner_bytes> of_owner) -> result<log>;

  // Opens the journal of a file, completes what was committed and not in place yet, and forgets what was not committed.
  //
  // Errors: `std::errc::bad_message` when no slot is valid; what the system reports.
  [[nodiscard]] static auto open(journaled_file file) -> result<log>;

  [[nodiscard]] inline auto content_begin() const noexcept -> std::uint64_t {
    return ring_begin + slot_.about.ring_bytes;
  }
  [[nodiscard]] inline auto of_owner() const noexcept -> std::span<std::byte const, owner_bytes> {
    return slot_.of_owner;
  }

  // How long the file is by the last transaction. A transaction may be about a longer one, once there are blocks.
  [[nodiscard]] inline auto file_bytes() const noexcept -> std::uint64_t { return file_bytes_; }

  // Of the next transaction.
  [[nodiscard]] inline auto sequence() const noexcept -> std::uint64_t { return sequence_; }

  // Lines of a page that have been committed and are not in place yet. Whoever compares with the file to find out what has
  // changed has to add them to what is different.
  [[nodiscard]] auto unapplied_lines(std::uint64_t number) const noexcept -> std::uint64_t;

  // Commits a transaction about a file that is `file_bytes` long.
  //
  // Errors: `std::errc::message_size` when the ring could not hold it if it were empty; nothing has happened then. What the
  // system reports: then it may have been committed or not.
  [[nodiscard]] auto commit(transaction what, level wanted, std::uint64_t file_bytes) -> result<void>;

  // Writes all durable transactions in place.
  [[nodiscard]] auto apply() -> result<void>;

  // Makes all transactions durable, in place, and the ring free.
  [[nodiscard]] auto checkpoint() -> result<void>;

private:
  struct record {
    transaction what;
    std::uint64_t at; // in the ring
    bool durable;
  };

  log(journaled_file file, slot const& current) noexcept;

  [[nodiscard]] auto read_slots() -> result<void>;
  [[nodiscard]] auto recover() -> result<void>;
  [[nodiscard]] auto find_records() -> result<void>;

  void add(record one, std::uint64_t file_bytes);
  void note_unapplied(record const& one);
  [[nodiscard]] auto find_room(std::uint64_t length) const noexcept -> std::optional<std::uint64_t>;
  [[nodiscard]] auto make_room(std::uint64_t length) -> result<std::uint64_t>;
  [[nodiscard]] auto make_durable() -> result<void>;
  [[nodiscard]] auto write_in_place(record_view changes) -> result<void>;
  [[nodiscard]] auto apply_all() -> result<void>; // once all of it is durable
  [[nodiscard]] auto write_header() -> result<void>;

  [[nodiscard]] auto read(std::uint64_t at, std::span<std::byte> bytes) -> result<void>;
  [[nodiscard]] auto write(os::descriptor to, std::uint64_t at, std::span<std::byte const> bytes, bool durably)
      -> result<void>;
  [[nodiscard]] auto check(os::outcome<void> const& done, std::string_view operation) -> result<void>;
  auto fail(int code, std::string_view operation, std::optional<byte_range> range = {}) -> std::unexpected<error>;

  slot slot_; // the one that counts; first, for it is aligned to a page
  journaled_file file_;
  std::uint64_t tail_ = 0;     // where the first record since the checkpoint lies, which may be the ring's beginning
  std::uint64_t head_ = 0;     // where the next record goes
  std::uint64_t sequence_ = 0; // of it
  std::uint64_t file_bytes_ = 0;
  std::deque<record> records_; // that are not in place yet
  std::unordered_map<std::uint64_t, std::uint64_t> unapplied_;
  std::optional<error> failed_;
};

} // namespace fmmap::journal
