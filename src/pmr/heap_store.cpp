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

auto heap_store::create(file backing, file_lock lock, heap_format::heap_header const& header,
                        heap_options const& options, std::uint64_t content) -> result<std::shared_ptr<heap_store>> {
  auto direct = open_direct(backing, false);
  if (!direct) {
    return std::unexpected(std::move(direct).error());
  }
  auto made = std::make_shared<heap_store>(std::move(backing), std::move(lock), std::move(*direct));
  made->header_ = header;
  made->where_ = heap_format::layout{journal::ring_begin + options.journal_size};
  if (auto done = made->allocate(0, content); !done) {
    return std::unexpected(std::move(done).error());
  }
  std::array<std::byte, journal::owner_bytes> of_owner{};
  std::memcpy(of_owner.data(), &header, sizeof header);
  auto log = journal::log::create(made->journaled(), options.journal_size, made->where_.file_bytes(content),
                                  made->where_.file_bytes(header.reserve), of_owner);
  if (!log) {
    return std::unexpected(std::move(log).error());
  }
  made->log_ = std::make_unique<journal::log>(std::move(*log));
  return made;
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

auto heap_store::allocate(std::uint64_t from, std::uint64_t to) -> result<void> {
  std::scoped_lock const lock{size_};
  constexpr auto segment = heap_format::layout::segment_content;
  auto const put_blocks = [&](std::uint64_t begin, std::uint64_t end) {
    auto const aligned = os::round_down(begin, alloc::page_bytes);
    return file_.allocate({.offset = aligned, .length = static_cast<std::size_t>(end - aligned)});
  };
  for (auto at = from; at < to;) { // the books first: the content makes the file longer
    auto const end = std::min(to, ((at / segment) + 1) * segment);
    auto const last = (end - 1) / alloc::chunk_bytes;
    auto const books_end = where_.record_of(last) + sizeof(heap_format::chunk_record);
    if (auto done = put_blocks(where_.record_of(at / alloc::chunk_bytes), books_end); !done) {
      return done;
    }
    if (auto done = put_blocks(where_.offset_of(at), where_.offset_of(end - 1) + 1); !done) {
      return done;
    }
    at = end;
  }
  return {};
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
  std::scoped_lock const lock{io_};
  while (true) {
    std::shared_ptr<staged_commit> first;
    {
      std::scoped_lock const queue{queue_};
      if (one.outcome) {
        return *one.outcome;
      }
      first = staged_.front();
      first->is_running = true;
    }
    auto done = complete(*first);
    std::scoped_lock const queue{queue_};
    staged_.pop_front();
    if (!done) {
      give_back(*first, staged_.begin());
    }
    first->outcome = std::move(done);
  }
}

auto heap_store::complete(staged_commit& one) -> result<void> try {
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
  return log_->commit(one.changes, journal_level(one.level), one.file_bytes);
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

auto heap_store::stats() const -> journal::log_stats {
  std::scoped_lock const lock{io_};
  return log_->stats();
}

auto heap_store::close() -> result<void> {
  std::scoped_lock const lock{io_};
  first_error outcome;
  outcome.note(direct_.close());
  outcome.note(file_.close());
  outcome.note(lock_.close());
  return outcome.result();
}

} // namespace fmmap
