//! A NATS operator with a system account and Tephra's account, and `.creds` files for its users:
//! what `nsc` makes, signed here.

use anyhow::Result;
use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

const QUESTION: &str = "$SYS.REQ.SERVER.PING.JSZ";

pub struct Operator {
    operator: KeyPair,
    system: KeyPair,
    tephra: KeyPair,
}

impl Operator {
    pub fn new() -> Result<Self> {
        Ok(Self {
            operator: KeyPair::new_operator(),
            system: KeyPair::new_account(),
            tephra: KeyPair::new_account(),
        })
    }

    /// What a server is told: whom to believe, and what accounts there are.
    pub fn configuration(&self) -> Result<String> {
        let operator =
            signed(&self.operator, &self.operator, "operator", &json!({"type": "operator", "version": 2}))?;
        let limits = |storage: i64| {
            json!({
                "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
                "conn": -1, "leaf": -1, "mem_storage": storage, "disk_storage": storage, "streams": storage,
                "consumer": storage,
            })
        };
        let system = json!({
            "type": "account", "version": 2, "limits": limits(0),
            "exports": [{"name": "jsz", "subject": QUESTION, "type": "service", "response_type": "Stream"}],
        });
        let tephra = json!({
            "type": "account", "version": 2, "limits": limits(-1),
            "imports": [{
                "name": "jsz", "subject": QUESTION, "local_subject": QUESTION, "type": "service",
                "account": self.system.public_key(),
            }],
        });
        let system_jwt = signed(&self.operator, &self.system, "SYS", &system)?;
        let tephra_jwt = signed(&self.operator, &self.tephra, "TEPHRA", &tephra)?;
        let (system, tephra) = (self.system.public_key(), self.tephra.public_key());
        Ok(format!(
            "operator: {operator}\nsystem_account: {system}\nresolver: MEMORY\n\
             resolver_preload: {{ {system}: {system_jwt}, {tephra}: {tephra_jwt} }}\n"
        ))
    }

    /// A `.creds` file for a user of Tephra's account.
    pub fn credentials(&self, name: &str, permissions: &Value) -> Result<String> {
        let user = KeyPair::new_user();
        let mut claims = json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1});
        if let (Some(claims), Some(permissions)) = (claims.as_object_mut(), permissions.as_object()) {
            claims.extend(permissions.clone());
        }
        let jwt = signed(&self.tephra, &user, name, &claims)?;
        let seed = user.seed()?;
        Ok(format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        ))
    }
}

fn signed(issuer: &KeyPair, subject: &KeyPair, name: &str, nats: &Value) -> Result<String> {
    const ISSUED_AT_S: u64 = 1_700_000_000;
    let claims = json!({
        "jti": name, "iat": ISSUED_AT_S, "iss": issuer.public_key(), "sub": subject.public_key(),
        "name": name, "nats": nats,
    });
    let header = json!({"typ": "JWT", "alg": "ed25519-nkey"});
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let text = format!("{}.{}", part(&header), part(&claims));
    let signature = BASE64URL_NOPAD.encode(&issuer.sign(text.as_bytes())?);
    Ok(format!("{text}.{signature}"))
}
