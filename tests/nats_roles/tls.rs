//! An authority, and a server's certificate that it signed.

use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

pub struct Certificates {
    directory: PathBuf,
}

impl Certificates {
    /// Writes `ca.pem`, `server.pem` and `server-key.pem`.
    pub fn write(directory: &Path) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        let certificate = params.signed_by(&key, &authority)?;
        std::fs::write(directory.join("ca.pem"), authority.pem())?;
        std::fs::write(directory.join("server.pem"), certificate.pem())?;
        std::fs::write(directory.join("server-key.pem"), key.serialize_pem())?;
        Ok(Self { directory: directory.to_owned() })
    }

    /// A server's configuration with them.
    pub fn of_the_server(&self) -> String {
        let path = |name: &str| self.directory.join(name).display().to_string();
        format!(
            "tls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\" }}\n",
            path("server.pem"),
            path("server-key.pem"),
            path("ca.pem")
        )
    }
}
