// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

module fmmap.core;

import :state;
import fmmap.os;

namespace fmmap {

namespace {

// Bytes that two flushes may have between them and still be made as one.
constexpr std::uint64_t merge_gap = std::uint64_t{256} << 10;

// Takes `hole` out of a list of intervals.
void subtract(std::vector<os::interval>& from, os::interval hole) {
  std::vector<os::interval> left;
  for (auto const& part : from) {
    if (part.begin < hole.begin) {
      left.push_back({.begin = part.begin, .end = std::min(part.end, hole.begin)});
    }
    if (part.end > hole.end) {
      left.push_back({.begin = std::max(part.begin, hole.end), .end = part.end});
    }
  }
  from = std::move(left);
}

} // namespace

struct open_file::sync_history {
  std::vector<os::interval> lost;     // parts of the file that failed syncs may have lost
  std::optional<error> first_failure; // of those that have lost them
  std::uint64_t failures = 0;         // ever
  std::uint64_t next_ticket = 1;
  std::vector<std::uint64_t> in_progress; // the tickets of syncs that have begun and not ended
  std::condition_variable one_ended;

  // All of the file may be lost, not only what was to be synced: the kernel tells of a page that somebody else's sync, or
  // none, has tried to write.
  void note(error const& failure) {
    ++failures;
    if (lost.empty()) {
      first_failure = failure;
    }
    lost.assign(1, everything);
  }
};

void open_file::forget::operator()(sync_history* syncs) const noexcept { delete syncs; }

// A sync that has begun. The kernel tells of a failed write-back once for an open file, to whichever sync asks first, and
// the others succeed: so each waits for those it has overlapped, and takes a failure of theirs for its own.
class open_file::sync_in_progress {
public:
  explicit sync_in_progress(open_file& of) : of_{of} {
    std::scoped_lock const lock{of_.mutex_};
    if (!of_.syncs_) {
      of_.syncs_.reset(new sync_history);
      of_.syncs_->lost.reserve(1); // a failure must not be forgotten for want of memory
    }
    auto& syncs = *of_.syncs_;
    syncs.in_progress.push_back(syncs.next_ticket);
    ticket_ = syncs.next_ticket++;
    failures_before_ = syncs.failures;
  }
  sync_in_progress(sync_in_progress const&) = delete;
  auto operator=(sync_in_progress const&) -> sync_in_progress& = delete;
  ~sync_in_progress() {
    if (!has_left()) {
      std::scoped_lock const lock{of_.mutex_};
      leave();
    }
  }

  // Ends the sync with what the system said of it.
  void leave(os::outcome<void> const& done, std::string_view operation, std::optional<byte_range> const& range) {
    if (!done) {
      failed_ = of_.describe_failure(done.error(), operation, range);
    }
    std::scoped_lock const lock{of_.mutex_};
    if (failed_ && of_.loses_data(done.error())) {
      of_.syncs_->note(*failed_);
    }
    leave();
    last_ = of_.syncs_->next_ticket;
  }

  [[nodiscard]] auto has_left() const noexcept -> bool { return ticket_ == ended; }

  // Whether it has, and those that it has overlapped have ended too.
  [[nodiscard]] auto is_settled() const -> bool {
    std::scoped_lock const lock{of_.mutex_};
    return has_left() && have_ended();
  }

  // Waits for them. Without an error, from it or from one of them, `succeeded` is called before any other sync can end.
  template <class Succeeded>
  [[nodiscard]] auto wait(Succeeded succeeded) -> result<void> {
    std::unique_lock lock{of_.mutex_};
    auto& syncs = *of_.syncs_;
    syncs.one_ended.wait(lock, [&] { return have_ended(); });
    if (failed_) {
      return std::unexpected(*failed_);
    }
    if (syncs.first_failure && syncs.failures != failures_before_) {
      return std::unexpected(*syncs.first_failure);
    }
    succeeded(syncs);
    return {};
  }

private:
  static constexpr std::uint64_t ended = 0;

  [[nodiscard]] auto have_ended() const -> bool {
    return std::ranges::none_of(of_.syncs_->in_progress, [&](std::uint64_t other) { return other < last_; });
  }

  void leave() {
    std::erase(of_.syncs_->in_progress, std::exchange(ticket_, ended));
    of_.syncs_->one_ended.notify_all();
  }

  open_file& of_;
  std::uint64_t ticket_ = ended;
  std::uint64_t last_ = 0; // the first ticket that had not been given when it ended
  std::uint64_t failures_before_ = 0;
  std::optional<error> failed_;
};

// Whether a sync that failed so may have dropped data the kernel now takes for clean. A file system may report any code
// that way; these few say that nothing has begun.
auto open_file::loses_data(int code) const noexcept -> bool {
  auto const unsupported = code == EINVAL || code == EROFS || code == EOPNOTSUPP;
  return code != EBADF && code != ENOSYS && (type == os::file_type::regular || !unsupported);
}

auto open_file::describe_failure(int code, std::string_view operation, std::optional<byte_range> const& range) const
    -> error {
  auto const* const hint =
      !loses_data(code) ? ""
      : operation == "rewrite"
          ? "what memory shows is not on the disk; file::rewrite, while nobody stores to the file, "
            "or a copy into another one"
          : "the system may have dropped what it could not write; rewrite() writes it again";
  return fail(code, operation, range, hint).error();
}

// --- Flushing -----------------------------------------------------------------------------------------------------------

// A flush in steps, of which the system call may block, and the end, which waits for other syncs.
class flush_steps {
public:
  inline flush_steps(open_file& target, durability level, os::interval part, std::span<std::byte> mapped) noexcept
      : target_{target}, level_{level}, part_{part}, mapped_{mapped} {}

  // The system call to make next; empty when there is none any more.
  [[nodiscard]] auto next_call() -> std::optional<sync_call>;
  void call_made(os::outcome<void> const& done);
  [[nodiscard]] auto finish() -> result<durability>; // with the system calls that are left

  [[nodiscard]] auto is_over() const -> bool { return has_begun_ && (!sync_ || sync_->is_settled()); }
  [[nodiscard]] auto is_one_call() const noexcept -> bool { return level_ != durability::none && !part_.empty(); }

  // Takes on another flush of the same file, which has not begun either.
  [[nodiscard]] auto absorb(flush_steps const& other) noexcept -> bool;

private:
  [[nodiscard]] auto begin() -> result<durability>;
  [[nodiscard]] auto make_call() const -> os::outcome<void>;
  [[nodiscard]] auto is_range_sync() const noexcept -> bool {
    return level_ == durability::started || level_ == durability::written;
  }

  open_file& target_;
  durability level_; // to be reached
  os::interval part_;
  std::span<std::byte> mapped_;
  bool has_begun_ = false;
  std::optional<open_file::sync_in_progress> sync_; // where there is a system call to make
  result<durability> without_call_;                 // what it comes to where there is none
};

auto flush_steps::begin() -> result<durability> {
  if (auto const earlier = target_.failed_sync()) {
    return std::unexpected(*earlier);
  }
  if (level_ == durability::none) {
    return level_;
  }
  if (target_.in_memory) {
    return target_.fail(errc::not_durable, "flush");
  }
  if (part_.empty()) {
    return level_;
  }
  sync_.emplace(target_);
  return level_;
}

auto flush_steps::next_call() -> std::optional<sync_call> {
  if (!has_begun_) {
    without_call_ = begin();
    has_begun_ = true;
  }
  if (!sync_ || sync_->has_left()) {
    return std::nullopt;
  }
  auto const is_all = part_ == everything || (!is_range_sync() && (mapped_.empty() || level_ == durability::all));
  return sync_call{.level = level_,
                   .descriptor = target_.descriptor(),
                   .offset = is_all ? 0 : part_.begin,
                   .length = is_all ? 0 : part_.length()};
}

auto flush_steps::make_call() const -> os::outcome<void> {
  if (is_range_sync()) {
    auto const length = part_ == everything ? 0 : part_.length(); // 0: to the end of the file
    return os::sync_range(target_.descriptor(), part_.begin, length, level_ == durability::written);
  }
  if (level_ == durability::all) {
    return os::sync(target_.descriptor());
  }
  return mapped_.empty() ? os::sync_data(target_.descriptor()) : os::sync_memory(mapped_.data(), mapped_.size());
}

void flush_steps::call_made(os::outcome<void> const& done) {
  if (!done && done.error() == EINTR) {
    return;
  }
  if (!done && is_range_sync() && os::is_range_sync_missing(done.error())) {
    level_ = durability::data;
    return;
  }
  if (sync_) {
    sync_->leave(done, "flush", part_ == everything ? std::nullopt : std::optional{as_range(part_)});
  }
}

auto flush_steps::finish() -> result<durability> {
  while (next_call()) {
    call_made(make_call());
  }
  if (!sync_) {
    return without_call_;
  }
  auto const ended = sync_->wait([](auto const&) {});
  return ended ? result<durability>{level_} : std::unexpected(ended.error());
}

// Where that costs little: all between the two is written as well, if it is dirty.
auto flush_steps::absorb(flush_steps const& other) noexcept -> bool {
  if (level_ != other.level_ || !is_one_call() || !other.is_one_call()) {
    return false;
  }
  if (part_ == everything) {
    return true;
  }
  auto const page_of = [](os::interval part) { return os::round_down(part.begin, os::page_size()); };
  auto const apart = static_cast<std::ptrdiff_t>(page_of(part_) - page_of(other.part_));
  auto const same_memory =
      mapped_.empty() == other.mapped_.empty() && (mapped_.empty() || mapped_.data() - other.mapped_.data() == apart);
  auto const both =
      os::interval{.begin = std::min(part_.begin, other.part_.begin), .end = std::max(part_.end, other.part_.end)};
  if (!same_memory || other.part_ == everything || both.length() > part_.length() + other.part_.length() + merge_gap) {
    return false;
  }
  if (!mapped_.empty()) {
    auto* const begin = std::min(mapped_.data(), other.mapped_.data());
    auto* const end = std::max(mapped_.data() + mapped_.size(), other.mapped_.data() + other.mapped_.size());
    mapped_ = {begin, end};
  }
  part_ = both;
  return true;
}

auto open_file::flush(durability level, os::interval part, std::span<std::byte> mapped) -> result<durability> {
  return flush_steps{*this, level, part, mapped}.finish();
}

namespace {

class staged_flush final : public flush_work {
public:
  staged_flush(flush_request const& what)
      : target_{what.target}, memory_{what.memory}, steps_{*target_, what.level, what.part, what.mapped} {}

  [[nodiscard]] auto run() -> result<durability> override { return steps_.finish(); }

  [[nodiscard]] auto target() const noexcept -> void const* override {
    return steps_.is_one_call() ? &*target_ : nullptr;
  }
  [[nodiscard]] auto absorb(flush_work const& other) noexcept -> bool override {
    auto const* const same = dynamic_cast<staged_flush const*>(&other);
    return same != nullptr && &*same->target_ == &*target_ && &*same->memory_ == &*memory_ &&
           steps_.absorb(same->steps_);
  }
  [[nodiscard]] auto next_call() -> std::optional<sync_call> override { return steps_.next_call(); }
  void call_made(int code) override { steps_.call_made(code == 0 ? os::outcome<void>{} : std::unexpected(code)); }
  [[nodiscard]] auto is_over() const -> bool override { return steps_.is_over(); }

private:
  counted<open_file> target_;
  counted<region> memory_; // keeps what is mapped so
  flush_steps steps_;
};

} // namespace

auto stage(flush_request const& what) -> flush_job { return flush_job{std::make_unique<staged_flush>(what)}; }

// --- Failed syncs -------------------------------------------------------------------------------------------------------

auto open_file::failed_sync() const -> std::optional<error> {
  std::scoped_lock const lock{mutex_};
  return !syncs_ || syncs_->lost.empty() ? std::nullopt : syncs_->first_failure;
}

// The parts of the file that memory has and its blocks do not, as the file system sees it. After a write-back into
// allocated blocks has failed, ext4 writes them the next time and still takes them for unwritten: everything succeeds, and
// when memory is gone they read as zero (measured).
auto open_file::find_unwritten(os::interval part) const -> os::outcome<std::vector<os::interval>> {
  auto const buffer = std::make_unique_for_overwrite<std::byte[]>(transfer_size);
  std::vector<os::interval> found;
  for (auto at = part.begin; at < part.end;) {
    auto const extent = os::retry([&] { return os::next_extent(descriptor(), at, part.end); });
    if (!extent && (extent.error() == EOPNOTSUPP || extent.error() == ENOTTY || extent.error() == ENOSYS)) {
      break; // a file system that does not tell
    }
    if (!extent) {
      return std::unexpected(extent.error());
    }
    auto const end = std::min(part.end, extent->end);
    at = std::max(at, extent->begin);
    while (extent->unwritten && at < end) {
      auto const now = os::interval{.begin = at, .end = std::min(end, at + transfer_size)};
      auto const got = read_fully(descriptor(), at, {buffer.get(), static_cast<std::size_t>(now.length())});
      if (!got) {
        return std::unexpected(got.error());
      }
      if (!is_zero({buffer.get(), *got})) {
        found.push_back(now);
      }
      at = now.end;
    }
    at = end;
  }
  return found;
}

auto open_file::write_past_cache(os::interval part, direct_writer const& past_cache) const -> os::outcome<void> {
  auto unwritten = find_unwritten(part);
  if (!unwritten) {
    return std::unexpected(unwritten.error());
  }
  if (!unwritten->empty() && past_cache) {
    if (auto const written = past_cache(*unwritten); !written) {
      return written;
    }
    if (auto const synced = os::retry([&] { return os::sync_data(descriptor()); }); !synced) {
      return synced;
    }
    unwritten = find_unwritten(part);
  }
  return unwritten && unwritten->empty() ? os::outcome<void>{} : std::unexpected(unwritten ? EIO : unwritten.error());
}

auto open_file::rewrite(os::interval part, std::function<result<void>()> const& dirty, direct_writer const& past_cache)
    -> result<durability> {
  if (in_memory) {
    return fail(errc::not_durable, "rewrite");
  }
  sync_in_progress sync{*this}; // from before the first page is dirty: another sync may meet it and fail
  if (auto const dirtied = dirty(); !dirtied) {
    return std::unexpected(dirtied.error());
  }
  auto synced = os::retry([&] { return os::sync_data(descriptor()); });
  if (synced) {
    auto const size = this->size();
    if (!size) {
      return std::unexpected(size.error());
    }
    synced = write_past_cache({.begin = std::min(part.begin, *size), .end = std::min(part.end, *size)}, past_cache);
  }
  auto const made_good = [&](sync_history& syncs) { subtract(syncs.lost, part); };
  sync.leave(synced, "rewrite", as_range(part));
  if (auto const ended = sync.wait(made_good); !ended) {
    return std::unexpected(ended.error());
  }
  return durability::data;
}

} // namespace fmmap
