// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <filesystem>
#include <fstream>
#include <ios>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <sys/stat.h>

#include "support/scratch.hpp"

import fmmap.core;
import fmmap.journal;
import fmmap.lock;
import fmmap.pmr;

// docs/errors.md is held against the enumeration and against errors as they come out of the library.

using fmmap::access;
using fmmap::errc;
using fmmap::or_throw;

namespace {

auto source(std::string_view name) -> std::string { return read_back(std::filesystem::path{FMMAP_SOURCE_DIR} / name); }

// The names between "enum class errc" and the brace that ends it, in order.
auto enumerators() -> std::vector<std::string> {
  auto const text = source("modules/core/error.cppm");
  auto at = text.find("enum class errc");
  auto const end = text.find("};", at);
  std::vector<std::string> names;
  for (at = text.find('\n', at) + 1; at < end; at = text.find('\n', at) + 1) {
    auto const line = text.substr(at, text.find('\n', at) - at);
    auto const begin = line.find_first_not_of(' ');
    if (begin != std::string::npos && line[begin] != '/') {
      names.push_back(line.substr(begin, line.find_first_of(" ,", begin) - begin));
    }
  }
  return names;
}

auto has(std::string const& text, std::string const& part) -> bool { return text.find(part) != std::string::npos; }

// A folder that is the working directory, so that messages name files as the document does.
struct workplace {
  workplace() : before{std::filesystem::current_path()} { std::filesystem::current_path(folder.folder()); }
  workplace(workplace const&) = delete;
  auto operator=(workplace const&) -> workplace& = delete;
  ~workplace() { std::filesystem::current_path(before); }

  std::filesystem::path before;
  scratch folder;
};

template <class T>
auto message_of(fmmap::result<T> const& failed) -> std::string {
  return failed ? std::string{"no error"} : failed.error().message();
}

// Of a guarded access past the end of a file that was cut; the system names the file by its whole path.
auto message_after_cut(scratch const& folder) -> std::string {
  auto const path = folder.file("cut.bin", pattern(8192));
  auto const file = or_throw(fmmap::mapped_file::open(path));
  std::filesystem::resize_file(path, 4096);
  or_throw(fmmap::install_fault_handler()); // the test framework has set its own
  std::vector<std::byte> copy(8192);
  auto message = message_of(fmmap::guarded_copy_out(file.bytes(), copy));
  auto const whole_path = std::filesystem::canonical(folder.folder()).string();
  auto const at = message.find(whole_path);
  return at == std::string::npos ? message : message.replace(at, whole_path.size(), "/folder");
}

void overwrite(std::filesystem::path const& path, std::size_t at, std::span<std::byte const> bytes) {
  std::fstream out{path, std::ios::binary | std::ios::in | std::ios::out};
  out.seekp(static_cast<std::streamoff>(at));
  out.write(reinterpret_cast<char const*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
}

// Makes a heap say that it is of another version of the format, in both slots of its header.
void change_version(std::filesystem::path const& path) {
  namespace journal = fmmap::journal;
  auto const content = read_back(path);
  for (std::size_t i = 0; i < journal::slot_count; ++i) {
    journal::slot slot;
    std::memcpy(static_cast<void*>(&slot), content.data() + (i * sizeof slot), sizeof slot);
    slot.of_owner[8] = std::byte{2}; // behind the magic
    slot.about.checksum = journal::checksum_of(slot);
    overwrite(path, i * sizeof slot, std::as_bytes(std::span{&slot, 1}));
  }
}

// Takes the table of objects away.
void change_root(std::filesystem::path const& path) {
  overwrite(path, read_back(path).rfind("fmmproot"), std::vector<std::byte>(8));
}

auto sentences_of_heaps() -> std::vector<std::string> {
  using fmmap::persistent_heap;
  workplace const place;
  std::vector<std::string> found;
  auto heap = or_throw(persistent_heap::create("orders.heap"));
  or_throw(heap.construct<double>("price", 9.5));
  or_throw(heap.commit());
  found.push_back(message_of(heap.find<double>("prize")));
  found.push_back(message_of(heap.construct<double>("price")));
  found.push_back(message_of(heap.find<int>("price")));
  found.push_back(message_of(persistent_heap::open("orders.heap")));
  {
    auto const staged = or_throw(heap.stage_commit());
    found.push_back(message_of(heap.rollback()));
  }
  or_throw(heap.close());
  found.push_back(message_of(heap.commit()));
  {
    auto reader = or_throw(persistent_heap::open_read_only("orders.heap"));
    found.push_back(message_of(reader.commit()));
    found.push_back(message_of(reader.find<double>("price")));
  }
  found.push_back(message_of(persistent_heap::create("small.heap", {.reserve = 4096})));
  (void)place.folder.file("data.bin", pattern(4096));
  found.push_back(message_of(persistent_heap::open("data.bin")));
  or_throw(or_throw(persistent_heap::open("orders.heap")).close()); // empties the journal
  std::filesystem::copy_file("orders.heap", "other.heap");
  change_version("other.heap");
  found.push_back(message_of(persistent_heap::open("other.heap")));
  change_root("orders.heap");
  found.push_back(message_of(persistent_heap::open("orders.heap")));
  return found;
}

// One error of each kind that has a short way to it, as the library words it.
auto sentences() -> std::vector<std::string> {
  workplace const place;
  std::vector<std::string> found;
  auto const data = place.folder.file("data.bin", pattern(4096));
  std::filesystem::create_symlink("data.bin", "link.bin");
  std::filesystem::create_directory("folder");
  auto f = or_throw(fmmap::file::open("data.bin", {.access = access::read_write}));
  auto const reading = or_throw(fmmap::file::open("data.bin"));
  auto m = or_throw(fmmap::mapping::map(f, {.access = access::read_write, .reserve = 8192}));
  auto const cow = or_throw(fmmap::mapping::map(f, {.access = access::copy_on_write}));
  auto const memory = or_throw(fmmap::mapping::anonymous(4096));

  found.push_back(message_of(fmmap::mapped_file::open("missing.bin")));
  found.push_back(message_of(fmmap::mapping::map(f, {.range = {.offset = 4000, .length = 200}})));
  found.push_back(message_of(fmmap::file::open("folder")));
  found.push_back(message_of(cow.flush()));
  found.push_back(message_of(fmmap::mapping::map(reading, {.access = access::read_write})));
  found.push_back(message_of(m.resize(1U << 20)));
  found.push_back(message_of(memory.flush({.offset = 0, .length = 4096})));
  found.push_back(message_of(fmmap::mapping::map(f, {.access = access::read_write, .executable = true})));
  found.push_back(message_of(memory.advise(fmmap::advice::dont_need)));
  found.push_back(message_of(fmmap::mapping::map(f, {.address = m.writable_bytes().data()})));
  found.push_back(message_of(fmmap::file::open("link.bin", {.symlinks = fmmap::symlinks::refuse_last})));
  found.push_back(message_of(fmmap::file::open("data.bin", {.create = true})));
  found.push_back(message_of(fmmap::file{}.sync()));
  found.push_back(message_of(f.release()));
  auto job = or_throw(m.stage_flush());
  or_throw(job.run());
  found.push_back(message_of(job.run()));
  std::filesystem::rename("data.bin", "gone.bin");
  std::filesystem::remove("gone.bin");
  found.push_back(message_of(f.remove()));
  (void)place.folder.file("data.bin", pattern(4096, 1));
  found.push_back(message_of(f.remove()));
  auto const read = or_throw(fmmap::mapped_file::open("data.bin"));
  found.push_back(message_of(read.read<std::uint64_t>(4092)));
  found.push_back(message_of(read.view<std::uint64_t>(1, 1)));
  found.push_back(message_after_cut(place.folder));
  found.push_back(message_of(or_throw(fmmap::file_lock::create(reading)).acquire(fmmap::lock_mode::exclusive)));
  found.push_back(message_of(or_throw(fmmap::file_lock::create(reading, {.offset = 20, .length = 10})).release()));
  found.push_back(message_of(fmmap::file_lock::create(reading, {.offset = INT64_MAX - 7, .length = 10})));
  return found;
}

} // namespace

BOOST_AUTO_TEST_SUITE(docs_errors_md)

BOOST_AUTO_TEST_CASE(names_every_code_with_its_message) {
  auto const page = source("docs/errors.md");
  auto const names = enumerators();
  BOOST_TEST(names.size() >= 15U);
  BOOST_TEST(names.front() == "out_of_range");
  for (std::size_t i = 0; i < names.size(); ++i) {
    auto const message = fmmap::errc_category().message(static_cast<int>(i) + 1);
    auto const row = "| `" + names[i] + "` | " + message + " |";
    BOOST_TEST(has(page, row), "docs/errors.md has no row that begins with: " << row);
  }
  BOOST_TEST(fmmap::errc_category().message(static_cast<int>(names.size()) + 1).starts_with("unknown"));
}

BOOST_AUTO_TEST_CASE(quotes_errors_as_the_library_words_them) {
  auto const page = source("docs/errors.md");
  auto all = sentences();
  std::ranges::copy(sentences_of_heaps(), std::back_inserter(all));
  for (auto const& sentence : all) {
    BOOST_TEST_MESSAGE(sentence);
    BOOST_TEST(has(page, '\n' + sentence + '\n'), "docs/errors.md does not show: " << sentence);
  }
}

BOOST_AUTO_TEST_SUITE_END()
