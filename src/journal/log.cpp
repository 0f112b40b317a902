// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

module fmmap.journal;

import fmmap.core;
import fmmap.os;

namespace fmmap::journal {

namespace {

constexpr std::size_t transfer_pages = 256; // that go through memory at a time

auto bytes_of(std::span<page> pages) -> std::span<std::byte> { return std::as_writable_bytes(pages); }

// So that nothing which lies in the ring from before, or from another time of the file, passes for a record.
auto new_salt() -> std::uint64_t {
  std::random_device source;
  return (std::uint64_t{source()} << 32) | source();
}

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

log::log(journaled_file file, slot const& current) noexcept
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

auto log::write(os::descriptor to, std::uint64_t at, std::span<std::byte const> bytes, bool durably) -> result<void> {
  for (auto rest = bytes; !rest.empty();) {
    auto const offset = at + (bytes.size() - rest.size());
    auto const put =
        os::retry([&] { return durably ? os::write_durably_at(to, offset, rest) : os::write_at(to, offset, rest); });
    if (!put || *put == 0) {
      return fail(put ? EIO : put.error(), "write", byte_range{.offset = at, .length = bytes.size()});
    }
    rest = rest.subspan(*put);
  }
  return {};
}

// --- Beginning --------------------------------------------------------------------------------------------------------

auto log::create(journaled_file file, std::uint64_t ring_bytes, std::uint64_t content_bytes,
                 std::span<std::byte const, owner_bytes> of_owner) -> result<log> {
  slot first;
  first.about.ring_bytes = ring_bytes;
  first.about.file_bytes = ring_begin + ring_bytes + content_bytes;
  std::ranges::copy(of_owner, first.of_owner.begin());
  log made{std::move(file), first};
  if (auto done = made.check(os::allocate(made.file_.cached, 0, first.about.file_bytes, false), "allocate"); !done) {
    return std::unexpected(std::move(done).error());
  }
  // The first write to allocated blocks costs twice as much as later ones: commits are not to pay for it.
  std::vector<page> const zeros(std::min<std::size_t>(transfer_pages, ring_bytes / page_bytes));
  auto const block = std::as_bytes(std::span{zeros});
  for (std::uint64_t at = 0; at < ring_bytes; at += block.size()) {
    auto const part = block.first(std::min<std::uint64_t>(block.size(), ring_bytes - at));
    if (auto done = made.write(made.file_.direct, ring_begin + at, part, false); !done) {
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

auto log::open(journaled_file file) -> result<log> {
  log opened{std::move(file), {}};
  if (auto done = opened.read_slots(); !done) {
    return std::unexpected(std::move(done).error());
  }
  if (auto done = opened.recover(); !done) {
    return std::unexpected(std::move(done).error());
  }
  return opened;
}

auto log::read(std::uint64_t at, std::span<std::byte> bytes) -> result<void> {
  for (auto rest = bytes; !rest.empty();) {
    auto const offset = at + (bytes.size() - rest.size());
    auto const got = os::retry([&] { return os::read_at(file_.direct, offset, rest); });
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
    if (is_valid(one, status->size) && (newest == nullptr || one.about.generation > newest->about.generation)) {
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
  if (auto done = make_durable(); !done) {
    return done;
  }
  auto const status = os::status(file_.cached);
  if (!status) {
    return fail(status.error(), "examine");
  }
  if (status->size < file_bytes_) {
    if (auto done = check(os::allocate(file_.cached, status->size, file_bytes_ - status->size, false), "allocate");
        !done) {
      return done;
    }
  }
  return apply_all();
}

auto log::find_records() -> result<void> {
  std::vector<page> ring(slot_.about.ring_bytes / page_bytes);
  if (auto done = read(ring_begin, bytes_of(ring)); !done) {
    return done;
  }
  std::span<std::byte const> const bytes = bytes_of(ring);
  while (true) {
    auto at = head_;
    auto found = record_view::find(bytes.subspan(at), slot_.about, sequence_);
    if (!found && at != 0) {
      at = 0; // where one begins that does not fit before the end
      found = record_view::find(bytes, slot_.about, sequence_);
    }
    if (!found) {
      return {};
    }
    add({.what = transaction{*found}, .at = at, .durable = false}, found->about().file_bytes);
  }
}

// --- Records ----------------------------------------------------------------------------------------------------------

void log::note_unapplied(record const& one) {
  one.what.view().for_each_change(
      [&](std::uint64_t number, std::uint64_t lines, std::span<std::byte const>) { unapplied_[number] |= lines; });
}

void log::add(record one, std::uint64_t file_bytes) {
  note_unapplied(one);
  tail_ = sequence_ == slot_.about.sequence ? one.at : tail_;
  head_ = (one.at + one.what.size_in_ring()) % slot_.about.ring_bytes;
  file_bytes_ = file_bytes;
  ++sequence_;
  records_.push_back(std::move(one));
}

auto log::unapplied_lines(std::uint64_t number) const noexcept -> std::uint64_t {
  auto const found = unapplied_.find(number);
  return found == unapplied_.end() ? 0 : found->second;
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

auto log::commit(transaction what, level wanted, std::uint64_t file_bytes) -> result<void> {
  if (failed_) {
    return std::unexpected(*failed_);
  }
  auto const length = what.size_in_ring();
  if (length > slot_.about.ring_bytes) {
    return std::unexpected(error::make({EMSGSIZE, std::system_category()}, "commit to", file_.path, {},
                                       "the transaction takes " + std::to_string(length) +
                                           " bytes, and the journal has " + std::to_string(slot_.about.ring_bytes)));
  }
  auto const at = make_room(length);
  if (!at) {
    return std::unexpected(at.error());
  }
  what.seal(slot_.about, sequence_, file_bytes);
  add({.what = std::move(what), .at = *at, .durable = false}, file_bytes);
  return wanted == level::power ? make_durable()
                                : write(file_.direct, ring_begin + *at, records_.back().what.in_ring(), false);
}

// What a later transaction builds on has to be there with it.
auto log::make_durable() -> result<void> {
  for (auto& one : records_) {
    if (!one.durable) {
      if (auto done = write(file_.direct, ring_begin + one.at, one.what.in_ring(), true); !done) {
        return done;
      }
      one.durable = true;
    }
  }
  return {};
}

auto log::apply() -> result<void> {
  if (failed_) {
    return std::unexpected(*failed_);
  }
  while (!records_.empty() && records_.front().durable) {
    if (auto done = write_in_place(records_.front().what.view()); !done) {
      return done;
    }
    records_.pop_front();
  }
  unapplied_.clear();
  for (auto const& left : records_) {
    note_unapplied(left);
  }
  return {};
}

auto log::write_in_place(record_view changes) -> result<void> {
  result<void> done;
  changes.for_each_change([&](std::uint64_t number, std::uint64_t lines, std::span<std::byte const> content) {
    if (!done) {
      return;
    }
    done = for_each_run(lines, [&](std::size_t offset, std::size_t length) {
      auto const run = content.first(length);
      content = content.subspan(length);
      return write(file_.cached, (number * page_bytes) + offset, run, false);
    });
  });
  return done;
}

auto log::checkpoint() -> result<void> {
  if (failed_) {
    return std::unexpected(*failed_);
  }
  if (sequence_ == slot_.about.sequence) {
    return {};
  }
  if (auto done = make_durable(); !done) {
    return done;
  }
  return apply_all();
}

auto log::apply_all() -> result<void> {
  if (auto done = apply(); !done) {
    return done;
  }
  if (auto done = check(os::sync_data(file_.cached), "sync"); !done) {
    return done;
  }
  return write_header();
}

auto log::write_header() -> result<void> {
  auto next = slot_;
  next.about = {.magic = header_magic,
                .checksum = 0,
                .generation = slot_.about.generation + 1,
                .salt = new_salt(),
                .sequence = sequence_,
                .tail = head_,
                .ring_bytes = slot_.about.ring_bytes,
                .file_bytes = file_bytes_};
  next.about.checksum = checksum_of(next);
  auto const at = next.about.generation % slot_count * page_bytes;
  if (auto done = write(file_.direct, at, std::as_bytes(std::span{&next, 1}), true); !done) {
    return done;
  }
  slot_ = next;
  return {};
}

} // namespace fmmap::journal
