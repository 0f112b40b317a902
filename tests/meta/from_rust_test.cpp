// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <array>
#include <cctype>
#include <cstddef>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "support/scratch.hpp"

// docs/from-rust.md, and docs/migrating.md as far as it goes, is held against both sides: every Rust function has a row, and what stands beside it exists in the
// interface units and is called by a test or an example.

namespace fs = std::filesystem;

namespace {

fs::path const sources{FMMAP_SOURCE_DIR};

// The functions and types of fmmap 0.5 and memmap2 0.9, and where older names are looked for, those. Numbers apart: below.
constexpr std::string_view rust_names[]{
    // types
    "MmapFile", "MmapFileMut", "raw::DiskMmapFile", "raw::DiskMmapFileMut", "raw::MemoryMmapFile",
    "raw::MemoryMmapFileMut", "EmptyMmapFile", "Options", "MmapFileReader", "MmapFileWriter", "MmapFileExt",
    "MmapFileMutExt", "MmapFileReaderExt", "MmapFileWriterExt", "MetaData", "MetaDataExt", "Error", "ErrorKind",
    // errors of 0.4
    "ErrorKind::EOF", "ErrorKind::IO", "ErrorKind::TruncationFailed", "ErrorKind::OpenFailed",
    "ErrorKind::OpenDirFailed", "ErrorKind::FlushFailed", "ErrorKind::SyncFileFailed", "ErrorKind::SyncDirFailed",
    "ErrorKind::MmapFailed", "ErrorKind::RemmapFailed", "ErrorKind::InvalidBound", "ErrorKind::OutOfBound",
    "ErrorKind::InvokeEmptyMmap", "ErrorKind::NotADirectory",
    // opening
    "MmapFile::open", "MmapFile::open_with_options", "MmapFile::open_exec", "MmapFile::open_exec_with_options",
    "MmapFileMut::create", "MmapFileMut::create_with_options", "MmapFileMut::open", "MmapFileMut::open_with_options",
    "MmapFileMut::open_exist", "MmapFileMut::open_exist_with_options", "MmapFileMut::open_cow",
    "MmapFileMut::open_cow_with_options", "Options::open_mmap_file", "Options::open_exec_mmap_file",
    "Options::create_mmap_file_mut", "Options::open_mmap_file_mut", "Options::open_exist_mmap_file_mut",
    "Options::open_cow_mmap_file_mut", "MmapFile::memory", "MmapFile::memory_from_vec", "MmapFile::memory_from_string",
    "MmapFile::memory_from_str", "MmapFile::memory_from_slice", "MmapFile::memory_copy_from_slice",
    "MmapFileMut::memory", "MmapFileMut::memory_with_capacity", "MmapFileMut::memory_from_vec",
    "MmapFileMut::memory_from_string", "MmapFileMut::memory_from_str", "MmapFileMut::memory_from_slice",
    // reading
    "MmapFileExt::len", "MmapFileExt::is_empty", "MmapFileExt::as_slice", "MmapFileExt::slice", "MmapFileExt::bytes",
    "MmapFileExt::path", "MmapFileExt::path_buf", "MmapFileExt::path_lossy", "MmapFileExt::path_string",
    "MmapFileExt::metadata", "MmapFileExt::is_exec", "MmapFileExt::copy_all_to_vec", "MmapFileExt::copy_range_to_vec",
    "MmapFileExt::write_all_to_new_file", "MmapFileExt::write_range_to_new_file", "MmapFileExt::reader",
    "MmapFileExt::range_reader", "MmapFileExt::read", "MmapFileExt::read_exact", "MmapFileExt::lock",
    "MmapFileExt::lock_shared", "MmapFileExt::try_lock", "MmapFileExt::try_lock_shared", "MmapFileExt::unlock",
    "MmapFileExt::lock_exclusive", "MmapFileExt::try_lock_exclusive",
    // writing
    "MmapFileMutExt::as_mut_slice", "MmapFileMutExt::slice_mut", "MmapFileMutExt::bytes_mut", "MmapFileMutExt::is_cow",
    "MmapFileMutExt::zero_range", "MmapFileMutExt::write", "MmapFileMutExt::write_all", "MmapFileMutExt::flush",
    "MmapFileMutExt::flush_async", "MmapFileMutExt::flush_range", "MmapFileMutExt::flush_async_range",
    "MmapFileMutExt::truncate", "MmapFileMutExt::drop_remove", "MmapFileMutExt::close_with_truncate",
    "MmapFileMutExt::writer", "MmapFileMutExt::range_writer",
    // other functions of the mutable types
    "MmapFileMut::freeze", "MmapFileMut::freeze_exec", "MmapFileMut::get_remove_on_drop",
    "MmapFileMut::set_remove_on_drop", "MmapFileMut::close", "MmapFileMut::remove", "raw::DiskMmapFileMut::is_poisoned",
    "raw::MemoryMmapFileMut::into_bytes", "raw::MemoryMmapFileMut::into_bytes_mut", "raw::MemoryMmapFileMut::freeze",
    // options
    "Options::new", "Options::offset", "Options::len", "Options::max_size", "Options::populate", "Options::stack",
    "Options::read", "Options::write", "Options::create", "Options::create_new", "Options::append", "Options::truncate",
    "Options::mode", "Options::custom_flags", "Options::access_mode", "Options::share_mode", "Options::attributes",
    "Options::security_qos_flags",
    // readers and writers
    "MmapFileReader::offset", "MmapFileReader::len", "MmapFileReader::read", "MmapFileReader::read_exact",
    "MmapFileReader::read_to_end", "MmapFileReader::fill_buf", "MmapFileReader::chunk", "MmapFileReader::consume",
    "MmapFileReader::advance", "MmapFileReader::read_until", "MmapFileReader::read_line", "MmapFileReader::lines",
    "MmapFileReader::seek", "MmapFileReader::stream_position", "MmapFileReader::remaining", "MmapFileWriter::offset",
    "MmapFileWriter::len", "MmapFileWriter::write", "MmapFileWriter::write_all", "MmapFileWriter::seek",
    "MmapFileWriter::flush",
    // metadata
    "MetaDataExt::accessed", "MetaDataExt::created", "MetaDataExt::modified", "MetaDataExt::is_file",
    "MetaDataExt::is_symlink", "MetaDataExt::len", "MetaDataExt::dev", "MetaDataExt::ino", "MetaDataExt::mode",
    "MetaDataExt::nlink", "MetaDataExt::uid", "MetaDataExt::gid", "MetaDataExt::rdev", "MetaDataExt::size",
    "MetaDataExt::atime", "MetaDataExt::atime_nsec", "MetaDataExt::mtime", "MetaDataExt::mtime_nsec",
    "MetaDataExt::ctime", "MetaDataExt::ctime_nsec", "MetaDataExt::blksize", "MetaDataExt::blocks",
    "MetaDataExt::file_attributes", "MetaDataExt::creation_time", "MetaDataExt::last_access_time",
    "MetaDataExt::last_write_time", "MetaDataExt::file_size",
    // free functions
    "utils::sync_dir", "utils::sync_parent", "utils::open_read_only_file", "utils::open_exist_file",
    "utils::open_exist_file_with_append", "utils::open_file_with_truncate", "utils::open_or_create_file",
    "utils::create_file", "utils::sync_dir_async", "utils::sync_parent_async", "utils::open_read_only_file_async",
    "utils::open_exist_file_async", "utils::open_exist_file_with_append_async", "utils::open_file_with_truncate_async",
    "utils::open_or_create_file_async", "utils::create_file_async",
    // async
    "AsyncMmapFile", "AsyncMmapFileMut", "AsyncMmapFileExt", "AsyncMmapFileMutExt", "AsyncMmapFileReader",
    "AsyncMmapFileWriter", "AsyncOptions", "raw::AsyncDiskMmapFile", "raw::AsyncDiskMmapFileMut",
    "raw::AsyncMemoryMmapFile", "raw::AsyncMemoryMmapFileMut",
    // memmap2
    "Mmap", "MmapMut", "MmapRaw", "MmapOptions", "MmapOptions::new", "MmapOptions::offset", "MmapOptions::len",
    "MmapOptions::stack", "MmapOptions::huge", "MmapOptions::populate", "MmapOptions::no_reserve_swap",
    "MmapOptions::map", "MmapOptions::map_exec", "MmapOptions::map_mut", "MmapOptions::map_copy",
    "MmapOptions::map_copy_read_only", "MmapOptions::map_anon", "MmapOptions::map_raw",
    "MmapOptions::map_raw_read_only", "Mmap::map", "MmapMut::map_mut", "MmapMut::map_anon", "Mmap::make_mut",
    "MmapMut::make_read_only", "MmapMut::make_exec", "MmapMut::flush", "MmapMut::flush_range", "MmapMut::flush_async",
    "MmapMut::flush_async_range", "Mmap::advise", "Mmap::advise_range", "Advice::Normal", "Advice::Random",
    "Advice::Sequential", "Advice::WillNeed", "Advice::DontFork", "Advice::DoFork", "Advice::Mergeable",
    "Advice::Unmergeable", "Advice::HugePage", "Advice::NoHugePage", "Advice::DontDump", "Advice::DoDump",
    "Advice::HwPoison", "Advice::PopulateRead", "Advice::PopulateWrite", "Advice::ZeroWiredPages",
    "Advice::is_supported", "Mmap::unchecked_advise", "Mmap::unchecked_advise_range", "UncheckedAdvice::DontNeed",
    "UncheckedAdvice::Free", "UncheckedAdvice::Remove", "UncheckedAdvice::FreeReusable", "UncheckedAdvice::FreeReuse",
    "Mmap::lock", "Mmap::unlock", "Mmap::remap", "RemapOptions", "RemapOptions::may_move"};

constexpr std::array number_types{"i16", "i32", "i64",   "isize", "i128", "u16",
                                  "u32", "u64", "usize", "u128",  "f32",  "f64"};

// With the 26 functions for numbers of each trait that has them.
auto all_rust_names() -> std::set<std::string> {
  std::set<std::string> names{std::begin(rust_names), std::end(rust_names)};
  for (std::string const family :
       {"MmapFileExt::read_", "MmapFileReaderExt::read_", "MmapFileMutExt::write_", "MmapFileWriterExt::write_"}) {
    names.insert({family + "i8", family + "u8"});
    for (std::string const type : number_types) {
      names.insert({family + type, family + type + "_le"});
    }
  }
  return names;
}

constexpr std::string_view rust_head{"| Rust | here | what differs |"};

// A row of the page, by its columns.
struct table_row {
  std::vector<std::string> rust;
  std::string here;
  std::vector<std::string> names; // in `here`
  std::string differs;
};

auto code_spans(std::string const& cell) -> std::vector<std::string> {
  static std::regex const span{"`([^`]+)`"};
  std::vector<std::string> found;
  for (std::sregex_iterator at{cell.begin(), cell.end(), span}, end; at != end; ++at) {
    found.push_back((*at)[1].str());
  }
  return found;
}

// A name without a class that is no type is of the class before it.
auto with_classes(std::vector<std::string> names) -> std::vector<std::string> {
  std::string before;
  for (auto& name : names) {
    auto const colon = name.rfind("::");
    if (colon == std::string::npos && !before.empty()) {
      auto const is_type = name.front() >= 'A' && name.front() <= 'Z' && before != "ErrorKind" && before != "Advice" &&
                           before != "UncheckedAdvice";
      name = is_type ? name : before + "::" + name;
    } else if (colon != std::string::npos) {
      before = name.substr(0, colon);
    }
  }
  return names;
}

auto rows_of(std::string const& page, std::string_view head) -> std::vector<table_row> {
  static std::regex const line_of_three{R"(\| (.+) \| (.+) \| (.*?) *\|)"};
  std::vector<table_row> rows;
  bool in_table = false;
  std::istringstream text{page};
  for (std::string line; std::getline(text, line);) {
    if (line == head) {
      in_table = true;
    } else if (!line.starts_with("|")) {
      in_table = false;
    } else if (std::smatch cells; in_table && !line.starts_with("|--")) {
      BOOST_TEST(std::regex_match(line, cells, line_of_three), "no row of three columns: " << line);
      rows.push_back({.rust = with_classes(code_spans(cells[1].str())),
                      .here = cells[2].str(),
                      .names = code_spans(cells[2].str()),
                      .differs = cells[3].str()});
    }
  }
  return rows;
}

enum class kind { type, function, static_function, function_template, member };

// What the interface units declare, as "class::name" or "name", and which class has which base.
struct interface {
  std::map<std::string, kind> declared;
  std::map<std::string, std::string> bases;

  [[nodiscard]] auto find(std::string const& name) const -> kind const* {
    if (auto const found = declared.find(name); found != declared.end()) {
      return &found->second;
    }
    auto const colon = name.find("::");
    if (colon == std::string::npos) {
      return nullptr;
    }
    auto const base = bases.find(name.substr(0, colon));
    return base == bases.end() ? nullptr : find(base->second + name.substr(colon));
  }
};

// The layout that .clang-format keeps is relied on: what is declared at namespace scope starts its line, a member is two
// columns in.
void collect(std::string const& unit, interface& into) {
  static std::regex const type{R"(^(?:class|struct|enum class) (?:\[\[\w+\]\] )?(\w+)(?:.*: public (\w+))?.*\{$)"};
  static std::regex const function{
      R"(^(  )?(?:\[\[[\w:, ]+\]\] )?(?:(static) |inline |constexpr )*(?:auto|void) (\w+)\()"};
  static std::regex const field{R"(^  [\w:<>]+\*? (\w+)(?: = [^;(]*)?;)"};
  static std::regex const enumerator{R"(^  (\w+)(?: = \d+)?,?(?: *///.*)?$)"};
  std::istringstream text{unit};
  std::string scope;
  bool is_enum = false;
  bool is_public = true;
  bool is_template = false;
  for (std::string line; std::getline(text, line);) {
    std::smatch found;
    if (std::regex_search(line, found, type)) {
      scope = found[1].str() + "::";
      into.declared[found[1].str()] = kind::type;
      is_enum = line.starts_with("enum");
      is_public = !line.starts_with("class");
      if (found[2].matched) {
        into.bases[found[1].str()] = found[2].str();
      }
    } else if (line.starts_with("}")) {
      scope.clear();
      is_public = true;
      is_enum = false;
    } else if (line == "public:" || line == "private:" || line == "protected:") {
      is_public = line == "public:";
    } else if (is_public && is_enum && std::regex_search(line, found, enumerator)) {
      into.declared[scope + found[1].str()] = kind::member;
    } else if (is_public && std::regex_search(line, found, function) && found[1].matched == !scope.empty()) {
      into.declared[scope + found[3].str()] = is_template        ? kind::function_template
                                              : found[2].matched ? kind::static_function
                                                                 : kind::function;
    } else if (is_public && !scope.empty() && std::regex_search(line, found, field)) {
      into.declared[scope + found[1].str()] = kind::member;
    }
    is_template = line.starts_with(scope.empty() ? "template <" : "  template <");
  }
}

auto public_interface() -> interface {
  interface all;
  for (auto const* const folder : {"modules/core", "modules/lock", "modules/pmr", "modules/async"}) {
    for (auto const& entry : fs::directory_iterator{sources / folder}) {
      collect(read_back(entry.path()), all);
    }
  }
  return all;
}

auto without_comments(std::string const& text) -> std::string {
  static std::regex const comment{R"(//[^\n]*)"};
  return std::regex_replace(text, comment, "");
}

// The tests that are run, and the examples.
auto uses() -> std::string {
  std::string all;
  for (auto const* const folder : {"tests/core", "tests/lock", "tests/os", "tests/pmr", "tests/async", "examples"}) {
    for (auto const& entry : fs::directory_iterator{sources / folder}) {
      if (entry.path().extension() == ".cpp") {
        all += without_comments(read_back(entry.path()));
      }
    }
  }
  return all;
}

auto is_function(kind what) -> bool {
  return what == kind::function || what == kind::static_function || what == kind::function_template;
}

auto continues_a_name(std::string const& text, std::size_t at) -> bool {
  return at < text.size() && (std::isalnum(static_cast<unsigned char>(text[at])) != 0 || text[at] == '_');
}

// Whether the text has these characters, not as a part of a longer name.
auto has(std::string const& text, std::string const& wanted) -> bool {
  for (auto at = text.find(wanted); at != std::string::npos; at = text.find(wanted, at + 1)) {
    auto const longer_before = at > 0 && continues_a_name(wanted, 0) && continues_a_name(text, at - 1);
    auto const end = at + wanted.size();
    if (!longer_before && !(continues_a_name(wanted, wanted.size() - 1) && continues_a_name(text, end))) {
      return true;
    }
  }
  return false;
}

// Whether the text calls the function, or mentions the field or enumerator.
auto occurs(std::string const& text, std::string const& name, kind what) -> bool {
  auto const colon = name.rfind("::");
  auto const last = colon == std::string::npos ? name : name.substr(colon + 2);
  auto const of_object = [&](std::string const& rest) { return has(text, '.' + rest) || has(text, "->" + rest); };
  switch (what) {
  case kind::type:
    return true; // what can be done with it is what counts
  case kind::function:
    return colon == std::string::npos ? has(text, last + '(') : of_object(last + '(');
  case kind::static_function:
    return has(text, name + '(');
  case kind::function_template:
    return colon == std::string::npos ? has(text, last + '(') : of_object(last + '<');
  case kind::member:
    return has(text, '.' + last) || has(text, name);
  }
  return false;
}

// What is wrong with the rows, and how many functions they name.
struct verdict {
  std::vector<std::string> wrong;
  std::set<std::string> functions;
};

auto judge(std::vector<table_row> const& rows, std::set<std::string> const& wanted, interface const& ours,
           std::string const& text) -> verdict {
  verdict found;
  std::set<std::string> seen;
  for (auto const& row : rows) {
    auto const which = row.rust.empty() ? std::string{"a row"} : row.rust.front();
    seen.insert(row.rust.begin(), row.rust.end());
    if (row.rust.empty()) {
      found.wrong.push_back("a row names nothing of Rust: " + row.here);
    }
    if (row.names.empty() && (row.here == "none" ? row.differs.empty()
                                                 : row.here != "not there yet" || !row.differs.contains("is coming"))) {
      found.wrong.push_back(which + ": neither a name, nor a reason why there is none");
    }
    for (auto const& name : row.names) {
      auto const* const what = ours.find(name);
      if (what == nullptr) {
        found.wrong.push_back(which + ": there is no " + name);
        continue;
      }
      if (is_function(*what)) {
        found.functions.insert(name);
      }
      if (!occurs(text, name, *what)) {
        found.wrong.push_back(which + ": no test and no example has " + name);
      }
    }
  }
  for (auto const& name : wanted) {
    if (!seen.contains(name)) {
      found.wrong.push_back("no row for " + name);
    }
  }
  for (auto const& name : seen) {
    if (!wanted.contains(name)) {
      found.wrong.push_back("a row for " + name + ", which is no function of Rust's");
    }
  }
  return found;
}

} // namespace

BOOST_AUTO_TEST_SUITE(docs_from_rust_md)

BOOST_AUTO_TEST_CASE(has_a_row_for_every_function_and_names_what_tests_or_examples_call) {
  auto const rows = rows_of(read_back(sources / "docs/from-rust.md"), rust_head);
  auto const found = judge(rows, all_rust_names(), public_interface(), uses());
  for (auto const& wrong : found.wrong) {
    BOOST_ERROR("docs/from-rust.md: " << wrong);
  }
  BOOST_TEST(found.functions.size() > 50U);
  if (found.wrong.empty()) {
    std::cout << "from-rust: rows " << rows.size() << ", functions " << found.functions.size()
              << ", all called in tests or examples\n";
  }
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(docs_migrating_md)

BOOST_AUTO_TEST_CASE(names_what_tests_or_examples_call) {
  auto rows = rows_of(read_back(sources / "docs/migrating.md"), "| you wrote | now | what differs |");
  for (auto& row : rows) {
    row.rust = {"a row"}; // other libraries' code has no list that it could be held against
  }
  auto const found = judge(rows, {"a row"}, public_interface(), uses());
  for (auto const& wrong : found.wrong) {
    BOOST_ERROR("docs/migrating.md: " << wrong);
  }
  BOOST_TEST(rows.size() > 50U);
  std::cout << "migrating: rows " << rows.size() << ", functions " << found.functions.size() << '\n';
}

BOOST_AUTO_TEST_SUITE_END()

// The check has to find what it is for.
BOOST_AUTO_TEST_SUITE(the_check_of_docs_from_rust_md)

namespace {

auto judged(std::string const& rows, std::set<std::string> const& wanted) -> std::string {
  interface ours;
  collect(
      "class thing : public base {\npublic:\n  [[nodiscard]] static auto make(int a) -> thing;\n  void act();\n"
      "  template <class T>\n  [[nodiscard]] auto read() -> T;\nprivate:\n  void hide();\n};\nstruct options {\n"
      "  bool deep = false;\n};\nenum class level : unsigned char {\n  high, ///< above\n};\nclass base {\npublic:\n"
      "  inline auto size() const -> int { return 0; }\n};\n",
      ours);
  auto const found =
      judge(rows_of(std::string{rust_head} + "\n|---|---|---|\n" + rows, rust_head), wanted, ours,
            "auto x = thing::make(1); x.act(); x.read<int>(); x.size(); f({.deep = true}, level::high);");
  return found.wrong.empty() ? "" : found.wrong.front();
}

} // namespace

BOOST_AUTO_TEST_CASE(is_content_with_functions_fields_and_reasons) {
  BOOST_TEST(judged("| `A::a`, `b` | `thing::make`, `thing::act` | |\n| `A::c` | `thing::read` | x |\n"
                    "| `A` | `thing::size`, `options::deep`, `level::high` |  |\n| `B` | none | A reason. |\n"
                    "| `C` | not there yet | fmmap.x is coming. |\n",
                    {"A::a", "A::b", "A::c", "A", "B", "C"}) == "");
}

BOOST_AUTO_TEST_CASE(finds_missing_rows_missing_reasons_and_what_does_not_exist) {
  BOOST_TEST(judged("| `A` | `thing` | |\n", {"A", "A::b"}) == "no row for A::b");
  BOOST_TEST(judged("| `A` | `thing` | |\n", {}) == "a row for A, which is no function of Rust's");
  BOOST_TEST(judged("| `A` | none |  |\n", {"A"}) == "A: neither a name, nor a reason why there is none");
  BOOST_TEST(judged("| `A` | not there yet | Soon. |\n", {"A"}) == "A: neither a name, nor a reason why there is none");
  BOOST_TEST(judged("| `A` | `thing::hide` | |\n", {"A"}) == "A: there is no thing::hide");
  BOOST_TEST(judged("| `A` | `other::act` | |\n", {"A"}) == "A: there is no other::act");
}

BOOST_AUTO_TEST_CASE(finds_what_is_called_nowhere) {
  BOOST_TEST(occurs("a.name(1)", "thing::name", kind::function));
  BOOST_TEST(!occurs("a.rename(1); name(2); a.name;", "thing::name", kind::function));
  BOOST_TEST(!occurs("other::make(1)", "thing::make", kind::static_function));
  BOOST_TEST(!occurs("a.read(1)", "thing::reads", kind::function_template));
  BOOST_TEST(!occurs("other::high", "level::high", kind::member));
  BOOST_TEST(without_comments("a(); // b()\n") == "a(); \n");
}

BOOST_AUTO_TEST_SUITE_END()
