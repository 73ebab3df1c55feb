//! A NATS operator with the accounts of the example of permissions, and `.creds` files for their users:
//! what `nsc` makes, signed here.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

/// The name of the system account in the example.
const SYSTEM: &str = "SYS";

/// One line of an account's `imports` or `exports`.
struct Share<'a> {
    /// `service` or `stream`.
    kind: &'static str,
    subject: &'a str,
    /// Of an import: whose it is, and what it is called here.
    from: Option<(&'a str, &'a str)>,
    /// Of an export: whether an answer is many messages.
    is_streamed: bool,
}

impl<'a> Share<'a> {
    fn parse(line: &'a str) -> Result<Self> {
        let quoted: Vec<&str> = line.split('"').skip(1).step_by(2).collect();
        let subject = *quoted.first().with_context(|| format!("a subject in {line}"))?;
        let from =
            line.split_once("account: ").and_then(|(_, rest)| rest.split_once(',')).map(|(name, _)| name);
        Ok(Self {
            kind: if line.contains("service:") { "service" } else { "stream" },
            subject,
            from: from.map(|name| (name, quoted.get(1).copied().unwrap_or(subject))),
            is_streamed: line.contains("response: stream"),
        })
    }
}

/// One account of the example.
struct Account<'a> {
    name: &'a str,
    has_jetstream: bool,
    imports: Vec<Share<'a>>,
    exports: Vec<Share<'a>>,
    text: &'a str,
}

impl<'a> Account<'a> {
    /// All of them. The example has one import or export a line, and accounts two spaces deep.
    fn all(example: &'a str) -> Result<Vec<Self>> {
        let mut accounts = Vec::new();
        for text in example.split("\n  }\n") {
            let is_head =
                |line: &&str| line.starts_with("  ") && !line.starts_with("   ") && line.ends_with(": {");
            let Some(head) = text.lines().find(is_head) else { continue };
            let shares = |list: &str| -> Result<Vec<Share<'a>>> {
                let lines = text.lines().map(str::trim).skip_while(|line| !line.starts_with(list));
                let lines = lines.take_while(|line| *line != "]").filter(|line| !line.starts_with('#'));
                lines.filter(|line| line.contains('"')).map(Share::parse).collect()
            };
            accounts.push(Self {
                name: head.trim().trim_end_matches(": {"),
                has_jetstream: text.contains("jetstream: enabled"),
                imports: shares("imports: [")?,
                exports: shares("exports: [")?,
                text,
            });
        }
        Ok(accounts)
    }
}

pub struct Operator {
    operator: KeyPair,
    accounts: BTreeMap<String, KeyPair>,
    example: &'static str,
}

impl Operator {
    pub fn new(example: &'static str) -> Result<Self> {
        let names = Account::all(example)?.into_iter().map(|account| account.name.to_owned());
        let accounts = names.map(|name| (name, KeyPair::new_account())).collect();
        Ok(Self { operator: KeyPair::new_operator(), accounts, example })
    }

    fn key(&self, account: &str) -> Result<&KeyPair> {
        self.accounts.get(account).with_context(|| format!("no account {account}"))
    }

    /// What a server is told: whom to believe, and what accounts there are.
    pub fn configuration(&self) -> Result<String> {
        let claims = json!({"type": "operator", "version": 2});
        let operator = signed(&self.operator, &self.operator, "operator", &claims)?;
        let mut preloaded = String::new();
        for account in Account::all(self.example)? {
            let key = self.key(account.name)?;
            let jwt = signed(&self.operator, key, account.name, &self.claims(&account)?)?;
            preloaded += &format!("  {}: {jwt}\n", key.public_key());
        }
        let system = self.key(SYSTEM)?.public_key();
        Ok(format!(
            "operator: {operator}\nsystem_account: {system}\nresolver: MEMORY\n\
             resolver_preload: {{\n{preloaded}}}\n"
        ))
    }

    fn claims(&self, account: &Account) -> Result<Value> {
        let storage = if account.has_jetstream { -1 } else { 0 };
        let limits = json!({
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
            "conn": -1, "leaf": -1, "mem_storage": storage, "disk_storage": storage, "streams": storage,
            "consumer": storage,
        });
        let mut imports = Vec::new();
        for import in &account.imports {
            let (from, here) = import.from.with_context(|| format!("whose {} is", import.subject))?;
            let mut claims = json!({
                "name": import.subject, "subject": import.subject, "type": import.kind,
                "account": self.key(from)?.public_key(), "token": self.activation(from, account.name, import)?,
            });
            if here != import.subject {
                claims["local_subject"] = here.into();
            }
            imports.push(claims);
        }
        let export = |export: &Share| {
            let mut claims = json!({
                "name": export.subject, "subject": export.subject, "type": export.kind, "token_req": true,
            });
            if export.is_streamed {
                claims["response_type"] = "Stream".into();
            }
            claims
        };
        let exports: Vec<Value> = account.exports.iter().map(export).collect();
        Ok(json!({"type": "account", "version": 2, "limits": limits, "imports": imports, "exports": exports}))
    }

    /// By which an account lets another import something.
    fn activation(&self, from: &str, to: &str, import: &Share) -> Result<String> {
        let claims =
            json!({"type": "activation", "version": 2, "subject": import.subject, "kind": import.kind});
        signed(self.key(from)?, self.key(to)?, import.subject, &claims)
    }

    /// A `.creds` file for a user whom the example names.
    pub fn credentials(&self, role: &str, permissions: &Value) -> Result<String> {
        let variable = format!("$TEPHRA_{}_NKEY", role.to_uppercase());
        let accounts = Account::all(self.example)?;
        let account = accounts.iter().find(|account| account.text.contains(&variable));
        let account = account.with_context(|| format!("no account has {variable}"))?;
        let user = KeyPair::new_user();
        let mut claims = json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1});
        if let (Some(claims), Some(permissions)) = (claims.as_object_mut(), permissions.as_object()) {
            claims.extend(permissions.clone());
        }
        let jwt = signed(self.key(account.name)?, &user, role, &claims)?;
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
