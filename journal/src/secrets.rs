//! Secrets that are derived, so that none is ever written down.
//!
//! The password of an export follows from the deployment's master key and the attachment's id: the
//! executor that makes the export and the api that tells the client compute the same one. It is in
//! no event, no view, no log and no error.

use std::fmt;

use hmac::{Hmac, Mac};
use sha2::Sha256;
use tephra_domain::ids::AttachmentId;

/// Length of a master key in bytes.
pub const MASTER_KEY_BYTES: usize = 32;

/// Characters of a CHAP password: what every initiator takes (Windows takes 12 to 16). Drawn from 62
/// letters and digits they are worth 95 bits.
const PASSWORD_CHARACTERS: usize = 16;

const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// What all secrets of a deployment are derived from.
#[derive(Clone, PartialEq, Eq)]
pub struct MasterKey([u8; MASTER_KEY_BYTES]);

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(…)")
    }
}

/// User and password of one export (CHAP, RFC 1994).
#[derive(Clone, PartialEq, Eq)]
pub struct ChapSecret {
    /// The user.
    pub user: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for ChapSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChapSecret").field("user", &self.user).finish_non_exhaustive()
    }
}

impl MasterKey {
    /// A key from its bytes.
    pub const fn new(bytes: [u8; MASTER_KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// The secret of an attachment's export. The same key and attachment always give the same one.
    pub fn chap(&self, attachment: AttachmentId) -> ChapSecret {
        let password = self.derive(b"tephra chap v1", attachment.as_uuid().as_bytes());
        let letters = password.iter().filter_map(|byte| letter(*byte)).take(PASSWORD_CHARACTERS);
        ChapSecret { user: attachment.as_uuid().simple().to_string(), password: letters.collect() }
    }

    /// Sixty-four bytes for a purpose and a thing: two blocks, so that enough letters come of them.
    fn derive(&self, purpose: &[u8], thing: &[u8]) -> Vec<u8> {
        let block = |number: u8| {
            // a key of any length is fine for HMAC
            Hmac::<Sha256>::new_from_slice(&self.0).map_or_else(
                |_| Vec::new(),
                |mut mac| {
                    mac.update(purpose);
                    mac.update(&[number]);
                    mac.update(thing);
                    mac.finalize().into_bytes().to_vec()
                },
            )
        };
        [block(0), block(1)].concat()
    }
}

/// A letter or digit for a byte; nothing for bytes that would make some of them likelier.
fn letter(byte: u8) -> Option<char> {
    const FAIR: u8 = 62 * 4;
    (byte < FAIR).then(|| ALPHABET.get(usize::from(byte % 62)).copied().map(char::from)).flatten()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const fn attachment(n: u128) -> AttachmentId {
        AttachmentId::from_uuid(Uuid::from_u128(n))
    }

    #[test]
    fn a_secret_follows_from_key_and_attachment_for_ever() {
        let key = MasterKey::new([7; MASTER_KEY_BYTES]);
        let secret = key.chap(attachment(1));
        assert_eq!(secret.user, "00000000000000000000000000000001");
        assert_eq!(secret.password, "j7RmwiwDfvS0Qi2K");
        assert_eq!(secret, key.chap(attachment(1)));
        assert_ne!(secret.password, key.chap(attachment(2)).password);
        assert_ne!(secret.password, MasterKey::new([8; MASTER_KEY_BYTES]).chap(attachment(1)).password);
    }

    #[test]
    fn passwords_are_sixteen_letters_and_digits() {
        let key = MasterKey::new([9; MASTER_KEY_BYTES]);
        for n in 0..1000 {
            let password = key.chap(attachment(n)).password;
            assert_eq!(password.len(), PASSWORD_CHARACTERS);
            assert!(password.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{password}");
        }
    }

    #[test]
    fn nothing_shows_a_secret_by_accident() {
        let key = MasterKey::new([7; MASTER_KEY_BYTES]);
        let secret = key.chap(attachment(1));
        assert!(!format!("{secret:?}").contains(&secret.password));
        assert_eq!(format!("{key:?}"), "MasterKey(…)");
    }
}
