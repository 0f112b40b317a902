// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <utility>

export module fmmap.async:file_operations;

import fmmap.core;
import fmmap.lock;
import :io_engine;
import :operation;

namespace fmmap {

[[nodiscard]] auto run_staged(io_engine const& engine, result<flush_job> job, std::stop_token stop)
    -> operation<durability>;

} // namespace fmmap

export namespace fmmap {

/// Something of which a part can be flushed in two steps: a mapping, a `mutable_mapped_file`, a type of one's own.
template <class T>
concept stages_flush = requires(T& object, byte_range range, durability level) {
  { object.stage_flush(range, level) } -> std::same_as<result<flush_job>>;
};

/// Something that is flushed whole: a resource of fmmap.pmr.
template <class T>
concept stages_whole_flush = requires(T& object, durability level) {
  { object.stage_flush(level) } -> std::same_as<result<flush_job>>;
};

/// Something that commits in two steps: a `persistent_heap`.
template <class T>
concept stages_commit = requires(T& object) {
  { object.stage_commit() } -> std::same_as<result<flush_job>>;
};

/// Opens a file for reading. As `mapped_file::open`.
[[nodiscard]] auto async_open(io_engine const& engine, std::filesystem::path path, read_options options = {},
                              std::stop_token stop = {}) -> operation<mapped_file>;

/// As `mutable_mapped_file::open`.
[[nodiscard]] auto async_open_mutable(io_engine const& engine, std::filesystem::path path, write_options options = {},
                                      std::stop_token stop = {}) -> operation<mutable_mapped_file>;

/// As `mutable_mapped_file::create`. Dropped when it has begun, it leaves the file.
[[nodiscard]] auto async_create(io_engine const& engine, std::filesystem::path path, write_options options = {},
                                std::stop_token stop = {}) -> operation<mutable_mapped_file>;

/// As `mutable_mapped_file::resize`, of a file or a mapped file. Nobody may use the object until it is over.
template <class File>
  requires requires(File& file) {
    { file.resize(std::uint64_t{}) } -> std::same_as<result<void>>;
  }
[[nodiscard]] auto async_resize(io_engine const& engine, File& file, std::uint64_t size, std::stop_token stop = {})
    -> operation<void> {
  return call_with_object<void>(engine, [&file, size] { return file.resize(size); }, std::move(stop));
}

/// Flushes what is there when this is called, and returns the level reached; see `mapping::stage_flush`. The object may be used,
/// resized, closed and destroyed meanwhile. Dropped unawaited, it is as if it had never been asked for.
///
/// A failure is reported by every later flush of the file too, until `rewrite`: none is lost with an operation that was dropped.
template <stages_flush Object>
[[nodiscard]] auto async_flush(io_engine const& engine, Object const& object, byte_range range = whole,
                               durability level = durability::data, std::stop_token stop = {})
    -> operation<durability> {
  return run_staged(engine, object.stage_flush(range, level), std::move(stop));
}

/// The same of all of a resource.
template <stages_whole_flush Resource>
  requires(!stages_flush<Resource>)
[[nodiscard]] auto async_flush(io_engine const& engine, Resource& resource, durability level = durability::all,
                               std::stop_token stop = {}) -> operation<durability> {
  return run_staged(engine, resource.stage_flush(level), std::move(stop));
}

/// Stages a commit when this is called, which blocks the caller for as long as that takes (docs/heap.md), and makes it durable
/// elsewhere. Dropped unawaited, it leaves its changes to the next commit.
template <stages_commit Heap>
[[nodiscard]] auto async_commit(io_engine const& engine, Heap& heap, std::stop_token stop = {})
    -> operation<durability> {
  return run_staged(engine, heap.stage_commit(), std::move(stop));
}

/// Brings pages in, so that reading does not wait for the disk; with `advice::populate_write` also what writing waits for. The
/// object may not go until it is over.
template <class Object>
  requires requires(Object const& object, byte_range range) {
    { object.advise(advice::populate_read, range) } -> std::same_as<result<void>>;
  }
[[nodiscard]] auto async_prefault(io_engine const& engine, Object const& object, byte_range range = whole,
                                  advice how = advice::populate_read, std::stop_token stop = {}) -> operation<void> {
  return call_with_object<void>(engine, [&object, range, how] { return object.advise(how, range); }, std::move(stop));
}

/// As `file_lock::acquire_for`. It waits on a thread of its own. The lock is nobody's thread's: any may release it.
///
/// A stop, and dropping it, end the wait: it is `std::errc::operation_canceled`, or the lock is held if it could be had before.
/// Dropped when it is held, it is released.
[[nodiscard]] auto async_lock(io_engine const& engine, file_lock& lock, lock_mode mode, wait_for limit = forever,
                              std::stop_token stop = {}) -> operation<bool>;

/// As `file::remove`, of a file or a mapped file. Nobody may use the object until it is over.
template <class File>
  requires requires(File& file) {
    { file.remove() } -> std::same_as<result<void>>;
  }
[[nodiscard]] auto async_remove(io_engine const& engine, File& file, std::stop_token stop = {}) -> operation<void> {
  return call_with_object<void>(engine, [&file] { return file.remove(); }, std::move(stop));
}

/// As `replace_file`. `fill` is called on a thread of the engine's; what it throws is thrown where the operation is awaited.
[[nodiscard]] auto async_replace(io_engine const& engine, std::filesystem::path path, std::size_t size,
                                 std::function<void(std::span<std::byte>)> fill, replace_options options = {},
                                 std::stop_token stop = {}) -> operation<void>;

/// As `file::clone_to`. The file may not go until it is over.
[[nodiscard]] auto async_copy(io_engine const& engine, file const& from, std::filesystem::path to,
                              clone_options options = {}, std::stop_token stop = {}) -> operation<clone_method>;

/// Closes what is moved there: unmapping and closing may block. It is closed whatever happens.
template <class Object>
  requires requires(Object& object) {
    { object.close() } -> std::same_as<result<void>>;
  }
[[nodiscard]] auto async_close(io_engine const& engine, Object object) -> operation<void> {
  return async_call(engine, [mine = std::move(object)]() mutable { return mine.close(); });
}

} // namespace fmmap
