// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <expected>
#include <filesystem>
#include <memory_resource>
#include <set>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <boost/property_tree/ptree.hpp>
#include <boost/property_tree/xml_parser.hpp>
#include <boost/test/unit_test.hpp>
#include <nlohmann/json.hpp>

#include <fcntl.h>
#include <unistd.h>

#include "support/damage.hpp"
#include "support/process.hpp"
#include "support/scratch.hpp"

import fmmap.core;
import fmmap.os;
import fmmap.pmr;

namespace fs = std::filesystem;
namespace seam = fmmap::os::seam;

using fmmap::or_throw;
using fmmap::persistent_heap;
using nlohmann::json;

namespace {

using numbers = std::pmr::vector<std::uint64_t>;

constexpr std::size_t kib = 1024;
constexpr std::size_t mib = 1024 * kib;
constexpr fmmap::heap_options small{.reserve = 64 * mib, .journal_size = 64 * kib};
constexpr std::uint64_t books_begin = 2 * mib; // behind header and journal

// What a run of the tool has left.
struct ran {
  int status;
  std::string out;
  std::string err;
};

// Runs the tool with these arguments; standard output and error go to files, or to what the caller has.
auto run(scratch const& folder, std::vector<std::string> arguments, char const* out = nullptr,
         char const* err = nullptr) -> ran {
  auto const out_path = folder / "stdout";
  auto const err_path = folder / "stderr";
  arguments.insert(arguments.begin(), FMMAP_TOOL);
  std::vector<char*> values;
  std::ranges::transform(arguments, std::back_inserter(values), [](std::string& one) { return one.data(); });
  values.push_back(nullptr);
  auto const redirect = [](int descriptor, char const* path) {
    ::dup2(::open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOCTTY, 0600), descriptor);
  };
  auto const status = end_of(start_child([&] {
    redirect(STDOUT_FILENO, out == nullptr ? out_path.c_str() : out);
    redirect(STDERR_FILENO, err == nullptr ? err_path.c_str() : err);
    ::execv(values.front(), values.data());
    return 127;
  }));
  return {.status = status, .out = read_back(out_path), .err = read_back(err_path)};
}

auto run_json(scratch const& folder, std::vector<std::string> arguments, int status = 0) -> json {
  arguments.emplace_back("--json");
  auto const done = run(folder, std::move(arguments));
  BOOST_TEST(done.status == status, done.err);
  return json::parse(done.out);
}

// The objects "one", "numbers" and "text", in the journal.
auto made(scratch const& folder, std::string_view name = "heap") -> std::string {
  auto const path = folder / name;
  auto heap = or_throw(persistent_heap::create(path, small));
  or_throw(heap.construct<int>("one", 1));
  or_throw(heap.commit());
  or_throw(heap.construct<numbers>("numbers", numbers(1000, 7)));
  or_throw(heap.construct<std::pmr::string>("text", "which is too long for the object itself, surely"));
  or_throw(heap.commit(fmmap::commit_durability::process));
  return path;
}

auto made_in_place(scratch const& folder, std::string_view name = "heap") -> std::string {
  auto path = made(folder, name);
  (void)or_throw(persistent_heap::open(path));
  return path;
}

void make_torn(std::string const& path) {
  auto const found = or_throw(fmmap::inspect_heap(path));
  flip(path, found.journal->records.back().offset + 100);
}

// Of a record that is longer than the journal, as a crash leaves it while that is brought in place.
void make_spilled(std::string const& path) {
  {
    auto heap = or_throw(persistent_heap::open(path));
    or_throw(heap.find<numbers>("numbers"))->assign(100'000, 7);
    or_throw(heap.commit());
  }
  auto heap = or_throw(persistent_heap::open(path));
  std::ranges::fill(*or_throw(heap.find<numbers>("numbers")), 8);
  seam::armed const table;
  seam::fail(fmmap::os::call::fdatasync, EIO, seam::every_time, 1);
  BOOST_TEST((heap.commit().error() == std::errc::io_error));
}

struct content {
  std::string bytes;
  fs::file_time_type changed;

  auto operator==(content const&) const -> bool = default;
};

auto content_of(std::string const& path) -> content {
  return {.bytes = read_back(path), .changed = fs::last_write_time(path)};
}

auto parsed_svg(fs::path const& path) -> boost::property_tree::ptree {
  boost::property_tree::ptree tree;
  boost::property_tree::read_xml(path.string(), tree);
  return tree;
}

// All texts of a picture, one a line.
auto texts_of(boost::property_tree::ptree const& tree) -> std::string {
  std::string all;
  for (auto const& [name, child] : tree) {
    all += name == "text" || name == "title" ? child.data() + '\n' : texts_of(child);
  }
  return all;
}

auto has(std::string_view text, std::string_view part) -> bool { return text.contains(part); }

} // namespace

BOOST_AUTO_TEST_SUITE(inspecting)

BOOST_AUTO_TEST_CASE(tells_people_what_a_heap_is) {
  scratch const folder;
  auto const done = run(folder, {"inspect", made(folder)});
  BOOST_TEST(done.status == 0);
  BOOST_TEST(done.err == "");
  for (std::string_view const part :
       {"committed     all of it", "slot 0        generation 2", ", closed (this one counts)",
        "slot 1        generation 1", "reserve       64.0 MiB (67108864 bytes)",
        "journal       64.0 KiB (65536 bytes) at 8192", "not in place  3 commits", "behind that   nothing",
        "content       1.0 MiB (1048576 bytes)", "\n  object   bytes", "\n  one          4"}) {
    BOOST_TEST(has(done.out, part), "no '" << part << "' in: " << done.out);
  }
}

BOOST_AUTO_TEST_CASE(tells_programs_what_a_heap_is) {
  scratch const folder;
  auto const path = made(folder);
  auto const all = run_json(folder, {"inspect", path});
  BOOST_TEST(all["file"] == path);
  BOOST_TEST(all["problems"].empty());
  BOOST_TEST(all["slots"][0]["closed"] == true);
  BOOST_TEST(all["slots"][1]["closed"] == false);
  BOOST_TEST(all["journal"]["records"].size() == 3U);
  BOOST_TEST(all["journal"]["after_records"] == "nothing");
  BOOST_TEST(all["heap"]["reserve"] == small.reserve);
  BOOST_TEST(all["usage"]["cells"].size() == 256U);
  std::vector<std::string> names;
  for (auto const& object : all["objects"]) {
    names.push_back(object["name"]);
  }
  BOOST_TEST((names == std::vector<std::string>{"numbers", "one", "text"}));
}

BOOST_AUTO_TEST_CASE(tells_a_commit_that_was_cut_short_and_that_is_no_problem) {
  scratch const folder;
  auto const path = made(folder);
  make_torn(path);
  auto const done = run(folder, {"inspect", path});
  BOOST_TEST(done.status == 0);
  BOOST_TEST(has(done.out, "behind that   a record that is not whole"), done.out);
  BOOST_TEST(run_json(folder, {"inspect", path})["journal"]["after_records"] == "incomplete_record");
}

BOOST_AUTO_TEST_CASE(tells_what_is_wrong_and_the_rest_all_the_same) {
  scratch const folder;
  auto const path = made_in_place(folder);
  write_at(path, books_begin + (3 * 576) + 5, "\x02");
  auto const done = run(folder, {"inspect", path});
  BOOST_TEST(done.status == 1);
  BOOST_TEST(has(done.out, "heap: 1 problem\n  the books of chunk 3 can be none"), done.out);
  BOOST_TEST(has(done.out, "damaged       1 page"), done.out);
  BOOST_TEST(run_json(folder, {"inspect", path}, 1)["objects"].size() == 3U);

  flip(path, 2000); // of the header
  flip(path, 4096 + 2000);
  auto const all = run_json(folder, {"inspect", path}, 1);
  BOOST_TEST(all["journal"].is_null());
  BOOST_TEST(all["heap"].is_null());
  BOOST_TEST(all["usage"].is_null());
  BOOST_TEST(run(folder, {"inspect", path}).status == 1);
}

BOOST_AUTO_TEST_CASE(shows_names_of_any_bytes_as_text) {
  scratch const folder;
  auto const path = (folder / "heap").string();
  {
    auto heap = or_throw(persistent_heap::create(path, small));
    or_throw(heap.construct<int>("a\x1b[31m\xff\xc3\xa4", 1));
    or_throw(heap.commit());
  }
  auto const done = run(folder, {"inspect", path});
  BOOST_TEST(has(done.out, "a\\x1b[31m\\xff\xc3\xa4 "), done.out);
  BOOST_TEST(done.out.find('\x1b') == std::string::npos);
  BOOST_TEST(run_json(folder, {"inspect", path})["objects"].size() == 1U);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(checking)

BOOST_AUTO_TEST_CASE(says_whether_a_heap_is_sound) {
  scratch const folder;
  auto const path = made(folder);
  auto const done = run(folder, {"check", path});
  BOOST_TEST(done.status == 0);
  BOOST_TEST(done.out == path + ": sound, with 3 objects\n"
                                "  3 commits in the journal, which opening it for writing brings in place\n");
  make_torn(path);
  auto const torn = run_json(folder, {"check", path});
  BOOST_TEST(torn["sound"] == true);
  BOOST_TEST(torn["incomplete_record"] == true);
  BOOST_TEST(has(run(folder, {"check", path}).out, "a commit was cut short"));
}

BOOST_AUTO_TEST_CASE(prints_each_problem) {
  scratch const folder;
  auto const path = made_in_place(folder);
  write_at(path, books_begin + (3 * 576) + 5, "\x02");
  write_at(path, books_begin + (4 * 576) + 5, "\x02");
  auto const done = run(folder, {"check", path});
  BOOST_TEST(done.status == 1);
  BOOST_TEST(has(done.out, path + ": 2 problems\n  the books of chunk 3"), done.out);
  auto const all = run_json(folder, {"check", path}, 1);
  BOOST_TEST(all["sound"] == false);
  BOOST_TEST(all["problems"].size() == 2U);
}

BOOST_AUTO_TEST_CASE(tells_a_heap_that_was_cut_off) {
  scratch const folder;
  auto const path = made_in_place(folder);
  fs::resize_file(path, (12 * mib) + 8192);
  auto const done = run(folder, {"check", path});
  BOOST_TEST(done.status == 1);
  BOOST_TEST(has(done.out, "it has been cut off at 12591104 of 13631488 bytes"), done.out);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(recovering)

BOOST_AUTO_TEST_CASE(brings_commits_in_place) {
  scratch const folder;
  auto const path = made(folder);
  auto const planned = run_json(folder, {"recover", "--dry-run", path});
  BOOST_TEST(planned["done"] == false);
  BOOST_TEST(planned["records"] == 3U);
  BOOST_TEST(has(run(folder, {"recover", "--dry-run", path}).out, "3 commits would be brought in place, "));
  BOOST_TEST(or_throw(fmmap::inspect_heap(path)).journal->records.size() == 3U);

  auto const done = run(folder, {"recover", path});
  BOOST_TEST(done.status == 0, done.err);
  BOOST_TEST(has(done.out, path + ": 3 commits brought in place, "), done.out);
  auto const after = or_throw(fmmap::inspect_heap(path));
  BOOST_TEST(after.journal->records.empty());
  BOOST_TEST(after.objects.size() == 3U);
  BOOST_TEST(run_json(folder, {"recover", path})["records"] == 0U);
  BOOST_TEST(has(run(folder, {"recover", path}).out, "no commits were to be brought in place"));
}

BOOST_AUTO_TEST_CASE(forgets_a_commit_that_was_cut_short) {
  scratch const folder;
  auto const path = made(folder);
  make_torn(path);
  BOOST_TEST(has(run(folder, {"recover", "--dry-run", path}).out, "a commit that was cut short would be forgotten"));
  BOOST_TEST(run_json(folder, {"recover", path})["incomplete_record"] == true);
  auto const after = or_throw(fmmap::inspect_heap(path));
  BOOST_TEST((after.journal->after_records != fmmap::journal_end::incomplete_record));
  BOOST_TEST(after.objects.size() == 1U);
}

BOOST_AUTO_TEST_CASE(cuts_off_a_record_that_was_longer_than_the_journal) {
  scratch const folder;
  auto const path = made(folder);
  make_spilled(path);
  auto const planned = run(folder, {"recover", "--dry-run", path});
  BOOST_TEST(has(planned.out, "1 commit would be brought in place"), planned.out);
  BOOST_TEST(has(planned.out, "the file would be cut off at "), planned.out);
  BOOST_TEST(has(run(folder, {"inspect", path}).out, "behind the content"));
  BOOST_TEST(run_json(folder, {"recover", path})["cut_off"] == true);
  auto const after = or_throw(fmmap::inspect_heap(path));
  BOOST_TEST(after.file_bytes == after.journal->committed_bytes);
}

BOOST_AUTO_TEST_CASE(leaves_alone_what_has_problems) {
  scratch const folder;
  auto const path = made_in_place(folder);
  write_at(path, books_begin + (3 * 576) + 5, "\x02");
  auto const before = content_of(path);
  auto const done = run(folder, {"recover", path});
  BOOST_TEST(done.status == 1);
  BOOST_TEST(has(done.out, "the books of chunk 3"), done.out);
  BOOST_TEST(run_json(folder, {"recover", path}, 1)["done"] == false);
  BOOST_TEST((content_of(path) == before));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_snapshot)

BOOST_AUTO_TEST_CASE(is_a_heap_with_all_that_was_committed) {
  scratch const folder;
  auto const path = made(folder);
  auto const before = content_of(path);
  auto const copy = (folder / "copy").string();
  auto const done = run(folder, {"snapshot", path, copy});
  BOOST_TEST(done.status == 0, done.err);
  BOOST_TEST(has(done.out, copy + ": a snapshot of " + path), done.out);
  BOOST_TEST((content_of(path) == before));
  BOOST_TEST(or_throw(or_throw(persistent_heap::open(copy)).find<numbers>("numbers"))->size() == 1000U);
  BOOST_TEST(run_json(folder, {"snapshot", path, copy + "2"})["bytes"] == fs::file_size(path));
}

BOOST_AUTO_TEST_CASE(takes_no_name_that_is_taken) {
  scratch const folder;
  auto const path = made(folder);
  auto const taken = folder.file("taken", "by somebody").string();
  auto const done = run(folder, {"snapshot", path, taken});
  BOOST_TEST(done.status == 3);
  BOOST_TEST(has(done.err, "taken\": File exists"), done.err);
  BOOST_TEST(read_back(taken) == "by somebody");
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_map_of_a_file)

BOOST_AUTO_TEST_CASE(tells_blocks_holes_and_what_is_in_memory) {
  scratch const folder;
  auto const path = (folder / "sparse").string();
  {
    std::string const data(256 * kib, 'x');
    auto file = or_throw(fmmap::file::create_new(path));
    or_throw(file.resize((4 * mib) + 100));
    or_throw(file.write_at(mib, std::as_bytes(std::span{data})));
  }
  auto const all = run_json(folder, {"map", path});
  BOOST_TEST(all["file_bytes"] == (4 * mib) + 100);
  BOOST_TEST(all["cell_bytes"] == 4096U);
  BOOST_REQUIRE(all["cells"].size() == 1025U);
  BOOST_TEST(all["cells"][256]["resident_bytes"] == 4096U);
  std::uint64_t resident = 0;
  std::uint64_t data = 0;
  for (auto const& cell : all["cells"]) {
    resident += cell["resident_bytes"].get<std::uint64_t>();
    data += cell["data_bytes"].get<std::uint64_t>();
  }
  BOOST_TEST(all["memory"]["resident_bytes"] == resident);
  std::uint64_t in_ranges = 0;
  for (auto const& range : all["data"]) {
    in_ranges += range["bytes"].get<std::uint64_t>();
  }
  BOOST_TEST(data == in_ranges);
  auto const text = run(folder, {"map", path});
  BOOST_TEST(text.status == 0);
  BOOST_TEST(has(text.out, "size           4.0 MiB (4194404 bytes)"), text.out);
}

BOOST_AUTO_TEST_CASE(has_no_cells_of_an_empty_one) {
  scratch const folder;
  auto const path = folder.file("empty", "").string();
  auto const picture = (folder / "empty.svg").string();
  BOOST_TEST(run_json(folder, {"map", path, "--svg", picture})["cells"].empty());
  (void)parsed_svg(picture);
}

BOOST_AUTO_TEST_CASE(has_some_thousand_cells_of_a_large_one) {
  scratch const folder;
  auto const path = (folder / "large").string();
  or_throw(or_throw(fmmap::file::create_new(path)).resize((std::uint64_t{1} << 32U) + 1));
  auto const all = run_json(folder, {"map", path});
  BOOST_TEST(all["cell_bytes"] == 2 * mib);
  BOOST_TEST(all["cells"].size() == 2049U);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_picture)

BOOST_AUTO_TEST_CASE(of_a_heap_has_a_title_and_a_legend) {
  scratch const folder;
  auto const path = made_in_place(folder, "a & <b>");
  auto const picture = folder / "heap.svg";
  BOOST_TEST(run(folder, {"inspect", path, "--svg", picture}).status == 0);
  auto const texts = texts_of(parsed_svg(picture));
  for (std::string_view const part : {"a & <b>: what the pages of the heap are", "A cell is 1 page, 4.0 KiB.",
                                      "runs of whole pages", "blocks in use", "free", "128.0 KiB"}) {
    BOOST_TEST(has(texts, part), "no '" << part << "' in: " << texts);
  }
}

BOOST_AUTO_TEST_CASE(of_what_cannot_be_read_says_so) {
  scratch const folder;
  auto const path = made_in_place(folder);
  flip(path, 2000);
  flip(path, 4096 + 2000);
  auto const picture = folder / "heap.svg";
  BOOST_TEST(run(folder, {"inspect", path, "--svg", picture}).status == 1);
  BOOST_TEST(has(texts_of(parsed_svg(picture)), "Its books cannot be read."));
}

BOOST_AUTO_TEST_CASE(of_any_file_has_a_title_and_a_legend) {
  scratch const folder;
  auto const path = folder.file("file\x01\xff", std::string(100'000, 'x')).string();
  auto const picture = folder / "file.svg";
  BOOST_TEST(run(folder, {"map", path, "--svg", picture}).status == 0);
  auto const texts = texts_of(parsed_svg(picture));
  BOOST_TEST(has(texts, "file\\x01\\xff: what is in memory"), texts);
  BOOST_TEST(has(texts, "holes that are not in memory"), texts);
}

BOOST_AUTO_TEST_CASE(is_not_put_over_what_it_shows) {
  scratch const folder;
  auto const path = made(folder);
  fs::create_symlink(path, folder / "link");
  auto const before = content_of(path);
  for (std::string_view const command : {"inspect", "map"}) {
    auto const done = run(folder, {std::string{command}, path, "--svg", folder / "link"});
    BOOST_TEST(done.status == 2);
    BOOST_TEST(has(done.err, "the picture needs another"), done.err);
  }
  BOOST_TEST((content_of(path) == before));
}

BOOST_AUTO_TEST_CASE(that_cannot_be_written_is_an_error) {
  scratch const folder;
  auto const done = run(folder, {"inspect", made(folder), "--svg", folder / "none/heap.svg"});
  BOOST_TEST(done.status == 3);
  BOOST_TEST(has(done.err, "none/heap.svg"), done.err);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(the_tool)

BOOST_AUTO_TEST_CASE(changes_no_byte_where_it_only_looks) {
  scratch const folder;
  auto const picture = (folder / "picture.svg").string();
  std::vector<std::string> const paths{made_in_place(folder, "healthy"), made(folder, "dirty"), made(folder, "torn"),
                                       made_in_place(folder, "damaged")};
  make_torn(paths[2]);
  write_at(paths[3], books_begin + (3 * 576) + 5, "\x02");
  for (auto const& path : paths) {
    auto const before = content_of(path);
    for (auto const& command : std::vector<std::vector<std::string>>{{"inspect", path},
                                                                     {"inspect", path, "--json"},
                                                                     {"inspect", path, "--svg", picture},
                                                                     {"check", path},
                                                                     {"recover", "--dry-run", path},
                                                                     {"map", path, "--svg", picture}}) {
      auto const done = run(folder, command);
      BOOST_TEST((done.status == 0 || done.status == 1), done.err);
      BOOST_TEST((content_of(path) == before), command.front() << " changes " << path);
    }
  }
}

BOOST_AUTO_TEST_CASE(tells_what_it_cannot_open) {
  scratch const folder;
  auto const text = folder.file("text", "this is no heap").string();
  auto const none = (folder / "none").string();
  struct refused {
    std::string path;
    std::string_view why;
  };
  for (auto const& [path, why] :
       {refused{none, "none\": No such file or directory"}, refused{folder.folder(), "it is not a regular file"},
        refused{text, "text\": it is not a persistent heap"}}) {
    for (std::string_view const command : {"inspect", "check", "recover"}) {
      auto const done = run(folder, {std::string{command}, path, "--json"});
      BOOST_TEST(done.status == 3);
      BOOST_TEST(has(done.err, why), done.err);
      BOOST_TEST(done.out == "");
    }
  }
  BOOST_TEST(run(folder, {"map", text}).status == 0);
  BOOST_TEST(run(folder, {"map", none}).status == 3);
  BOOST_TEST(run(folder, {"snapshot", text, none}).status == 3);
  BOOST_TEST(!fs::exists(none));
}

BOOST_AUTO_TEST_CASE(does_not_look_at_a_heap_that_is_being_written) {
  scratch const folder;
  auto const path = made(folder);
  auto const heap = or_throw(persistent_heap::open(path));
  for (std::string_view const command : {"inspect", "check", "recover"}) {
    auto const done = run(folder, {std::string{command}, path});
    BOOST_TEST(done.status == 3);
    BOOST_TEST(has(done.err, "somebody else has the heap open for writing"), done.err);
  }
}

BOOST_AUTO_TEST_CASE(tells_how_it_is_used) {
  scratch const folder;
  for (auto const& wrong : std::vector<std::vector<std::string>>{{},
                                                                 {"nonsense"},
                                                                 {"inspect"},
                                                                 {"inspect", "a", "b"},
                                                                 {"check", "a", "--svg", "b"},
                                                                 {"snapshot", "a"},
                                                                 {"map", "a", "--nonsense"}}) {
    auto const done = run(folder, wrong);
    BOOST_TEST(done.status == 2);
    BOOST_TEST(done.err != "");
    BOOST_TEST(done.out == "");
  }
  auto const help = run(folder, {"--help"});
  BOOST_TEST(help.status == 0);
  for (std::string_view const command : {"inspect", "check", "recover", "snapshot", "map"}) {
    BOOST_TEST(has(help.out, command), help.out);
  }
  BOOST_TEST(run(folder, {"--version"}).status == 0);
}

BOOST_AUTO_TEST_CASE(notices_that_its_output_is_lost) {
  scratch const folder;
  auto const done = run(folder, {"check", made(folder)}, "/dev/full");
  BOOST_TEST(done.status == 3);
  BOOST_TEST(has(done.err, "cannot write to standard output"), done.err);
}

BOOST_AUTO_TEST_CASE(tells_how_far_it_is_on_a_terminal_only) {
  scratch const folder;
  auto const path = made(folder);
  BOOST_TEST(run(folder, {"inspect", path}).err == "");
  auto const terminal = ::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (terminal < 0 || ::grantpt(terminal) != 0 || ::unlockpt(terminal) != 0) {
    skip("there are no terminals to be had here");
    return;
  }
  auto const other_end = ::open(::ptsname(terminal), O_RDWR | O_NOCTTY | O_CLOEXEC); // so that what is written stays
  BOOST_TEST(run(folder, {"inspect", path}, nullptr, ::ptsname(terminal)).status == 0);
  std::array<char, 256> said{};
  auto const got = ::read(terminal, said.data(), said.size());
  BOOST_TEST(got > 0);
  BOOST_TEST(has(std::string_view{said.data(), said.size()}, "100 %"));
  ::close(other_end);
  ::close(terminal);
}

void collect_keys(json const& value, std::set<std::string>& keys) {
  for (auto const& [key, child] : value.items()) {
    if (value.is_object()) {
      keys.insert(key);
    }
    if (child.is_structured()) {
      collect_keys(child, keys);
    }
  }
}

BOOST_AUTO_TEST_CASE(prints_no_key_that_its_page_does_not_explain) {
  scratch const folder;
  auto const path = made(folder);
  std::set<std::string> keys;
  for (auto const& command : std::vector<std::vector<std::string>>{
           {"inspect", path}, {"check", path}, {"recover", path}, {"snapshot", path, folder / "copy"}, {"map", path}}) {
    collect_keys(run_json(folder, command), keys);
  }
  auto const page = read_back(fs::path{FMMAP_SOURCE_DIR} / "docs" / "tool.md");
  for (auto const& key : keys) {
    BOOST_TEST(has(page, '`' + key + '`'), "docs/tool.md says nothing of " << key);
  }
  BOOST_TEST(keys.size() > 40U);
}

BOOST_AUTO_TEST_SUITE_END()
