// SPDX-License-Identifier: Apache-2.0
//
// The C interface (psp/psp.h) over psp::Client: one connection per call, no state, no exception to
// the outside. What structs grow by, callers of older versions do not see (base/sized.hh). Who
// secures many connections a second, or wants notifications, takes psp::Client, which keeps its
// connection. A version that is none is refused here, for it never gets a name to ask for. Keys
// pass through Secrets; the caller wipes the psp_key that he was given (psp_key_wipe).
#include <cerrno>
#include <cstring>
#include <exception>
#include <string.h>

#include "base/sized.hh"
#include "netlink/client.hh"
#include <psp/psp.h>

namespace {

void copy_text(char* to, std::size_t size, const std::string& from) {
  const std::size_t used = from.copy(to, size - 1);
  to[used] = '\0';
}

int report(psp_error* err, const psp::ClientError& error) {
  psp_error value{};
  copy_text(value.text, sizeof value.text, error.text.empty() ? error.message : error.text);
  copy_text(value.attr, sizeof value.attr,
            error.bad_attribute.empty() ? error.missing_attribute : error.bad_attribute);
  psp::store_error(err, value);
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
  psp::store_error<psp_error>(err, {});
  try {
    auto client = psp::Client::connect();
    return client ? call(*client) : report(err, client.error());
  } catch (const std::exception&) {  // only for want of memory
    return refuse(err, ENOMEM, "out of memory", "");
  }
}

int bad_version(psp_error* err) { return refuse(err, ERANGE, "no such PSP version", ".version"); }

int no_size(psp_error* err, const char* text) { return refuse(err, EINVAL, text, ""); }

std::optional<std::int32_t> nsid_of(int32_t nsid) {
  if (nsid == -1) return std::nullopt;
  return nsid;
}

// store_device fills the i-th of an array whose elements are as long as the first one says.
void store_device(psp_device* devices, std::size_t i, std::size_t stride, const psp_device& value) {
  auto* const out = reinterpret_cast<psp_device*>(reinterpret_cast<char*>(devices) + i * stride);
  out->size = stride;
  (void)psp::fill(out, value);  // psp_dev_list has looked at the size
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
  const std::size_t stride = max != 0 ? devices->size : 0;
  if (max != 0 && (stride <= sizeof stride || stride % alignof(psp_device) != 0))
    return no_size(err, "psp_device: its size is not set (PSP_DEVICE_INIT)");
  return with_client(err, [&](psp::Client& client) {
    const auto list = client.devices();
    if (!list) return report(err, list.error());
    for (std::size_t i = 0; i < list->size() && i < max; ++i) {
      const psp::DeviceInfo& info = (*list)[i];
      store_device(devices, i, stride,
                   {.size = 0,
                    .id = info.id,
                    .ifindex = info.ifindex,
                    .versions_cap = info.versions_cap.bits,
                    .versions_ena = info.versions_ena.bits,
                    .associated = static_cast<uint32_t>(info.associated.size()),
                    .by_association = info.by_association ? 1u : 0u});
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
    const psp_stats value = {.size = 0,
                             .dev_id = info->dev_id,
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
    return psp::fill(stats, value)
               ? 0
               : no_size(err, "psp_stats: its size is not set (PSP_STATS_INIT)");
  });
}

void psp_key_wipe(struct psp_key* key) { explicit_bzero(key, sizeof *key); }
