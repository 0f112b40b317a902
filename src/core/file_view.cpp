// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <filesystem>
#include <memory>
#include <new>
#include <string_view>
#include <system_error>
#include <utility>

module fmmap.core;

import :state;
import fmmap.os;

namespace fmmap {

namespace {

// Whether a mapping failed because of what the file is, and not because the process has no room for it. Files of /proc
// that have a size answer EIO; where that is meant, reading says so too.
auto cannot_be_mapped(std::error_code const& why) -> bool {
  if (why.category() != std::system_category()) {
    return false;
  }
  switch (why.value()) {
  case ENODEV:
  case EACCES:
  case EPERM:
  case EINVAL:
  case EIO:
  case ENOSYS:
  case ENXIO:
  case EOPNOTSUPP:
    return true;
  default:
    return false;
  }
}

// For the bytes of a file, with its path behind them. Null where there is no memory: the size of a file is not the program's
// choice.
auto room_for(std::size_t size, std::string_view path) noexcept -> std::unique_ptr<std::byte[]> {
  return std::unique_ptr<std::byte[]>{new (std::nothrow) std::byte[size + path.size()]};
}

struct bytes_read {
  std::unique_ptr<std::byte[]> bytes;
  std::size_t size;
};

// Reads to the end, whatever that turns out to be.
auto read_to_end(open_file const& from, std::size_t expected) -> os::outcome<bytes_read> {
  auto capacity = expected;
  auto buffer = room_for(capacity, from.path);
  std::size_t size = 0;
  while (buffer) {
    if (size == capacity) {
      capacity *= 2;
      auto larger = room_for(capacity, from.path);
      if (!larger) {
        break;
      }
      std::memcpy(larger.get(), buffer.get(), size);
      buffer = std::move(larger);
    }
    auto const got = os::retry([&] { return os::read(from.descriptor(), {buffer.get() + size, capacity - size}); });
    if (!got) {
      return std::unexpected(got.error());
    }
    if (*got == 0) {
      return bytes_read{.bytes = std::move(buffer), .size = size};
    }
    size += *got;
  }
  return std::unexpected(ENOMEM);
}

// A file of exactly its size takes one read.
auto read_whole(open_file const& from, std::uint64_t size) -> os::outcome<bytes_read> {
  auto const length = static_cast<std::size_t>(size);
  auto buffer = room_for(length, from.path);
  if (!buffer) {
    return std::unexpected(ENOMEM);
  }
  auto const got = read_fully(from.descriptor(), 0, {buffer.get(), length});
  if (!got) {
    return std::unexpected(got.error());
  }
  return bytes_read{.bytes = std::move(buffer), .size = *got};
}

// What has no size, or says that it is empty as files of /proc do.
auto read_stream(open_file const& from) -> os::outcome<bytes_read> {
  // Until a writer has come, a pipe reads as if it had ended; only waiting tells the two apart.
  if (from.type == os::file_type::fifo) {
    if (auto const ready = os::retry([&] { return os::wait_readable(from.descriptor()); }); !ready) {
      return std::unexpected(ready.error());
    }
  }
  return read_to_end(from, 4096);
}

} // namespace

auto file_view::open(std::filesystem::path const& path, view_options options) -> result<file_view> {
  auto opened =
      open_path(os::working_directory, path.native(), {.symlinks = options.symlinks, .any_type = true}, false);
  if (!opened) {
    return std::unexpected(std::move(opened).error());
  }
  auto const& source = *opened->state;
  if (source.type == os::file_type::directory) {
    return source.fail(EISDIR, "open");
  }
  auto const regular = source.type == os::file_type::regular;
  if (regular && opened->size > options.map_above) {
    auto mapped = handle_access::map(opened->state, opened->size, {});
    if (mapped) {
      return file_view{std::move(*mapped)};
    }
    if (!cannot_be_mapped(mapped.error().code())) {
      return std::unexpected(std::move(mapped).error());
    }
  }
  auto read = regular && opened->size > 0 ? read_whole(source, opened->size) : read_stream(source);
  if (!read) {
    return source.fail(read.error(), "open");
  }
  auto* const name = reinterpret_cast<char*>(read->bytes.get() + read->size);
  return file_view{std::move(read->bytes), read->size, {name, source.path.copy(name, source.path.size())}};
}

auto file_view::path() const noexcept -> std::string_view {
  return mapping_.is_open() ? handle_access::path(mapping_) : path_;
}

} // namespace fmmap
