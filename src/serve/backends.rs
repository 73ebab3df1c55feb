//! The backends of the configuration, opened.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tephra_domain::ids::{BackendName, PoolName, ZoneName};
use tephra_executors::backend::Backend;
use tephra_executors::backend::directory::{self, DirectoryBackend, DirectoryConfig};
use tephra_executors::backend::lvm::{LvmBackend, LvmConfig};
use tephra_executors::backend::rbd::{RbdBackend, RbdConfig};
use tephra_executors::copy::{Copier, Limits, Neighbours, QemuLender};
use tephra_executors::export::Exporting;
use tephra_executors::export::tgt::{TgtConfig, TgtExporter};
use tephra_executors::process::{Program, Spawner};
use tephra_journal::loans::Lender;
use tephra_journal::secrets::MasterKey;

use crate::config::{BackendConfig, Config, Driver};
use crate::failure::{CommandError, CommandResult, Exit};

/// How long a program may take to say its version.
const VERSION_LIMIT: Duration = Duration::from_secs(20);

/// Opens all backends, in the order of the configuration, and makes them neighbours: whatever one of
/// them holds can be copied into any other.
///
/// # Errors
/// What one of them keeps volumes on cannot be used; or it exports over iSCSI and there is no master
/// key.
pub(super) async fn open_backends(
    config: &Config,
    key: Option<&MasterKey>,
) -> CommandResult<(Vec<Arc<dyn Backend>>, Neighbours)> {
    let mut opened = Vec::new();
    for backend in &config.backends {
        opened.push(open_backend(config, backend, key).await?);
    }
    let copier = Copier::new(Arc::new(Spawner), Limits::default());
    let neighbours = Neighbours::new(copier, opened.iter().cloned());
    Ok((opened, neighbours))
}

/// What lends these backends to executors of other processes, if the configuration says where.
///
/// # Errors
/// The key of a value that cannot be meant; an address that is not this host's; `qemu-nbd` is not there.
pub(super) async fn open_lender(
    config: &Config,
    opened: &[Arc<dyn Backend>],
) -> CommandResult<Option<Arc<dyn Lender>>> {
    let Some(lending) = config.lending.adapter()? else { return Ok(None) };
    let refused = |reason: &dyn std::fmt::Display| {
        // not one that a service manager takes for good: the address may be there a moment later
        CommandError::new(Exit::Error, format!("lending.address: nothing can be lent: {reason}"))
    };
    TcpListener::bind((lending.address, 0)).map_err(|error| refused(&error))?;
    let version = Program::new("qemu-nbd", VERSION_LIMIT).arg("--version").run().await;
    version.map_err(|error| refused(&error).hint("on Debian, qemu-nbd comes with qemu-utils"))?;
    let (launcher, opened) = (Arc::new(Spawner), opened.iter().cloned());
    Ok(Some(Arc::new(QemuLender::new(lending, launcher, Limits::default(), opened))))
}

/// Opens a backend, with the exporter that is configured before it.
async fn open_backend(
    config: &Config,
    backend: &BackendConfig,
    key: Option<&MasterKey>,
) -> CommandResult<Arc<dyn Backend>> {
    let opened = bare(config, backend)
        .await
        .with_context(|| format!("the backend {} cannot be used", backend.name))?;
    exported(opened, backend, key)
}

async fn bare(config: &Config, backend: &BackendConfig) -> anyhow::Result<Arc<dyn Backend>> {
    let name = BackendName::new(&*backend.name);
    if let Some(lvm) = &backend.lvm {
        let settings = LvmConfig {
            availability_zone: ZoneName::new(&*backend.availability_zone),
            max_over_subscription_ratio: backend.max_over_subscription_ratio,
            reserved_percentage: backend.reserved_percentage,
            ..LvmConfig::new(name, config.host(), &*lvm.volume_group)
        };
        return Ok(Arc::new(LvmBackend::open(lvm.apply(settings), Arc::new(Spawner)).await?));
    }
    if let Some(rbd) = &backend.rbd {
        let first = PoolName::new(rbd.pools.first().map_or("", String::as_str));
        let settings = RbdConfig {
            availability_zone: ZoneName::new(&*backend.availability_zone),
            max_over_subscription_ratio: backend.max_over_subscription_ratio,
            reserved_percentage: backend.reserved_percentage,
            native_revert: backend.native_revert,
            ..RbdConfig::new(name, config.host(), first)
        };
        return Ok(Arc::new(RbdBackend::new(rbd.apply(settings), Arc::new(Spawner))));
    }
    let driver = match (backend.driver, &backend.export) {
        (Driver::Nfs, Some(export)) => directory::Driver::Nfs { export: export.clone() },
        (Driver::Nfs | Driver::Directory | Driver::Lvm | Driver::Rbd, _) => directory::Driver::Directory,
    };
    let settings = DirectoryConfig {
        driver,
        availability_zone: ZoneName::new(&*backend.availability_zone),
        max_over_subscription_ratio: backend.max_over_subscription_ratio,
        reserved_percentage: backend.reserved_percentage,
        native_revert: backend.native_revert,
        ..DirectoryConfig::new(name, config.host(), config.backend_directory(backend))
    };
    Ok(Arc::new(DirectoryBackend::open(settings)?))
}

fn exported(
    opened: Arc<dyn Backend>,
    backend: &BackendConfig,
    key: Option<&MasterKey>,
) -> CommandResult<Arc<dyn Backend>> {
    let Some(iscsi) = &backend.iscsi else { return Ok(opened) };
    let Some(key) = key else {
        let missing = format!("secrets.master_key_file: the backend {} exports over iSCSI", backend.name);
        return Err(CommandError::new(Exit::Usage, missing)
            .hint("every process of the deployment needs the same key, in a file of its own"));
    };
    let config = TgtConfig {
        portal: iscsi.portal.clone(),
        iqn_prefix: iscsi.iqn_prefix.clone(),
        control_port: iscsi.control_port,
        socket: iscsi.socket.clone(),
        key: key.clone(),
    };
    let exporter = TgtExporter::new(config, Arc::new(Spawner));
    Ok(Arc::new(Exporting::new(opened, Arc::new(exporter))))
}
