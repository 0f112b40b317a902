// SPDX-License-Identifier: MIT OR Apache-2.0
//
// A TCP server by Boost.Asio that keeps every message in a mapped file, and acknowledges it when a power failure could not
// take it away any more: journal_server FILE [PORT], or journal_server --kill FILE TIMES
//
// With --kill, four clients send to it as fast as it acknowledges, until it is killed, again and again. After each kill every
// acknowledged message has to be in the file, whole, and nothing that was not sent.
//
// A message is four bytes of length and as many bytes; the answer is the message's position in the file, eight bytes. The file
// is a sequence of records: length, checksum, bytes. A checksum goes on from that of the record before, so neither a torn
// record nor the remains of an older one is taken for the next.

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <coroutine>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <expected>
#include <filesystem>
#include <iostream>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>

#include <sys/wait.h>
#include <unistd.h>

import fmmap;
import fmmap.async.asio;

namespace {

using boost::asio::awaitable;
using boost::asio::use_awaitable;
using boost::asio::ip::tcp;

constexpr std::uint64_t capacity = 64 << 20; // bytes
constexpr std::uint32_t longest = 64 << 10;

struct record_head {
  std::uint32_t length = 0; // 0 is the end
  std::uint32_t checksum = 0;
};

// FNV-1a.
auto checksum_of(std::string_view message, std::uint32_t before) -> std::uint32_t {
  std::uint32_t sum = before ^ 0x811c'9dc5;
  for (char const c : message) {
    sum = (sum ^ static_cast<unsigned char>(c)) * 0x0100'0193;
  }
  return sum;
}

// Where the whole records of a file end.
struct journal_end {
  std::uint64_t offset = 0;
  std::uint32_t checksum = 0;
};

// Calls `visit(offset, message)` for each whole record, from the beginning.
template <class File, class Visit>
auto read_records(File const& file, Visit visit) -> journal_end {
  journal_end end;
  while (auto const head = file.template read<record_head>(end.offset)) {
    auto const bytes = file.bytes().subspan(end.offset + sizeof(record_head));
    if (head->length == 0 || head->length > bytes.size()) {
      break;
    }
    std::string_view const message{reinterpret_cast<char const*>(bytes.data()), head->length};
    if (checksum_of(message, end.checksum) != head->checksum) {
      break;
    }
    visit(end.offset, message);
    end.offset += sizeof(record_head) + head->length;
    end.checksum = head->checksum;
  }
  return end;
}

// The file of the server, whose functions do not block.
class journal {
public:
  journal(fmmap::io_engine const& engine, fmmap::mutable_mapped_file file)
      : engine_{engine}, file_{std::move(file)}, end_{read_records(file_, [](auto, auto) {})} {}

  // Returns its position; nothing when the file is full.
  auto append(std::string_view message) -> std::optional<std::uint64_t> {
    auto const position = end_.offset;
    auto const length = static_cast<std::uint32_t>(message.size());
    record_head const head{.length = length, .checksum = checksum_of(message, end_.checksum)};
    if (file_.size() - position < sizeof head + message.size()) {
      return std::nullopt;
    }
    fmmap::or_throw(file_.write_exactly(position + sizeof head, std::as_bytes(std::span{message})));
    fmmap::or_throw(file_.write<record_head>(position, head));
    end_ = {.offset = position + sizeof head + message.size(), .checksum = head.checksum};
    return position;
  }

  // Makes all records that are there now durable: the one that was appended last is nothing without those before. Other
  // connections append and flush meanwhile.
  auto flush() -> awaitable<void> {
    auto const end = end_.offset;
    auto flush = fmmap::async_flush(engine_, file_, {.offset = durable_, .length = end - durable_});
    (void)fmmap::or_throw(co_await fmmap::async_wait(std::move(flush), use_awaitable));
    durable_ = std::max(durable_, end);
  }

private:
  fmmap::io_engine const& engine_;
  fmmap::mutable_mapped_file file_;
  journal_end end_;
  std::uint64_t durable_ = 0; // also what was there before may be in memory only
};

auto serve_client(tcp::socket client, journal& records) -> awaitable<void> {
  std::string message;
  std::uint32_t length = 0;
  constexpr auto quietly = boost::asio::as_tuple(use_awaitable);
  while (true) {
    if (auto [failed, n] =
            co_await boost::asio::async_read(client, boost::asio::buffer(&length, sizeof length), quietly);
        failed || length == 0 || length > longest) {
      co_return;
    }
    message.resize(length);
    if (auto [failed, n] = co_await boost::asio::async_read(client, boost::asio::buffer(message), quietly); failed) {
      co_return;
    }
    auto const position = records.append(message);
    if (!position) {
      co_return; // full
    }
    co_await records.flush();
    if (auto [failed, n] =
            co_await boost::asio::async_write(client, boost::asio::buffer(&*position, sizeof *position), quietly);
        failed) {
      co_return;
    }
  }
}

// Rethrows what a coroutine has thrown, out of the loop.
void rethrow(std::exception_ptr thrown) {
  if (thrown) {
    std::rethrow_exception(std::move(thrown));
  }
}

// Tells its port, and serves until it is killed.
template <class Tell>
auto serve(fmmap::io_engine const& engine, std::filesystem::path path, unsigned short port, Tell tell)
    -> awaitable<void> {
  fmmap::write_options const options{.size = capacity, .sync_directory = true};
  auto file = fmmap::or_throw(
      co_await fmmap::async_wait(fmmap::async_open_mutable(engine, std::move(path), options), use_awaitable));
  journal records{engine, std::move(file)};
  auto const executor = co_await boost::asio::this_coro::executor;
  tcp::acceptor acceptor{executor, {boost::asio::ip::address_v4::loopback(), port}};
  tell(acceptor.local_endpoint().port());
  while (true) {
    auto client = co_await acceptor.async_accept(use_awaitable);
    boost::asio::co_spawn(executor, serve_client(std::move(client), records), rethrow);
  }
}

template <class Tell>
void run_server(std::filesystem::path path, unsigned short port, Tell tell) {
  auto const engine = fmmap::or_throw(fmmap::io_engine::create());
  boost::asio::io_context context{1};
  boost::asio::co_spawn(context, serve(engine, std::move(path), port, tell), rethrow);
  context.run();
}

// --- The clients, and who kills -------------------------------------------------------------------------------------------------

using messages = std::map<std::uint64_t, std::string>; // by their position

// Sends until the server is gone; returns what it has acknowledged, and adds the last to those that were sent without that.
auto send_until_it_is_gone(unsigned short port, std::string const& name, std::optional<std::string>& unacknowledged)
    -> messages {
  messages acknowledged;
  boost::asio::io_context context;
  tcp::socket server{context};
  boost::system::error_code failed;
  server.connect({boost::asio::ip::address_v4::loopback(), port}, failed);
  for (std::size_t i = 0; !failed; ++i) {
    auto const message = name + ' ' + std::to_string(i) + ' ' + std::string(i * 7919 % 3000, '.');
    auto const length = static_cast<std::uint32_t>(message.size());
    unacknowledged = message;
    std::array const parts{boost::asio::buffer(&length, sizeof length), boost::asio::buffer(message)};
    boost::asio::write(server, parts, failed);
    std::uint64_t position = 0;
    if (!failed &&
        boost::asio::read(server, boost::asio::buffer(&position, sizeof position), failed) == sizeof position) {
      acknowledged.emplace(position, message);
      unacknowledged.reset();
    }
  }
  return acknowledged;
}

struct tally {
  messages acknowledged;
  std::set<std::string> in_flight; // sent and not acknowledged
};

// Starts a server, loads it with four clients, and kills it. Returns whether any message was acknowledged.
auto load_and_kill(char const* path, int life, tally& all) -> bool {
  int ends[2];
  if (::pipe(ends) != 0) {
    std::perror("pipe");
    return false;
  }
  auto const server = ::fork(); // there are no threads now
  if (server == 0) {
    run_server(path, 0, [&](unsigned short port) {
      if (::write(ends[1], &port, sizeof port) != sizeof port) {
        std::_Exit(1);
      }
    });
    std::_Exit(1);
  }
  ::close(ends[1]);
  unsigned short port = 0;
  auto const is_up = ::read(ends[0], &port, sizeof port) == sizeof port;
  std::array<messages, 4> acknowledged;
  std::array<std::optional<std::string>, 4> in_flight;
  if (is_up) {
    std::vector<std::jthread> clients;
    for (std::size_t i = 0; i < acknowledged.size(); ++i) {
      clients.emplace_back([&, i] {
        auto const name = "life " + std::to_string(life) + ", client " + std::to_string(i);
        acknowledged[i] = send_until_it_is_gone(port, name, in_flight[i]);
      });
    }
    std::this_thread::sleep_for(std::chrono::milliseconds{150 + life % 7 * 31});
    ::kill(server, SIGKILL);
  }
  int status = 0;
  ::waitpid(server, &status, 0);
  ::close(ends[0]);
  auto const before = all.acknowledged.size();
  for (std::size_t i = 0; i < acknowledged.size(); ++i) {
    all.acknowledged.merge(acknowledged[i]);
    if (in_flight[i]) {
      all.in_flight.insert(*in_flight[i]);
    }
  }
  return is_up && WIFSIGNALED(status) && all.acknowledged.size() > before;
}

// What is wrong with the file: how many acknowledged messages are missing, how many are there that were not sent.
auto faults_of(char const* path, tally const& all) -> std::pair<std::size_t, std::size_t> {
  auto const file = fmmap::or_throw(fmmap::mapped_file::open(path));
  std::size_t found = 0;
  std::size_t strange = 0;
  (void)read_records(file, [&](std::uint64_t position, std::string_view message) {
    auto const one = all.acknowledged.find(position);
    if (one != all.acknowledged.end() && one->second == message) {
      ++found;
    } else if (!all.in_flight.contains(std::string{message})) {
      ++strange;
    }
  });
  return {all.acknowledged.size() - found, strange};
}

auto kill_it(char const* path, int times) -> int {
  std::filesystem::remove(path);
  tally all;
  std::size_t lost = 0;
  std::size_t strange = 0;
  for (int life = 0; life < times; ++life) {
    if (!load_and_kill(path, life, all)) {
      std::cerr << "the server did not serve\n";
      return 1;
    }
    auto const [missing, unknown] = faults_of(path, all);
    lost += missing;
    strange += unknown;
  }
  std::cout << times << " kills, " << all.acknowledged.size() << " messages acknowledged, " << lost << " lost, "
            << strange << " that nobody sent\n";
  return lost == 0 && strange == 0 ? 0 : 1;
}

auto number(char const* text) -> int {
  int value = 0;
  std::from_chars(text, text + std::strlen(text), value);
  return value;
}

} // namespace

auto main(int argc, char** argv) -> int try {
  if (argc == 4 && std::string_view{argv[1]} == "--kill") {
    return kill_it(argv[2], number(argv[3]));
  }
  if (argc != 2 && argc != 3) {
    std::cerr << "usage: journal_server FILE [PORT], or journal_server --kill FILE TIMES\n";
    return 2;
  }
  auto const port = static_cast<unsigned short>(argc == 3 ? number(argv[2]) : 0);
  run_server(argv[1], port, [](unsigned short at) { std::cout << "port " << at << std::endl; });
  return 0;
} catch (std::exception const& why) {
  std::cerr << why.what() << '\n';
  return 1;
}
