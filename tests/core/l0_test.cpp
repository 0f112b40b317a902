// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <filesystem>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "support/scratch.hpp"

import fmmap.core;
import fmmap.os;
import fmmap.test.l0;

using fmmap::access;
using fmmap::durability;
using fmmap::errc;
using fmmap::file;
using fmmap::file_view;
using fmmap::mapped_file;
using fmmap::mapping;
using fmmap::mutable_mapped_file;
using fmmap::or_throw;
using fmmap::os::call;
using l0::scenario;
using l0::trial;

namespace {

constexpr std::size_t page = 4096;
std::string const old_bytes = pattern(3 * page + 100);
std::string const new_bytes = pattern(page + 7, 1);

void with_data(trial& t) { t.file("data", old_bytes); }

auto writable(trial const& t) -> file { return or_throw(file::open(t / "data", {.access = access::read_write})); }

void keeps_data(trial& t) { t.expect(t.content("data") == old_bytes, "the file has changed"); }

void store(std::span<std::byte> to, std::string_view bytes) { std::memcpy(to.data(), bytes.data(), bytes.size()); }

// A failure that was asked for: what else comes in its place is one of the system's.
template <class T>
void refused(fmmap::result<T> const& outcome, auto code) {
  if (outcome) {
    throw std::runtime_error("it was not refused");
  }
  if (!(outcome.error() == code)) {
    fmmap::throw_error(outcome.error());
  }
}

// Whether there was one, without the value.
template <class T>
auto outcome_of(fmmap::result<T> const& outcome) -> fmmap::result<void> {
  return outcome ? fmmap::result<void>{} : std::unexpected(outcome.error());
}

// The time of creation is then not known.
std::vector<l0::tolerance> const no_statx{{call::statx, ENOSYS}, {call::statx, EPERM}};
std::vector<l0::tolerance> const no_allocation{{call::fallocate, ENOSYS}, {call::fallocate, EOPNOTSUPP}};
// The last page is written with zeros where it cannot be read.
std::vector<l0::tolerance> const growing{{call::fallocate, ENOSYS},
                                         {call::fallocate, EOPNOTSUPP},
                                         {call::pread},
                                         {call::statx, ENOSYS},
                                         {call::statx, EPERM}};
std::vector<l0::tolerance> const openat2_again{{call::openat2, ENOSYS}, {call::openat2, EAGAIN}};
std::vector<l0::tolerance> const no_range_sync{
    {call::sync_file_range, ENOSYS}, {call::sync_file_range, EINVAL}, {call::sync_file_range, EOPNOTSUPP}};

// What a new file is made of and given its name by: see staged_file.
auto staging(std::vector<l0::tolerance> more = {}) -> std::vector<l0::tolerance> {
  more.insert(more.end(), {{call::openat, EOPNOTSUPP}, {call::openat, EINVAL}});
  return more;
}
// The third open is the one for a file without a name.
l0::absence const no_unnamed_files{.call = call::openat, .error = EOPNOTSUPP, .times = 1, .spared = 2};

std::vector<scenario> const scenarios{
    // file
    {.name = "opening a file",
     .calls = {"file::open", "file::size", "file::metadata", "file::close"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto f = or_throw(file::open(t / "data"));
           t.expect(or_throw(f.size()) == old_bytes.size(), "the size is wrong");
           t.expect(or_throw(f.metadata()).size == old_bytes.size(), "the metadata are wrong");
           or_throw(f.close());
         },
     .when_done = keeps_data,
     .when_failed = keeps_data,
     .tolerated = no_statx},
    {.name = "creating a file where there is none",
     .calls = {"file::open"},
     .body =
         [](trial& t) {
           auto const f =
               or_throw(file::open(t / "new", {.access = access::read_write, .create = true, .sync_directory = true}));
           t.has("new");
         }},
    {.name = "opening without links and inside a folder",
     .calls = {"file::open_at", "file::open"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto const folder = or_throw(file::open(t / ".", {.any_type = true}));
           auto const f = or_throw(
               file::open_at(folder, "data",
                             {.access = access::read_write, .symlinks = fmmap::symlinks::refuse_all, .beneath = true}));
           t.expect(or_throw(f.size()) == old_bytes.size(), "another file is open");
         },
     .tolerated = openat2_again},
    {.name = "opening step by step without openat2",
     .calls = {"file::open_at"},
     .prepare =
         [](trial& t) {
           std::filesystem::create_directory(t / "folder");
           t.file("folder/data", old_bytes);
         },
     .body =
         [](trial& t) {
           auto const folder = or_throw(file::open(t / ".", {.any_type = true}));
           auto const f = or_throw(
               file::open_at(folder, "folder/data", {.symlinks = fmmap::symlinks::refuse_all, .beneath = true}));
           t.expect(or_throw(f.size()) == old_bytes.size(), "another file is open");
         },
     .tolerated = {{call::openat2, ENOSYS}, {call::openat2, EAGAIN}, {call::openat, EAGAIN}}, // as for a lease
     .absent = {{call::openat2, ENOSYS}}},
    {.name = "being refused a link",
     .calls = {"file::open"},
     .prepare =
         [](trial& t) {
           with_data(t);
           std::filesystem::create_symlink("data", t / "link");
         },
     .body =
         [](trial& t) {
           refused(file::open(t / "link", {.symlinks = fmmap::symlinks::refuse_all}), errc::symbolic_link);
           refused(file::open(t / "link", {.symlinks = fmmap::symlinks::refuse_last}), errc::symbolic_link);
         },
     .tolerated = openat2_again},
    {.name = "creating a new file",
     .calls = {"file::create_new", "file::write_at", "file::read_at", "file::close"},
     .body =
         [](trial& t) {
           auto f = or_throw(file::create_new(t / "new", {.sync_directory = true}));
           t.has("new");
           or_throw(f.write_at(0, bytes_of(new_bytes)));
           std::string back(new_bytes.size(), '\0');
           auto const got = or_throw(f.read_at(0, std::as_writable_bytes(std::span{back})));
           t.expect(got == new_bytes.size() && back == new_bytes, "other bytes were read");
           or_throw(f.close());
         },
     .when_done = [](trial& t) { t.expect(t.content("new") == new_bytes, "other bytes were written"); }},
    {.name = "a temporary file",
     .calls = {"file::temporary", "file::write_at", "file::close"},
     .body =
         [](trial& t) {
           auto f = or_throw(file::temporary(t / "."));
           or_throw(f.write_at(10, bytes_of("0123456789")));
           or_throw(f.close());
         }},
    {.name = "a file in memory and its seals",
     .calls = {"file::in_memory", "file::resize", "file::seal", "file::seals", "file::sync", "file::close"},
     .body =
         [](trial& t) {
           auto f = or_throw(file::in_memory("l0", {.sealable = true}));
           or_throw(f.resize(page));
           refused(f.sync(), errc::not_durable);
           auto const sealed = f.seal({.shrink = true});
           or_throw(sealed);
           t.expect(or_throw(f.seals()).shrink, "it is not sealed");
           or_throw(f.close());
         },
     .tolerated = {{call::memfd_create, EINVAL}}},
    {.name = "adopting and releasing a descriptor",
     .calls = {"file::adopt", "file::release"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           struct mine {
             int descriptor;
             ~mine() { ::close(descriptor); }
           } const d{::open((t / "data").c_str(), O_RDWR)};
           auto f = or_throw(file::adopt(d.descriptor, "data"));
           t.expect(or_throw(f.release()) == d.descriptor, "another descriptor came back");
           t.expect((::fcntl(d.descriptor, F_GETFD) & FD_CLOEXEC) != 0, "it stays open on exec");
         }},
    {.name = "resizing a file",
     .calls = {"file::resize", "file::size"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto f = writable(t);
           auto const resized = f.resize(page);
           t.expect(std::filesystem::file_size(t / "data") == (resized ? page : old_bytes.size()), "the size is wrong");
           or_throw(resized);
         }},
    {.name = "allocating past the end of a file",
     .calls = {"file::allocate"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto f = writable(t);
           or_throw(f.allocate({.offset = page, .length = 8 * page}));
           t.expect(or_throw(f.size()) == 9 * page, "the file did not grow");
           t.expect(or_throw(f.metadata()).allocated_bytes >= 9 * page, "there are no blocks behind it");
         },
     .when_failed = [](trial& t) { t.expect(t.content("data").starts_with(old_bytes), "the old content is gone"); },
     .tolerated = growing},
    {.name = "allocating where the file system cannot",
     .calls = {"file::allocate"},
     .prepare = [](trial& t) { std::filesystem::resize_file(t.file("data", old_bytes), 8 * page); },
     .body =
         [](trial& t) {
           auto f = writable(t);
           auto const done = f.allocate({.offset = 0, .length = 9 * page});
           if (done) {
             t.expect(or_throw(f.metadata()).allocated_bytes >= 9 * page, "there are no blocks behind it");
           }
           or_throw(done);
         },
     .when_done =
         [](trial& t) {
           t.expect(t.content("data") == old_bytes + std::string(9 * page - old_bytes.size(), '\0'),
                    "it reads otherwise");
         },
     .tolerated = {{call::statx, ENOSYS},
                   {call::statx, EPERM},
                   {call::fallocate, ENOSYS},
                   {call::fallocate, EOPNOTSUPP},
                   {call::lseek, EINVAL},
                   {call::lseek, EOPNOTSUPP}},
     .absent = {{call::fallocate, EOPNOTSUPP}}},
    {.name = "punching a hole",
     .calls = {"file::punch_hole", "file::data_ranges"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto f = writable(t);
           auto const punched = f.punch_hole({.offset = 0, .length = page});
           auto expected = old_bytes;
           std::fill_n(expected.begin(), punched ? page : 0, '\0');
           t.expect(t.content("data") == expected, "other bytes read as zero");
           or_throw(punched);
           auto const data = or_throw(f.data_ranges());
           auto const untold = std::vector{fmmap::byte_range{.offset = 0, .length = old_bytes.size()}};
           t.expect((data.size() == 1 && data[0].offset == page) || data == untold, "the hole is not found");
         },
     .tolerated = {{call::lseek, EINVAL}, {call::lseek, EOPNOTSUPP}}},
    {.name = "cloning a file durably",
     .calls = {"file::clone_to"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto const f = or_throw(file::open(t / "data"));
           or_throw(f.clone_to(t / "copy", {.level = durability::data}));
           t.has("copy");
           t.expect(t.content("copy") == old_bytes, "the copy has other bytes");
         },
     .when_failed = keeps_data,
     .tolerated = staging({{call::ioctl},
                           {call::copy_file_range},
                           {call::lseek, EINVAL},
                           {call::lseek, EOPNOTSUPP},
                           {call::fstatat},
                           {call::flock}})},
    {.name = "cloning a file where there are no unnamed files",
     .calls = {"file::clone_to"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto const f = or_throw(file::open(t / "data"));
           or_throw(f.clone_to(t / "copy", {.level = durability::data}));
           t.has("copy");
           t.expect(t.content("copy") == old_bytes, "the copy has other bytes");
         },
     .when_failed =
         [](trial& t) {
           keeps_data(t);
           if (t.failed(call::flock, EWOULDBLOCK)) {
             t.may_have(".copy.fmmap-new"); // somebody else is about to clear it
           }
         },
     .tolerated = {{call::ioctl},
                   {call::copy_file_range},
                   {call::lseek, EINVAL},
                   {call::lseek, EOPNOTSUPP},
                   {call::fstatat},
                   {call::flock, EWOULDBLOCK},
                   {call::linkat, EPERM}, // renamed instead
                   {call::linkat, EOPNOTSUPP}},
     .absent = {no_unnamed_files}},
    {.name = "syncing a file",
     .calls = {"file::sync", "file::write_at"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto f = writable(t);
           or_throw(f.write_at(0, bytes_of(new_bytes)));
           for (auto const level : {durability::started, durability::written, durability::data, durability::all}) {
             auto const synced = f.sync(level);
             if (!synced && synced.error() == std::errc::io_error) {
               refused(f.sync(), std::errc::io_error);
             }
             t.expect(or_throw(synced) >= level, "a lower level was reached");
           }
         },
     .tolerated = no_range_sync},
    {.name = "rewriting a file after a failed sync",
     .calls = {"file::rewrite", "file::sync"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto f = writable(t);
           or_throw(f.write_at(0, bytes_of(new_bytes)));
           refused(f.sync(), std::errc::io_error);
           auto const rewritten = f.rewrite();
           if (!rewritten) {
             t.expect(!f.sync(), "the failed sync is forgotten");
           }
           or_throw(rewritten);
           or_throw(f.sync());
         },
     .when_done = [](trial& t) { t.expect(t.content("data").starts_with(new_bytes), "the bytes have changed"); },
     .tolerated = {{call::lseek, EINVAL}, {call::lseek, EOPNOTSUPP}, {call::ioctl, ENOSYS}, {call::ioctl, EOPNOTSUPP}},
     .absent = {{.call = call::fdatasync, .error = EIO, .times = 1}}},
    {.name = "removing a file",
     .calls = {"file::remove"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto f = or_throw(file::open(t / "data"));
           t.may_have("data");
           or_throw(f.remove());
           t.lacks("data");
         }},
    {.name = "being refused to remove a file through a link",
     .calls = {"file::remove"},
     .prepare =
         [](trial& t) {
           with_data(t);
           std::filesystem::create_symlink("data", t / "link");
         },
     .body =
         [](trial& t) {
           auto f = or_throw(file::open(t / "link"));
           refused(f.remove(), errc::symbolic_link);
         }},
    {.name = "being refused to remove a file whose name has another owner",
     .calls = {"file::remove"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto f = or_throw(file::open(t / "data"));
           std::filesystem::remove(t / "data");
           t.file("data", old_bytes);
           refused(f.remove(), errc::path_reused);
         },
     .when_done = keeps_data,
     .when_failed = keeps_data},
    {.name = "replacing a file",
     .calls = {"replace_file"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           or_throw(fmmap::replace_file(t / "data", new_bytes.size(), [](auto bytes) { store(bytes, new_bytes); }));
         },
     .when_done = [](trial& t) { t.expect(t.content("data") == new_bytes, "the old content is there"); },
     .when_failed =
         [](trial& t) {
           t.expect(t.content("data") == old_bytes || t.content("data") == new_bytes,
                    "the content is neither old nor new");
         },
     .tolerated = staging({{call::fallocate, ENOSYS}, {call::fallocate, EOPNOTSUPP}, {call::flock}})},
    {.name = "replacing a file through a link, where there are no unnamed files",
     .calls = {"replace_file"},
     .prepare =
         [](trial& t) {
           with_data(t);
           std::filesystem::create_symlink("data", t / "link");
         },
     .body =
         [](trial& t) {
           or_throw(fmmap::replace_file(t / "link", new_bytes.size(), [](auto bytes) { store(bytes, new_bytes); }));
         },
     .when_done = [](trial& t) { t.expect(t.content("data") == new_bytes, "the old content is there"); },
     .when_failed =
         [](trial& t) {
           t.expect(t.content("data") == old_bytes || t.content("data") == new_bytes,
                    "the content is neither old nor new");
           if (t.failed(call::flock, EWOULDBLOCK)) {
             t.may_have(".data.fmmap-new"); // somebody else is about to clear it
           }
         },
     .tolerated = {{call::fallocate, ENOSYS}, {call::fallocate, EOPNOTSUPP}, {call::flock, EWOULDBLOCK}},
     .absent = {no_unnamed_files}},
    {.name = "replacing a file over what a crash left",
     .calls = {"replace_file"},
     .prepare =
         [](trial& t) {
           with_data(t);
           t.file(".data.fmmap-new", "left");
         },
     .body =
         [](trial& t) {
           t.may_have(".data.fmmap-new");
           or_throw(fmmap::replace_file(t / "data", 0, [](auto) {}));
           // What cannot be told to be stale stays, and the next name is taken.
           if (!t.failed(call::openat) && !t.failed(call::flock) && !t.failed(call::unlinkat)) {
             t.lacks(".data.fmmap-new");
           }
         },
     .when_done = [](trial& t) { t.expect(t.content("data").empty(), "the old content is there"); },
     .tolerated = staging({{call::flock},
                           {call::openat, EACCES},
                           {call::openat, EPERM},
                           {call::openat, EAGAIN},
                           {call::unlinkat, EACCES},
                           {call::unlinkat, EPERM},
                           {call::unlinkat, EAGAIN}})},

    // mapping
    {.name = "mapping a part of a file",
     .calls = {"mapping::map", "mapping::bytes", "mapping::close"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto const f = or_throw(file::open(t / "data"));
           auto m = or_throw(mapping::map(f, {.range = {.offset = 5000, .length = 3000}, .populate = true}));
           t.expect(text_of(or_throw(m.bytes({.offset = 1, .length = 9}))) == old_bytes.substr(5001, 9),
                    "other bytes are mapped");
           or_throw(m.close());
         }},
    {.name = "mapping a file with a reserve in huge pages",
     .calls = {"mapping::map", "mapping::close"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto f = writable(t);
           auto m = or_throw(mapping::map(f, {.access = access::read_write,
                                              .reserve = std::size_t{1} << 20,
                                              .populate = true,
                                              .page_size = fmmap::page_size::prefer_huge}));
           t.expect(text_of(m.bytes()) == old_bytes, "other bytes are mapped");
           or_throw(f.close());
           or_throw(m.close());
         },
     .tolerated = {{call::madvise}}},
    {.name = "being refused huge pages of an ordinary file",
     .calls = {"mapping::map"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto const f = or_throw(file::open(t / "data"));
           refused(mapping::map(f, {.page_size = fmmap::page_size::require_huge}), std::errc::invalid_argument);
         },
     .tolerated = {{call::fstat, EINVAL}, {call::fstatfs, EINVAL}}},
    {.name = "mapping memory without a file",
     .calls = {"mapping::anonymous", "mapping::resize", "mapping::reserve", "mapping::protect", "mapping::discard",
               "mapping::close"},
     .body =
         [](trial& t) {
           auto m = or_throw(mapping::anonymous(3 * page, {.reserve = 16 * page, .populate = true}));
           store(m.writable_bytes(), "kept");
           auto const grown = m.resize(5 * page);
           t.expect(m.size() == (grown ? 5 : 3) * page, "the size is wrong after growing");
           or_throw(grown);
           m.writable_bytes()[5 * page - 1] = std::byte{1};
           auto const shrunk = m.resize(2 * page);
           t.expect(m.size() == (shrunk ? 2 : 5) * page, "the size is wrong after shrinking");
           if (!shrunk) {
             t.expect(m.bytes()[5 * page - 1] == std::byte{1}, "bytes are gone after a failed shrinking");
           }
           or_throw(shrunk);
           auto const* const base = m.bytes().data();
           auto const moved = m.reserve(64 * page);
           t.expect(moved ? m.capacity() >= 64 * page : m.bytes().data() == base, "the reserve is wrong");
           t.expect(text_of(m.bytes()).starts_with("kept"), "the bytes did not move along");
           or_throw(moved);
           or_throw(m.discard({.offset = 0, .length = page}));
           t.expect(m.bytes()[0] == std::byte{0}, "discarded bytes are there");
           auto const frozen = m.protect(access::read_only, true);
           t.expect(m.access() == (frozen ? access::read_only : access::read_write), "the access is wrong");
           or_throw(frozen);
           or_throw(m.close());
         }},
    {.name = "growing and moving a view of a file",
     .calls = {"mapping::resize", "mapping::reserve"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto f = writable(t);
           auto m = or_throw(mapping::map(f, {.access = access::read_write, .range = {.offset = 100, .length = page}}));
           auto const* const base = m.bytes().data();
           auto const moved = m.reserve(std::size_t{1} << 20);
           t.expect(moved || m.bytes().data() == base, "a failed reserve moved the view");
           t.expect(text_of(m.bytes()) == old_bytes.substr(100, page), "other bytes are mapped");
           or_throw(moved);
           auto const grown = m.resize(old_bytes.size() - 100);
           t.expect(m.size() == (grown ? old_bytes.size() - 100 : page), "the size is wrong");
           t.expect(text_of(m.bytes()) == old_bytes.substr(100, m.size()), "other bytes are mapped");
           or_throw(grown);
         }},
    {.name = "changing what may be done with a view",
     .calls = {"mapping::protect"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto f = writable(t);
           auto m = or_throw(mapping::map(f));
           auto const writes = m.protect(access::read_write);
           t.expect(m.access() == (writes ? access::read_write : access::read_only), "the access is wrong");
           or_throw(writes);
           m.writable_bytes()[0] = std::byte{7};
           or_throw(m.protect(access::read_only));
           t.expect(m.writable_bytes().empty(), "the access is wrong");
         }},
    {.name = "advising",
     .calls = {"mapping::advise"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto const f = or_throw(file::open(t / "data"));
           auto const m = or_throw(mapping::map(f));
           or_throw(m.advise(fmmap::advice::will_need));
           or_throw(m.advise(fmmap::advice::populate_read, {.offset = 10, .length = 20}));
           or_throw(m.advise(fmmap::advice::dont_fork));
         }},
    {.name = "discarding a part of a file",
     .calls = {"mapping::discard"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto f = writable(t);
           auto m = or_throw(mapping::map(f, {.access = access::read_write}));
           auto const discarded = m.discard({.offset = 1, .length = 2 * page});
           auto expected = old_bytes;
           std::fill_n(expected.begin() + page, discarded ? page : 0, '\0');
           t.expect(text_of(m.bytes()) == expected, "other bytes read as zero");
           or_throw(discarded);
         }},
    {.name = "discarding what was written in memory only",
     .calls = {"mapping::discard"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto f = or_throw(file::open(t / "data"));
           auto m = or_throw(mapping::map(f, {.access = access::copy_on_write}));
           store(m.writable_bytes(), new_bytes);
           or_throw(m.discard(fmmap::whole));
           t.expect(text_of(m.bytes()).starts_with(old_bytes.substr(0, page)), "what was written is still there");
         },
     .when_done = keeps_data,
     .when_failed = keeps_data},
    {.name = "locking memory",
     .calls = {"mapping::lock_memory"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto const f = or_throw(file::open(t / "data"));
           auto const m = or_throw(mapping::map(f));
           auto first = or_throw(m.lock_memory());
           auto second = or_throw(m.lock_memory({.offset = page, .length = 1}, {.on_fault = true}));
           t.expect(second.bytes().size() == page, "other pages are locked");
           first = std::move(second);
         },
     .tolerated = {{call::getrlimit}}},
    {.name = "asking what is in memory",
     .calls = {"mapping::residency"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto const f = or_throw(file::open(t / "data"));
           auto const m = or_throw(mapping::map(f, {.populate = true}));
           t.expect(or_throw(m.residency()).resident_bytes == 4 * page, "pages are missing");
         },
     .tolerated = {{call::cachestat}}},
    {.name = "flushing a view",
     .calls = {"mapping::flush"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto f = writable(t);
           auto m = or_throw(mapping::map(f, {.access = access::read_write}));
           store(m.writable_bytes(), new_bytes);
           for (auto const level : {durability::started, durability::written, durability::data, durability::all}) {
             t.expect(or_throw(m.flush({.offset = 0, .length = 5000}, level)) >= level, "a lower level was reached");
             auto const all = m.flush(fmmap::whole, level);
             if (!all && all.error() == std::errc::no_space_on_device) {
               refused(f.sync(), std::errc::no_space_on_device);
             }
             t.expect(or_throw(all) >= level, "a lower level was reached");
           }
         },
     .tolerated = no_range_sync},
    {.name = "staging a flush that outlives view and file",
     .calls = {"mapping::stage_flush", "flush_job::run", "mapping::close", "file::close"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto f = writable(t);
           auto m = or_throw(mapping::map(f, {.access = access::read_write}));
           store(m.writable_bytes(), new_bytes);
           auto job = or_throw(m.stage_flush({.offset = 0, .length = new_bytes.size()}));
           or_throw(m.close());
           or_throw(f.close());
           t.expect(or_throw(job.run()) >= durability::data, "a lower level was reached");
           refused(job.run(), errc::already_run);
         },
     .when_done = [](trial& t) { t.expect(t.content("data").starts_with(new_bytes), "the bytes have changed"); }},
    {.name = "rewriting a view after a failed flush",
     .calls = {"mapping::rewrite", "mapping::flush"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto f = writable(t);
           auto m = or_throw(mapping::map(f, {.access = access::read_write}));
           store(m.writable_bytes(), new_bytes);
           refused(m.flush({.offset = 0, .length = 10}), std::errc::io_error);
           auto const rewritten = m.rewrite();
           if (!rewritten) {
             t.expect(!m.flush(), "the failed flush is forgotten");
           }
           or_throw(rewritten);
           or_throw(m.flush());
         },
     // msync as well as the one pretended; a system without MADV_POPULATE_WRITE stores at once.
     .tolerated = {{call::msync, EIO}, {call::madvise, EINVAL}, {call::ioctl, ENOSYS}, {call::ioctl, EOPNOTSUPP}},
     .absent = {{.call = call::msync, .error = EIO, .times = 1}}},
    {.name = "sharing a part that outlives its view",
     .calls = {"mapping::share", "mapping::close"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto f = or_throw(file::open(t / "data"));
           auto m = or_throw(mapping::map(f));
           auto const part = or_throw(m.share({.offset = page, .length = 10}));
           or_throw(m.close());
           or_throw(f.close());
           t.expect(text_of(part.bytes()) == old_bytes.substr(page, 10), "other bytes are shared");
         }},

    // file_view
    {.name = "viewing a small file",
     .calls = {"file_view::open"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto const view = or_throw(file_view::open(t / "data"));
           t.expect(!view.is_mapped() && text_of(view.bytes()) == old_bytes, "other bytes are seen");
         }},
    {.name = "viewing a larger file",
     .calls = {"file_view::open"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto const view = or_throw(file_view::open(t / "data", {.map_above = page}));
           t.expect(text_of(view.bytes()) == old_bytes, "other bytes are seen");
         },
     .tolerated = {{call::mmap, EACCES}, // what says that this file cannot be mapped
                   {call::mmap, EPERM},
                   {call::mmap, EINVAL},
                   {call::mmap, EIO},
                   {call::mmap, ENOSYS},
                   {call::mmap, EOPNOTSUPP}}},
    {.name = "viewing a file that has no size",
     .calls = {"file_view::open"},
     .body =
         [](trial& t) {
           auto const view = or_throw(file_view::open("/proc/self/limits"));
           t.expect(text_of(view.bytes()).starts_with("Limit") && text_of(view.bytes()).ends_with("\n"),
                    "a part is missing");
         }},
    {.name = "viewing a device",
     .calls = {"file_view::open"},
     .body = [](trial& t) { t.expect(or_throw(file_view::open("/dev/null")).bytes().empty(), "something is seen"); }},

    // mapped_file
    {.name = "opening a mapped file",
     .calls = {"mapped_file::open", "readable::bytes", "mapped_file::metadata", "mapped_file::close"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto m = or_throw(mapped_file::open(t / "data", {.range = {.offset = 10}, .populate = true}));
           t.expect(text_of(or_throw(m.bytes(0, 20))) == old_bytes.substr(10, 20), "other bytes are mapped");
           t.expect(or_throw(m.metadata()).size == old_bytes.size(), "the metadata are wrong");
           or_throw(m.close());
         },
     .tolerated = no_statx},

    // mutable_mapped_file
    {.name = "creating a mapped file",
     .calls = {"mutable_mapped_file::create", "mutable_mapped_file::close"},
     .body =
         [](trial& t) {
           auto m = or_throw(mutable_mapped_file::create(
               t / "new", {.size = 2 * page, .reserve = 1 << 20, .populate = true, .sync_directory = true}));
           t.has("new");
           store(m.writable_bytes(), new_bytes);
           or_throw(m.close());
         },
     .when_done = [](trial& t) { t.expect(t.content("new").starts_with(new_bytes), "other bytes were written"); },
     .tolerated = no_allocation},
    {.name = "giving an empty file a size",
     .calls = {"mutable_mapped_file::open"},
     .prepare = [](trial& t) { t.file("data", ""); },
     .body =
         [](trial& t) {
           auto const m = or_throw(mutable_mapped_file::open(t / "data", {.size = 2 * page, .populate = true}));
           t.expect(m.size() == 2 * page, "the size is wrong");
         },
     .when_failed =
         [](trial& t) { t.expect(t.content("data").empty() || t.failed(call::ftruncate), "it is not empty any more"); },
     .tolerated = no_allocation},
    {.name = "appending to a mapped file",
     .calls = {"mutable_mapped_file::open", "mutable_mapped_file::append", "mutable_mapped_file::close"},
     .body =
         [](trial& t) {
           auto m = or_throw(mutable_mapped_file::open(t / "log"));
           t.has("log");
           std::string expected;
           for (auto const& record : {old_bytes, new_bytes}) {
             auto const appended = m.append(bytes_of(record));
             expected += appended ? record : "";
             t.expect(text_of(m.bytes()) == expected, "other bytes are mapped");
             or_throw(appended);
           }
           or_throw(m.close());
           t.expect(t.content("log") == expected, "other bytes are in the file");
         },
     .tolerated = {{call::fallocate}, {call::mmap}}},
    {.name = "giving back what was allocated ahead",
     .calls = {"mutable_mapped_file::open_existing", "mutable_mapped_file::shrink_to_fit",
               "mutable_mapped_file::metadata"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto m = or_throw(mutable_mapped_file::open_existing(t / "data", {.reserve = 1 << 20}));
           or_throw(m.append(bytes_of(new_bytes)));
           or_throw(m.shrink_to_fit());
           t.expect(or_throw(m.metadata()).allocated_bytes <= old_bytes.size() + new_bytes.size() + 2 * page,
                    "blocks are left");
           t.expect(text_of(or_throw(m.bytes(0, 10))) == old_bytes.substr(0, 10), "other bytes are mapped");
         },
     .when_done = [](trial& t) { t.expect(t.content("data") == old_bytes + new_bytes, "other bytes are in the file"); },
     .tolerated = {{call::fallocate}, {call::statx, ENOSYS}, {call::statx, EPERM}}},
    {.name = "resizing a mapped file",
     .calls = {"mutable_mapped_file::resize", "mutable_mapped_file::reserve", "mutable_mapped_file::flush",
               "mutable_mapped_file::stage_flush"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto m = or_throw(mutable_mapped_file::open_existing(t / "data"));
           auto const grown = m.resize(10 * page);
           t.expect(m.size() == (grown ? 10 * page : old_bytes.size()), "the size is wrong after growing");
           t.expect(text_of(m.bytes()).starts_with(old_bytes), "the bytes are gone after growing");
           or_throw(grown);
           or_throw(m.reserve(1 << 20));
           auto const shrunk = m.resize(page);
           t.expect(m.size() == (shrunk ? page : 10 * page), "the size is wrong after shrinking");
           or_throw(shrunk);
           or_throw(m.resize(2 * page, durability::data));
           store(m.writable_bytes(), new_bytes);
           or_throw(m.flush());
           auto job = or_throw(m.stage_flush({.offset = 0, .length = 10}, durability::all));
           or_throw(job.run());
         },
     .when_done = [](trial& t) { t.expect(t.content("data").starts_with(new_bytes), "other bytes are in the file"); },
     .tolerated = growing},
    {.name = "discarding, protecting and rewriting a mapped file",
     .calls = {"mutable_mapped_file::discard", "mutable_mapped_file::protect", "mutable_mapped_file::rewrite"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto m = or_throw(mutable_mapped_file::open_existing(t / "data"));
           auto const discarded = m.discard({.offset = 0, .length = page});
           t.expect((m.bytes()[1] == std::byte{0}) == discarded.has_value(), "the discarded page is wrong");
           or_throw(discarded);
           or_throw(m.rewrite());
           auto const closed = m.protect(access::read_only);
           t.expect(m.writable_bytes().empty() == closed.has_value(), "the access is wrong");
           or_throw(closed);
           refused(m.resize(1), errc::read_only);
           or_throw(m.close());
         },
     .tolerated = {{call::lseek, EINVAL}, {call::lseek, EOPNOTSUPP}, {call::ioctl, ENOSYS}, {call::ioctl, EOPNOTSUPP}}},
    {.name = "changing a file in memory only",
     .calls = {"mutable_mapped_file::open_copy_on_write", "mutable_mapped_file::close"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto m = or_throw(mutable_mapped_file::open_copy_on_write(t / "data", {.populate = true}));
           store(m.writable_bytes(), new_bytes);
           refused(m.flush(), errc::copy_on_write);
           or_throw(m.close());
         },
     .when_done = keeps_data,
     .when_failed = keeps_data},
    {.name = "removing a mapped file",
     .calls = {"mutable_mapped_file::remove"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto m = or_throw(mutable_mapped_file::open_existing(t / "data"));
           t.may_have("data");
           or_throw(m.remove());
           t.lacks("data");
           t.expect(text_of(m.bytes()) == old_bytes, "the bytes are gone");
         }},

    // what they have in common
    {.name = "reading from memory",
     .calls = {"readable::bytes", "readable::read", "readable::read_le", "readable::read_be", "readable::view",
               "readable::read_exactly", "readable::to_vector", "readable::reader", "mapped_file::share",
               "mapped_file::advise", "byte_reader::read", "byte_reader::read_le", "byte_reader::read_be",
               "byte_reader::bytes", "byte_reader::view", "byte_reader::read_exactly"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto const m = or_throw(mapped_file::open(t / "data"));
           t.expect(or_throw(m.read<std::uint32_t>(4)) == or_throw(m.read_le<std::uint32_t>(4)), "the order is wrong");
           t.expect(or_throw(m.read_be<std::uint16_t>(0)) >> 8U == or_throw(m.read<std::uint8_t>(0)),
                    "the order is wrong");
           t.expect(or_throw(m.view<char>(page, 1)).front() == old_bytes[page], "another byte is viewed");
           std::vector<std::byte> copy(10);
           or_throw(m.read_exactly(1, copy));
           t.expect(or_throw(m.to_vector({.offset = 1, .length = 10})) == copy, "other bytes are copied");
           t.expect(or_throw(m.share({.offset = 1, .length = 10})).bytes().data() == &m.bytes()[1], "another part");
           or_throw(m.advise(fmmap::advice::sequential));
           auto r = or_throw(m.reader({.offset = 8}));
           t.expect(or_throw(r.read<std::uint64_t>()) == or_throw(m.read<std::uint64_t>(8)), "another number is read");
           t.expect(or_throw(r.read_le<std::uint16_t>()) == or_throw(m.read_le<std::uint16_t>(16)), "another number");
           t.expect(or_throw(r.read_be<std::uint16_t>()) == or_throw(m.read_be<std::uint16_t>(18)), "another number");
           t.expect(or_throw(r.bytes(4)).data() == &m.bytes()[20], "other bytes are read");
           t.expect(or_throw(r.view<char>(3)).data()[2] == old_bytes[26], "other bytes are viewed");
           or_throw(r.read_exactly(copy));
           refused(r.bytes(old_bytes.size()), errc::out_of_range);
         }},
    {.name = "writing in memory",
     .calls = {"mutable_mapped_file::write_exactly", "mutable_mapped_file::write", "mutable_mapped_file::write_le",
               "mutable_mapped_file::write_be", "mutable_mapped_file::writable_bytes",
               "mutable_mapped_file::writable_view", "mutable_mapped_file::writer", "mutable_mapped_file::share",
               "mutable_mapped_file::advise", "byte_writer::write", "byte_writer::write_le", "byte_writer::write_be",
               "byte_writer::write_exactly"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto m = or_throw(mutable_mapped_file::open_existing(t / "data"));
           or_throw(m.write_exactly(0, bytes_of("abcd")));
           or_throw(m.write<char>(4, 'e'));
           or_throw(m.write_le<std::uint16_t>(5, 0x6766));
           or_throw(m.write_be<std::uint16_t>(7, 0x6869));
           or_throw(m.writable_bytes(9, 1)).front() = std::byte{'j'};
           or_throw(m.writable_view<char>(10, 1)).front() = 'k';
           auto w = or_throw(m.writer({.offset = 11, .length = 7}));
           or_throw(w.write<char>('l'));
           or_throw(w.write_le<std::uint16_t>(0x6e6d));
           or_throw(w.write_be<std::uint16_t>(0x6f70));
           or_throw(w.write_exactly(bytes_of("qr")));
           refused(w.write_exactly(bytes_of("s")), errc::out_of_range);
           or_throw(m.advise(fmmap::advice::random));
           t.expect(or_throw(m.share()).bytes().data() == m.bytes().data(), "another part is shared");
         },
     .when_done = [](trial& t) { t.expect(t.content("data").starts_with("abcdefghijklmnopqr"), "other bytes"); }},
    {.name = "filling a part of a file with holes",
     .calls = {"mutable_mapped_file::fill", "mutable_mapped_file::zero"},
     .prepare =
         [](trial& t) {
           t.file("data", old_bytes);
           std::filesystem::resize_file(t / "data", 8 * page);
         },
     .body =
         [](trial& t) {
           auto m = or_throw(mutable_mapped_file::open_existing(t / "data"));
           auto const before = std::string{text_of(m.bytes())};
           auto const filled = m.fill({.offset = 10, .length = 5 * page}, std::byte{'x'});
           auto expected = before;
           if (filled) {
             expected.replace(10, 5 * page, 5 * page, 'x');
           }
           t.expect(text_of(m.bytes()) == expected, "other bytes are there");
           or_throw(filled);
           or_throw(m.zero({.offset = 7 * page, .length = page}));
         },
     .tolerated = {{call::fallocate, ENOSYS}, {call::fallocate, EOPNOTSUPP}, {call::madvise, EINVAL}, {call::lseek}}},
    {.name = "copying a part to a new file",
     .calls = {"readable::copy_to"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto const m = or_throw(mapped_file::open(t / "data"));
           or_throw(m.copy_to(t / "copy", {.offset = 10, .length = page}, {.level = durability::data}));
           t.has("copy");
           t.expect(t.content("copy") == old_bytes.substr(10, page), "other bytes were copied");
           refused(m.copy_to(t / "copy"), std::errc::file_exists);
         },
     .when_done = keeps_data,
     .when_failed = keeps_data,
     .tolerated = staging({{call::fstatat}, {call::flock}})},
    {.name = "taking over open files",
     .calls = {"mapped_file::adopt", "mutable_mapped_file::adopt", "mutable_mapped_file::in_memory",
               "mutable_mapped_file::temporary"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto f = or_throw(file::open(t / "data"));
           auto const m = mapped_file::adopt(std::move(f));
           t.expect(f.is_open() != m.has_value(), "the file has two owners, or none");
           or_throw(outcome_of(m));
           auto g = writable(t);
           auto const n = mutable_mapped_file::adopt(std::move(g), {.reserve = 1 << 20});
           t.expect(g.is_open() != n.has_value(), "the file has two owners, or none");
           or_throw(outcome_of(n));
           auto memory = or_throw(mutable_mapped_file::in_memory("memory", 2 * page));
           or_throw(memory.append(bytes_of(new_bytes)));
           auto const unnamed = or_throw(mutable_mapped_file::temporary(t / ".", {.size = 3 * page}));
           t.expect(unnamed.size() == 3 * page, "the size is wrong");
           or_throw(memory.close());
         },
     .when_done = keeps_data,
     .when_failed = keeps_data,
     .tolerated = {{call::fallocate}, {call::mmap}, {call::memfd_create, EINVAL}}},
    {.name = "freezing what was written",
     .calls = {"mutable_mapped_file::freeze", "mutable_mapped_file::freeze_executable", "mapped_file::open_executable",
               "mapped_file::remove"},
     .prepare = with_data,
     .body =
         [](trial& t) {
           auto m = or_throw(mutable_mapped_file::open_existing(t / "data"));
           or_throw(m.append(bytes_of(new_bytes)));
           auto frozen = std::move(m).freeze();
           t.expect(m.is_open() != frozen.has_value(), "the file has two owners, or none");
           or_throw(or_throw(std::move(frozen)).close());
           auto const code = or_throw(mapped_file::open_executable(t / "data"));
           auto again = or_throw(mutable_mapped_file::open_existing(t / "data"));
           auto executable = or_throw(std::move(again).freeze_executable());
           t.may_have("data");
           or_throw(executable.remove());
           t.lacks("data");
         },
     .tolerated =
         {{call::fallocate}, {call::mmap}, {call::openat, ENOENT}, {call::openat, EACCES}, {call::openat, EPERM}}},
    {.name = "removing files on close",
     .calls = {"mapped_file::close", "mutable_mapped_file::close"},
     .prepare =
         [](trial& t) {
           t.file("data", old_bytes);
           t.file("other", new_bytes);
         },
     .body =
         [](trial& t) {
           t.may_have("data");
           t.may_have("other");
           auto m = or_throw(mapped_file::open(t / "data"));
           m.set_remove_on_close(true);
           auto n = or_throw(mutable_mapped_file::open_existing(t / "other"));
           n.set_remove_on_close(true);
           or_throw(m.close());
           t.lacks("data");
           or_throw(n.close());
           t.lacks("other");
         }},
    {.name = "copying under a guard",
     .calls = {"install_fault_handler", "guarded", "guarded_copy_out", "guarded_copy_in"},
     .prepare =
         [](trial& t) {
           std::signal(SIGBUS, SIG_DFL); // so that it is set in every run
           t.file("data", old_bytes);
         },
     .body =
         [](trial& t) {
           or_throw(fmmap::install_fault_handler());
           auto m = or_throw(mutable_mapped_file::open_existing(t / "data"));
           std::vector<std::byte> copy(old_bytes.size());
           or_throw(fmmap::guarded_copy_out(m.bytes(), copy));
           or_throw(fmmap::guarded_copy_in(bytes_of(new_bytes), m.writable_bytes()));
           t.expect(text_of(copy) == old_bytes, "other bytes are copied");
           std::filesystem::resize_file(t / "data", 10);
           auto const cut = fmmap::guarded(m.bytes(), [](std::span<std::byte const> b) { return b[2 * page]; });
           t.expect(!cut, "no error for a cut file");
           t.expect(!cut && (cut.error() == errc::truncated || t.failed(call::pread)), "another error for a cut file");
         },
     // Asked to find out why; what cannot be asked is not known.
     .tolerated = {{call::openat}, {call::read}, {call::pread}, {call::fstat}, {call::fcntl}, {call::madvise}}},
};

auto mentions(l0::report const& r, std::string_view what) -> bool {
  return std::ranges::any_of(r.faults, [&](std::string const& fault) { return fault.contains(what); });
}

} // namespace

BOOST_AUTO_TEST_SUITE(whatever_call_fails)

BOOST_AUTO_TEST_CASE(nothing_leaks_and_nothing_is_claimed_that_is_not_so) {
  for (auto const& fault : l0::sweep_all(scenarios).faults) {
    BOOST_ERROR(fault);
  }
}

BOOST_AUTO_TEST_SUITE_END()

// Scenarios with the mistakes the sweep is there to find.
BOOST_AUTO_TEST_SUITE(the_sweep_catches)

BOOST_AUTO_TEST_CASE(a_descriptor_that_leaks_when_a_call_fails) {
  auto const r =
      l0::sweep({.name = "seeded leak of a descriptor", .calls = {}, .prepare = with_data, .body = [](trial& t) {
                   auto const descriptor = ::open((t / "data").c_str(), O_RDONLY | O_CLOEXEC);
                   or_throw(file::open(t / "data"));
                   ::close(descriptor);
                 }});
  BOOST_TEST(mentions(r, "leaks a descriptor"));
}

BOOST_AUTO_TEST_CASE(a_mapping_that_leaks_when_a_call_fails) {
  auto const r =
      l0::sweep({.name = "seeded leak of a mapping", .calls = {}, .prepare = with_data, .body = [](trial& t) {
                   auto const descriptor = ::open((t / "data").c_str(), O_RDONLY | O_CLOEXEC);
                   auto* const memory = ::mmap(nullptr, page, PROT_READ, MAP_SHARED, descriptor, 0);
                   ::close(descriptor);
                   or_throw(file::open(t / "data"));
                   ::munmap(memory, page);
                 }});
  BOOST_TEST(mentions(r, "leaks a mapping"));
}

BOOST_AUTO_TEST_CASE(a_sync_whose_failure_is_ignored) {
  auto const r = l0::sweep({.name = "seeded ignored error", .calls = {}, .prepare = with_data, .body = [](trial& t) {
                              auto f = writable(t);
                              (void)f.sync();
                            }});
  BOOST_TEST(mentions(r, "claims success though fdatasync failed"));
}

BOOST_AUTO_TEST_CASE(an_effect_that_is_not_there) {
  auto const r = l0::sweep({.name = "seeded lie",
                            .calls = {},
                            .prepare = with_data,
                            .body =
                                [](trial& t) {
                                  auto f = writable(t);
                                  (void)f.resize(0);
                                },
                            .when_done = [](trial& t) { t.expect(t.content("data").empty(), "it is not empty"); }});
  BOOST_TEST(mentions(r, "claims success, but it is not empty"));
}

BOOST_AUTO_TEST_CASE(a_name_that_stays_behind) {
  auto const r = l0::sweep({.name = "seeded leftover", .calls = {}, .prepare = with_data, .body = [](trial& t) {
                              t.file("left", "");
                              or_throw(file::open(t / "data"));
                              std::filesystem::remove(t / "left");
                            }});
  BOOST_TEST(mentions(r, "leaves \"left\" behind"));
}

BOOST_AUTO_TEST_CASE(an_errno_that_is_lost) {
  auto const r =
      l0::sweep({.name = "seeded other error", .calls = {}, .prepare = with_data, .body = [](trial& t) {
                   if (!file::open(t / "data")) {
                     fmmap::throw_error(fmmap::error::make(std::make_error_code(std::errc::broken_pipe), "open"));
                   }
                 }});
  BOOST_TEST(mentions(r, "reported another error"));
}

BOOST_AUTO_TEST_SUITE_END()
