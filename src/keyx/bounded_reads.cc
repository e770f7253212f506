// SPDX-License-Identifier: Apache-2.0
//
// BoundedReads hangs a callback on the BIO of the socket, the one place through which every loop of
// OpenSSL goes. A callback that the application has hung there is called as before. Without it a
// peer that sends KeyUpdates without end would keep one call, and with it all connections of an
// event loop, for as long as it likes. OpenSSL then believes that the socket has nothing; used_up()
// tells who called what really was.
//
// Threading: one user at a time, as with the SSL itself.
#include "keyx/tls.hh"

namespace psp::keyx {

BoundedReads::BoundedReads(SSL* ssl) : bio_(ssl != nullptr ? SSL_get_rbio(ssl) : nullptr) {
  if (bio_ == nullptr) return;
  theirs_ = BIO_get_callback_ex(bio_);
  their_arg_ = BIO_get_callback_arg(bio_);
  BIO_set_callback_ex(bio_, on_bio);
  BIO_set_callback_arg(bio_, reinterpret_cast<char*>(this));
}

BoundedReads::~BoundedReads() {
  if (bio_ == nullptr) return;
  BIO_set_callback_ex(bio_, theirs_);
  BIO_set_callback_arg(bio_, their_arg_);
}

long BoundedReads::on_bio(BIO* bio, int what, const char* octets, std::size_t size, int argi,
                          long argl, int result, std::size_t* processed) {
  auto& self = *reinterpret_cast<BoundedReads*>(BIO_get_callback_arg(bio));
  if (what == BIO_CB_READ && self.left_ == 0) {
    self.used_up_ = true;
    BIO_clear_retry_flags(bio);
    BIO_set_retry_read(bio);  // for OpenSSL: the socket has nothing
    return -1;
  }
  if (what == BIO_CB_READ) --self.left_;
  if (self.theirs_ == nullptr) return result;
  BIO_set_callback_arg(bio, self.their_arg_);
  const long theirs = self.theirs_(bio, what, octets, size, argi, argl, result, processed);
  BIO_set_callback_arg(bio, reinterpret_cast<char*>(&self));
  return theirs;
}

}  // namespace psp::keyx
