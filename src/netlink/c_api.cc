// SPDX-License-Identifier: Apache-2.0
//
// The C interface over psp::Client: one connection per call, no state, no exception to the outside.
#include <cerrno>
#include <cstring>
#include <exception>
#include <string.h>

#include <psp/netlink/client.hh>
#include <psp/psp.h>

namespace {

void copy_text(char* to, std::size_t size, const std::string& from) {
  const std::size_t used = from.copy(to, size - 1);
  to[used] = '\0';
}

int report(psp_error* err, const psp::ClientError& error) {
  if (err != nullptr) {
    copy_text(err->text, sizeof err->text, error.text.empty() ? error.message : error.text);
    copy_text(err->attr, sizeof err->attr,
              error.bad_attribute.empty() ? error.missing_attribute : error.bad_attribute);
  }
  return error.sys_errno != 0 ? -error.sys_errno : -EIO;
}

// refuse reports an error of our own.
int refuse(psp_error* err, int sys_errno, const char* text, const char* attribute) {
  psp::ClientError error;
  error.sys_errno = sys_errno;
  error.text = text;
  error.bad_attribute = attribute;
  return report(err, error);
}

// with_client connects and runs `call`, which returns 0 or more, or a negative errno after
// report().
template <typename Call>
int with_client(psp_error* err, Call&& call) {
  if (err != nullptr) *err = {};
  try {
    auto client = psp::Client::connect();
    return client ? call(*client) : report(err, client.error());
  } catch (const std::exception&) {  // only for want of memory
    return refuse(err, ENOMEM, "out of memory", "");
  }
}

int bad_version(psp_error* err) { return refuse(err, ERANGE, "no such PSP version", ".version"); }

std::optional<std::int32_t> nsid_of(int32_t nsid) {
  if (nsid == -1) return std::nullopt;
  return nsid;
}

}  // namespace

int psp_rx_assoc(int fd, uint32_t version, struct psp_key* rx, struct psp_error* err) {
  const auto known = psp::to_version(version);
  if (!known) return bad_version(err);
  return with_client(err, [&](psp::Client& client) {
    const auto done = client.rx_assoc(fd, *known);
    if (!done) return report(err, done.error());
    *rx = {};
    rx->spi = done->rx.spi.value;
    rx->key_len = static_cast<uint32_t>(done->rx.key.size());
    std::memcpy(rx->key, done->rx.key.data(), done->rx.key.size());
    return 0;
  });
}

int psp_tx_assoc(int fd, uint32_t version, const struct psp_key* tx, struct psp_error* err) {
  const auto known = psp::to_version(version);
  if (!known) return bad_version(err);
  if (tx->key_len > sizeof tx->key)
    return refuse(err, EINVAL, "incorrect key length", ".tx-key.key");
  return with_client(err, [&](psp::Client& client) {
    psp::KeyInfo key{.spi = {tx->spi}, .key = {}};
    key.key.assign({tx->key, tx->key_len});
    const auto done = client.tx_assoc(fd, *known, key);
    return done ? 0 : report(err, done.error());
  });
}

int psp_dev_list(struct psp_device* devices, size_t max, struct psp_error* err) {
  return with_client(err, [&](psp::Client& client) {
    const auto list = client.devices();
    if (!list) return report(err, list.error());
    for (std::size_t i = 0; i < list->size() && i < max; ++i) {
      const psp::DeviceInfo& info = (*list)[i];
      devices[i] = {.id = info.id,
                    .ifindex = info.ifindex,
                    .versions_cap = info.versions_cap.bits,
                    .versions_ena = info.versions_ena.bits,
                    .associated = static_cast<uint32_t>(info.associated.size()),
                    .by_association = info.by_association ? 1u : 0u};
    }
    return static_cast<int>(list->size());
  });
}

int psp_dev_set(uint32_t dev_id, uint32_t versions, struct psp_error* err) {
  return with_client(err, [&](psp::Client& client) {
    const auto done = client.set_versions(dev_id, {versions});
    return done ? 0 : report(err, done.error());
  });
}

int psp_key_rotate(uint32_t dev_id, struct psp_error* err) {
  return with_client(err, [&](psp::Client& client) {
    const auto done = client.key_rotate(dev_id);
    return done ? 0 : report(err, done.error());
  });
}

int psp_dev_assoc(uint32_t dev_id, uint32_t ifindex, int32_t nsid, struct psp_error* err) {
  return with_client(err, [&](psp::Client& client) {
    const auto done = client.dev_assoc(dev_id, ifindex, nsid_of(nsid));
    return done ? 0 : report(err, done.error());
  });
}

int psp_dev_disassoc(uint32_t dev_id, uint32_t ifindex, int32_t nsid, struct psp_error* err) {
  return with_client(err, [&](psp::Client& client) {
    const auto done = client.dev_disassoc(dev_id, ifindex, nsid_of(nsid));
    return done ? 0 : report(err, done.error());
  });
}

int psp_get_stats(uint32_t dev_id, struct psp_stats* stats, struct psp_error* err) {
  return with_client(err, [&](psp::Client& client) {
    const auto info = client.stats(dev_id);
    if (!info) return report(err, info.error());
    *stats = {.dev_id = info->dev_id,
              .key_rotations = info->key_rotations,
              .stale_events = info->stale_events,
              .rx_packets = info->rx_packets,
              .rx_bytes = info->rx_bytes,
              .rx_auth_fail = info->rx_auth_fail,
              .rx_error = info->rx_error,
              .rx_bad = info->rx_bad,
              .tx_packets = info->tx_packets,
              .tx_bytes = info->tx_bytes,
              .tx_error = info->tx_error};
    return 0;
  });
}

void psp_key_wipe(struct psp_key* key) { explicit_bzero(key, sizeof *key); }
