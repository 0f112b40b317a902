// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

module fmmap.core;

import :state;
import fmmap.os;

namespace fmmap {

namespace {

constexpr std::uint64_t least_ahead = std::uint64_t{64} << 10;
constexpr std::uint64_t most_ahead = std::uint64_t{1} << 30;

auto refuse_size(std::string_view path) -> std::unexpected<error> {
  return failure(errc::invalid_options, "open", path, {}, "a size would reach the file, copy-on-write never does");
}

// Makes a file `size` bytes long with blocks behind the new bytes. Returns 0 or an errno; the size is then `old` again. A
// file in memory gets its pages as they are touched: it is the only disk that takes the whole machine with it when it is full.
auto grow_with_blocks(open_file const& target, std::uint64_t old, std::uint64_t size) -> int {
  if (!target.in_memory) {
    return allocate_blocks(target, {.begin = old, .end = size}, old);
  }
  auto const done = os::retry([&] { return os::set_size(target.descriptor(), size); });
  return done ? 0 : done.error();
}

// Maps a file that is `size` bytes long for writing, and gives it the size it is to have when it is empty. What fails leaves
// it as it was.
auto size_and_map(counted<open_file> const& target, std::uint64_t size, write_options const& options)
    -> result<mapping> {
  auto const grow = size == 0 && options.size > 0;
  if (grow) {
    if (auto const code = grow_with_blocks(*target, 0, options.size); code != 0) {
      return target->fail(code, "allocate", byte_range{.offset = 0, .length = options.size});
    }
  }
  rollback undo{[&] {
    if (grow) {
      drop_failure(os::retry([&] { return os::set_size(target->descriptor(), 0); }), "restore the size of",
                   target->path);
    }
  }};
  auto mapped = handle_access::map(target, grow ? options.size : size,
                                   {.access = access::read_write,
                                    .reserve = options.reserve,
                                    .populate = options.populate,
                                    .page_size = options.page_size});
  if (mapped) {
    undo.keep();
  }
  return mapped;
}

} // namespace

auto mutable_mapped_file::open_mapped(std::filesystem::path const& path, write_options const& options, bool create,
                                      bool exclusive) -> result<mutable_mapped_file> {
  auto const opening = open_options{.access = access::read_write,
                                    .create = create,
                                    .permissions = options.permissions,
                                    .symlinks = options.symlinks,
                                    .sync_directory = options.sync_directory};
  auto opened = open_path(os::working_directory, path.native(), opening, exclusive);
  if (!opened) {
    return std::unexpected(std::move(opened).error());
  }
  rollback undo{[&] {
    if (opened->created) {
      drop_failure(os::unlink(os::working_directory, path.c_str()), "remove the new", path.native());
    }
  }};
  auto mapped = size_and_map(opened->state, opened->size, options);
  if (!mapped) {
    return std::unexpected(std::move(mapped).error());
  }
  undo.keep();
  return mutable_mapped_file{handle_access::wrap(std::move(opened->state)), std::move(*mapped), options.may_move};
}

auto mutable_mapped_file::create(std::filesystem::path const& path, write_options options)
    -> result<mutable_mapped_file> {
  return open_mapped(path, options, true, true);
}

auto mutable_mapped_file::open(std::filesystem::path const& path, write_options options)
    -> result<mutable_mapped_file> {
  return open_mapped(path, options, true, false);
}

auto mutable_mapped_file::open_existing(std::filesystem::path const& path, write_options options)
    -> result<mutable_mapped_file> {
  return open_mapped(path, options, false, false);
}

auto mutable_mapped_file::open_copy_on_write(std::filesystem::path const& path, write_options options)
    -> result<mutable_mapped_file> {
  if (options.size != 0) { // before the open: it is the caller's mistake whether the file is there or not
    return refuse_size(path.native());
  }
  auto opened = file::open(path, {.symlinks = options.symlinks});
  if (!opened) {
    return std::unexpected(std::move(opened).error());
  }
  return adopt(std::move(*opened), options);
}

auto mutable_mapped_file::in_memory(std::string_view name, std::uint64_t size, write_options options)
    -> result<mutable_mapped_file> {
  if (options.size != 0 && options.size != size) {
    return failure(errc::invalid_options, "create in memory", name, {}, "two sizes are given");
  }
  auto opened = file::in_memory(name);
  if (!opened) {
    return std::unexpected(std::move(opened).error());
  }
  options.size = size;
  return adopt(std::move(*opened), options);
}

auto mutable_mapped_file::temporary(std::filesystem::path const& directory, write_options options)
    -> result<mutable_mapped_file> {
  auto opened = file::temporary(directory);
  if (!opened) {
    return std::unexpected(std::move(opened).error());
  }
  return adopt(std::move(*opened), options);
}

auto mutable_mapped_file::adopt(file&& opened, write_options options) -> result<mutable_mapped_file> {
  if (opened.access() == access::read_only) {
    if (options.size != 0 && opened.is_open()) {
      return refuse_size(opened.path());
    }
    auto mapped = mapping::map(opened, {.access = access::copy_on_write,
                                        .reserve = options.reserve,
                                        .populate = options.populate,
                                        .page_size = options.page_size});
    if (!mapped) {
      return std::unexpected(std::move(mapped).error());
    }
    return mutable_mapped_file{std::move(opened), std::move(*mapped), false};
  }
  auto const& target = handle_access::state(opened);
  if (auto const mappable = check_mappable(*target, whole); !mappable) {
    return std::unexpected(mappable.error());
  }
  auto const size = target->size();
  if (!size) {
    return std::unexpected(size.error());
  }
  auto mapped = size_and_map(target, *size, options);
  if (!mapped) {
    return std::unexpected(std::move(mapped).error());
  }
  return mutable_mapped_file{std::move(opened), std::move(*mapped), options.may_move};
}

auto mutable_mapped_file::operator=(mutable_mapped_file&& other) noexcept -> mutable_mapped_file& {
  if (this != &other) {
    finish();
    mapping_ = std::move(other.mapping_);
    file_ = std::move(other.file_);
    allocated_ = std::exchange(other.allocated_, 0);
    allocator_ = other.allocator_;
    may_move_ = other.may_move_;
    remove_on_close_ = std::exchange(other.remove_on_close_, false);
  }
  return *this;
}

mutable_mapped_file::~mutable_mapped_file() { finish(); }

void mutable_mapped_file::finish() noexcept {
  if (!file_.is_open()) {
    return;
  }
  if (auto const trimmed = trim_own(); !trimmed) {
    report_dropped_error(trimmed.error());
  }
  if (remove_on_close_) {
    if (auto const removed = remove_if_named(file_); !removed) {
      report_dropped_error(removed.error());
    }
  }
}

auto mutable_mapped_file::shrink_to_fit() -> result<void> {
  if (!file_.is_open()) {
    return failure(errc::closed, "trim");
  }
  if (allocated_ <= size()) {
    return {};
  }
  auto const& target = *handle_access::state(file_);
  auto const file_size = target.size();
  if (!file_size) {
    return std::unexpected(file_size.error());
  }
  // Somebody else may have made the file longer, against the rules; then what is past the view is theirs.
  if (*file_size != size()) {
    allocated_ = size();
    return {};
  }
  // Setting the size a file has frees the blocks past it.
  if (auto const done = os::retry([&] { return os::set_size(target.descriptor(), size()); }); !done) {
    return target.fail(done.error(), "trim");
  }
  allocated_ = size();
  return {};
}

// Gives back what is allocated ahead, unless a parent has allocated it: it may be appending at this moment, and what comes
// between the look at the size and the cut would be lost.
auto mutable_mapped_file::trim_own() -> result<void> {
  return allocated_ > size() && allocator_ != os::process_id() ? result<void>{} : shrink_to_fit();
}

// Makes the view `size` bytes long after the file has become so, moving it where it must.
auto mutable_mapped_file::grow_view(std::uint64_t size) -> result<void> {
  if (size > mapping_.capacity()) {
    auto const wanted = std::max(static_cast<std::size_t>(size), mapping_.capacity() * 2);
    auto moved = mapping_.reserve(wanted);
    if (!moved && wanted > size) {
      moved = mapping_.reserve(static_cast<std::size_t>(size)); // no room for growth ahead
    }
    if (!moved) {
      return moved;
    }
  }
  handle_access::set_size(mapping_, static_cast<std::size_t>(size));
  return {};
}

namespace {

// What must hold before a file may change its size.
auto check_resizable(file const& target, mapping const& view, std::uint64_t size, bool may_move,
                     std::string_view operation) -> result<void> {
  byte_range const range{.offset = 0, .length = size};
  if (!target.is_open()) {
    return failure(errc::closed, operation);
  }
  auto const& state = *handle_access::state(target);
  if (view.access() == access::copy_on_write) {
    return state.fail(errc::copy_on_write, operation, range);
  }
  if (view.access() == access::read_only) {
    return state.fail(errc::read_only, operation, range);
  }
  if (size > view.capacity() && !may_move) {
    return state.fail(errc::reservation_exceeded, operation, range,
                      std::to_string(view.capacity()) + " bytes are reserved");
  }
  return {};
}

} // namespace

auto mutable_mapped_file::resize(std::uint64_t size, durability level) -> result<void> {
  if (auto const ready = check_resizable(file_, mapping_, size, may_move_, "resize to"); !ready) {
    return ready;
  }
  auto const& target = *handle_access::state(file_);
  auto const old = this->size();
  byte_range const range{.offset = 0, .length = size};
  if (size > old) {
    if (auto const code = grow_with_blocks(target, old, size); code != 0) {
      allocated_ = old; // setting the size back has freed what was ahead
      return target.fail(code, "resize to", range);
    }
    rollback undo{[&] { undo_growth(size); }};
    if (auto const code = clear_tail(target, old, size); code != 0) {
      return target.fail(code, "resize to", range);
    }
    if (auto grown = grow_view(size); !grown) {
      return grown;
    }
    undo.keep();
    allocated_ = std::max(allocated_, size);
  } else if (size < old) {
    if (auto const done = os::retry([&] { return os::set_size(target.descriptor(), size); }); !done) {
      return target.fail(done.error(), "resize to", range);
    }
    handle_access::set_size(mapping_, static_cast<std::size_t>(size));
    allocated_ = size;
  }
  if (level != durability::none) {
    if (auto const reached = mapping_.flush(whole, level); !reached) {
      return std::unexpected(reached.error());
    }
  }
  return {};
}

// Puts blocks behind the file up to `size`, and as many again, without changing its size. Returns 0 or an errno.
auto mutable_mapped_file::allocate_ahead(std::uint64_t size) -> int {
  auto const& target = *handle_access::state(file_);
  if (target.in_memory) {
    return 0;
  }
  auto const from = std::max(allocated_, this->size());
  auto const ahead = std::clamp(this->size(), least_ahead, most_ahead);
  auto const allocate = [&](std::uint64_t begin, std::uint64_t end) -> int {
    auto const done = os::retry([&] { return os::allocate(target.descriptor(), begin, end - begin, true); });
    if (done) {
      allocated_ = end;
      allocator_ = os::process_id();
    }
    return done ? 0 : done.error();
  };
  auto code = allocate(from, size + ahead);
  if (code == EOPNOTSUPP || code == ENOSYS) {
    return 0; // what is appended allocates its own blocks; zeros written ahead of it would be a tail
  }
  if (code != 0) {
    undo_growth(0); // ext4 keeps what it could allocate
    code = allocate(this->size(), size);
  }
  if (code != 0) {
    undo_growth(0);
  }
  return code;
}

// Cuts the file back to the view, and the blocks past it with that; unless it is longer than `own_end`, where what this object
// wrote ends: then somebody else has appended.
void mutable_mapped_file::undo_growth(std::uint64_t own_end) noexcept {
  auto const& target = *handle_access::state(file_);
  auto const now = os::status(target.descriptor());
  if (now && now->size > std::max(size(), own_end)) {
    allocated_ = size();
    return;
  }
  auto const cut = os::retry([&] { return os::set_size(target.descriptor(), size()); });
  if (cut) {
    allocated_ = size();
  }
  drop_failure(cut, "restore the size of", target.path);
}

auto mutable_mapped_file::append(std::span<std::byte const> bytes) -> result<std::uint64_t> {
  auto const begin = size();
  auto const end = begin + bytes.size();
  if (auto const ready = check_resizable(file_, mapping_, end, may_move_, "append to"); !ready) {
    return std::unexpected(ready.error());
  }
  if (bytes.empty()) {
    return begin;
  }
  auto const& target = *handle_access::state(file_);
  byte_range const range{.offset = begin, .length = bytes.size()};
  if (end > allocated_) {
    if (auto const code = allocate_ahead(end); code != 0) {
      return target.fail(code, "append", range);
    }
  }
  // By pwrite, not by growing the file and storing: who is killed in between would leave zeros nobody wrote.
  rollback undo{[&] { undo_growth(end); }};
  auto const put = write_fully(target.descriptor(), begin, bytes);
  if (put.error != 0) {
    return target.fail(put.error, "append", range);
  }
  if (auto grown = grow_view(end); !grown) {
    return std::unexpected(std::move(grown).error());
  }
  undo.keep();
  return begin;
}

auto mutable_mapped_file::rewrite(byte_range range) -> result<durability> {
  // A copy-on-write mapping says itself why not.
  return mapping_.access() == access::copy_on_write ? mapping_.rewrite(range) : file_.rewrite(range);
}

auto mutable_mapped_file::unwritable(std::string_view operation, byte_range range) const -> std::unexpected<error> {
  if (is_open() && mapping_.access() == access::read_only) {
    return handle_access::state(file_)->fail(errc::read_only, operation, range);
  }
  return unreadable(*this, operation, range);
}

auto mutable_mapped_file::fill(byte_range range, std::byte value) -> result<void> {
  auto const to = writable_part("fill", range);
  if (!to) {
    return std::unexpected(to.error());
  }
  if (to->empty()) {
    return {};
  }
  auto const& target = *handle_access::state(file_);
  auto const end = range.offset + to->size();
  if (mapping_.access() == access::read_write && !target.in_memory) {
    if (auto const code = allocate_blocks(target, {.begin = range.offset, .end = end}, end); code != 0) {
      return target.fail(code, "fill", range);
    }
  }
  auto* const bytes = writable_bytes().data();
  for (auto at = range.offset; at < end;) {
    auto const next = std::min(end, os::round_down(at, transfer_size) + transfer_size);
    auto const pages = os::outward({.begin = at, .end = next}, os::page_size());
    // Where blocks are no guarantee, as on file systems that never write in place.
    if (auto const code = make_writable({bytes + pages.begin, static_cast<std::size_t>(pages.length())}); code != 0) {
      return target.fail(code, "fill", byte_range{.offset = at, .length = static_cast<std::size_t>(end - at)},
                         "no space for it, or the file has become shorter");
    }
    std::memset(bytes + at, std::to_integer<int>(value), static_cast<std::size_t>(next - at));
    at = next;
  }
  return {};
}

auto mutable_mapped_file::freeze(bool executable) -> result<mapped_file> {
  if (!file_.is_open()) {
    return closed_handle("freeze");
  }
  if (auto const trimmed = trim_own(); !trimmed) {
    return std::unexpected(trimmed.error());
  }
  auto const frozen =
      executable ? handle_access::make_executable(mapping_) : mapping_.protect(access::read_only, false);
  if (!frozen) {
    return std::unexpected(frozen.error());
  }
  return mapped_file{std::move(file_), std::move(mapping_), std::exchange(remove_on_close_, false)};
}

auto mutable_mapped_file::freeze() && -> result<mapped_file> { return freeze(false); }
auto mutable_mapped_file::freeze_executable() && -> result<mapped_file> { return freeze(true); }

auto mutable_mapped_file::close() -> result<void> {
  if (!file_.is_open()) {
    return closed_handle("close");
  }
  auto trimmed = trim_own();
  auto removed = remove_on_close_ ? remove_if_named(file_) : result<void>{};
  remove_on_close_ = false;
  auto unmapped = mapping_.close();
  return first_error(first_error(first_error(std::move(trimmed), std::move(removed)), std::move(unmapped)),
                     file_.close());
}

} // namespace fmmap
