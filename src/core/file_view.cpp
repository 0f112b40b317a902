// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <filesystem>
#include <memory>
#include <new>
#include <span>
#include <string>
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

// Null where there is no memory: the size of a file is not the program's choice.
auto room_for(std::size_t size) noexcept -> std::unique_ptr<std::byte[]> {
  return std::unique_ptr<std::byte[]>{new (std::nothrow) std::byte[size]};
}

struct bytes_read {
  std::unique_ptr<std::byte[]> bytes;
  std::size_t size;
};

// Reads to the end, whatever that turns out to be.
auto read_to_end(os::descriptor from, std::size_t expected) -> os::outcome<bytes_read> {
  auto capacity = expected;
  auto buffer = room_for(capacity);
  std::size_t size = 0;
  while (buffer) {
    if (size == capacity) {
      capacity *= 2;
      auto larger = room_for(capacity);
      if (!larger) {
        break;
      }
      std::memcpy(larger.get(), buffer.get(), size);
      buffer = std::move(larger);
    }
    auto const got = retry([&] { return os::read(from, {buffer.get() + size, capacity - size}); });
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

} // namespace

auto file_view::open(std::filesystem::path const& path, view_options options) -> result<file_view> {
  auto const fail = [&](int code) { return failure(code, "open", path.native()); };
  if (path.native().find('\0') != std::string::npos) {
    return failure(EINVAL, "open", path.native(), {}, "the path holds a NUL character");
  }
  if (options.symlinks == symlinks::refuse_all) {
    return failure(errc::invalid_options, "open", path.native(), {}, "file::open refuses links anywhere in a path");
  }
  auto const flags = os::open_flags{.no_follow = options.symlinks == symlinks::refuse_last};
  auto opened = retry([&] { return os::open(os::working_directory, path.c_str(), flags, 0); });
  if (!opened && opened.error() == EAGAIN) {
    opened = open_waiting(os::working_directory, path.c_str(), flags);
  }
  if (!opened && opened.error() == ELOOP && options.symlinks == symlinks::refuse_last) {
    return failure(errc::symbolic_link, "open", path.native());
  }
  if (!opened) {
    return fail(opened.error());
  }
  unique_descriptor descriptor{*opened};
  auto const status = os::status(descriptor.get());
  if (!status) {
    return fail(status.error());
  }
  if (status->type == os::file_type::directory) {
    return fail(EISDIR);
  }
  auto const regular = status->type == os::file_type::regular;
  if (regular && status->size > options.map_above) {
    auto const shared = open_file::make(path.native());
    shared->attach(std::move(descriptor), *status, {.read = true, .write = false});
    auto mapped = handle_access::map(shared, status->size, {});
    if (mapped) {
      return file_view{std::move(*mapped)};
    }
    if (!cannot_be_mapped(mapped.error().code())) {
      return std::unexpected(std::move(mapped).error());
    }
    descriptor = unique_descriptor{shared->release()}; // not to be mapped: read it
  }
  // Until a writer has come, a pipe reads as if it had ended; only waiting tells the two apart.
  if (status->type == os::file_type::fifo) {
    if (auto const ready = retry([&] { return os::wait_readable(descriptor.get()); }); !ready) {
      return fail(ready.error());
    }
  }
  if (!regular) {
    if (auto const blocking = os::set_blocking(descriptor.get()); !blocking) {
      return fail(blocking.error());
    }
  }
  // A file of exactly its size takes one read; one that says it is empty may be one of /proc.
  if (regular && status->size > 0) {
    auto const size = static_cast<std::size_t>(status->size);
    auto buffer = room_for(size);
    if (!buffer) {
      return fail(ENOMEM);
    }
    auto const got = read_fully(descriptor.get(), 0, {buffer.get(), size});
    if (!got) {
      return fail(got.error());
    }
    return file_view{std::move(buffer), *got};
  }
  auto read = read_to_end(descriptor.get(), 4096);
  if (!read) {
    return fail(read.error());
  }
  return file_view{std::move(read->bytes), read->size};
}

} // namespace fmmap
