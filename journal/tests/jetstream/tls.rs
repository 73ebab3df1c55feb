//! Encrypted connections, with certificates on both sides.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tephra_journal::jetstream::{JetStreamLog, NatsConfig, NatsError, NatsTls, connect};
use tephra_journal::log::{BlockNumber, Log};

use crate::cluster::{Cluster, Options};

pub struct Certificates {
    directory: tempfile::TempDir,
}

impl Certificates {
    pub fn new() -> Self {
        let certificates = Self { directory: tempfile::tempdir().unwrap() };
        certificates.sign("ca", &["server", "client"]);
        certificates
    }

    /// Makes an authority that signs for these.
    pub fn sign(&self, authority: &str, names: &[&str]) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::write(self.path(&format!("{authority}.pem")), issuer.pem()).unwrap();
        for name in names {
            let key = KeyPair::generate().unwrap();
            let params =
                CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
            let certificate = params.signed_by(&key, &issuer).unwrap();
            fs::write(self.path(&format!("{name}.pem")), certificate.pem()).unwrap();
            fs::write(self.path(&format!("{name}-key.pem")), key.serialize_pem()).unwrap();
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn server(&self) -> String {
        let path = |name: &str| -> String { Path::display(&self.path(name)).to_string() };
        format!(
            "tls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\", verify: true }}",
            path("server.pem"),
            path("server-key.pem"),
            path("ca.pem")
        )
    }

    fn client(&self) -> Option<(PathBuf, PathBuf)> {
        Some((self.path("client.pem"), self.path("client-key.pem")))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_tls_is_used_with_the_right_certificates_and_not_without() {
    let certificates = Certificates::new();
    let cluster = Cluster::with(Options { include: Some(certificates.server()), ..Options::default() });
    let with =
        |ca_file, client| NatsConfig { tls: NatsTls { required: true, ca_file, client }, ..cluster.config() };
    let ca_file = Some(certificates.path("ca.pem"));

    let config = with(ca_file.clone(), certificates.client());
    let client = connect(&config, "test").await.unwrap();
    let log = JetStreamLog::open(&client, &config).await.unwrap();
    assert_eq!(log.head().await.unwrap(), BlockNumber(0));

    let stranger = with(None, certificates.client());
    assert!(
        matches!(connect(&stranger, "test").await, Err(NatsError::Connect { .. })),
        "an unknown authority"
    );
    let nobody = with(ca_file, None);
    // The server closes the connection over it; whether its reason comes through is the network's.
    assert!(
        matches!(
            connect(&nobody, "test").await,
            Err(NatsError::Connect { .. } | NatsError::Unreachable { .. })
        ),
        "no certificate of ours"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_that_is_required_is_not_given_up_for_a_server_without() {
    let cluster = Cluster::start(1);
    let config = NatsConfig { tls: NatsTls { required: true, ..NatsTls::default() }, ..cluster.config() };
    assert!(matches!(connect(&config, "test").await, Err(NatsError::Connect { .. })));
}
