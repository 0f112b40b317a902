// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

module fmmap.core;

import :state;
import fmmap.os;

namespace fmmap {

auto read_fully(os::descriptor from, std::uint64_t offset, std::span<std::byte> bytes) -> os::outcome<std::size_t> {
  std::size_t done = 0;
  while (done < bytes.size()) {
    auto const got = os::retry([&] { return os::read_at(from, offset + done, bytes.subspan(done)); });
    if (!got) {
      return std::unexpected(got.error());
    }
    if (*got == 0) {
      break;
    }
    done += *got;
  }
  return done;
}

auto write_fully(os::descriptor to, std::uint64_t offset, std::span<std::byte const> bytes) -> written {
  std::size_t done = 0;
  while (done < bytes.size()) {
    auto const put = os::retry([&] { return os::write_at(to, offset + done, bytes.subspan(done)); });
    if (!put || *put == 0) {
      return {.bytes = done, .error = put ? EIO : put.error()};
    }
    done += *put;
  }
  return {.bytes = done, .error = 0};
}

auto file::path() const noexcept -> std::string_view {
  return state_ && !state_->in_memory ? state_->path : std::string_view{};
}

auto file::identity() const noexcept -> file_identity { return state_ ? state_->identity : file_identity{}; }

auto file::access() const noexcept -> fmmap::access {
  return state_ && state_->writable ? fmmap::access::read_write : fmmap::access::read_only;
}

auto file::native_handle() const noexcept -> int { return state_ ? state_->descriptor() : os::no_descriptor; }

auto file::size() const -> result<std::uint64_t> {
  if (!state_) {
    return closed_handle("size");
  }
  return state_->size();
}

namespace {

// Not known where the system lacks the call, or a container does not let it through.
auto creation_time(open_file const& of) -> os::outcome<std::optional<os::timestamp>> {
  auto born = os::retry([&] { return os::birth_time(of.descriptor()); });
  if (!born && (born.error() == ENOSYS || born.error() == EPERM)) {
    return std::nullopt;
  }
  return born;
}

} // namespace

auto file::metadata() const -> result<file_metadata> {
  if (!state_) {
    return closed_handle("read the metadata");
  }
  auto const status = os::status(state_->descriptor());
  if (!status) {
    return state_->fail(status.error(), "read the metadata of");
  }
  auto size = status->size;
  if (status->type == os::file_type::block_device) {
    auto const device = os::device_size(state_->descriptor());
    if (!device) {
      return state_->fail(device.error(), "read the metadata of");
    }
    size = *device;
  }
  auto const time = [](os::timestamp t) {
    return file_metadata::time{std::chrono::seconds{t.seconds} + std::chrono::nanoseconds{t.nanoseconds}};
  };
  auto const born = creation_time(*state_);
  if (!born) {
    return state_->fail(born.error(), "read the metadata of");
  }
  std::optional<file_metadata::time> created;
  if (auto const known = *born) {
    created = time(*known);
  }
  return file_metadata{
      .size = size,
      .allocated_bytes = status->allocated,
      .links = status->links,
      .block_size = status->block_size,
      .permissions = status->permissions,
      .owner = status->owner,
      .group = status->group,
      .type = static_cast<file_type>(status->type),
      .accessed = time(status->accessed),
      .modified = time(status->modified),
      .status_changed = time(status->changed),
      .created = created,
      .identity = state_->identity,
  };
}

auto file::read_at(std::uint64_t offset, std::span<std::byte> bytes) const -> result<std::size_t> {
  if (!state_) {
    return closed_handle("read");
  }
  byte_range const range{.offset = offset, .length = bytes.size()};
  if (offset > os::largest_offset) {
    return 0;
  }
  // A read may not reach past the largest offset, even where nothing is.
  auto const within = static_cast<std::size_t>(std::min<std::uint64_t>(bytes.size(), os::largest_offset - offset));
  auto const got = read_fully(state_->descriptor(), offset, bytes.first(within));
  if (!got) {
    return state_->fail(got.error(), "read", range);
  }
  return *got;
}

auto file::write_at(std::uint64_t offset, std::span<std::byte const> bytes) -> result<void> {
  if (!state_) {
    return closed_handle("write");
  }
  byte_range const range{.offset = offset, .length = bytes.size()};
  if (!state_->writable) {
    return state_->fail(errc::read_only, "write", range);
  }
  if (!os::fits(offset, bytes.size(), os::largest_offset)) {
    return state_->fail(EFBIG, "write", range);
  }
  if (auto const cleared = clear_gap(*state_, offset, bytes.size()); !cleared) {
    return state_->fail(cleared.error(), "write", range);
  }
  auto const put = write_fully(state_->descriptor(), offset, bytes);
  if (put.error != 0) {
    return state_->fail(put.error, "write",
                        byte_range{.offset = offset + put.bytes, .length = bytes.size() - put.bytes});
  }
  return {};
}

namespace {

// Writes parts of a file as they read, past the page cache. What is stored meanwhile would be lost. All are read before the
// first is written: that drops memory of the file, in pieces that may be larger than what is written.
auto write_directly(open_file const& target, std::span<os::interval const> parts) -> os::outcome<void> {
  auto const opened = os::retry([&] { return os::reopen(target.descriptor(), {.write = true, .direct = true}); });
  if (!opened) {
    return std::unexpected(opened.error());
  }
  unique_descriptor const direct{*opened};
  auto const size = os::status(target.descriptor());
  if (!size) {
    return std::unexpected(size.error());
  }
  // Whole pages of the file, from whole pages of memory: more than any device asks for.
  struct piece {
    os::interval pages;
    mapping bytes;
  };
  std::vector<piece> pieces;
  for (auto const& part : parts) {
    auto const pages = os::outward(part, os::page_size());
    auto bytes = mapping::anonymous(static_cast<std::size_t>(pages.length()));
    if (!bytes) {
      return std::unexpected(ENOMEM);
    }
    if (auto const got = read_fully(target.descriptor(), pages.begin, bytes->writable_bytes()); !got) {
      return std::unexpected(got.error());
    }
    pieces.push_back({.pages = pages, .bytes = std::move(*bytes)});
  }
  for (auto const& [pages, bytes] : pieces) {
    if (auto const put = write_fully(direct.get(), pages.begin, bytes.bytes()); put.error != 0) {
      return std::unexpected(put.error);
    }
  }
  auto const longer = !pieces.empty() && pieces.back().pages.end > size->size;
  return longer ? os::retry([&] { return os::set_size(target.descriptor(), size->size); }) : os::outcome<void>{};
}

} // namespace

auto file::sync(durability level) -> result<durability> {
  if (!state_) {
    return closed_handle("sync");
  }
  return state_->flush(level, everything, {});
}

auto file::rewrite(byte_range range) -> result<durability> {
  if (!state_) {
    return closed_handle("rewrite");
  }
  if (!state_->writable) {
    return state_->fail(errc::read_only, "rewrite", range);
  }
  auto const size = state_->size();
  if (!size) {
    return std::unexpected(size.error());
  }
  auto const bytes = resolve(range, *size);
  if (!bytes) {
    return state_->fail(errc::out_of_range, "rewrite", range);
  }
  auto const write_all_again = [&]() -> result<void> {
    for (auto at = bytes->begin; at < bytes->end;) {
      auto const data = next_data(state_->descriptor(), at, bytes->end);
      if (!data) {
        return state_->fail(data.error(), "rewrite", range);
      }
      // Where a failed sync has lost the blocks of a part, the file system may call a hole what memory still has.
      auto code = write_again(*state_, {.begin = at, .end = data->begin}, pages_that::hold_data);
      if (code == 0) {
        code = write_again(*state_, *data, pages_that::are_there);
      }
      if (code != 0) {
        return state_->fail(code, "rewrite", range);
      }
      at = data->end;
    }
    return {};
  };
  // Past the end there is nothing that could have been lost.
  return state_->rewrite({.begin = bytes->begin, .end = bytes->end == *size ? everything.end : bytes->end},
                         write_all_again,
                         [&](std::span<os::interval const> parts) { return write_directly(*state_, parts); });
}

auto file::seal(file_seals seals) -> result<void> {
  if (!state_) {
    return closed_handle("seal");
  }
  auto const bits = (seals.shrink ? os::seal_shrink : 0U) | (seals.grow ? os::seal_grow : 0U) |
                    (seals.write ? os::seal_write : 0U) | (seals.future_write ? os::seal_future_write : 0U) |
                    (seals.seal ? os::seal_seal : 0U);
  if (auto const done = os::add_seals(state_->descriptor(), bits); !done) {
    return state_->fail(done.error(), "seal");
  }
  return {};
}

auto file::seals() const -> result<file_seals> {
  if (!state_) {
    return closed_handle("read the seals");
  }
  auto const bits = os::seals(state_->descriptor());
  if (!bits) {
    return state_->fail(bits.error(), "read the seals of");
  }
  return file_seals{.shrink = (*bits & os::seal_shrink) != 0,
                    .grow = (*bits & os::seal_grow) != 0,
                    .write = (*bits & os::seal_write) != 0,
                    .future_write = (*bits & os::seal_future_write) != 0,
                    .seal = (*bits & os::seal_seal) != 0};
}

auto file::release() -> result<int> {
  if (!state_) {
    return closed_handle("release");
  }
  if (is_shared(*state_)) {
    return state_->fail(errc::in_use, "release");
  }
  if (auto const failed = state_->failed_sync()) {
    return std::unexpected(*failed);
  }
  if (state_->unsynced_parent.get() != os::no_descriptor) {
    if (auto const removed = remove(); !removed) {
      return std::unexpected(removed.error());
    }
  }
  if (state_->nonblocking) {
    if (auto const done = os::set_blocking(state_->descriptor()); !done) {
      return state_->fail(done.error(), "release");
    }
    state_->nonblocking = false;
  }
  auto const state = std::move(state_);
  return state->release();
}

auto file::close() -> result<void> {
  auto const state = std::move(state_);
  if (!state) {
    return closed_handle("close");
  }
  if (is_shared(*state)) {
    return {};
  }
  return state->close();
}

} // namespace fmmap
