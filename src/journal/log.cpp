// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <expected>
#include <functional>
#include <iterator>
#include <mutex>
#include <new>
#include <optional>
#include <ranges>
#include <span>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

module fmmap.journal;

import fmmap.core;
import fmmap.os;

namespace fmmap::journal {

namespace {

constexpr std::size_t transfer_pages = 256;                   // that go through memory at a time
constexpr std::uint64_t first_read = std::uint64_t{64} << 10; // of the ring
constexpr std::uint64_t next_read = std::uint64_t{1} << 20;

auto bytes_of(std::span<page> pages) -> std::span<std::byte> { return std::as_writable_bytes(pages); }

// A page of the ring that holds no more than that.
auto page_of(reference const& only) -> std::vector<page> {
  std::vector<page> made(1);
  std::ranges::copy(std::as_bytes(std::span{&only, 1}), made.front().bytes.begin());
  return made;
}

// Generations may begin again at zero.
auto is_newer(header const& one, header const& other) noexcept -> bool {
  return one.generation - other.generation - 1 < std::uint64_t{1} << 63;
}

auto is_full_disk(int code) noexcept -> bool { return code == ENOSPC || code == EDQUOT || code == EFBIG; }

// Calls `visit` with the offset and the length, in bytes of the page, of each run of lines in the mask.
template <class Visit>
auto for_each_run(std::uint64_t lines, Visit visit) -> result<void> {
  for (std::size_t at = 0; lines != 0;) {
    auto const skipped = static_cast<std::size_t>(std::countr_zero(lines));
    lines >>= skipped;
    auto const length = static_cast<std::size_t>(std::countr_one(lines));
    if (auto done = visit((at + skipped) * line_bytes, length * line_bytes); !done) {
      return done;
    }
    lines = length == 64 ? 0 : lines >> length;
    at += skipped + length;
  }
  return {};
}

} // namespace

log::log(journaled_file file, slot const& current)
    : slot_{current},
      file_{std::move(file)},
      tail_{current.about.tail},
      head_{current.about.tail},
      sequence_{current.about.sequence},
      file_bytes_{current.about.file_bytes} {}

auto log::fail(int code, std::string_view operation, std::optional<byte_range> range) -> std::unexpected<error> {
  failed_ = error::make({code, std::system_category()}, operation, file_.path, range);
  return std::unexpected(*failed_);
}

auto log::check(os::outcome<void> const& done, std::string_view operation) -> result<void> {
  if (!done) {
    return fail(done.error(), operation);
  }
  return {};
}

auto log::read(std::uint64_t at, std::span<std::byte> bytes) -> result<void> {
  for (auto rest = bytes; !rest.empty();) {
    auto const offset = at + (bytes.size() - rest.size());
    auto const got = os::retry([&] { return os::read_at(file_.direct, offset, rest); });
    if (!got && gives_up_direct(file_.direct, got.error())) {
      continue;
    }
    if (!got) {
      return fail(got.error(), "read", byte_range{.offset = at, .length = bytes.size()});
    }
    if (*got == 0) { // past the end, where zeros stand for what is missing
      std::ranges::fill(rest, std::byte{0});
      return {};
    }
    rest = rest.subspan(*got);
  }
  return {};
}

auto log::write(os::descriptor const& to, std::uint64_t at, std::span<std::byte const> bytes, bool durably)
    -> result<void> {
  if (auto const done = transfer(to, at, bytes, durably); !done) {
    return fail(done.error(), "write", byte_range{.offset = at, .length = bytes.size()});
  }
  return {};
}

// `to` is a member of `file_`, and may become another descriptor on the way.
auto log::transfer(os::descriptor const& to, std::uint64_t at, std::span<std::byte const> bytes, bool durably)
    -> os::outcome<void> {
  for (auto rest = bytes; !rest.empty();) {
    auto const offset = at + (bytes.size() - rest.size());
    auto const put =
        os::retry([&] { return durably ? os::write_durably_at(to, offset, rest) : os::write_at(to, offset, rest); });
    if (!put && gives_up_direct(to, put.error())) {
      continue;
    }
    if (!put || *put == 0) {
      return std::unexpected(put ? EIO : put.error());
    }
    rest = rest.subspan(*put);
  }
  return {};
}

// Some file systems open a file for direct I/O and refuse it then.
auto log::gives_up_direct(os::descriptor used, int code) noexcept -> bool {
  if (code != EINVAL || used == file_.cached) {
    return false;
  }
  file_.direct = file_.cached;
  return true;
}

// --- Beginning --------------------------------------------------------------------------------------------------------

auto log::create(journaled_file file, std::uint64_t ring_bytes, std::uint64_t file_bytes, std::uint64_t spill_at,
                 std::span<std::byte const, owner_bytes> of_owner) -> result<log> {
  slot first;
  first.about.ring_bytes = ring_bytes;
  first.about.file_bytes = file_bytes;
  first.about.spill_at = spill_at;
  std::ranges::copy(of_owner, first.of_owner.begin());
  log made{std::move(file), first};
  // The first write to a block costs twice as much as later ones, and may find the disk full: commits are not to pay for it.
  std::vector<page> const zeros(std::min<std::size_t>(transfer_pages, made.content_begin() / page_bytes));
  auto const block = std::as_bytes(std::span{zeros});
  for (std::uint64_t at = 0; at < made.content_begin(); at += block.size()) {
    auto const part = block.first(std::min<std::uint64_t>(block.size(), made.content_begin() - at));
    if (auto done = made.write(made.file_.direct, at, part, false); !done) {
      return std::unexpected(std::move(done).error());
    }
  }
  if (auto done = made.write_header(); !done) {
    return std::unexpected(std::move(done).error());
  }
  if (auto done = made.check(os::sync(made.file_.cached), "sync"); !done) {
    return std::unexpected(std::move(done).error());
  }
  return made;
}

auto log::open(journaled_file file, std::function<result<void>(log const& found)> const& accepts) -> result<log> {
  log opened{std::move(file), {}};
  if (auto done = opened.read_slots(); !done) {
    return std::unexpected(std::move(done).error());
  }
  if (auto accepted = accepts ? accepts(opened) : result<void>{}; !accepted) {
    return std::unexpected(std::move(accepted).error());
  }
  if (auto done = opened.recover(); !done) {
    return std::unexpected(std::move(done).error());
  }
  opened.stats_ = {};
  return opened;
}

auto log::examine(journaled_file file, std::uint64_t most) -> result<log> {
  log examined{std::move(file), {}};
  if (auto done = examined.read_slots(); !done) {
    return std::unexpected(std::move(done).error());
  }
  examined.may_read_ = most;
  if (auto done = examined.find_records(); !done) {
    return std::unexpected(std::move(done).error());
  }
  return examined;
}

auto log::read_slots() -> result<void> {
  auto const status = os::status(file_.cached);
  if (!status) {
    return fail(status.error(), "examine");
  }
  std::array<slot, slot_count> slots;
  if (auto done = read(0, std::as_writable_bytes(std::span{slots})); !done) {
    return done;
  }
  slot const* newest = nullptr;
  for (auto const& one : slots) {
    if (is_valid(one, status->size) && (newest == nullptr || is_newer(one.about, newest->about))) {
      newest = &one;
    }
  }
  if (newest == nullptr) {
    return fail(EBADMSG, "read the header of", byte_range{.offset = 0, .length = ring_begin});
  }
  *this = log{std::move(file_), *newest};
  return {};
}

// Finds the records that were committed since the checkpoint. They may be in caches only, so they are written once more
// before anything is changed in place: power may fail again.
auto log::recover() -> result<void> {
  if (auto done = find_records(); !done) {
    return done;
  }
  // Before anything can fail that the next one to open it has to know of.
  if (auto done = slot_.about.closed != 0 ? note_closed(false) : drop_what_is_not_on_disk(); !done) {
    return done;
  }
  if (auto done = bring_to(level::power); !done) {
    return done;
  }
  auto const status = os::status(file_.cached);
  if (!status) {
    return fail(status.error(), "examine");
  }
  if (status->size < file_bytes_) {
    if (auto done = check(os::set_size(file_.cached, file_bytes_), "resize"); !done) {
      return done;
    }
  }
  if (auto done = apply_all(); !done) {
    return done;
  }
  // Only now, for it may have been of a record that lies there.
  return status->size > spill_at() ? check(os::set_size(file_.cached, file_bytes_), "resize") : result<void>{};
}

// After a failed write-back memory goes on to show what is not on the disk, takes it for clean, and would be compared with. What
// has records is written again. What has none was written right after a checkpoint, so where there are no records it may be
// any page. And ext4 would write such pages into blocks that it still takes for unwritten (docs/durability.md).
auto log::drop_what_is_not_on_disk() -> result<void> {
  if (records_.empty()) {
    return check(os::drop_cached(file_.cached, 0, 0), "drop what memory has");
  }
  for (std::uint64_t at = 0; at < file_bytes_;) {
    auto const extent = os::retry([&] { return os::next_extent(file_.cached, at, file_bytes_); });
    if (!extent) {
      auto const is_not_told = extent.error() == EOPNOTSUPP || extent.error() == ENOTTY || extent.error() == ENOSYS;
      return is_not_told ? result<void>{} : fail(extent.error(), "find the blocks");
    }
    if (extent->unwritten) {
      auto const dropped = os::drop_cached(file_.cached, extent->begin, extent->end - extent->begin);
      if (auto done = check(dropped, "drop what memory has"); !done) {
        return done;
      }
    }
    at = std::max(extent->end, at + 1);
  }
  return {};
}

auto log::find_records() -> result<void> {
  ring_part part{};
  while (true) {
    auto found = find_record(part, head_);
    if (found && !*found && head_ != 0) {
      found = find_record(part, 0); // where one begins that does not fit before the end
    }
    if (!found) {
      return std::unexpected(std::move(found).error());
    }
    if (!*found) {
      return {};
    }
  }
}

// The ring from there on: that much of it at least, or to its end. More than that only after records, for there may be none.
auto log::read_ring(ring_part& part, std::uint64_t at, std::uint64_t length) -> result<std::span<std::byte const>> {
  auto const end = part.begin + (part.pages.size() * page_bytes);
  auto const wanted = std::min(length, ring_bytes() - at);
  if (at < part.begin || at + wanted > end) {
    auto const goes_on = at >= part.begin && end > 0;
    auto const more = std::min(std::max(wanted, goes_on ? next_read : first_read), ring_bytes() - at);
    if (auto done = more <= next_read ? result<void>{} : check_length(ring_begin + at, more); !done) {
      return std::unexpected(std::move(done).error());
    }
    part = {.begin = at, .pages = std::vector<page>(more / page_bytes)};
    if (auto done = read(ring_begin + at, bytes_of(part.pages)); !done) {
      return std::unexpected(std::move(done).error());
    }
  }
  return bytes_of(part.pages).subspan(at - part.begin);
}

auto log::check_length(std::uint64_t at, std::uint64_t length) -> result<void> {
  if (length > may_read_) {
    return fail(EMSGSIZE, "read a record of", byte_range{.offset = at, .length = length});
  }
  return {};
}

// Adds the next record where it begins there.
auto log::find_record(ring_part& part, std::uint64_t at) -> result<bool> {
  auto bytes = read_ring(part, at, page_bytes);
  if (bytes) {
    bytes = read_ring(part, at, whole_pages(told_length(*bytes, slot_.about, sequence_)));
  }
  if (!bytes) {
    return std::unexpected(bytes.error());
  }
  if (auto const found = record_view::find(*bytes, slot_.about, sequence_); found) {
    if (auto done = check_length(ring_begin + at, found->bytes().size()); !done) {
      return std::unexpected(std::move(done).error());
    }
    may_read_ -= found->bytes().size();
    add({.what = transaction{*found}, .at = at, .reached = level::process, .reference = {}});
    return true;
  }
  auto const elsewhere = find_reference(*bytes, slot_.about, sequence_);
  return elsewhere ? find_spilled(*elsewhere, at) : false;
}

// The same for one that the ring refers to.
auto log::find_spilled(reference const& to, std::uint64_t at) -> result<bool> {
  auto const status = os::status(file_.cached);
  if (!status) {
    return fail(status.error(), "examine");
  }
  if (to.offset != spill_at() || !os::fits(to.offset, to.length, status->size)) {
    return false;
  }
  if (auto done = check_length(to.offset, to.length); !done) {
    return std::unexpected(std::move(done).error());
  }
  std::vector<page> pages(whole_pages(to.length) / page_bytes);
  if (auto done = read(to.offset, bytes_of(pages)); !done) {
    return std::unexpected(std::move(done).error());
  }
  auto const found = record_view::find(bytes_of(pages), slot_.about, sequence_);
  if (!found || found->about().length != to.length || found->about().checksum != to.checksum) {
    return false;
  }
  may_read_ -= to.length;
  add({.what = transaction{std::move(pages), to.length},
       .at = at,
       .reached = level::process,
       .reference = page_of(to)});
  return true;
}

// --- Records ----------------------------------------------------------------------------------------------------------

void log::add(record one) {
  {
    std::scoped_lock const lock{unapplied_->mutex};
    unapplied_->lines.add(one.what.view()); // more than there are do no harm
  }
  records_.push_back(std::move(one));
  // Nothing fails from here on: a number that no record has would end what an opening finds.
  auto const& added = records_.back();
  tail_ = sequence_ == slot_.about.sequence ? added.at : tail_;
  head_ = added.end() % slot_.about.ring_bytes;
  file_bytes_ = added.what.view().about().file_bytes;
  ++sequence_;
}

auto log::unapplied_lines(std::uint64_t number) const noexcept -> std::uint64_t {
  std::scoped_lock const lock{unapplied_->mutex};
  return unapplied_->lines.of(number);
}

// Where in the ring a record of that length goes; nothing while records of the last checkpoint are in the way.
auto log::find_room(std::uint64_t length) const noexcept -> std::optional<std::uint64_t> {
  auto const ring = slot_.about.ring_bytes;
  auto const is_empty = sequence_ == slot_.about.sequence;
  if (!is_empty && head_ <= tail_) {
    return length <= tail_ - head_ ? std::optional{head_} : std::nullopt;
  }
  if (length <= ring - head_) {
    return head_;
  }
  return length <= (is_empty ? ring : tail_) ? std::optional{std::uint64_t{0}} : std::nullopt;
}

// The same, after a checkpoint where one is needed. All of the ring is free then.
auto log::make_room(std::uint64_t length) -> result<std::uint64_t> {
  if (auto const at = find_room(length); at) {
    return *at;
  }
  if (auto done = checkpoint(); !done) {
    return std::unexpected(std::move(done).error());
  }
  return std::uint64_t{0};
}

auto log::commit(transaction what, level wanted, std::uint64_t file_bytes) -> result<void> try {
  if (failed_) {
    return std::unexpected(*failed_);
  }
  if (what.is_empty() && file_bytes == file_bytes_) {
    return bring_to(wanted);
  }
  auto done = what.size_in_ring() <= ring_bytes() ? commit_in_ring(std::move(what), wanted, file_bytes)
                                                  : commit_spilled(std::move(what), file_bytes);
  stats_.commits += done ? 1 : 0;
  return done;
} catch (std::bad_alloc const&) { // its record may be there, and must not be made a second time
  return fail(ENOMEM, "commit");
}

auto log::commit_in_ring(transaction what, level wanted, std::uint64_t file_bytes) -> result<void> {
  auto const at = make_room(what.size_in_ring());
  if (!at) {
    return std::unexpected(at.error());
  }
  what.seal(slot_.about, sequence_, file_bytes);
  add({.what = std::move(what), .at = *at, .reached = level::none, .reference = {}});
  return bring_to(wanted);
}

// What is behind the content is in the way of its growing, so the transaction is brought in place before it ends.
auto log::commit_spilled(transaction what, std::uint64_t file_bytes) -> result<void> {
  auto const at = make_room(page_bytes);
  if (!at) {
    return std::unexpected(at.error());
  }
  auto const before = os::status(file_.cached);
  if (!before) {
    return fail(before.error(), "examine");
  }
  what.seal(slot_.about, sequence_, file_bytes);
  auto done = spill(what.pages());
  if (done) {
    auto refers = page_of(reference_to(what.view(), spill_at()));
    add({.what = std::move(what), .at = *at, .reached = level::none, .reference = std::move(refers)});
    done = checkpoint();
  }
  if (failed_) {
    return done;
  }
  auto cut = check(os::set_size(file_.cached, before->size), "resize");
  return cut ? done : cut;
}

// Writes a record behind the content. The write fails without harm where the disk is full. The sync, which could as well
// be about a page of the content, does not: so it is a call of its own.
auto log::spill(std::span<page const> pages) -> result<void> {
  auto const bytes = std::as_bytes(pages);
  if (auto const done = transfer(file_.direct, spill_at(), bytes, false); !done) {
    auto const range = byte_range{.offset = spill_at(), .length = bytes.size()};
    if (is_full_disk(done.error())) {
      return std::unexpected(error::make({done.error(), std::system_category()}, "write", file_.path, range));
    }
    return fail(done.error(), "write", range);
  }
  stats_.journal_bytes += bytes.size();
  return check(os::sync_data(file_.cached), "sync");
}

// Brings all records at least that far; what a later transaction builds on has to be there with it. Those that lie one
// behind the other go out in one write.
auto log::bring_to(level wanted) -> result<void> {
  auto first = std::ranges::find_if(records_, [&](record const& one) { return one.reached < wanted; });
  while (first != records_.end()) {
    auto const before_gap = std::ranges::adjacent_find(
        first, records_.end(), [](record const& one, record const& next) { return one.end() != next.at; });
    auto const last = before_gap == records_.end() ? before_gap : std::next(before_gap);
    if (auto done = write_in_ring({first, last}, wanted); !done) {
      return done;
    }
    first = last;
  }
  return {};
}

auto log::write_in_ring(std::ranges::subrange<std::deque<record>::iterator> run, level wanted) -> result<void> {
  std::vector<page> together;
  auto pages = run.front().in_ring();
  if (run.size() > 1) {
    for (auto const& one : run) {
      together.insert(together.end(), one.in_ring().begin(), one.in_ring().end());
    }
    pages = together;
  }
  auto const bytes = std::as_bytes(pages);
  if (auto done = write(file_.direct, ring_begin + run.front().at, bytes, wanted == level::power); !done) {
    return done;
  }
  stats_.journal_bytes += bytes.size();
  for (auto& one : run) {
    one.reached = wanted;
  }
  return {};
}

auto log::write_without_record(transaction const& what) -> result<void> {
  if (auto done = checkpoint(); !done) {
    return done;
  }
  if (auto done = write_in_place(std::views::single(what.view())); !done) {
    return done;
  }
  return check(os::sync_data(file_.cached), "sync what has no record in");
}

auto log::apply() -> result<void> {
  if (failed_) {
    return std::unexpected(*failed_);
  }
  auto const end = std::ranges::find_if(records_, [](record const& one) { return one.reached != level::power; });
  auto const durable = std::ranges::subrange{records_.begin(), end};
  if (auto done = write_in_place(durable | std::views::transform([](record const& one) { return one.what.view(); }));
      !done) {
    return done;
  }
  records_.erase(records_.begin(), end);
  line_masks left;
  for (auto const& one : records_) {
    left.add(one.what.view());
  }
  std::scoped_lock const lock{unapplied_->mutex};
  std::swap(unapplied_->lines, left);
  return {};
}

// In the order of the file, and a page that several are about once.
auto log::write_in_place(std::ranges::input_range auto&& records) -> result<void> {
  std::vector<change> changes;
  for (record_view const one : records) {
    one.for_each_change([&](std::uint64_t number, std::uint64_t lines, std::span<std::byte const> content) {
      changes.push_back({.page = number, .order = changes.size(), .lines = lines, .content = content});
    });
  }
  std::ranges::sort(changes, {}, [](change const& one) { return std::pair{one.page, one.order}; });
  for (std::span<change const> rest{changes}; !rest.empty();) {
    auto const others = std::ranges::find_if(rest, [&](change const& one) { return one.page != rest.front().page; });
    auto const of_page = rest.first(static_cast<std::size_t>(others - rest.begin()));
    if (auto done = write_page_in_place(of_page); !done) {
      return done;
    }
    rest = rest.subspan(of_page.size());
  }
  return {};
}

auto log::write_page_in_place(std::span<change const> of_page) -> result<void> {
  std::array<std::byte, page_bytes> together{};
  std::uint64_t lines = 0;
  for (auto const& one : of_page) {
    lines |= one.lines;
    for_each_line(one.lines, one.content, [&](std::size_t line, std::span<std::byte const> content) {
      std::ranges::copy(content, together.begin() + static_cast<std::ptrdiff_t>(line * line_bytes));
    });
  }
  return for_each_run(lines, [&](std::size_t offset, std::size_t length) {
    return write(file_.cached, (of_page.front().page * page_bytes) + offset,
                 std::span{together}.subspan(offset, length), false);
  });
}

auto log::checkpoint() -> result<void> {
  if (failed_) {
    return std::unexpected(*failed_);
  }
  if (sequence_ == slot_.about.sequence) {
    return {};
  }
  if (auto done = bring_to(level::power); !done) {
    return done;
  }
  return apply_all();
}

auto log::sync() -> result<void> {
  if (failed_) {
    return std::unexpected(*failed_);
  }
  return check(os::retry([&] { return os::sync(file_.cached); }), "sync");
}

auto log::apply_all() -> result<void> {
  if (auto done = apply(); !done) {
    return done;
  }
  if (auto done = check(os::sync_data(file_.cached), "sync"); !done) {
    return done;
  }
  if (auto done = write_header(); !done) {
    return done;
  }
  ++stats_.checkpoints;
  return {};
}

auto log::write_header() -> result<void> {
  auto next = slot_;
  next.about.salt = random_number();
  next.about.sequence = sequence_;
  next.about.tail = head_;
  next.about.file_bytes = file_bytes_;
  next.about.closed = 0;
  return write_slot(next);
}

auto log::note_closed(bool closed) -> result<void> {
  auto next = slot_;
  next.about.closed = closed ? 1 : 0;
  return write_slot(next);
}

auto log::write_slot(slot next) -> result<void> {
  next.about.magic = header_magic;
  ++next.about.generation;
  auto const at = seal(next) * page_bytes;
  if (auto done = write(file_.direct, at, std::as_bytes(std::span{&next, 1}), true); !done) {
    return done;
  }
  slot_ = next;
  return {};
}

auto log::close() -> result<void> { return failed_ ? result<void>{} : note_closed(true); }

} // namespace fmmap::journal
