// SPDX-License-Identifier: Apache-2.0
//
// An echo server and its client with Asio, by the adapter asio_psp.hh. The client sends its
// standard input and writes what comes back.
//
//     c++ -std=c++20 asio_echo.cc $(pkg-config --cflags --libs psp-tls) -o asio_echo
//     ./asio_echo serve 7000 server.pem server.key
//     ./asio_echo ask echo.example 7000 ca.pem < question > answer
#include <csignal>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <iterator>

#include "asio_psp.hh"
#include "plain_tls.hh"

namespace {

using namespace asio::experimental::awaitable_operators;
using asio::awaitable;
using asio::detached;
using asio::use_awaitable;
using asio::ip::tcp;
using asio_psp::Stream;

awaitable<void> echo(tcp::socket socket, SSL_CTX* context) try {
  psp::tls::SslPtr ssl = new_ssl(context, socket.native_handle());
  Stream stream(std::move(socket), std::move(ssl));
  co_await stream.secure();
  char data[16384];
  while (const std::size_t size = co_await stream.read_some(asio::buffer(data)))
    co_await stream.write(asio::buffer(data, size));
} catch (const std::exception& error) {
  std::fprintf(stderr, "asio_echo: %s\n", error.what());
}

awaitable<void> serve(const char* port, SSL_CTX* context) {
  tcp::acceptor acceptor(co_await asio::this_coro::executor,
                         {tcp::v6(), static_cast<asio::ip::port_type>(std::atoi(port))});
  for (;;) {
    tcp::socket socket = co_await acceptor.async_accept(use_awaitable);
    asio::co_spawn(acceptor.get_executor(), echo(std::move(socket), context), detached);
  }
}

awaitable<void> send(Stream& stream) {
  const std::string question(std::istreambuf_iterator<char>(std::cin), {});
  co_await stream.write(asio::buffer(question));
  stream.end_writing();
}

awaitable<void> receive(Stream& stream) {
  char data[16384];
  while (const std::size_t size = co_await stream.read_some(asio::buffer(data)))
    std::fwrite(data, 1, size, stdout);
}

awaitable<void> ask(const char* host, const char* port, SSL_CTX* context) {
  tcp::socket socket(co_await asio::this_coro::executor);
  tcp::resolver resolver(socket.get_executor());
  co_await asio::async_connect(socket, co_await resolver.async_resolve(host, port, use_awaitable),
                               use_awaitable);
  psp::tls::SslPtr ssl = new_ssl(context, socket.native_handle(), host);
  Stream stream(std::move(socket), std::move(ssl));
  co_await stream.secure();
  std::fprintf(stderr, "asio_echo: connected by PSP version %u\n", stream.info()->version);
  co_await (send(stream) && receive(stream));
}

// An exception of the coroutine is one of run().
void run(asio::io_context& io, awaitable<void> work) {
  asio::co_spawn(io, std::move(work), [](std::exception_ptr error) {
    if (error) std::rethrow_exception(error);
  });
  io.run();
}

}  // namespace

int main(int argc, char** argv) try {
  std::signal(SIGPIPE, SIG_IGN);  // OpenSSL on sockets needs it
  std::ios::sync_with_stdio(false);
  asio::io_context io;
  if (argc == 5 && std::strcmp(argv[1], "serve") == 0) {
    const Context context = server_context(argv[3], argv[4]);
    run(io, serve(argv[2], context.get()));
  } else if (argc == 5 && std::strcmp(argv[1], "ask") == 0) {
    const Context context = client_context(argv[4]);
    run(io, ask(argv[2], argv[3], context.get()));
  } else {
    std::fprintf(stderr, "usage: asio_echo serve PORT CERTIFICATE KEY | ask HOST PORT CA\n");
    return 2;
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "asio_echo: %s\n", error.what());
  return 1;
}
