//! The filters: each lets a pool pass or says why not.

use std::collections::BTreeMap;

use crate::ids::ZoneName;
use crate::ledger::Ledger;

use crate::backend::Backend;

use super::{DataSource, FilterName, PoolStats, VolumeRequest, weighers};

/// Why a pool will not do, or nothing if it will.
pub fn refusal(
    filter: FilterName,
    ledger: &Ledger,
    request: &VolumeRequest<'_>,
    stats: &PoolStats,
    pools: &[PoolStats],
) -> Option<String> {
    match filter {
        FilterName::Service => service(ledger, stats),
        FilterName::AvailabilityZone => availability_zone(ledger, request.availability_zone, stats),
        FilterName::Capacity => capacity(ledger, request, stats),
        FilterName::Capabilities => capabilities(request.extra_specs, stats),
        FilterName::Source => source(ledger, request.source?, stats, pools),
    }
}

/// Data is copied from a pool that shows itself to one whose executor can read it: by itself, or because
/// it is lent.
fn source(ledger: &Ledger, source: DataSource<'_>, stats: &PoolStats, pools: &[PoolStats]) -> Option<String> {
    let from = source.pool;
    if *from == stats.pool {
        return None;
    }
    let lender = ledger.backends.get(&from.backend).map(|backend| &backend.description);
    let reads = |backend: &Backend| {
        let reader = &backend.description;
        reader.reads(&from.backend) || lender.is_some_and(|lender| reader.borrows_from(lender))
    };
    if !ledger.backends.get(&stats.pool.backend).is_some_and(reads) {
        return Some(format!("the source is on {from}, which its executor cannot read"));
    }
    if !pools.iter().any(|stats| stats.pool == *from && stats.is_up) {
        return Some(format!("the source is on {from}, which is down"));
    }
    let is_frozen = ledger.backends.get(&from.backend).is_some_and(|backend| backend.frozen);
    (source.must_be_snapshotted && is_frozen)
        .then(|| format!("the source is on {from}, which is frozen: no snapshot can be taken to copy from"))
}

fn service(ledger: &Ledger, stats: &PoolStats) -> Option<String> {
    match ledger.backends.get(&stats.pool.backend) {
        None => Some("the backend is not registered".to_owned()),
        Some(backend) if backend.frozen => Some("the backend is frozen".to_owned()),
        Some(backend) if !backend.enabled => Some("the backend is disabled".to_owned()),
        Some(_) if !stats.is_up => Some("the backend is down".to_owned()),
        Some(_) => None,
    }
}

fn availability_zone(ledger: &Ledger, zone: Option<&ZoneName>, stats: &PoolStats) -> Option<String> {
    let zone = zone?;
    let backend = ledger.backends.get(&stats.pool.backend)?;
    let actual = &backend.description.availability_zone;
    (actual != zone).then(|| format!("the backend is in zone {actual}"))
}

/// Cinder's `CapacityFilter`: thin pools may be over-subscribed up to a ratio and need, times that
/// ratio, enough space that is really free; thick pools need the space itself.
fn capacity(ledger: &Ledger, request: &VolumeRequest<'_>, stats: &PoolStats) -> Option<String> {
    let needed_gib = f64::from(request.size.gib());
    if stats.total_gib <= 0.0 {
        return Some("the pool has no capacity".to_owned());
    }
    let reserved_gib = (stats.total_gib * f64::from(stats.reserved_percentage) / 100.0).floor();
    let provisioned_gib = weighers::provisioned_gib(ledger, stats);
    if stats.thin && stats.max_over_subscription_ratio >= 1.0 {
        let ratio = (provisioned_gib + needed_gib) / stats.total_gib;
        if ratio > stats.max_over_subscription_ratio {
            return Some(format!(
                "provisioned {provisioned_gib:.0} GiB and {needed_gib:.0} GiB more of {:.1} GiB would exceed the over-subscription ratio {:.2}",
                stats.total_gib, stats.max_over_subscription_ratio
            ));
        }
        let virtual_free = (stats.free_gib - reserved_gib) * stats.max_over_subscription_ratio;
        if virtual_free < needed_gib {
            return Some(format!(
                "{needed_gib:.0} GiB asked, {virtual_free:.1} GiB free with over-subscription"
            ));
        }
        return None;
    }
    let free_gib = weighers::free_gib(ledger, stats) - reserved_gib;
    (free_gib < needed_gib).then(|| format!("{needed_gib:.0} GiB asked, {free_gib:.1} GiB free"))
}

/// Whether a pool can do what a type asks for, whatever room it has.
pub fn meets_extra_specs(extra_specs: &BTreeMap<String, String>, stats: &PoolStats) -> bool {
    capabilities(extra_specs, stats).is_none()
}

/// Extra specs without a scope, or with the scope `capabilities`, must be met by the pool
/// (Cinder's `CapabilitiesFilter`). Other scopes are for backends.
fn capabilities(extra_specs: &BTreeMap<String, String>, stats: &PoolStats) -> Option<String> {
    for (key, wanted) in extra_specs {
        let key = match key.split_once(':') {
            None => key.as_str(),
            Some(("capabilities", key)) => key,
            Some(_) => continue,
        };
        // volume types say these to the ledger, not to a pool
        if key == "multiattach" || key == "RESKEY" {
            continue;
        }
        let offered = stats.capabilities.get(key).map(String::as_str);
        if !offered.is_some_and(|offered| is_met(offered, wanted)) {
            return Some(format!("{key} is {}, wanted {wanted}", offered.unwrap_or("unknown")));
        }
    }
    None
}

/// Cinder's operators (`extra_specs_ops`): `<is>`, `<in>`, `<or>`, `s==`, `s!=`, `=`, `==`, `>=`,
/// `<=`, `!=`; without one, plain equality.
fn is_met(offered: &str, wanted: &str) -> bool {
    let mut words = wanted.split_whitespace();
    let operator = words.next().unwrap_or_default();
    let operand = words.next();
    let numbers = || Some((offered.parse::<f64>().ok()?, operand?.parse::<f64>().ok()?));
    match (operator, operand) {
        ("<is>", Some(operand)) => {
            let is_true =
                |text: &str| matches!(text.to_ascii_lowercase().as_str(), "true" | "1" | "yes" | "on");
            is_true(offered) == is_true(operand)
        }
        ("<in>", Some(operand)) => offered.contains(operand),
        ("<or>", Some(_)) => wanted.split("<or>").any(|option| option.trim() == offered),
        ("s==", Some(operand)) => offered == operand,
        ("s!=", Some(operand)) => offered != operand,
        ("=" | ">=", Some(_)) => numbers().is_some_and(|(a, b)| a >= b),
        ("==", Some(_)) => numbers().is_some_and(|(a, b)| (a - b).abs() < f64::EPSILON),
        ("!=", Some(_)) => numbers().is_some_and(|(a, b)| (a - b).abs() >= f64::EPSILON),
        ("<=", Some(_)) => numbers().is_some_and(|(a, b)| a <= b),
        _ => offered == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::is_met;

    #[test]
    fn extra_spec_operators_are_those_of_cinder() {
        for (offered, wanted, met) in [
            ("ssd", "ssd", true),
            ("ssd", "hdd", false),
            ("True", "<is> true", true),
            ("False", "<is> True", false),
            ("iSCSI", "<in> SCSI", true),
            ("b", "<or> a <or> b", true),
            ("c", "<or> a <or> b", false),
            ("10", ">= 9", true),
            ("10", "<= 9", false),
            ("10", "= 9", true),
            ("x", "s== x", true),
            ("x", "s!= x", false),
        ] {
            assert_eq!(is_met(offered, wanted), met, "{offered} against {wanted}");
        }
    }
}
