// SPDX-License-Identifier: Apache-2.0
//
// PSP for programs with Asio and C++20 coroutines. asio::ssl::stream cannot be used: it does TLS in
// memory, and the upgrade must know which octets of the socket are TLS. So TLS is done on the
// socket itself, and Asio only tells when that is ready.
//
//     asio_psp::Stream stream(std::move(socket), std::move(ssl));   // ssl: SSL_set_fd on the
//     socket co_await stream.secure();                                     // TLS handshake, then
//     PSP co_await stream.write(asio::buffer("hello"));
//
// Errors are exceptions; after one of secure() a Stream can only be destroyed.
//
// Threading: as a tcp::socket; one coroutine may read while another one writes.
#pragma once

#include <asio.hpp>
#include <asio/experimental/awaitable_operators.hpp>
#include <openssl/err.h>
#include <stdexcept>
#include <string>

#include <psp/tls.hh>

namespace asio_psp {

using asio::awaitable;
using asio::use_awaitable;
using asio::ip::tcp;

class Stream {
 public:
  Stream(tcp::socket socket, psp::tls::SslPtr ssl)
      : socket_(std::move(socket)), ssl_(std::move(ssl)) {
    socket_.native_non_blocking(true);
  }

  // secure does the TLS handshake and the upgrade. With PSP_UPGRADE_PREFERRED the stream may stay
  // on TLS, see info() and why_tls(); read_some and write work the same.
  awaitable<void> secure(psp::tls::Options options = {},
                         asio::steady_timer::duration limit = std::chrono::seconds(10)) {
    using namespace asio::experimental::awaitable_operators;
    asio::steady_timer timer(socket_.get_executor(), limit);
    const auto first = co_await (attempt(options) || timer.async_wait(use_awaitable));
    if (first.index() == 1) throw std::runtime_error("gave up without " + waits_for_);
    if (std::get<0>(first)) std::rethrow_exception(std::get<0>(first));
  }

  // read_some gives 0 at the end of the stream.
  awaitable<std::size_t> read_some(asio::mutable_buffer to) {
    if (!early_.empty()) {
      const std::size_t size = asio::buffer_copy(to, asio::buffer(early_));
      early_.erase(0, size);
      co_return size;
    }
    if (over_tls_)
      co_return co_await tls(
          [&](SSL* ssl) { return SSL_read(ssl, to.data(), static_cast<int>(to.size())); });
    asio::error_code error;
    const auto size = co_await socket_.async_read_some(asio::buffer(to),
                                                       asio::redirect_error(use_awaitable, error));
    if (error && error != asio::error::eof) throw asio::system_error(error);
    co_return size;
  }

  awaitable<void> write(asio::const_buffer from) {
    if (over_tls_ && from.size() > 0)
      co_await tls(
          [&](SSL* ssl) { return SSL_write(ssl, from.data(), static_cast<int>(from.size())); });
    else
      co_await asio::async_write(socket_, asio::buffer(from), use_awaitable);
  }

  // end_writing tells the peer that nothing more will come.
  void end_writing() {
    if (over_tls_) SSL_shutdown(ssl_.get());
    socket_.shutdown(tcp::socket::shutdown_send);
  }

  // info is nullopt before PSP, and on TLS; then why_tls says why.
  const std::optional<psp_upgrade_info>& info() const { return info_; }
  const std::string& why_tls() const { return why_tls_; }
  tcp::socket& socket() { return socket_; }

 private:
  // attempt gives its exception as a value: operator|| would wait for somebody's success.
  awaitable<std::exception_ptr> attempt(psp::tls::Options options) try {
    waits_for_ = "the peer's TLS handshake";
    co_await tls([](SSL* ssl) { return SSL_do_handshake(ssl); });
    psp::tls::Upgrade up(ssl_.get(), options);
    int status = up.step();
    for (; status >= PSP_UPGRADE_WANT_READ; status = up.step()) {
      waits_for_ = up.message();
      if (status == PSP_UPGRADE_WANT_DRAIN) throw std::runtime_error("the peer talks too early");
      if (status == PSP_UPGRADE_WANT_RETRY)
        co_await asio::steady_timer(socket_.get_executor(), kRetry).async_wait(use_awaitable);
      else
        co_await ready(status == PSP_UPGRADE_WANT_WRITE);
    }
    if (status == PSP_UPGRADE_FAILED) throw std::runtime_error(up.message());
    early_.resize(up.pending());
    up.read(std::as_writable_bytes(std::span(early_)));
    info_ = up.info();
    over_tls_ = status == PSP_UPGRADE_TLS;
    if (over_tls_) why_tls_ = up.message();
    co_return nullptr;
  } catch (...) {
    co_return std::current_exception();
  }

  awaitable<void> ready(bool to_write) {
    return socket_.async_wait(to_write ? tcp::socket::wait_write : tcp::socket::wait_read,
                              use_awaitable);
  }

  // tls repeats a call of OpenSSL until it is done. Returns what it returns, 0 at the end.
  template <typename Call>
  awaitable<int> tls(Call call) {
    for (;;) {
      ERR_clear_error();
      const int result = call(ssl_.get());
      switch (SSL_get_error(ssl_.get(), result)) {
        case SSL_ERROR_NONE:
          co_return result;
        case SSL_ERROR_ZERO_RETURN:
          co_return 0;
        case SSL_ERROR_WANT_READ:
          co_await ready(false);
          break;
        case SSL_ERROR_WANT_WRITE:
          co_await ready(true);
          break;
        default:
          const char* const reason = ERR_reason_error_string(ERR_peek_error());
          throw std::runtime_error(reason ? reason : "the connection broke");
      }
    }
  }

  static constexpr std::chrono::milliseconds kRetry{PSP_UPGRADE_RETRY_MS};
  tcp::socket socket_;
  psp::tls::SslPtr ssl_;
  bool over_tls_ = false;
  std::string early_, waits_for_, why_tls_;
  std::optional<psp_upgrade_info> info_;
};

}  // namespace asio_psp
