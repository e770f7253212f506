// SPDX-License-Identifier: Apache-2.0
//
// The interoperability modes. Their state machine is the same; their octets are below it, each as
// the program that it is there for reads and writes them. What they lack is the protocol's and not
// mended here: no START, so the beginning of the PSP stream can be cut off; kernel-selftest says
// its keys in clear (docs/protocol.md, "Exchanges of other programs"). So each must be asked for by
// name, with one version. The last clear octet is our key here as well.
#include "interop.hh"

#include <bit>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <sys/socket.h>

#include "wire/bytes.hh"

namespace psp::keyx {
namespace {

using Io = TlsStream::Io;

constexpr std::size_t kSpiSize = 4;

Error protocol_error(std::string text) {
  return {ErrorCode::kProtocol, EPROTO, "the peer's message " + std::move(text)};
}

// io_error is how a plain send or recv failed; nullopt: it was interrupted, try again.
std::optional<Io> io_error(int error, Step again, const char* doing) {
  if (error == EINTR) return std::nullopt;
  if (error == EAGAIN || error == EWOULDBLOCK) return Io{again, 0, {}};
  const bool gone = error == ECONNRESET || error == EPIPE;
  return Io{Step::kFailed,
            0,
            {gone ? ErrorCode::kPeerClosed : ErrorCode::kIo, error,
             fmt::format("the connection broke while {}: {}", doing, std::strerror(error))}};
}

}  // namespace

const char* Swap::waiting_for() const {
  switch (stage_) {
    case Stage::kBegin:
    case Stage::kSend:
      return "the peer to take our key";
    case Stage::kRead:
      return "the peer's key";
    case Stage::kTxAssoc:
      return "clear data to leave the receive queue";
    case Stage::kSendError:
      return "the peer to take our refusal";
    case Stage::kDone:
    case Stage::kFailed:
      break;
  }
  return "nothing";
}

Step Swap::step() {
  return bounded_step(ssl(), [this] { return run_stages(); });
}

Step Swap::run_stages() {
  for (;;) {
    if (stage_ == Stage::kDone) return Step::kDone;
    if (stage_ == Stage::kFailed) return Step::kFailed;
    if (const Step step = run_stage(); step != Step::kDone) return step;
  }
}

Step Swap::run_stage() {
  switch (stage_) {
    case Stage::kBegin:
      return begin();
    case Stage::kSend:
      return settle(send(), Stage::kRead);
    case Stage::kRead:
      return read_peer();
    case Stage::kTxAssoc:
      return install_tx();
    case Stage::kSendError: {
      const Io io = send();
      return io.step == Step::kDone || io.step == Step::kFailed ? fail(Error(error_)) : io.step;
    }
    case Stage::kDone:
    case Stage::kFailed:
      break;
  }
  return Step::kFailed;
}

Step Swap::begin() {
  if (policy_.allow_tls)
    return fail(
        {ErrorCode::kUsage, EINVAL,
         fmt::format("{} cannot stay on TLS: its peer would not know", name(policy_.protocol))});
  if (std::popcount(policy_.versions.bits & VersionSet::all().bits) != 1)
    return fail({ErrorCode::kUsage, EINVAL,
                 fmt::format("{} does not agree on a version: give exactly one, the same on both "
                             "ends",
                             name(policy_.protocol))});
  version_ = *to_version(static_cast<std::uint32_t>(std::countr_zero(policy_.versions.bits)));
  if (auto error = unfit()) return fail(std::move(*error));
  if (auto error = keep_urgent_inline(fd())) return fail(std::move(*error));
  auto assoc = ops_.rx_assoc(fd(), version_);
  if (assoc && (assoc->rx.key.size() != key_size(version_) || !assoc->rx.spi.valid()))
    assoc = client_error(EPROTO, "the PSP device gave an unusable key");
  if (!assoc) {
    error_ = {ErrorCode::kRxAssoc, assoc.error().sys_errno,
              fmt::format("cannot get an Rx key: {}", assoc.error().message)};
    if (!queue_error()) return fail(Error(error_));
    stage_ = Stage::kSendError;
    return Step::kDone;
  }
  outcome_.version = version_;
  outcome_.dev_id = assoc->dev_id;
  outcome_.rx_spi = assoc->rx.spi;
  queue_key(std::move(assoc->rx));
  stage_ = Stage::kSend;
  return Step::kDone;
}

Step Swap::settle(Io io, Stage next) {
  if (io.step == Step::kFailed) return fail(std::move(io.error));
  if (io.step == Step::kDone) stage_ = next;
  return io.step;
}

Step Swap::read_peer() {
  if (const Step step = settle(receive(), Stage::kTxAssoc); step != Step::kDone) return step;
  auto peer = take_peer();
  if (!peer) return fail(std::move(peer.error()));
  if (peer->version != version_)
    return fail(protocol_error(fmt::format("has a key for {}, but {} was asked for",
                                           name(peer->version), name(version_))));
  if (!peer->tx.spi.valid()) return fail(protocol_error("has an SPI whose lower 31 bits are zero"));
  tx_ = std::move(peer->tx);
  outcome_.tx_spi = tx_.spi;
  return Step::kDone;
}

Step Swap::install_tx() {
  for (;;) {
    const auto done = ops_.tx_assoc(fd(), version_, tx_);
    if (done) break;
    const auto& error = done.error();
    if (error.sys_errno != EBUSY)
      return fail({ErrorCode::kTxAssoc, error.sys_errno,
                   fmt::format("cannot install the Tx key: {}", error.message)});
    Io drained = drain();
    if (drained.step == Step::kFailed) return fail(std::move(drained.error));
    if (drained.size > 0) continue;
    if (++tx_tries_ < kTxAssocTries) return Step::kWantRetry;
    return fail({ErrorCode::kClearData, EBUSY,
                 fmt::format("the peer sent clear data after its key: {}", error.message)});
  }
  tx_.key.wipe();
  finish();
  stage_ = Stage::kDone;
  return Step::kDone;
}

Step Swap::fail(Error error) {
  error_ = std::move(error);
  tx_.key.wipe();
  stage_ = Stage::kFailed;
  return Step::kFailed;
}

std::optional<Error> FizzV0::unfit() const {
  if (policy_.protocol == Protocol::kFizzV0) return tls_.unfit();
  return Error{ErrorCode::kUsage, EINVAL, "kernel-selftest is spoken on a socket without TLS"};
}

void FizzV0::queue_key(KeyInfo rx) {
  tls_.queue(serialize_fizz(KeyMessage{version_, rx.spi, std::move(rx.key)}).span());
  key_queued_ = true;
}

bool FizzV0::queue_error() {
  tls_.queue(serialize_fizz(FizzError{kFizzRxAssoc}).span());
  return true;
}

Io FizzV0::send() {
  Io io = tls_.flush();
  if (io.step == Step::kDone && key_queued_) tls_.close_out();
  return io;
}

Io FizzV0::receive() {
  for (;;) {
    const std::size_t have = in_.size();
    const std::size_t want = have < kFizzHeader ? kFizzHeader : kFizzHeader + in_.data()[1];
    if (have >= kFizzHeader && have == want) return {};
    in_.resize(want);
    Io io = tls_.read({in_.data() + have, want - have}, "waiting for the peer's key");
    in_.resize(have + io.size);
    if (io.step != Step::kDone) return io;
  }
}

std::expected<Swap::Peer, Error> FizzV0::take_peer() {
  auto message = parse_fizz(in_.span());
  in_.wipe();
  if (!message) return std::unexpected(protocol_error(message.error().text));
  if (const auto* error = std::get_if<FizzError>(&*message))
    return std::unexpected(Error{
        ErrorCode::kPeerRefused, 0,
        fmt::format("the other end gave up: {}", error->code == kFizzRxAssoc
                                                     ? "it has no Rx key"
                                                     : fmt::format("its error {}", error->code))});
  if (tls_.unread())
    return std::unexpected(Error{ErrorCode::kClearData, 0,
                                 "the peer sent more inside TLS after its key, which must be its "
                                 "last"});
  auto& key = std::get<KeyMessage>(*message);
  return Peer{key.version, {key.spi, std::move(key.key)}};
}

std::optional<Error> KernelSelftest::unfit() const {
  if (policy_.protocol == Protocol::kKernelSelftest) return std::nullopt;
  return Error{ErrorCode::kUsage, EINVAL,
               "keys would travel in clear: ask for the protocol kernel-selftest by its name"};
}

void KernelSelftest::queue_key(KeyInfo rx) {
  out_.resize(kSpiSize + rx.key.size());
  std::memcpy(out_.data(), &rx.spi.value, kSpiSize);
  std::memcpy(out_.data() + kSpiSize, rx.key.data(), rx.key.size());
}

Io KernelSelftest::send() {
  while (done_ < out_.size()) {
    const ssize_t n = ::send(fd_, out_.data() + done_, out_.size() - done_, MSG_NOSIGNAL);
    if (n < 0) {
      if (auto io = io_error(errno, Step::kWantWrite, "sending our key")) return std::move(*io);
      continue;
    }
    done_ += static_cast<std::size_t>(n);
  }
  out_.wipe();
  done_ = 0;
  in_.resize(kSpiSize + key_size(version_));
  return {};
}

Io KernelSelftest::receive() {
  while (done_ < in_.size()) {
    const ssize_t n = recv(fd_, in_.data() + done_, in_.size() - done_, 0);
    if (n == 0)
      return {Step::kFailed,
              0,
              {ErrorCode::kPeerClosed, 0, "the peer closed the connection before its key"}};
    if (n < 0) {
      if (auto io = io_error(errno, Step::kWantRead, "waiting for the peer's key"))
        return std::move(*io);
      continue;
    }
    done_ += static_cast<std::size_t>(n);
  }
  return {};
}

std::expected<Swap::Peer, Error> KernelSelftest::take_peer() {
  const crypto::Secret<36> octets = std::move(in_);
  Peer peer{version_, {}};
  std::memcpy(&peer.tx.spi.value, octets.data(), kSpiSize);
  peer.tx.key.assign(octets.span().subspan(kSpiSize));
  return peer;
}

}  // namespace psp::keyx
