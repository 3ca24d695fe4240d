//! Whether `ENCRYPTION_KEY` opens the application's tokens, tried on one of them.
//!
//! `TeslaMate` encrypts them with the Elixir library Cloak: a byte 1, the length of a tag and the tag, 12 bytes IV, 16 bytes
//! authentication, ciphertext; AES-256-GCM under the SHA-256 of the key.
//!
//! Source: documentation of Cloak, `Cloak.Ciphers.AES.GCM`.

use aes_gcm::aead::AeadInPlace;
use aes_gcm::{Aes256Gcm, KeyInit, Nonce, Tag};
use sha2::{Digest, Sha256};
use tokio_postgres::Client;
use zeroize::Zeroizing;

use crate::database::connect::QueryContext;
use crate::env::Env;
use crate::error::Result;

/// Bytes before the IV: the type, the length of the tag, the tag.
const HEAD: &[u8] = b"\x01\x0aAES.GCM.V1";

/// Lengths of the IV and of the authentication, in bytes.
const IV: usize = 12;
const AUTHENTICATION: usize = 16;

/// Text that Cloak authenticates with each value.
const ASSOCIATED: &[u8] = b"AES256GCM";

/// Says of the database of this name whether the configured key opens its tokens. Where there is no key or no token, there
/// is nothing to say.
pub(super) async fn tell(env: &Env, database: &str) {
    let Some(key) = &env.settings.encryption_key else { return };
    let token = async { stored(&env.connector.connect_to(database).await?).await };
    match token.await {
        Ok(Some(token)) => match opens(key.expose(), &token) {
            Some(true) => env.reporter.info("ENCRYPTION_KEY opens the tokens that are restored"),
            Some(false) => env.reporter.warn(
                "ENCRYPTION_KEY does not open the tokens that are restored: set the key that they were encrypted with, or \
                 sign in to Tesla again afterwards",
            ),
            None => env.reporter.debug("the tokens are stored in a form that is not known here"),
        },
        Ok(None) => {}
        Err(error) => env.reporter.warn(&format!("whether ENCRYPTION_KEY opens the tokens is not known: {error}")),
    }
}

/// One encrypted token, of a table as the application makes it. Reading it runs nobody's functions: no view, no policy, no
/// computed column, no type of the dump's.
async fn stored(client: &Client) -> Result<Option<Vec<u8>>> {
    let failed = "cannot read a token";
    let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
                 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
               WHERE n.nspname = 'private' AND c.relname = 'tokens' AND c.relkind = 'r' AND NOT c.relrowsecurity \
                 AND a.attname = 'access' AND a.attgenerated = '' AND NOT a.attisdropped \
                 AND a.atttypid = 'pg_catalog.bytea'::pg_catalog.regtype)";
    if !client.query_one(sql, &[]).await.query_context(failed)?.get::<_, bool>(0) {
        return Ok(None);
    }
    let sql = "SELECT access FROM ONLY private.tokens WHERE access IS NOT NULL LIMIT 1";
    Ok(client.query_opt(sql, &[]).await.query_context(failed)?.map(|row| row.get(0)))
}

/// Whether the key opens a token; `None` if it is not in the form that this reads. The opened token is wiped at once.
fn opens(key: &str, token: &[u8]) -> Option<bool> {
    let (iv, rest) = token.strip_prefix(HEAD)?.split_at_checked(IV)?;
    let (tag, text) = rest.split_at_checked(AUTHENTICATION)?;
    let digest = Zeroizing::new(<[u8; 32]>::from(Sha256::digest(key)));
    let cipher = Aes256Gcm::new_from_slice(digest.as_slice()).ok()?;
    let mut text = Zeroizing::new(text.to_vec());
    let opened = cipher.decrypt_in_place_detached(Nonce::from_slice(iv), ASSOCIATED, &mut text, Tag::from_slice(tag));
    Some(opened.is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made up: `access-token-1` under the key `eight thousand stars`.
    const SAMPLE: &str =
        "010a4145532e47434d2e56319ef8104ac3ad5e0e21d8ab5fbb0836b748f3cea12b6f9cd859159f5951224345c3fee66ec903f09a9418";

    fn sample() -> Vec<u8> {
        let digits = SAMPLE.as_bytes().chunks(2);
        digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    #[test]
    fn k13_a_token_is_opened_by_its_key_and_by_no_other() {
        assert_eq!(opens("eight thousand stars", &sample()), Some(true));
        assert_eq!(opens("eight thousand star", &sample()), Some(false));
        let mut altered = sample();
        *altered.last_mut().unwrap() ^= 1;
        assert_eq!(opens("eight thousand stars", &altered), Some(false));
    }

    #[test]
    fn k13_a_token_in_another_form_is_no_verdict_on_the_key() {
        let sample = sample();
        for token in [&b""[..], b"eyJhbGciOi", &sample[1..], &sample[..20], &sample[..39]] {
            assert_eq!(opens("eight thousand stars", token), None, "{token:?}");
        }
    }
}
