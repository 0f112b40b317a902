// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <expected>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

// The file of a heap with its lock and its journal, and the commits that are staged. It outlives the heap as long as there is
// a staged commit. Implementation units only.
module fmmap.pmr:heap_store;

import fmmap.core;
import fmmap.journal;
import fmmap.lock;
import fmmap.os;
import :heap_format;
import :persistent_heap;

namespace fmmap {

// What a heap held at one moment, as changes of its file.
struct staged_commit {
  journal::transaction changes;
  journal::transaction fresh; // whole pages that are free in every state before, so that they need no record
  commit_durability level = commit_durability::none;
  std::uint64_t file_bytes = 0;
  // What it takes from the next commit's work, and gives back when it comes to nothing.
  std::vector<std::size_t> pages;  // of the file
  std::vector<std::size_t> chunks; // of the content
  bool is_awaited = false;         // somebody runs it as soon as those before it have run
  bool is_running = false;         // then whoever drops it has nothing to give back
  std::optional<result<void>> outcome;

  template <class Visit>
  void for_each_change(Visit visit) const {
    fresh.view().for_each_change(std::ref(visit));
    changes.view().for_each_change(std::ref(visit));
  }

  // Where there are states before it after all, or where they are not worth more than a record.
  void give_fresh_ones_a_record() {
    changes.add(fresh);
    fresh = {};
  }
};

// Of several things that go on whether one fails or not: the first error is returned, the others are dropped.
class first_error {
public:
  void note(fmmap::result<void> done) {
    if (done) {
      return;
    }
    if (first_) {
      first_ = std::move(done);
    } else {
      report_dropped_error(done.error());
    }
  }
  [[nodiscard]] auto result() const -> fmmap::result<void> { return first_; }

private:
  fmmap::result<void> first_;
};

// Makes a file of a descriptor that has just been opened, or closes it.
[[nodiscard]] auto adopt_or_close(os::descriptor opened, std::string_view path) -> result<file>;

// Takes the lock of a heap's file. Errors: `errc::in_use`; as `file_lock::create`.
[[nodiscard]] auto lock_heap(file const& backing, lock_mode mode) -> result<file_lock>;

class heap_store {
public:
  // Whether a journal can have that many bytes; else `errc::invalid_options`.
  [[nodiscard]] static auto check_journal_size(std::size_t bytes, std::string_view operation, std::string_view path)
      -> result<void>;

  // Makes a heap's file of one that is there and empty.
  [[nodiscard]] static auto create(file backing, heap_format::heap_header const& header, std::size_t journal_size,
                                   std::uint64_t content) -> result<std::shared_ptr<heap_store>>;

  // Opens it, and completes what was committed, unless it is only to be read.
  [[nodiscard]] static auto open(std::filesystem::path const& path, bool read_only)
      -> result<std::shared_ptr<heap_store>>;

  heap_store(file backing, file_lock lock, file direct);

  [[nodiscard]] inline auto path() const noexcept -> std::string_view { return file_.path(); }
  [[nodiscard]] inline auto backing() const noexcept -> file const& { return file_; }
  [[nodiscard]] inline auto descriptor() const noexcept -> os::descriptor { return file_.native_handle(); }
  [[nodiscard]] inline auto header() const noexcept -> heap_format::heap_header const& { return header_; }
  [[nodiscard]] inline auto where() const noexcept -> heap_format::layout const& { return where_; }

  // How much content the last commit has, and how much there are blocks for.
  [[nodiscard]] auto committed_content() const -> std::uint64_t;

  [[nodiscard]] inline auto ring_bytes() const noexcept -> std::uint64_t { return log_->ring_bytes(); }

  // Puts blocks behind content and its books from `from` to `to`. Errors: as file::allocate; the file is then as before.
  [[nodiscard]] auto allocate(std::uint64_t from, std::uint64_t to) -> result<void>;

  // The same where there are holes. Some file systems want blocks for all that is asked for, and not only for those.
  [[nodiscard]] auto fill_holes(std::uint64_t from, std::uint64_t to) -> result<void>;

  // Puts blocks behind that content, or takes them away, for which no record may be in the journal. What has been taken away
  // has to be made durable before anything of it is committed again. Errors: as file::allocate and file::punch_hole.
  [[nodiscard]] auto provide(std::uint64_t from, std::uint64_t to) -> result<void>;
  [[nodiscard]] auto withdraw(std::uint64_t from, std::uint64_t to) -> result<void>;

  // Lines that the file in place does not have as the last staged commit does: of those that are staged, and of those that have
  // run. Whoever looks at the file has to ask first, in this order: what is asked for later may have got further meanwhile.
  [[nodiscard]] auto staged_lines() const -> journal::line_masks;
  [[nodiscard]] inline auto unapplied_lines(std::uint64_t page) const -> std::uint64_t {
    return log_->unapplied_lines(page);
  }

  // Writes in place what can be, so that there is less unapplied.
  [[nodiscard]] auto apply() -> result<void>;

  // Makes all that is committed durable and brings it in place, so that the journal is empty; and what was taken away durable.
  [[nodiscard]] auto checkpoint() -> result<void>;
  [[nodiscard]] auto sync() -> result<void>;

  // False when one that was staged before has come to nothing since this one took what such commits had given back: then it
  // lacks those changes, and is not staged.
  [[nodiscard]] auto enqueue(std::shared_ptr<staged_commit> const& one) -> bool;
  [[nodiscard]] auto run(staged_commit& one) -> result<void>;
  void drop(staged_commit& one) noexcept;
  [[nodiscard]] auto has_staged() const -> bool;

  // Whether, for want of memory, it is not known any more what a commit that came to nothing gave back. Asked once.
  [[nodiscard]] auto has_lost_track() noexcept -> bool { return lost_track_.exchange(false); }

  // What commits that came to nothing have given back.
  [[nodiscard]] auto take_returned_pages() -> std::vector<std::size_t>;
  [[nodiscard]] auto take_returned_chunks() -> std::vector<std::size_t>;

  // While it is held, nothing is written to the file.
  [[nodiscard]] auto pause() const -> std::unique_lock<std::mutex> { return std::unique_lock{io_}; }

  // Calls `visit` with the lines that the file in place does not have yet, in the order of commits, while it is paused by the
  // caller. Nothing may be staged.
  template <class Visit>
  void for_each_unapplied(std::unique_lock<std::mutex> const& /*paused*/, Visit visit) const {
    log_->for_each_unapplied(visit);
  }

  // Replaces the file by one with a journal of another length. Right after `open`, and nothing else follows.
  [[nodiscard]] auto resize_journal(std::filesystem::path const& at, std::size_t bytes) -> result<void>;

  // The error of a commit of which nobody knows whether it took place, if there was one.
  [[nodiscard]] auto failure() const -> std::optional<error>;

  // Copies the file, its journal emptied before. One that is only to be read keeps its journal, and the copy has it too.
  [[nodiscard]] auto snapshot(std::filesystem::path const& to, bool read_only) -> result<void>;
  [[nodiscard]] auto stats() const -> journal::log_stats;
  [[nodiscard]] auto close() -> result<void>;

private:
  // Calls `visit` with the beginning and the end of each part of that content that lies in the file as one.
  [[nodiscard]] auto for_each_part(std::uint64_t from, std::uint64_t to,
                                   std::function<result<void>(std::uint64_t begin, std::uint64_t end)> const& visit)
      -> result<void>;

  [[nodiscard]] static auto open(file backing, file_lock lock, bool read_only) -> result<std::shared_ptr<heap_store>>;

  [[nodiscard]] auto fill_holes_of(byte_range part) -> result<void>;

  // Takes over what the header says.
  [[nodiscard]] auto check_header(journal::log const& found) -> result<void>;
  [[nodiscard]] auto begin_running(staged_commit const& one) -> std::size_t;
  void run_together(std::size_t count);
  [[nodiscard]] auto record(staged_commit& one) -> result<void>;
  void give_back(staged_commit& one, std::deque<std::shared_ptr<staged_commit>>::iterator next) noexcept;
  [[nodiscard]] auto journaled() const -> journal::journaled_file;

  file file_;
  file direct_; // the same file past the page cache, where that can be
  file_lock lock_;
  int const process_ = os::process_id();
  heap_format::heap_header header_{};
  heap_format::layout where_;
  mutable std::mutex io_; // of the journal
  std::unique_ptr<journal::log> log_;
  std::mutex size_; // of the file, against the journal's changing it
  mutable std::mutex queue_;
  std::deque<std::shared_ptr<staged_commit>> staged_;
  std::vector<std::size_t> returned_pages_;
  std::vector<std::size_t> returned_chunks_;
  std::atomic<bool> lost_track_{false};
};

} // namespace fmmap
