// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <expected>
#include <filesystem>
#include <functional>
#include <iterator>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

module fmmap.pmr;

import fmmap.alloc;
import fmmap.core;
import fmmap.journal;
import fmmap.lock;
import fmmap.os;
import :heap_format;
import :heap_store;

namespace fmmap {

namespace {

// The file once more, past the page cache; where it cannot be had so, as it is.
auto open_direct(file const& backing, bool read_only) -> result<file> {
  auto const reopen = [&](bool direct) {
    return os::retry([&] { return os::reopen(backing.native_handle(), {.write = !read_only, .direct = direct}); });
  };
  auto opened = reopen(true);
  if (!opened) {
    opened = reopen(false);
  }
  if (!opened) {
    return std::unexpected(error::make({opened.error(), std::system_category()}, "open", backing.path()));
  }
  return adopt_or_close(*opened, backing.path());
}

// Whoever replaces the file does so under its lock: what was opened before that is another one by now.
auto is_still_at(file const& opened, std::filesystem::path const& path) -> bool {
  auto const there = os::status_at(os::working_directory, path.c_str(), true);
  return there && file_identity{.device = there->device, .inode = there->inode} == opened.identity();
}

auto journal_level(commit_durability level) -> journal::level {
  switch (level) {
  case commit_durability::none:
    return journal::level::none;
  case commit_durability::process:
    return journal::level::process;
  case commit_durability::power:
    break;
  }
  return journal::level::power;
}

} // namespace

auto lock_heap(file const& backing, lock_mode mode) -> result<file_lock> {
  auto lock = file_lock::create(backing);
  if (!lock) {
    return lock;
  }
  auto const held = lock->try_acquire(mode);
  if (!held) {
    return std::unexpected(held.error());
  }
  if (!*held) {
    return std::unexpected(error::make(errc::in_use, "open", backing.path(), {},
                                       mode == lock_mode::exclusive ? "somebody else has the heap open"
                                                                    : "somebody else has the heap open for writing"));
  }
  return lock;
}

auto adopt_or_close(os::descriptor opened, std::string_view path) -> result<file> {
  auto adopted = file::adopt(opened, path);
  if (!adopted) { // it is not its own then
    if (auto const closed = os::close(opened); !closed) {
      report_dropped_error(error::make({closed.error(), std::system_category()}, "close", path));
    }
  }
  return adopted;
}

heap_store::heap_store(file backing, file_lock lock, file direct)
    : file_{std::move(backing)}, direct_{std::move(direct)}, lock_{std::move(lock)} {}

auto heap_store::journaled() const -> journal::journaled_file {
  return {.cached = file_.native_handle(), .direct = direct_.native_handle(), .path = std::string{path()}};
}

auto heap_store::check_journal_size(std::size_t bytes, std::string_view operation, std::string_view path)
    -> result<void> {
  constexpr std::size_t least = std::size_t{64} << 10;
  constexpr std::size_t most = std::size_t{16} << 30;
  if (bytes % journal::page_bytes != 0 || bytes < least || bytes > most) {
    return std::unexpected(error::make(errc::invalid_options, operation, path, {},
                                       "the journal has to be a multiple of 4096 bytes, from 64 KiB to 16 GiB"));
  }
  return {};
}

auto heap_store::create(file backing, heap_format::heap_header const& header, std::size_t journal_size,
                        std::uint64_t content) -> result<std::shared_ptr<heap_store>> {
  auto lock = lock_heap(backing, lock_mode::exclusive);
  if (!lock) {
    return std::unexpected(std::move(lock).error());
  }
  auto direct = open_direct(backing, false);
  if (!direct) {
    return std::unexpected(std::move(direct).error());
  }
  auto made = std::make_shared<heap_store>(std::move(backing), std::move(*lock), std::move(*direct));
  made->header_ = header;
  made->where_ = heap_format::layout{journal::ring_begin + journal_size};
  if (auto done = made->allocate(0, content); !done) {
    return std::unexpected(std::move(done).error());
  }
  std::array<std::byte, journal::owner_bytes> of_owner{};
  std::memcpy(of_owner.data(), &header, sizeof header);
  auto log = journal::log::create(made->journaled(), journal_size, made->where_.file_bytes(content),
                                  made->where_.file_bytes(header.reserve), of_owner);
  if (!log) {
    return std::unexpected(std::move(log).error());
  }
  made->log_ = std::make_unique<journal::log>(std::move(*log));
  return made;
}

auto heap_store::open(std::filesystem::path const& path, bool read_only) -> result<std::shared_ptr<heap_store>> {
  while (true) {
    auto backing = file::open(path, {.access = read_only ? access::read_only : access::read_write});
    if (!backing) {
      return std::unexpected(std::move(backing).error());
    }
    auto lock = lock_heap(*backing, read_only ? lock_mode::shared : lock_mode::exclusive);
    if (!lock) {
      return std::unexpected(std::move(lock).error());
    }
    if (is_still_at(*backing, path)) {
      return open(std::move(*backing), std::move(*lock), read_only);
    }
  }
}

auto heap_store::open(file backing, file_lock lock, bool read_only) -> result<std::shared_ptr<heap_store>> {
  auto direct = open_direct(backing, read_only);
  if (!direct) {
    return std::unexpected(std::move(direct).error());
  }
  auto made = std::make_shared<heap_store>(std::move(backing), std::move(lock), std::move(*direct));
  auto const accepts = [&](journal::log const& found) { return made->check_header(found); };
  auto log = read_only ? journal::log::examine(made->journaled()) : journal::log::open(made->journaled(), accepts);
  if (!log) {
    if (log.error() == std::errc::bad_message) {
      return std::unexpected(error::make(errc::not_a_heap, "open", made->path()));
    }
    return std::unexpected(std::move(log).error());
  }
  if (auto sound = made->check_header(*log); !sound) { // also of what its records have made of it
    return std::unexpected(std::move(sound).error());
  }
  made->log_ = std::make_unique<journal::log>(std::move(*log));
  return made;
}

auto heap_store::check_header(journal::log const& found) -> result<void> {
  std::memcpy(&header_, found.of_owner().data(), sizeof header_);
  where_ = heap_format::layout{found.content_begin()};
  auto const fail = [&](errc code, std::string_view hint) {
    return std::unexpected(error::make(code, "open", path(), {}, hint));
  };
  if (header_.magic != heap_format::magic) {
    return fail(errc::not_a_heap, "it has a journal, and something else behind it");
  }
  if (header_.version != heap_format::version) {
    return fail(errc::incompatible, "its format is " + std::to_string(header_.version) + ", and this fmmap knows " +
                                        std::to_string(heap_format::version));
  }
  auto const& own = heap_format::traits();
  for (std::size_t i = 0; i < own.size(); ++i) {
    if (header_.traits[i] != own[i].value) {
      return fail(errc::incompatible, heap_format::describe_difference(own[i], header_.traits[i]));
    }
  }
  if (!heap_format::has_possible_addresses(header_)) {
    return fail(errc::damaged, "its addresses can be none");
  }
  if (!heap_format::is_possible_end(header_, where_, found.file_bytes())) {
    return fail(errc::damaged, "its length can be none");
  }
  if (found.spill_at() != where_.file_bytes(header_.reserve)) { // or long records would lie in what the heap grows by
    return fail(errc::damaged, "its journal goes on where it cannot");
  }
  auto const size = file_.size();
  if (!size) {
    return std::unexpected(size.error());
  }
  if (*size < found.file_bytes()) { // which was durable before the header was
    return fail(errc::damaged, "it has been cut off at " + std::to_string(*size) + " of " +
                                   std::to_string(found.file_bytes()) + " bytes");
  }
  return {};
}

auto heap_store::committed_content() const -> std::uint64_t { return where_.content_bytes(log_->file_bytes()); }

auto heap_store::for_each_part(std::uint64_t from, std::uint64_t to,
                               std::function<result<void>(std::uint64_t begin, std::uint64_t end)> const& visit)
    -> result<void> {
  constexpr auto segment = heap_format::layout::segment_content;
  for (auto at = from; at < to;) {
    auto const end = std::min(to, ((at / segment) + 1) * segment);
    if (auto done = visit(at, end); !done) {
      return done;
    }
    at = end;
  }
  return {};
}

auto heap_store::allocate(std::uint64_t from, std::uint64_t to) -> result<void> {
  std::scoped_lock const lock{size_};
  return for_each_part(from, to, [&](std::uint64_t begin, std::uint64_t end) -> result<void> {
    // The books first, for the content makes the file longer.
    if (auto done = file_.allocate(where_.books_of(begin, end)); !done) {
      return done;
    }
    return file_.allocate(where_.range_of(begin, end));
  });
}

auto heap_store::fill_holes(std::uint64_t from, std::uint64_t to) -> result<void> {
  std::scoped_lock const lock{size_};
  return for_each_part(from, to, [&](std::uint64_t begin, std::uint64_t end) -> result<void> {
    if (auto done = fill_holes_of(where_.books_of(begin, end)); !done) {
      return done;
    }
    return fill_holes_of(where_.range_of(begin, end));
  });
}

auto heap_store::fill_holes_of(byte_range part) -> result<void> {
  auto const end = part.offset + part.length;
  for (auto at = part.offset; at < end;) {
    auto const extent = os::retry([&] { return os::next_extent(descriptor(), at, end); });
    auto const hole_end = extent ? std::clamp(extent->begin, at, end) : end; // where nothing is told, all may be a hole
    if (hole_end > at) {
      if (auto done = file_.allocate({.offset = at, .length = static_cast<std::size_t>(hole_end - at)}); !done) {
        return done;
      }
    }
    at = extent ? std::max(extent->end, at + 1) : end;
  }
  return {};
}

auto heap_store::provide(std::uint64_t from, std::uint64_t to) -> result<void> {
  std::scoped_lock const lock{size_};
  return for_each_part(
      from, to, [&](std::uint64_t begin, std::uint64_t end) { return file_.allocate(where_.range_of(begin, end)); });
}

auto heap_store::withdraw(std::uint64_t from, std::uint64_t to) -> result<void> {
  return for_each_part(
      from, to, [&](std::uint64_t begin, std::uint64_t end) { return file_.punch_hole(where_.range_of(begin, end)); });
}

// --- Commits ----------------------------------------------------------------------------------------------------------

auto heap_store::staged_lines() const -> journal::line_masks {
  std::scoped_lock const lock{queue_};
  journal::line_masks all;
  for (auto const& one : staged_) {
    all.add(one->fresh.view());
    all.add(one->changes.view());
  }
  return all;
}

auto heap_store::apply() -> result<void> {
  std::scoped_lock const lock{io_};
  return log_->apply();
}

auto heap_store::checkpoint() -> result<void> {
  std::scoped_lock const lock{io_};
  return log_->checkpoint();
}

auto heap_store::sync() -> result<void> {
  std::scoped_lock const lock{io_};
  return log_->sync();
}

auto heap_store::enqueue(std::shared_ptr<staged_commit> const& one) -> bool {
  std::scoped_lock const lock{queue_};
  if (lost_track_ || !returned_pages_.empty() || !returned_chunks_.empty()) {
    return false;
  }
  staged_.push_back(one);
  return true;
}

auto heap_store::has_staged() const -> bool {
  std::scoped_lock const lock{queue_};
  return !staged_.empty();
}

auto heap_store::run(staged_commit& one) -> result<void> {
  if (os::process_id() != process_) { // the journal is the parent's
    return std::unexpected(error::make(errc::forked, "commit", path()));
  }
  {
    std::scoped_lock const queue{queue_};
    one.is_awaited = true;
  }
  std::scoped_lock const lock{io_};
  while (true) {
    {
      std::scoped_lock const queue{queue_};
      if (one.outcome) {
        return *one.outcome;
      }
    }
    run_together(begin_running(one));
  }
}

// How many are to be run for this one: those before it, and those behind it that somebody waits for, too.
auto heap_store::begin_running(staged_commit const& one) -> std::size_t {
  std::scoped_lock const queue{queue_};
  auto const place = std::ranges::find(staged_, &one, &std::shared_ptr<staged_commit>::get);
  if (place == staged_.end()) { // it has come to nothing meanwhile
    return 0;
  }
  auto const end = std::find_if_not(std::next(place), staged_.end(), [](auto const& each) { return each->is_awaited; });
  std::for_each(staged_.begin(), end, [](auto const& each) { each->is_running = true; });
  return static_cast<std::size_t>(end - staged_.begin());
}

// Runs the first ones, whose records go out in one write.
void heap_store::run_together(std::size_t count) {
  auto wanted = commit_durability::none;
  std::size_t recorded = 0;
  while (recorded < count) {
    auto const next = [&] {
      std::scoped_lock const queue{queue_};
      return staged_[recorded];
    }();
    auto done = record(*next);
    if (done) {
      wanted = std::max(wanted, next->level);
      ++recorded;
      continue;
    }
    std::scoped_lock const queue{queue_};
    give_back(*next, staged_.erase(staged_.begin() + static_cast<std::ptrdiff_t>(recorded)));
    next->outcome = std::move(done);
    count = std::min(count - 1, staged_.size()); // what builds on one that could not be kept has come to nothing
  }
  auto const reached = log_->commit({}, journal_level(wanted), log_->file_bytes());
  std::scoped_lock const queue{queue_};
  for (; recorded > 0; --recorded) {
    auto const first = std::move(staged_.front());
    staged_.pop_front();
    if (!reached) {
      give_back(*first, staged_.begin());
    }
    first->outcome = reached;
  }
}

// Makes a record, which is still to be written where it is one for the ring.
auto heap_store::record(staged_commit& one) -> result<void> try {
  std::unique_lock size{size_, std::defer_lock};
  if (one.changes.size_in_ring() > log_->ring_bytes()) { // it goes behind the end of the file for a while
    size.lock();
  }
  if (!one.fresh.is_empty()) {
    if (auto done = log_->write_without_record(one.fresh); !done) {
      return done;
    }
  }
  // A copy: who stages meanwhile looks at it.
  return log_->commit(one.changes, journal::level::none, one.file_bytes);
} catch (std::bad_alloc const&) { // before the journal had it
  return std::unexpected(error::make(std::make_error_code(std::errc::not_enough_memory), "commit", path()));
}

void heap_store::drop(staged_commit& one) noexcept {
  std::scoped_lock const queue{queue_};
  if (one.outcome || one.is_running) {
    return;
  }
  auto const place = std::ranges::find(staged_, &one, &std::shared_ptr<staged_commit>::get);
  give_back(one, place == staged_.end() ? place : staged_.erase(place));
}

// What was staged after it builds on it, and takes its changes; they are the next commit's to find where there is none.
void heap_store::give_back(staged_commit& one, std::deque<std::shared_ptr<staged_commit>>::iterator next) noexcept {
  auto const append = [](std::vector<std::size_t>& to, std::vector<std::size_t> const& from) {
    to.insert(to.end(), from.begin(), from.end());
  };
  try {
    if (next != staged_.end()) {
      one.give_fresh_ones_a_record();
      one.changes.add((*next)->changes);
      std::swap(one.changes, (*next)->changes);
    }
    append(next == staged_.end() ? returned_pages_ : (*next)->pages, one.pages);
    append(next == staged_.end() ? returned_chunks_ : (*next)->chunks, one.chunks);
  } catch (std::bad_alloc const&) { // without it, what builds on it would be a mixture
    lost_track_ = true;
    for (; next != staged_.end(); next = staged_.erase(next)) {
      (*next)->outcome = std::unexpected(error::make(std::make_error_code(std::errc::not_enough_memory),
                                                     "keep what a dropped commit has changed of", path()));
    }
  }
}

auto heap_store::take_returned_pages() -> std::vector<std::size_t> {
  std::scoped_lock const queue{queue_};
  return std::exchange(returned_pages_, {});
}

auto heap_store::take_returned_chunks() -> std::vector<std::size_t> {
  std::scoped_lock const queue{queue_};
  return std::exchange(returned_chunks_, {});
}

// --- The rest ---------------------------------------------------------------------------------------------------------

auto heap_store::snapshot(std::filesystem::path const& to, bool read_only) -> result<void> {
  std::scoped_lock const lock{io_, size_};
  if (!read_only) {
    if (auto done = log_->checkpoint(); !done) {
      return done;
    }
  }
  auto made = file_.clone_to(to, {.level = durability::all});
  return made ? result<void>{} : std::unexpected(std::move(made).error());
}

auto heap_store::resize_journal(std::filesystem::path const& at, std::size_t bytes) -> result<void> {
  if (bytes == log_->ring_bytes()) {
    return {};
  }
  auto const old =
      mapping::map(file_, {.range = {.offset = 0, .length = static_cast<std::size_t>(log_->file_bytes())}});
  if (!old) {
    return std::unexpected(old.error());
  }
  heap_format::layout const where{journal::ring_begin + bytes};
  auto const content = where_.content_bytes(log_->file_bytes());
  journal::slot first{.about = {.magic = journal::header_magic,
                                .checksum = 0,
                                .generation = 1,
                                .salt = journal::random_number(),
                                .sequence = log_->sequence(),
                                .tail = 0,
                                .ring_bytes = bytes,
                                .file_bytes = where.file_bytes(content),
                                .spill_at = where.file_bytes(header_.reserve),
                                .closed = 0},
                      .of_owner = {}};
  std::ranges::copy(log_->of_owner(), first.of_owner.begin());
  return replace_file(at, static_cast<std::size_t>(first.about.file_bytes), [&](std::span<std::byte> made) {
    std::ranges::fill(made.first(journal::ring_begin + bytes), std::byte{0}); // written, as commits need it
    std::memcpy(made.data() + (journal::seal(first) * journal::page_bytes), &first, sizeof first);
    std::ranges::copy(old->bytes().subspan(where_.file_bytes(0)), made.subspan(where.file_bytes(0)).begin());
  });
}

auto heap_store::failure() const -> std::optional<error> {
  std::scoped_lock const lock{io_};
  return log_->failure();
}

auto heap_store::stats() const -> journal::log_stats {
  std::scoped_lock const lock{io_};
  return log_->stats();
}

auto heap_store::close() -> result<void> {
  std::scoped_lock const lock{io_};
  first_error outcome;
  if (log_ && file_.access() != access::read_only && os::process_id() == process_) {
    outcome.note(log_->close());
  }
  outcome.note(direct_.close());
  outcome.note(file_.close());
  outcome.note(lock_.close());
  return outcome.result();
}

} // namespace fmmap
